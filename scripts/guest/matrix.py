# SPDX-License-Identifier: LGPL-2.1-or-later
"""`scripts/lab matrix`: the program's answers on the kernels of Debian's archive, compared with the guests' own."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from . import archive, capture, kernel, stock
from .shell import LabError, cache_dir, run, say

TOP = Path(__file__).resolve().parents[2]
TABLE = TOP / "docs/verified.md"
MARKS = "<!-- matrix: written by scripts/lab matrix -->\n", "<!-- end of matrix -->\n"
#: Each is captured by QEMU; those with kdump by kdump, too.
GUESTS = ("fill", "nodes", "big")
#: The tests whose truth is not ours: an independent reader of the dump, the guest's /proc, its record of accepts.
TESTS = ("tests/lab/test_truth.py", "tests/lab/test_page_lists.py", "tests/lab/test_check.py")
PACKAGE = re.compile(r"linux-image-(\d+)\.(\d+)\.(\d+)\+deb(\d+)(?:\.(\d+))?-(cloud-|rt-|)amd64")
#: In the order in which they are tested.
FLAVOURS = ("cloud-", "rt-", "")
OLDEST = (6, 12)


def packages() -> list[str]:
    """The newest kernel of each series and flavour, cloud kernels first."""
    newest: dict[tuple[int, tuple[int, int]], tuple[tuple[int, ...], str]] = {}
    for name in archive.names(PACKAGE.pattern):
        match = PACKAGE.fullmatch(name)
        assert match
        major, minor, *rest = (int(number or 0) for number in match.groups()[:5])
        key = FLAVOURS.index(match[6]), (major, minor)
        if (major, minor) >= OLDEST:
            newest[key] = max(newest.get(key, ((), "")), (tuple(rest), name))
    return [newest[key][1] for key in sorted(newest)]


def main(options: argparse.Namespace) -> int:
    chosen = options.packages or packages()
    if options.list:
        print("\n".join(chosen))
        return 0
    # Results outlive the dumps, so that a run that was interrupted goes on where it stopped.
    path = cache_dir() / "matrix.json"
    results: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
    failed: dict[str, str] = {}
    # First one guest of every kernel, then the next: a run that is cut short has seen all kernels.
    for name, package in itertools.product(GUESTS, chosen):
        row = results.setdefault(package, {"guests": {}})
        if row["guests"].get(name, {}).get("failed") == 0 and not options.again:
            continue
        try:
            built = kernel.unmodified(stock.from_package(package))
        except LabError as err:
            failed[package] = str(err)
            row.update(lacks=str(err).splitlines()[0], date=_today())
        else:
            if row.get("build_id") != built.build_id:
                row = results[package] = {"guests": {}, "build_id": built.build_id}
                row["version"] = archive.field(package, "Version")
            row["guests"][name] = result = _guest(built, name, options)
            row.update(date=_today(), program=_program())
            if result["failed"]:
                failed[f"{package} {name}"] = result["why"]
        _write(path, results)
    for what, why in failed.items():
        print(f"lab: failed: {what}: {why}", file=sys.stderr)
    return 1 if failed else 0


def _guest(built: kernel.Kernel, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Capture the guest and compare the answers on its dumps. Delete the dumps of RAM if all are right."""
    path = capture.directory(built, name)
    # The dumps of a wrong answer are kept, and are compared again.
    if options.again or not (capture.exists(built, name) and (path / "dump.elf").exists()):
        try:
            capture.capture(built, name, ("-smp", "1"))
        except LabError as err:
            return {"failed": 1, "why": str(err)}
    log, report = path / "tests.log", path / "tests.xml"
    python = Path(run([TOP / "scripts/venv", "test"], timeout=1200).strip()) / "python"
    command = [
        python,
        "-m",
        "pytest",
        "-q",
        "-m",
        "lab",
        f"--junitxml={report}",
        "-k",
        f"{built.series}-{name}",
        *TESTS,
    ]
    with log.open("w") as out:
        subprocess.run(command, cwd=TOP, stdout=out, stderr=out, timeout=3600, env={**os.environ, "COLUMNS": "120"})
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None
    counts = {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
    bad = counts["failures"] + counts["errors"]
    passed = counts["tests"] - bad - counts["skipped"]
    say(f"{built.series} {name}: {passed} comparisons equal, {bad} not")
    if bad or not passed:
        return {"passed": passed, "failed": bad or 1, "why": f"see {log}; the dumps are kept"}
    report.unlink()
    if not options.keep:
        for dump in path.glob("dump.*"):
            dump.unlink()
    return {"passed": passed, "failed": 0}


def _write(path: Path, results: dict[str, dict[str, Any]]) -> None:
    path.write_text(json.dumps(results, indent=1) + "\n")
    lines = [
        "| kernel | Debian version | " + " | ".join(f"`{name}`" for name in GUESTS) + " | date, program |\n",
        "|---|---|" + "---|" * len(GUESTS) + "---|\n",
    ]
    for package, row in results.items():
        cells = [_cell(row, row["guests"].get(name)) for name in GUESTS]
        cells = [package.removeprefix("linux-image-"), row.get("version", ""), *cells]
        lines.append(f"| {' | '.join(cells)} | {row['date']}, {row.get('program', '')} |\n")
    before, _, rest = TABLE.read_text().partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    TABLE.write_text(f"{before}{MARKS[0]}{''.join(lines)}{MARKS[1]}{after}")


def _cell(row: dict[str, Any], result: dict[str, Any] | None) -> str:
    if "lacks" in row:
        return row["lacks"].replace("|", "/")
    if result is None:
        return "not run"
    if result["failed"]:
        return f"**{result['failed']} failed**"
    return f"{result['passed']} equal"


def _today() -> str:
    return time.strftime("%Y-%m-%d", time.gmtime())


def _program() -> str:
    """The package's source, as git names that directory: it stays the same when a commit gets another ID."""
    return run(["git", "-C", TOP, "rev-parse", "--short=10", "HEAD:drgn_unaccepted"], timeout=60).strip()
