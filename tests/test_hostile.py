# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damaged dumps, snapshot files and recordings give an answer, or one line with the reason, within limits.

A bounded part of what scripts/fuzz does, and everything that it has found. Then files made to break a parser, and names
made to break a terminal, a page or a spreadsheet.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import random
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from drgn_unaccepted.fleet.targets import BESIDE
from drgn_unaccepted.snapshot import Accept, AcceptingList, NamedRange, Platform, Snapshot, Task
from drgn_unaccepted.snapshot_file import write
from tests.checks import build
from tests.fuzz import files, mutate, run
from tests.fuzz.case import Case, clean, truth
from tests.fuzz.run import ANSWERED, REFUSED, Outcome, answered, outcome_of
from tests.snapshot_strategies import HOSTILE_TEXTS
from tests.test_properties import of_bitmap

CORPUS = sorted((Path(__file__).parent / "fuzz" / "corpus").glob("*.json"))

#: Another seed gives other damage: DRGN_UNACCEPTED_SEED=today
SEED = os.environ.get("DRGN_UNACCEPTED_SEED", "1")
DUMPS, FILES = 40, 15

#: One with the table and one without, of both kernels.
NAMES = ("6.12-fill", "7.3-fill-kdump")


def verdict(outcome: Outcome) -> str:
    return f"{outcome.kind}: {outcome.text}\n{outcome.details}" if outcome.failed else ""


@pytest.mark.long
@pytest.mark.parametrize("number", range(4))
def test_damaged_dumps(number: int, tmp_path: Path) -> None:
    kinds = set()
    for run_ in range(number * DUMPS // 4, (number + 1) * DUMPS // 4):
        rng = random.Random(f"{SEED}:{run_}")
        case = mutate.generate(rng, NAMES)
        direct = rng.choice(((), ("check",), ("resolve", "0-8G")))
        outcome = run.isolated(lambda case=case, direct=direct: run.check_dump(case, tmp_path, direct))  # type: ignore[misc]
        assert not outcome.failed, f"{verdict(outcome)}\n{case.to_json()}"
        kinds.add(outcome.kind)
    assert ANSWERED in kinds, "some damage leaves an answer"


@pytest.mark.long
@pytest.mark.parametrize("kind", files.KINDS)
def test_damaged_files(kind: str, tmp_path: Path) -> None:
    kinds = set()
    for number in range(FILES):
        data = files.damaged(random.Random(f"{SEED}:{kind}:{number}"), kind)
        outcome = run.isolated(lambda data=data: files.check(kind, data, tmp_path))  # type: ignore[misc]
        assert not outcome.failed, verdict(outcome)
        kinds.add(outcome.kind)
    assert REFUSED in kinds or kind == "records", "merge leaves out records that cannot be read"


@pytest.mark.long
@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_what_was_found_before(path: Path, tmp_path: Path) -> None:
    case = Case.from_json(path.read_text())
    outcome = run.isolated(lambda: run.check_dump(case, tmp_path))
    assert not outcome.failed, verdict(outcome)


@pytest.mark.parametrize("form", ("elf", "bare", "encrypted", "kdump"))
def test_the_undamaged_dump_answers_in_every_form(form: str, tmp_path: Path) -> None:
    """So that a refusal comes from the damage."""
    outcome = run.isolated(lambda: run.check_dump(Case("6.12-fill", "zones", form), tmp_path))
    assert (outcome.kind, outcome.text) == (ANSWERED, "bitmap"), outcome


# The harness sees what it looks for


def test_the_harness_tells_failures_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "SECONDS", 1)

    def hang() -> Outcome:
        while True:
            pass

    def die() -> Outcome:
        os.kill(os.getpid(), 11)
        raise AssertionError

    def wrong() -> Outcome:
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
        outcome = run.isolated(lambda words=words: answered(*words))  # type: ignore[misc]
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


