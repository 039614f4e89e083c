# SPDX-License-Identifier: LGPL-2.1-or-later
"""The table of limits: each is documented and used, none stands elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from drgn_unaccepted import limits

TOP = Path(__file__).parent.parent
NAMES = [name for name in vars(limits) if re.fullmatch(r"[A-Z][A-Z0-9_]*", name)]


def test_every_limit_is_a_positive_number_with_a_comment() -> None:
    source = (TOP / "drgn_unaccepted" / "limits.py").read_text()
    assert len(NAMES) > 60
    for name in NAMES:
        assert isinstance(getattr(limits, name), int) and getattr(limits, name) > 0
        assert re.search(rf"^#: .*\n(#: .*\n)*{name} = ", source, re.M), f"{name} has no comment"


def test_every_limit_is_used() -> None:
    code = "\n".join(path.read_text() for path in (TOP / "drgn_unaccepted").rglob("*.py") if path.name != "limits.py")
    assert [name for name in NAMES if not re.search(rf"\b{name}\b", code)] == []


def test_the_page_is_what_scripts_limits_doc_writes() -> None:
    done = subprocess.run(
        [sys.executable, str(TOP / "scripts" / "limits-doc"), "--check"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    page = (TOP / "docs" / "limits.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", page, re.M))
    assert list(rows) == NAMES
    assert rows["BITMAP_BYTES"] == "2^28" and limits.BITMAP_BYTES == 1 << 28
