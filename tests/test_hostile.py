# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damaged dumps, snapshot files and recordings give an answer, or one line with the reason, within limits.

A bounded part of what scripts/fuzz does, and everything that it has found.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from drgn_unaccepted.snapshot_file import write
from tests.fuzz import files, mutate, run
from tests.fuzz.case import Case, clean, truth
from tests.test_properties import of_bitmap

CORPUS = sorted((Path(__file__).parent / "fuzz" / "corpus").glob("*.json"))

#: Another seed gives other damage: DRGN_UNACCEPTED_SEED=today
SEED = os.environ.get("DRGN_UNACCEPTED_SEED", "1")
DUMPS, FILES = 40, 15

#: One with the table and one without, of both kernels.
NAMES = ("6.12-fill", "7.3-fill-kdump")


def verdict(outcome: run.Outcome) -> str:
    return f"{outcome.kind}: {outcome.text}\n{outcome.details}" if outcome.failed else ""


@pytest.mark.long
@pytest.mark.parametrize("number", range(4))
def test_damaged_dumps(number: int, tmp_path: Path) -> None:
    """A dump that kills drgn or libkdumpfile is not counted: see test_scan_survives_what_kills_the_reader."""
    kinds = set()
    for run_ in range(number * DUMPS // 4, (number + 1) * DUMPS // 4):
        rng = random.Random(f"{SEED}:{run_}")
        case = mutate.generate(rng, NAMES)
        direct = rng.choice(((), ("check",), ("resolve", "0-8G")))
        outcome = run.isolated(lambda case=case, direct=direct: run.check_dump(case, tmp_path, direct))  # type: ignore[misc]
        assert not outcome.failed, f"{verdict(outcome)}\n{case.to_json()}"
        kinds.add(outcome.kind)
    assert run.ANSWERED in kinds, "some damage leaves an answer"


@pytest.mark.long
@pytest.mark.parametrize("kind", files.KINDS)
def test_damaged_files(kind: str, tmp_path: Path) -> None:
    kinds = set()
    for number in range(FILES):
        data = files.damaged(random.Random(f"{SEED}:{kind}:{number}"), kind)
        outcome = run.isolated(lambda data=data: files.check(kind, data, tmp_path))  # type: ignore[misc]
        assert not outcome.failed and outcome.kind != run.DIED, verdict(outcome)
        kinds.add(outcome.kind)
    assert run.REFUSED in kinds or kind == "records", "merge leaves out records that cannot be read"


@pytest.mark.long
@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_what_was_found_before(path: Path, tmp_path: Path) -> None:
    case = Case.from_json(path.read_text())
    outcome = run.isolated(lambda: run.check_dump(case, tmp_path))
    if case.about.startswith(run.DIED):
        assert not outcome.failed, verdict(outcome)
    else:
        assert outcome.kind in (run.ANSWERED, run.REFUSED), verdict(outcome)


@pytest.mark.parametrize("form", ("elf", "bare", "encrypted", "kdump"))
def test_the_undamaged_dump_answers_in_every_form(form: str, tmp_path: Path) -> None:
    """So that a refusal comes from the damage."""
    outcome = run.isolated(lambda: run.check_dump(Case("6.12-fill", "zones", form), tmp_path))
    assert (outcome.kind, outcome.text) == (run.ANSWERED, "bitmap"), outcome


# The harness sees what it looks for


def test_the_harness_tells_failures_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "SECONDS", 1)

    def hang() -> run.Outcome:
        while True:
            pass

    def die() -> run.Outcome:
        os.kill(os.getpid(), 11)
        raise AssertionError

    def wrong() -> run.Outcome:
        run.hold(Case("6.12-fill", "nothing"), "made up", [(0, 1 << 52, "accepted")], False, (None, None))
        raise AssertionError

    kinds = [run.isolated(check).kind for check in (hang, lambda: bytes(2 << 30), die, lambda: 1 // 0)]
    assert kinds == ["hang", "memory", run.DIED, "traceback"]
    monkeypatch.undo()
    assert run.isolated(wrong).kind == "wrong"


@pytest.mark.parametrize(("error", "kind"), ((ZeroDivisionError("1 / 0"), "traceback"), (MemoryError(), "memory")))
def test_an_internal_error_is_a_failure(error: Exception, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends in one line and exit status 3, as a refusal does."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("drgn_unaccepted.cli.run", fail)
    for words in (("-c", files.DUMP, "check"), ("merge", files.DUMP), ("scan", files.DUMP)):
        outcome = run.isolated(lambda words=words: run.answered(*words))  # type: ignore[misc]
        assert (outcome.kind, outcome.failed) == (kind, True)
        assert type(error).__name__ in outcome.text and "Traceback" in outcome.details


# The program itself, as a user starts it

PROGRAM = (sys.executable, "-m", "drgn_unaccepted")


def started(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.parametrize(
    "case",
    (
        Case("6.12-fill", "table"),
        Case("6.12-fill", "headers", file=((32, "ffffffffffffff7f"),)),
        Case("6.12-fill", "headers", file=((56, "ffff"),)),
        Case("6.12-fill", "cut", size=5_000_000),
        Case("6.12-fill", "vmcoreinfo", vmcoreinfo=(("OSRELEASE=", "OSRELEASE=\x1b[2J"),)),
    ),
    ids=("whole", "program headers elsewhere", "65535 program headers", "cut", "escapes in the release"),
)
def test_the_program_within_its_limits(case: Case, tmp_path: Path) -> None:
    done = started("prlimit", f"--as={run.MEMORY}", *PROGRAM, "-c", case.write(tmp_path / "dump"))
    assert done.returncode in (0, 3)
    assert "Traceback" not in done.stderr and "\x1b" not in done.stdout + done.stderr
    if done.returncode == 3:
        lines = [line for line in done.stderr.splitlines() if ": warning: " not in line]
        assert len(lines) == 1


# A batch


def test_scan_survives_what_kills_the_reader(tmp_path: Path) -> None:
    """Among good dumps: one that kills libkdumpfile, one that is garbage, a pipe that never speaks."""
    killer = next(path for path in CORPUS if json.loads(path.read_text())["about"].startswith(run.DIED))
    dumps = tmp_path / "dumps"
    dumps.mkdir()
    Case.from_json(killer.read_text()).write(dumps / "killer")
    (dumps / "garbage").write_bytes(random.Random(1).randbytes(10_000))
    (dumps / "good").write_bytes(clean("6.12-fill", "kdump").data)
    (dumps / "snapshot").write_text(files.snapshot_text("6.12-panic"))
    os.mkfifo(dumps / "silent")
    targets = [dumps / name for name in ("silent", "killer", "garbage", "good", "snapshot")]
    done = started(*PROGRAM, "scan", "--timeout", "5", "-o", tmp_path / "out", *targets)
    assert "Traceback" not in done.stderr, done.stderr
    _, *records = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    status = {Path(record["target"]["path"]).name: record["status"] for record in records}
    assert len(records) == len(status) == len(targets)
    assert {name for name, said in status.items() if said in ("ok", "warning", "critical")} == {"good", "snapshot"}, (
        status
    )


# Sizes that are allowed, at their worst


@pytest.fixture(scope="module")
def worst(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """256 MiB of bitmap in a snapshot file of some hundred KiB, as anybody can make one."""
    path = tmp_path_factory.mktemp("worst") / "snapshot"
    table = of_bitmap(b"\x55" * (256 << 20), base=0)
    write(dataclasses.replace(table, table=dataclasses.replace(table.table, address=0x1000)), str(path))
    assert path.stat().st_size < 1 << 20
    return path


@pytest.mark.long
@pytest.mark.parametrize("name", ("summary", "map", "check", "report", "ranges", "resolve"))
def test_a_bitmap_of_4_pib_with_every_second_unit_accepted(name: str, worst: Path, tmp_path: Path) -> None:
    argv = {"resolve": ("0", "0-4096T"), "report": ("-o", tmp_path / "page")}.get(name, ())

    outcome = run.isolated(lambda: run.answered("--snapshot", worst, name, *argv))
    wanted = {run.REFUSED} if name in ("ranges", "resolve") else {run.ANSWERED, run.REFUSED}
    assert outcome.kind in wanted, outcome
    if name in ("ranges", "resolve"):
        assert "more than" in outcome.text


@pytest.mark.long
@pytest.mark.parametrize("name", ("check", "map", "ranges"))
def test_a_bitmap_of_random_bits_in_a_dump(name: str, tmp_path: Path) -> None:
    """4 TiB: half a million runs of set bits, more than any check looks at."""
    path = tmp_path / "table"
    bitmap = random.Random(1).randbytes(1 << 18)
    path.write_bytes(struct.pack("<IIQQ", 1, 2 << 20, 0, len(bitmap)) + bitmap)
    address = truth(files.NAME)["table_address"]

    outcome = run.isolated(lambda: run.answered("-c", files.DUMP, "--table", f"{path}@{address:#x}", name))
    assert outcome.kind == run.ANSWERED and outcome.peak_bytes < 200 << 20, outcome


def test_a_recording_with_a_number_that_no_clock_has(tmp_path: Path) -> None:
    lines = list(files.recording_lines())
    lines[1] = lines[1].replace('"elapsed": ', '"elapsed": 1').replace('"elapsed":', '"elapsed":' + "9" * 400, 1)
    path = tmp_path / "recording"
    path.write_text("\n".join(lines) + "\n")
    status, _, said = run.command("replay", path)
    assert status == 3 and "elapsed: seconds are wanted" in said[0]


def test_a_line_of_a_fleet_that_is_nested_too_deep(tmp_path: Path) -> None:
    path = tmp_path / "records"
    path.write_text(
        "[" * 100_000
        + "\n"
        + '{"schema": "drgn-unaccepted/1", "command": "scan", "targets": 1e999, "shard": [1e999, 1]}\n'
    )
    run.command("merge", path, fails=(0, 1, 2, 3), notes=9)
