# SPDX-License-Identifier: LGPL-2.1-or-later
"""The docs site builds, its doctests pass, and its commands and pictures are what the program makes of the samples."""

from __future__ import annotations

import doctest
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.tools import PROGRAM, TOP, run

DOCS = TOP / "docs"
#: Pages that start many processes.
LONG = ("howto", "tutorial-fleet")


def sessions() -> Iterator[Any]:
    """The commands in the ``console`` blocks of each page, with what they print; ``...`` stands for anything.

    A block ``shell-session`` is for the reader alone: it needs root, or minutes.
    """
    for page in (TOP / "README.md", *sorted(DOCS.glob("*.md"))):
        blocks = re.findall(r"^```console\n(.*?)^```", page.read_text(), re.M | re.S)
        steps = [step.partition("\n") for block in blocks for step in re.split(r"^\$ ", block, flags=re.M)[1:]]
        if steps:
            found = [(command, output) for command, _, output in steps]
            yield pytest.param(found, marks=[pytest.mark.long] if page.stem in LONG else [], id=page.stem)


@pytest.mark.parametrize("steps", list(sessions()))
def test_what_a_page_shows_is_what_is_printed(steps: list[tuple[str, str]], tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "drgn-unaccepted"
    command.write_text(f'#!/bin/sh\nexec {" ".join(PROGRAM)} "$@"\n')
    command.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "COLUMNS": "80", "NO_COLOR": "1"}
    for text, wanted in steps:
        # The reader's files go into the directory of the test.
        shell = f"exec 2>&1; {text.replace('/tmp/', f'{tmp_path}/')}"
        printed = run(["sh", "-c", shell], cwd=TOP, env=environment).stdout
        got = "".join(f"{line.rstrip()}\n" for line in printed.replace(f"{tmp_path}/", "/tmp/").splitlines())
        same = doctest.OutputChecker().check_output(wanted, got, doctest.ELLIPSIS)
        assert same, f"$ {text}\nwanted:\n{wanted}\ngot:\n{got}"


@pytest.mark.long
@pytest.mark.parametrize("builder", ["html", "doctest"])
def test_the_site(builder: str, tmp_path: Path) -> None:
    for module in ("sphinx", "myst_parser"):
        pytest.importorskip(module, reason=f"{module} is not here: scripts/venv docs")
    done = run([sys.executable, "-m", "sphinx", "-W", "--keep-going", "-b", builder, DOCS, tmp_path])
    assert done.returncode == 0, done.stdout + done.stderr
    if builder == "html":
        page = (tmp_path / "explanation.html").read_text()
        assert "_images/map.svg" in page and (tmp_path / "_images" / "map.svg").exists()
        # Nothing is fetched from elsewhere.
        for html in tmp_path.rglob("*.html"):
            assert not re.search(r'<(script|link|img)[^>]+(src|href)="https?:', html.read_text()), html.name
    else:
        found = re.search(r"(\d+) items? passed all tests|(\d+) tests?\n +0 failures in tests", done.stdout)
        assert found, done.stdout


@pytest.mark.long
def test_pictures_are_made_again(tmp_path: Path) -> None:
    done = run([sys.executable, TOP / "scripts" / "pictures", "-o", tmp_path])
    assert done.returncode == 0, done.stderr
    made, kept = (
        {path.name: path.read_text("utf-8") for path in directory.glob("*.svg")}
        for directory in (tmp_path, DOCS / "pictures")
    )
    assert made == kept