def test_scan_survives_what_it_cannot_read(tmp_path: Path) -> None:
    """Among good dumps: one that is garbage, a pipe that never speaks, a device."""
    dumps = tmp_path / "dumps"
    dumps.mkdir()
    (dumps / "garbage").write_bytes(random.Random(1).randbytes(10_000))
    (dumps / "good").write_bytes(clean("6.12-fill", "kdump").data)
    (dumps / "packed").write_bytes(gzip.compress(clean("6.12-fill", "kdump").data + bytes(5 << 20), 1))
    (dumps / "snapshot").write_text(files.snapshot_text("6.12-panic"))
    os.mkfifo(dumps / "silent")
    (dumps / "device").symlink_to("/dev/zero")
    targets = [dumps / name for name in ("silent", "device", "garbage", "good", "snapshot", "packed")]
    done = started(*PROGRAM, "scan", "--timeout", "60", "-o", tmp_path / "out", *targets)
    assert "Traceback" not in done.stderr, done.stderr
    _, *records = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    errors = {Path(record["target"]["path"]).name: record["error"] for record in records}
    assert len(records) == len(errors) == len(targets)
    assert {name for name, error in errors.items() if error is None} == {"good", "snapshot", "packed"}, errors
    assert "a pipe" in errors["silent"]["reason"] and "a device" in errors["device"]["reason"]


# Sizes that are allowed, at their worst


