# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each limit is documented and used."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from drgn_unaccepted import limits

TOP = Path(__file__).parent.parent
NAMES = [name for name in vars(limits) if re.fullmatch(r"[A-Z][A-Z0-9_]*", name)]


def test_every_limit_is_used() -> None:
    code = "\n".join(path.read_text() for path in (TOP / "drgn_unaccepted").rglob("*.py") if path.name != "limits.py")
    assert [name for name in NAMES if not re.search(rf"\b{name}\b", code)] == []


def test_the_page_is_what_scripts_limits_doc_writes() -> None:
    subprocess.run([sys.executable, str(TOP / "scripts" / "limits-doc"), "--check"], check=True)
    page = (TOP / "docs" / "limits.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", page, re.M) == NAMES
