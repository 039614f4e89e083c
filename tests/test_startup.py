# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a start of the program needs: no drgn for help and for snapshots, and next to nothing at each start of drgn."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from drgn_unaccepted.cli import main

TOP = Path(__file__).parent.parent
SAMPLE = TOP / "vmcore-samples" / "6.12-fill" / "vmcore"

#: Runs a command line in an interpreter that has none of the packages that depend on a C compiler or on drgn.
_WITHOUT = """\
import sys
sys.modules["drgn"] = sys.modules["elftools"] = None
from drgn_unaccepted.cli import main
sys.exit(main(sys.argv[1:]))
"""


def without_drgn(*words: object) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", _WITHOUT, *map(str, words)]
    return subprocess.run(argv, capture_output=True, text=True, cwd=TOP, check=False)


@pytest.mark.parametrize("words", ("--help", "--version", "check --help", "resolve --help"))
def test_help_needs_no_drgn(words: str) -> None:
    done = without_drgn(*words.split())
    assert done.returncode == 0, done.stderr


def test_a_snapshot_needs_no_drgn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "snapshot.json"
    assert main(["-c", str(SAMPLE), "snapshot", "-o", str(path)]) == 0
    for command in ("summary", "ranges", "resolve 4G", "check", "map", f"report -o {tmp_path / 'page.html'}"):
        capsys.readouterr()
        status = main(["--snapshot", str(path), *command.split()])
        done = without_drgn("--snapshot", path, *command.split())
        assert (done.returncode, done.stdout) == (status, capsys.readouterr().out), done.stderr


@pytest.mark.parametrize("command", ("summary", "ranges", "zones", "accepting", "check"))
def test_a_dump_is_read_without_drgns_helpers(command: str) -> None:
    """Their import takes as long as everything else together; one symbol that kallsyms does not look up brings them."""
    code = (
        "import sys; from drgn_unaccepted.cli import main; main(sys.argv[1:]); "
        "sys.exit(99 if 'drgn.helpers.linux' in sys.modules else 0)"
    )
    argv = [sys.executable, "-c", code, "-c", str(SAMPLE), command]
    assert subprocess.run(argv, capture_output=True, check=False, cwd=TOP).returncode == 0


def test_the_plugin_costs_a_user_of_drgn_one_module() -> None:
    """drgn imports it at every start, whether %unaccepted is typed or not."""
    code = (
        "import sys, drgn.commands.linux, drgn_unaccepted.plugin; "
        "print(*sorted(name for name in sys.modules if name.startswith('drgn_unaccepted.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=TOP, check=True)
    assert done.stdout.split() == ["drgn_unaccepted.plugin"]
