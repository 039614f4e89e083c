# SPDX-License-Identifier: LGPL-2.1-or-later
"""The pictures of the README and the docs show what scripts/pictures makes of the samples now."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
KEPT = TOP / "docs" / "pictures"


def words(path: Path) -> list[str]:
    texts = ElementTree.parse(path).getroot().iter("{http://www.w3.org/2000/svg}text")
    return ["".join(one.itertext()).strip() for one in texts]


@pytest.mark.long
def test_pictures_are_made_again(tmp_path: Path) -> None:
    """Another matplotlib draws figures a little differently, but writes the same words."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (the extra pictures)")
    subprocess.run([sys.executable, TOP / "scripts" / "pictures", "-o", tmp_path], check=True)
    made = sorted(path.name for path in tmp_path.iterdir())
    assert made == sorted(path.name for path in KEPT.glob("*.svg"))
    for name in made:
        assert words(tmp_path / name) == words(KEPT / name), name
        if not name.startswith("figure"):
            assert (tmp_path / name).read_text(encoding="utf-8") == (KEPT / name).read_text(encoding="utf-8"), name
