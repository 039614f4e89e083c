# SPDX-License-Identifier: LGPL-2.1-or-later
"""The pictures of the README and the docs show what scripts/pictures makes of the samples now."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest

TOP = Path(__file__).parents[2]
SCRIPT = TOP / "scripts" / "pictures"
KEPT = TOP / "docs" / "pictures"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """scripts/pictures as a module."""
    monkeypatch.chdir(TOP)
    spec = spec_from_loader("pictures_script", SourceFileLoader("pictures_script", str(SCRIPT)))
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def words(path: Path) -> list[str]:
    return [
        "".join(one.itertext()).strip()
        for one in ElementTree.parse(path).getroot().iter("{http://www.w3.org/2000/svg}text")
    ]


def test_what_a_terminal_shows(script: Any, tmp_path: Path) -> None:
    script.terminals(tmp_path)
    made = sorted(path.name for path in tmp_path.iterdir())
    assert made == ["map-kdump.svg", "map-zoom.svg", "map.svg", "replay.svg"]
    for name in made:
        # Read as text, so that a difference is shown as one.
        assert (tmp_path / name).read_text(encoding="utf-8") == (KEPT / name).read_text(encoding="utf-8"), name


@pytest.mark.long
def test_figures_are_made_again(tmp_path: Path) -> None:
    """By the script as it is run; another matplotlib draws a little differently, but writes the same words."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (the extra pictures)")
    done = subprocess.run([sys.executable, SCRIPT, "-o", tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = sorted(path.name for path in tmp_path.glob("figure-*.svg"))
    assert made == ["figure-kdump.svg", "figure-numa.svg", "figure-replay.svg"]
    for name in made:
        assert words(tmp_path / name) == words(KEPT / name), name
