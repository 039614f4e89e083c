# SPDX-License-Identifier: LGPL-2.1-or-later
"""The pictures of the README and the docs show what scripts/pictures makes of the samples now."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
KEPT = TOP / "docs" / "pictures"


@pytest.mark.long
def test_pictures_are_made_again(tmp_path: Path) -> None:
    subprocess.run([sys.executable, TOP / "scripts" / "pictures", "-o", tmp_path], check=True)
    made = sorted(path.name for path in tmp_path.iterdir())
    assert made == sorted(path.name for path in KEPT.glob("*.svg"))
    for name in made:
        assert (tmp_path / name).read_text(encoding="utf-8") == (KEPT / name).read_text(encoding="utf-8"), name
