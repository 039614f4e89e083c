# SPDX-License-Identifier: LGPL-2.1-or-later
"""``report`` as one page: HTML with its style, script and data inside, that asks the network for nothing.

What comes out of the target is JSON in a script element that is not run, and the script makes text nodes of it. The
page's own policy allows no other script, style or connection.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from importlib.resources import files

from drgn_unaccepted import __version__, limits
from drgn_unaccepted.answer.document import Document

_SCRIPTS = ("data.js", "resolve.js", "tables.js", "shades.js", "map.js", "history.js", "page.js")

#: What would end the script element or be a line end to JavaScript but not to JSON.
_ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


class ReportTooLarge(Exception):
    """The data does not fit into a page that a browser opens at once; the text says why, in one line."""


def report_page(answer: Document) -> str:
    """The page for the answer of ``report``.

    :raises ReportTooLarge: it would have over :data:`limits.REPORT_BYTES`
    """
    style = _part("style.css")
    script = '"use strict";\n' + "\n".join(_part(name) for name in _SCRIPTS)
    data = json.dumps({**answer, "version": __version__}).translate(_ESCAPES)
    parts = {
        "policy": f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}",
        "style": style,
        "script": script,
        "data": data,
    }
    page = re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _part("page.html"))
    if len(page) > limits.REPORT_BYTES:
        raise ReportTooLarge(
            f"the page would have {len(page)} bytes, over the limit of {limits.REPORT_BYTES}: "
            "the bitmap, the lists or the maps are too scattered to be compressed"
        )
    return page


def _part(name: str) -> str:
    return (files("drgn_unaccepted.views") / "html" / name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
