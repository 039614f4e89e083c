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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import archive, binary, capture, kernel, stock
from .shell import LabError, cache_dir, lock, run, say

TOP = Path(__file__).resolve().parents[2]
TABLE = TOP / "docs/verified.md"
MARKS = "<!-- matrix: written by scripts/lab matrix -->\n", "<!-- end of matrix -->\n"
#: Each is captured by QEMU; those with kdump by kdump, too.
GUESTS = ("fill", "nodes", "big")
#: The tests whose truth is not ours: an independent reader of the dump, the guest's /proc, its record of accepts.
TESTS = ("tests/lab/test_truth.py", "tests/lab/test_check.py")
PACKAGE = re.compile(r"linux-image-(\d+)\.(\d+)\.(\d+)\+deb(\d+)(?:\.(\d+))?-(cloud-|rt-|)amd64")
#: In the order in which they are tested.
FLAVOURS = ("cloud-", "rt-", "")
OLDEST = (6, 12)


def _order(package: str) -> tuple[int, ...]:
    """Flavour, series, and the rest of the version."""
    match = PACKAGE.fullmatch(package)
    assert match
    return FLAVOURS.index(match[6]), *(int(number or 0) for number in match.groups()[:5])


def packages() -> list[str]:
    """The newest kernel of each series and flavour, cloud kernels first."""
    newest = {_order(name)[:3]: name for name in sorted(archive.names(PACKAGE.pattern), key=_order)}
    return [newest[key] for key in sorted(newest) if key[1:] >= OLDEST]


def main(options: argparse.Namespace) -> int:
    chosen = options.packages or packages()
    if wrong := [name for name in chosen if not PACKAGE.fullmatch(name)]:
        raise LabError(f"not the name of an image of Debian's archive: {', '.join(wrong)}")
    if options.list:
        print("\n".join(chosen))
        return 0
    failed: dict[str, str] = {}
    # First one guest of every kernel, then the next: a run that is cut short has seen all kernels.
    for name, package in itertools.product(GUESTS, chosen):
        with _results() as results:
            if results.get(package, {}).get("guests", {}).get(name, {}).get("failed") == 0 and not options.again:
                continue
        try:
            built = kernel.Kernel(stock.from_package(package))
            result = _guest(built, name, options)
            why = result.pop("why", "")
        except binary.CannotPatch as err:
            built, why = None, str(err)
        except LabError as err:
            failed[package] = str(err)
            continue
        with _results() as results:
            row = results.setdefault(package, {"guests": {}})
            row.update(date=time.strftime("%Y-%m-%d", time.gmtime()), program=_program())
            if built is None:
                row["lacks"] = why.splitlines()[0]
            else:
                if row.get("build_id") != built.build_id:
                    row.update(guests={}, build_id=built.build_id, version=archive.field(package, "Version"))
                    row.pop("lacks", None)
                row["guests"][name] = result
        if why:
            failed[f"{package} {name}"] = why
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
            return {"passed": 0, "failed": 1, "why": str(err)}
    log, report = path / "tests.log", path / "tests.xml"
    python = Path(run([TOP / "scripts/venv", "test"], timeout=1200).strip()) / "python"
    chosen = ["-q", "-m", "lab", f"--junitxml={report}", "-k", f"{built.series}-{name}"]
    command = [python, "-m", "pytest", *chosen, *TESTS]
    with log.open("w") as out:
        subprocess.run(command, cwd=TOP, stdout=out, stderr=out, timeout=3600, env={**os.environ, "COLUMNS": "120"})
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None
    counts = {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
    bad = counts["failures"] + counts["errors"]
    passed = counts["tests"] - bad - counts["skipped"]
    say(f"{built.series} {name}: {passed} comparisons equal, {bad} not")
    if bad or not passed:
        return {"passed": passed, "failed": bad or 1, "why": f"{bad} answers differ, see {log}; the dumps are kept"}
    report.unlink()
    if not options.keep:
        for dump in path.glob("dump.*"):
            dump.unlink()
    return {"passed": passed, "failed": 0}


@contextmanager
def _results() -> Iterator[dict[str, dict[str, Any]]]:
    """What was found so far, by package; it outlives the dumps. Saved at the end, with its table in the docs."""
    path = cache_dir() / "matrix.json"
    with lock("matrix"):
        results: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
        before = json.dumps(results)
        yield results
        if json.dumps(results) == before:
            return
        path.write_text(json.dumps(results, indent=1) + "\n")
        lines = [
            "| kernel | Debian version | " + " | ".join(f"`{name}`" for name in GUESTS) + " | date, program |\n",
            "|---|---|" + "---|" * len(GUESTS) + "---|\n",
        ]
        for package, row in sorted(results.items(), key=lambda item: _order(item[0])):
            cells = [_cell(row, row["guests"].get(name)) for name in GUESTS]
            cells = [package.removeprefix("linux-image-"), row.get("version", ""), *cells]
            lines.append(f"| {' | '.join(cells)} | {row['date']}, {row['program']} |\n")
        head, _, rest = TABLE.read_text().partition(MARKS[0])
        TABLE.write_text(f"{head}{MARKS[0]}{''.join(lines)}{MARKS[1]}{rest.partition(MARKS[1])[2]}")


def _cell(row: dict[str, Any], result: dict[str, Any] | None) -> str:
    if "lacks" in row:
        return row["lacks"].replace("|", "/")
    if result is None:
        return "not run"
    if result["failed"]:
        return f"**{result['failed']} failed**"
    return f"{result['passed']} equal"


def _program() -> str:
    """The package's source, as git names that directory: it stays the same when a commit gets another ID."""
    return run(["git", "-C", TOP, "rev-parse", "--short=10", "HEAD:drgn_unaccepted"], timeout=60).strip()