@pytest.fixture(scope="module")
def worst(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """256 MiB of bitmap in a snapshot file of some hundred KiB, as anybody can make one."""
    path = tmp_path_factory.mktemp("worst") / "snapshot"
    table = of_bitmap(b"\x55" * (256 << 20), base=0)
    write(replace(table, table=replace(table.table, address=0x1000)), str(path))
    assert path.stat().st_size < 1 << 20
    return path


@pytest.mark.long
@pytest.mark.parametrize("name", ("summary", "map", "check", "report", "ranges", "resolve"))
def test_a_bitmap_of_4_pib_with_every_second_unit_accepted(name: str, worst: Path, tmp_path: Path) -> None:
    argv = {"resolve": ("0", "0-4096T"), "report": ("-o", tmp_path / "page")}.get(name, ())

    outcome = run.isolated(lambda: answered("--snapshot", worst, name, *argv))
    wanted = {REFUSED} if name in ("ranges", "resolve") else {ANSWERED, REFUSED}
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

    outcome = run.isolated(lambda: answered("-c", files.DUMP, "--table", f"{path}@{address:#x}", name))
    assert outcome.kind == ANSWERED and outcome.peak_bytes < 200 << 20, outcome


# Files and names that somebody made

NESTED = ("[" * 100_000, '{"a":' * 100_000, "[" * 100_000 + "]" * 100_000)
#: Values for fields that are numbers.
NUMBERS = ("NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 5_000, "1" + "0" * 400, "-0.5", '"1"', "true")


def changed(kind: str, change: Callable[[str], str]) -> bytes:
    if kind == "snapshot":
        return change(files.snapshot_text("6.12-fill")).encode()
    header, first, *rest = files.recording_lines()
    return "\n".join([header, change(first), *rest, ""]).encode()


CHANGES: dict[str, Callable[[str], str]] = {
    **{f"nested {n}": lambda text, deep=deep: text.replace("null", deep, 1) for n, deep in enumerate(NESTED)},  # type: ignore[misc]
    **{
        f"{number[:9]} {field}": lambda text, field=field, number=number: re.sub(  # type: ignore[misc]
            rf'"{field}": ?\d+', f'"{field}": {number}', text, count=1
        )
        for field in ("unit_size", "start_pfn", "cpus")
        for number in NUMBERS
    },
    "schema twice": lambda text: '{"schema": "x", ' + text[1:],
    "a table twice": lambda text: text.replace('"table":', '"table": null, "table":', 1),
    "a surrogate for a key": lambda text: text.replace('"missing"', '"\\udc80": 1, "missing"', 1),
    "NUL in a name": lambda text: re.sub(r'"name": ?"', r'"name": "\\u0000', text, count=1),
    "a bitmap that unpacks to 1 GiB": lambda text: re.sub(
        r'"bitmap": ?"[^"]*"', f'"bitmap": "{files.big_bomb()}"', text, count=1
    ),
    "every list unpacks to 64 MiB": lambda text: re.sub(
        r'"(pfns|flags|refcounts|page_types)": ?"[^"]*"', rf'"\1": "{files.BOMB}"', text
    ),
    "a bomb in a bomb": lambda text: re.sub(
        r'"bitmap": ?"[^"]*"',
        f'"bitmap": "{base64.b64encode(zlib.compress(zlib.compress(bytes(64 << 20)))).decode()}"',
        text,
        count=1,
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("kind", ("snapshot", "recording"))
def test_a_file_that_is_no_file_of_ours(kind: str, name: str, tmp_path: Path) -> None:
    data = changed(kind, CHANGES[name])
    assert data != changed(kind, str), "nothing was changed"
    check = files.check_snapshot if kind == "snapshot" else files.check_recording
    # A line of a recording may contain more than is read, and unknown fields are left out with a warning.
    harmless = name in ("NUL in a name", "a surrogate for a key") or (kind, name) == ("recording", "schema twice")
    outcome_of(lambda: check(data, tmp_path), *((ANSWERED, REFUSED) if harmless else (REFUSED,)))


BOMBS = (*NESTED, "NaN", '{"schema": NaN}', '{"id": 1, "id": 2}', "a\0b", '{"path": "%s"}' % ("x" * 5_000))
BOMBS += ('{"path": "a\\u0000b"}', '{"path": "a\\ud800b"}')


@pytest.mark.long
@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: repr(bomb)[1:25])
@pytest.mark.parametrize("place", ("records", "manifest", "beside", "merged"))
def test_a_bomb_among_the_files_of_a_fleet(place: str, bomb: str, tmp_path: Path) -> None:
    path = tmp_path / ("path.list" if place == "manifest" else "path")
    path.write_text(bomb + "\n")
    target = tmp_path / "target"
    target.write_bytes(files.snapshot_text("6.12-fill").encode())
    (tmp_path / f"target{BESIDE}").write_text(bomb + "\n" if place == "beside" else "")
    argv: dict[str, tuple[object, ...]] = {
        "records": ("scan", "--quiet", "-o", path, target),
        "manifest": ("scan", "--quiet", path),
        "beside": ("scan", "--quiet", "--beside", target),
        "merged": ("merge", path),
    }

    outcome = outcome_of(lambda: answered(*argv[place], notes=9))
    if place == "records":
        assert path.read_text() == bomb + "\n" and "left alone" in outcome.text


# Names


def named(name: str) -> Snapshot:
    """A snapshot with this name in every text that a target can choose."""
    clean = build.clean()
    zones = tuple(replace(zone, name=name[:15], problems=(name,), locked=True) for zone in clean.zones or ())
    task = Task(1, name[:15], 0)
    return replace(
        clean,
        target=replace(clean.target, path=name, release=name, build_id=name, snapshot_path=None),
        zones=zones,
        accepting=AcceptingList((Accept(0xFFFF888000000000, 12, 14, task),), (name,)),
        platform=Platform("tdx", name, None, None),
        kernel_memory=(NamedRange(name, 0x100000000, 0x100200000),),
        reclaiming=(task,),
        panic=name,
        missing={"kexec_segments": name, name: name},
        torn=(name,),
    )


@pytest.mark.long
@pytest.mark.parametrize("name", HOSTILE_TEXTS, ids=lambda name: ascii(name)[1:15])
def test_names(name: str, tmp_path: Path) -> None:
    snapshot, page = tmp_path / "snapshot", tmp_path / "page"
    write(named(name), str(snapshot))

    def check() -> Outcome:
        run.ask_everything(snapshot)
        given = ("--snapshot", snapshot)
        for format_ in ("text", "json", "nagios", "prometheus", "junit"):
            out = tmp_path / format_
            run.command(*given, "check", "--format", format_, fails=run.CHECK_STATUS)
            run.command(*given, "check", "--format", format_, "-o", out, fails=run.CHECK_STATUS)
        json.loads((tmp_path / "json").read_text())
        ElementTree.parse(tmp_path / "junit")
        run.command(*given, "report", "-o", page)
        run.command("scan", "--quiet", "-o", tmp_path / "records", snapshot)
        for format_ in ("text", "json", "csv"):
            run.command("merge", "--format", format_, tmp_path / "records")
            run.command("merge", "--format", format_, "-o", tmp_path / f"merged.{format_}", tmp_path / "records")
        return Outcome(ANSWERED, "")

    outcome_of(check, ANSWERED)
    for written in ("text", "nagios", "prometheus", "junit", "merged.text", "page"):
        text = (tmp_path / written).read_text("utf-8")
        assert not [c for c in text if not c.isprintable() and c != "\n"], written
    write(build.clean(), str(tmp_path / "clean"))
    run.command("--snapshot", tmp_path / "clean", "report", "-o", tmp_path / "clean.html")
    html, clean = page.read_text(), (tmp_path / "clean.html").read_text()
    assert "<script>alert" not in html and html.count("</script>") == clean.count("</script>")
