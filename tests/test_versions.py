# SPDX-License-Identifier: LGPL-2.1-or-later
"""Old and new drgn, old and new Python: the same answers to all questions about all samples.

A drgn that lacks a function looks like a dump that lacks memory, since both are an AttributeError somewhere.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

import drgn
import pytest

from drgn_unaccepted.errors import TargetError
from drgn_unaccepted.targets.adopt import adopt

TOP = Path(__file__).parent.parent
DUMPS = sorted(str(path.relative_to(TOP)) for path in TOP.glob("vmcore-samples/*/vmcore"))

#: The oldest that is supported, Debian 13's; one with commands, one that lets plugins add some, and the newest.
DRGN = ("0.0.31", "0.0.33", "0.1.0", "0.2.0", "0.3.0")
THIS = f"3.{sys.version_info[1]}"


def ask(python: str, *paths: Path) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*paths, TOP)))}
    words = [python, "-m", "tests.versions_driver", *DUMPS]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, cwd=TOP, env=environment, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    """What this Python and its drgn answer; other tests compare that with the guests' own accounts."""
    answers: dict[str, Any] = ask(sys.executable)["answers"]
    return answers


def interpreter(version: str) -> Optional[str]:
    """A Python of this version that runs, on the path or of pyenv."""
    if version == THIS:
        return sys.executable
    pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    for path in (shutil.which(f"python{version}"), *map(str, pyenv)):
        if path is not None and subprocess.run([path, "-V"], capture_output=True).returncode == 0:
            return path
    return None


def install(python: str, drgn_version: str, to: Path) -> None:
    """Install drgn and what the program needs for another Python, from wheels alone; skips where there is none."""
    what = [f"drgn=={drgn_version}", "tabulate"]
    words = [sys.executable, "-m", "pip", "install", "-q", "--only-binary", ":all:", "--python-version", python]
    done = subprocess.run([*words, "--target", str(to), *what], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no wheels for Python {python}: {done.stderr.strip().splitlines()[-1]}")


@pytest.mark.long
@pytest.mark.parametrize(
    ("python", "version"),
    [*((THIS, version) for version in DRGN), *((f"3.{n}", DRGN[-1]) for n in range(9, 15) if f"3.{n}" != THIS)],
)
def test_each_version_gives_the_same_answers(
    python: str, version: str, expected: dict[str, Any], tmp_path: Path
) -> None:
    path = interpreter(python)
    if path is None:
        pytest.skip(f"no Python {python} on this machine")
    install(python, version, tmp_path)
    found = ask(path, tmp_path)
    assert found["versions"] == [version, 3, int(python[2:])]
    answers = found["answers"]
    for question, answer in expected.items():
        if question.startswith("prompt") and version < "0.1.0":
            answer = None
        assert answers[question] == answer, question


def test_an_older_drgn_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from drgn_unaccepted.cli import main

    for name in [
        name for name in sys.modules if name.startswith(("drgn_unaccepted.kernel", "drgn_unaccepted.targets"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(drgn, "Module")
    monkeypatch.setattr(drgn, "__version__", "0.0.30")
    assert main(["-c", DUMPS[0]]) == 3
    assert capsys.readouterr().err == (
        "drgn-unaccepted: drgn 0.0.30 is too old: at least drgn 0.0.31 is needed, except for --snapshot\n"
    )


def test_a_dump_whose_path_drgn_does_not_know_is_refused() -> None:
    """Before drgn 0.0.33: holes of an ELF dump read as zeros, unless its program headers are read, too."""
    with pytest.raises(TargetError, match="use the command line"):
        adopt(SimpleNamespace(flags=drgn.ProgramFlags.IS_LINUX_KERNEL))
