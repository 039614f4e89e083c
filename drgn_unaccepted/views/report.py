# SPDX-License-Identifier: LGPL-2.1-or-later
"""``report`` as one page: HTML with its style, script and data inside, which needs no network.

Data from the target is JSON in a script element that is not run. The script of the page makes text nodes of it. The
page's own policy allows no other script, style or connection.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from importlib.resources import files
from typing import Optional, TypedDict

from drgn_unaccepted import __version__, limits
from drgn_unaccepted.answer.documents import (
    AcceptingAnswer,
    CheckAnswer,
    E820Answer,
    EfiAnswer,
    Span,
    State,
    SummaryAnswer,
    ZoneDocument,
)
from drgn_unaccepted.answer.map import MemoryFrom
from drgn_unaccepted.errors import CommandError

_SCRIPTS = ("data.js", "resolve.js", "tables.js", "shades.js", "map.js", "history.js", "page.js")

#: Characters that would end the script element, or that are line ends to JavaScript but not to JSON.
_ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


class PackedRanges(TypedDict):
    grain: int
    count: int
    data: str


class StateGroup(TypedDict):
    state: State
    covered: Optional[bool]
    reason: str
    runs: PackedRanges


class PageChecks(CheckAnswer):
    #: Paragraphs about each rule that found something.
    explain: dict[str, list[str]]


class PageDocument(SummaryAnswer):
    """The data of the page, from which its script answers ``resolve`` for any address."""

    unit_size: int
    #: Whether the table was saved earlier.
    saved: bool
    #: Units whose bit is set. None where the bits are the states: they are the unaccepted.
    bits: Optional[PackedRanges]
    states: list[StateGroup]
    listed: PackedRanges
    accepting_ranges: list[Span]
    #: The columns of ``resolve`` where the bits, the lists or the accepts do not have an address.
    elsewhere: dict[str, Optional[int]]
    memory_from: MemoryFrom
    filled: PackedRanges
    #: Memory of each kind, in the order in which it is drawn.
    layers: dict[str, PackedRanges]
    efi: EfiAnswer
    e820: E820Answer
    zones: Optional[list[ZoneDocument]]
    accepting: AcceptingAnswer
    checks: PageChecks
    #: A :class:`HistoryAnswer` as JSON, compressed.
    recording: Optional[str]


def report_page(answer: PageDocument) -> str:
    """The page for the answer of ``report``.

    :raises CommandError: it would have over :data:`limits.REPORT_BYTES`, too much for a browser to open at once
    """
    style, script = _part("style.css"), '"use strict";\n' + "\n".join(map(_part, _SCRIPTS))
    parts = {
        "policy": f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}",
        "style": style,
        "script": script,
        "data": json.dumps({**answer, "version": __version__}).translate(_ESCAPES),
    }
    page = re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _part("page.html"))
    if len(page) > limits.REPORT_BYTES:
        raise CommandError(
            f"the page would have {len(page)} bytes, over the limit of {limits.REPORT_BYTES}: "
            "the bitmap, the lists or the maps are too scattered to be compressed"
        )
    return page


def _part(name: str) -> str:
    return (files("drgn_unaccepted.views") / "html" / name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
