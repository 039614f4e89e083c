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

from drgn_unaccepted import __version__, limits
from drgn_unaccepted.answer.report import PageDocument
from drgn_unaccepted.errors import CommandError

_SCRIPTS = ("data.js", "resolve.js", "tables.js", "shades.js", "map.js", "history.js", "page.js")

#: Characters that would end the script element, or that are line ends to JavaScript but not to JSON.
_ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def report_page(answer: PageDocument) -> str:
    """The page for the answer of ``report``.

    :raises CommandError: it would have over :data:`limits.REPORT_BYTES`, too much for a browser to open at once
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
        raise CommandError(
            f"the page would have {len(page)} bytes, over the limit of {limits.REPORT_BYTES}: "
            "the bitmap, the lists or the maps are too scattered to be compressed"
        )
    return page


def _part(name: str) -> str:
    return (files("drgn_unaccepted.views") / "html" / name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
