# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is imported at start. A guest that is looked at by a timer, and who types ``--help``, wait for every module."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent
SAMPLE = TOP / "vmcore-samples" / "6.12-fill" / "vmcore"
KDUMP = TOP / "vmcore-samples" / "6.12-fill-kdump" / "vmcore"

#: Runs a command line in a fresh interpreter; what it imported goes to stderr, each with the file that it came from.
_RUN = """\
import sys
before = set(sys.modules)
words = sys.argv[1:]
for name in words.pop(0).split():
    __import__(name)
if words:
    from drgn_unaccepted.cli import main
    try:
        status = main(words)
    except SystemExit as stop:
        status = stop.code
    assert not status, status
loaded = {name: getattr(module, "__file__", None) for name, module in sys.modules.items() if name not in before}
import json
json.dump(loaded, sys.stderr)
"""

#: Of the standard library, what takes milliseconds or brings many others, and nothing of the command line needs.
HEAVY = re.compile(
    "asyncio|concurrent|csv|ctypes|decimal|difflib|email|fractions|hashlib|html|http|logging|multiprocessing|pdb|pickle|"
    "pydoc|random|secrets|selectors|socket|sqlite3|ssl|statistics|subprocess|tarfile|tempfile|unittest|uuid|xml|zipfile|"
    r"importlib\.metadata|importlib\.resources|urllib\.request"
)

#: drgn itself logs; threads and logging come with it.
DRGN = frozenset(("drgn", "_drgn", "_drgn_util"))

#: Parts of the program that neither parsing nor summary needs.
NOT_FOR_SUMMARY = (
    "checks",
    "fleet",
    "record",
    "views.figure",
    "views.html",
    "views.map",
    "views.watch",
    "pictures",
    "snapshot_file",
    "snapshot_sound",
    "helpers",
    "kernel.bpf",
    "kernel.e820",
    "kernel.efi",
    "kernel.kexec",
    "kernel.layout",
    "kernel.log",
    "kernel.pages",
    "kernel.tasks",
)


def imported(*words: str, first: str = "") -> dict[str, str | None]:
    """The modules that a command line imports; ``first`` are modules imported before it, as if it did."""
    argv = [sys.executable, "-c", _RUN, first, *words]
    process = subprocess.run(argv, capture_output=True, text=True, cwd=TOP, check=False)
    assert process.returncode == 0, process.stderr
    loaded: dict[str, str | None] = json.loads(process.stderr.rpartition("\n")[2])
    return loaded


def installed(loaded: dict[str, str | None]) -> set[str]:
    """Packages that are neither Python's nor ours."""
    return {
        name.partition(".")[0]
        for name, file in loaded.items()
        if file is not None and ("site-packages" in file or "dist-packages" in file)
    } - {"drgn_unaccepted"}


def heavy(loaded: dict[str, str | None]) -> set[str]:
    return {found[0] for name in loaded if (found := re.match(rf"({HEAVY.pattern})(?=\.|$)", name))}


def ours(loaded: dict[str, str | None]) -> set[str]:
    return {name.partition(".")[2] for name in loaded if name.startswith("drgn_unaccepted.")}


def is_part(module: str, part: str) -> bool:
    return module == part or module.startswith(f"{part}.")


@pytest.mark.parametrize("words", (("--help",), ("--version",), ("check", "--help"), ("resolve", "--help")))
def test_parsing_needs_no_target_no_rules_and_no_views(words: tuple[str, ...]) -> None:
    loaded = imported(*words)
    assert installed(loaded) == set()
    assert heavy(loaded) == set()
    unwanted = ("kernel", "checks", "views", "fleet", "record", "helpers", "pictures", "snapshot_file")
    assert {module for module in ours(loaded) for part in unwanted if is_part(module, part)} == set()
    # There were 16 of ours and 90 in all on Python 3.11.
    assert len(ours(loaded)) <= 20
    assert len(loaded) <= 130


@pytest.mark.parametrize("dump", (SAMPLE, KDUMP), ids=("whole RAM", "kdump"))
def test_summary_needs_drgn_and_what_it_shows(dump: Path) -> None:
    loaded = imported("-c", str(dump), "summary")
    assert installed(loaded) == DRGN
    assert heavy(loaded) <= {"logging"}
    # drgn's helpers import each other; its command line and its plugins are not for us.
    assert {name for name in loaded if name.startswith(("drgn.helpers", "drgn.commands", "drgn.cli"))} == set()
    assert {module for module in ours(loaded) for part in NOT_FOR_SUMMARY if is_part(module, part)} == set()
    # There were 38 of ours and 135 in all on Python 3.11.
    assert len(ours(loaded)) <= 44
    assert len(loaded) <= 180


def test_every_part_that_is_kept_out_exists() -> None:
    """A name that is renamed would be kept out for ever."""
    package = TOP / "drgn_unaccepted"
    paths = [package.joinpath(*part.split(".")) for part in NOT_FOR_SUMMARY]
    assert [path for path in paths if not (path.is_dir() or path.with_suffix(".py").exists())] == []


def test_the_plugin_costs_a_drgn_user_nearly_nothing() -> None:
    """drgn imports it at every start, whether %unaccepted is typed or not; drgn.commands has been imported by then."""
    before = imported(first="drgn.commands.linux")
    loaded = imported(first="drgn.commands.linux drgn_unaccepted.plugin")
    new = {name: file for name, file in loaded.items() if name not in before}
    assert ours(new) == {"plugin"}
    assert installed(new) == set()
    assert heavy(new) == set()


@pytest.mark.parametrize("planted", ("tabulate", "elftools", "fastjsonschema"))
def test_a_package_that_is_imported_too_early_is_seen(planted: str) -> None:
    pytest.importorskip(planted)
    assert planted in installed(imported("--version", first=planted))


@pytest.mark.parametrize("planted", ("asyncio", "subprocess", "importlib.metadata", "tempfile"))
def test_a_heavy_module_that_is_imported_too_early_is_seen(planted: str) -> None:
    assert planted in heavy(imported("--version", first=planted))
