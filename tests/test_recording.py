# SPDX-License-Identifier: LGPL-2.1-or-later
"""Recordings give back what went in, cut anywhere; damage is named; the loop, the rates, the flight recorder."""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any, Optional

import pytest
from drgn import ProgramFlags
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drgn_unaccepted import limits
from drgn_unaccepted.answer.progress import Progress, by_node
from drgn_unaccepted.commands import COMMANDS, Action
from drgn_unaccepted.errors import CommandError
from drgn_unaccepted.kernel.target import Opened
from drgn_unaccepted.record import file as recording_file
from drgn_unaccepted.record import keep as flight
from drgn_unaccepted.record.change import apply, change
from drgn_unaccepted.record.file import Recording, RecordingError, Sample, Writer
from drgn_unaccepted.record.loop import Stop, samples
from drgn_unaccepted.snapshot import Accept, AcceptingList, Counters, ListedChunks, Snapshot, Table, Task, Zone
from drgn_unaccepted.snapshot_file import SnapshotFileError, load
from tests.checks.build import BASE, BITMAP, LISTED, clean
from tests.samples_over_time import listed, series, with_bitmap, with_list

ROOT = Path(__file__).parents[1]


def write(path: Path, snapshots: Sequence[Snapshot]) -> Path:
    with Writer(str(path), 1.0) as writer:
        for number, snapshot in enumerate(snapshots):
            writer.add(snapshot, float(number), 0.25)
    return path


def read(path: Path) -> list[Snapshot]:
    return [sample.snapshot for sample in Recording(str(path))]


# What a sample can look like next

bitmaps = st.binary(min_size=1, max_size=40)
chunk_lists = st.builds(
    listed,
    st.lists(st.integers(0, 1 << 30) | st.integers(0, 9), max_size=12),
    st.sampled_from([(), ("entry 3: a cycle",)]),
    st.sampled_from([0, 0, 0, 1 << 60]),
)
counters = st.builds(Counters, st.integers(0, 1 << 40), st.none() | st.integers(0, 1 << 40), st.just(0))
tasks = st.none() | st.builds(
    Task, st.integers(1, 99), st.sampled_from(["dd", "\x1b[31m", "é"]), st.none() | st.integers(0, 7)
)
accepts = st.builds(Accept, st.integers(0, 1 << 63), st.integers(0, 99), st.integers(0, 99), tasks)
accepting = st.none() | st.builds(AcceptingList, st.lists(accepts, max_size=3).map(tuple))


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    snapshot = clean()
    if draw(st.booleans()):
        snapshot = with_bitmap(snapshot, draw(bitmaps | st.just(bytes(4))))
    if draw(st.booleans()):
        snapshot = with_list(snapshot, draw(st.none() | chunk_lists))
    if draw(st.booleans()):
        snapshot = replace(
            snapshot, zones=draw(st.sampled_from([None, (), snapshot.zones, (snapshot.zones or ())[:1]]))
        )
    if draw(st.booleans()):
        snapshot = replace(snapshot, table=replace(snapshot.table, state="not-captured", reason="no", bitmap=None))
    snapshot = replace(
        snapshot,
        counters=draw(st.none() | counters),
        accepting=draw(accepting),
        torn=draw(st.sampled_from([(), ("counters: moved",)])),
        target=replace(
            snapshot.target, taken_at=draw(st.sampled_from([f"2026-01-0{day}T00:00:00+00:00" for day in (1, 2)]))
        ),
    )
    absent = [part for part in ("zones", "counters", "accepting") if getattr(snapshot, part) is None]
    words = draw(st.dictionaries(st.sampled_from(["pages", "e820.kexec"]), st.text(max_size=5)))
    return replace(snapshot, missing={**words, **{part: draw(st.sampled_from(["no", "never"])) for part in absent}})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(snapshots(), min_size=1, max_size=6))
def test_what_goes_in_comes_out(tmp_path: Path, taken: list[Snapshot]) -> None:
    path = tmp_path / "recording"
    path.unlink(missing_ok=True)
    write(path, taken)
    recording = Recording(str(path))
    got = list(recording)
    assert [sample.snapshot for sample in got] == taken
    assert [(sample.number, sample.elapsed, sample.cost) for sample in got] == [
        (number, float(number), 0.25) for number in range(len(taken))
    ]
    assert recording.dropped is None
    assert all(line.endswith("\n") and json.loads(line) for line in path.read_text().splitlines(keepends=True))


@settings(deadline=None)
@given(st.data())
def test_a_list_that_loses_and_gains_chunks(data: st.DataObject) -> None:
    before = data.draw(st.lists(st.integers(0, 200), max_size=60))
    kept = [pfn for pfn in before if data.draw(st.booleans())]
    added = data.draw(st.lists(st.integers(201, 400), max_size=5, unique=True))
    old, new = with_list(clean(), listed(before)), with_list(clean(), listed([*kept, *added]))
    assert apply(old, json.loads(json.dumps(change(old, new)))) == new


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=300), st.data())
def test_bits_that_clear_and_bits_that_come_back(before: bytes, data: st.DataObject) -> None:
    mask = data.draw(st.binary(min_size=len(before), max_size=len(before)))
    after = bytes(a ^ b for a, b in zip(before, mask))
    old, new = with_bitmap(clean(), before), with_bitmap(clean(), after)
    assert apply(old, json.loads(json.dumps(change(old, new)))) == new


def test_nothing_changed_is_nothing() -> None:
    assert change(clean(), clean()) == {}


def test_the_form_of_a_change_is_as_documented() -> None:
    # Bits 13 to 29 are set; 13 to 16 and 20 are cleared. The first two of nine chunks go, one comes.
    assert bytes([0b0, 0b11100000, 0b11111111, 0b00111111]) == BITMAP
    new = with_bitmap(clean(), bytes([0b0, 0b0, 0b11101110, 0b00111111]))
    new = with_list(new, listed([*LISTED[2:], 0x104000], flags=0))
    old = with_list(clean(), listed(LISTED))
    changed = change(old, replace(new, counters=replace(new.counters, free_pages=7)))  # type: ignore[type-var]
    number = len(old.zones or ()) - 1
    added = changed["zones"][str(number)]["listed"].pop("added")
    assert set(added) == {"pfns", "flags", "refcounts", "page_types", "problems"}
    assert changed == {
        "table": {"bitmap": {"cleared": [13, 17, 20, 21]}},
        "zones": {str(number): {"listed": {"kept": [2, 9]}}},
        "counters": {"free_pages": 7},
    }


def test_a_change_written_by_hand_is_read() -> None:
    old = with_list(clean(), listed([10, 20, 30, 40, 50]))
    number = len(old.zones or ()) - 1
    new = apply(
        old,
        {
            "table": {"bitmap": {"cleared": [13, 16, 24, 30], "set": [0, 2]}},
            "zones": {str(number): {"listed": {"kept": [1, 2, 3, 5]}, "free_pages": 99}},
            "torn": ["counters: moved"],
            "accepting": None,
            "missing": {"accepting": "gone"},
        },
    )
    assert new.table.bitmap == bytes([0b11, 0, 0xFF, 0])
    assert new.zones is not None and new.zones[number].free_pages == 99
    chunks = new.zones[number].listed
    assert chunks is not None and list(chunks.pfns) == [20, 40, 50]
    assert new.torn == ("counters: moved",) and new.accepting is None
    assert new.zones[:number] == (old.zones or ())[:number]


def test_scattered_changes_are_written_whole() -> None:
    before = bytes([0xFF]) * 4096
    old, new = with_bitmap(clean(), before), with_bitmap(clean(), bytes([0x55]) * 4096)
    changed = change(old, new)
    assert isinstance(changed["table"]["bitmap"], str)
    assert apply(old, changed) == new
    old, new = with_list(clean(), listed(range(5000))), with_list(clean(), listed(range(0, 5000, 2)))
    changed = change(old, new)
    assert apply(old, changed) == new
    assert len(json.dumps(changed)) < 16000


@pytest.mark.parametrize("name", ["cleared", "set"])
def test_as_many_runs_of_bits_as_one_change_has(name: str) -> None:
    """Bits 0, 2, 4, ...: each is a run."""
    runs = limits.RECORDED_RUNS
    few, many = bytes([0x55]) * (runs // 4) + b"\0", bytes([0x55]) * (runs // 4) + b"\1"
    for bitmap, whole in ((few, False), (many, True)):
        pair = (bitmap, bytes(len(bitmap))) if name == "cleared" else (bytes(len(bitmap)), bitmap)
        old, new = (with_bitmap(clean(), one) for one in pair)
        changed = change(old, new)
        assert apply(old, changed) == new
        if whole:
            assert isinstance(changed["table"]["bitmap"], str)
        else:
            assert changed["table"]["bitmap"] == {name: [n for bit in range(0, 2 * runs, 2) for n in (bit, bit + 1)]}
    bad = [n for bit in range(0, 2 * runs + 2, 2) for n in (bit, bit + 1)]
    with pytest.raises(SnapshotFileError, match=rf"^change\.table\.bitmap\.{name}: at most 1024 pairs are wanted$"):
        apply(old, {"table": {"bitmap": {name: bad}}})


def test_as_many_slices_of_a_list_as_one_change_has() -> None:
    runs = limits.RECORDED_RUNS
    old = with_list(clean(), listed(range(2 * runs + 2)))
    for kept, whole in ((range(0, 2 * runs, 2), False), (range(0, 2 * runs + 2, 2), True)):
        new = with_list(clean(), listed(kept))
        changed = change(old, new)
        assert apply(old, changed) == new
        (fields,) = changed["zones"].values()
        assert ("kept" in fields["listed"]) is not whole
        if not whole:
            assert fields["listed"] == {"kept": [n for at in kept for n in (at, at + 1)]}
    (number,) = changed["zones"]
    bad = [n for at in range(0, 2 * runs + 2, 2) for n in (at, at + 1)]
    with pytest.raises(SnapshotFileError, match=r"\.kept: at most 1024 pairs are wanted$"):
        apply(old, {"zones": {number: {"listed": {"kept": bad}}}})


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ([], "an object is wanted"),
        ({"nonsense": 1}, "unknown '?nonsense"),
        ({"table": {"bitmap": {"cleared": [0, 1]}}}, "clears bits that are not set"),
        ({"table": {"bitmap": {"set": [13, 14]}}}, "sets bits that are"),
        ({"table": {"bitmap": {"cleared": [13, 33]}}}, "numbers from 0 to 32"),
        ({"table": {"bitmap": {"cleared": [16, 13]}}}, "ascending"),
        ({"table": {"bitmap": {"cleared": [13]}}}, "pairs"),
        ({"table": {"bitmap": {"cleared": [True, 14]}}}, "numbers"),
        ({"table": {"bitmap": {"flipped": []}}}, "unknown '?flipped"),
        ({"table": {"bitmap": [1]}}, "str is wanted"),
        ({"zones": {"7": {}}}, "no item '7'"),
        ({"zones": {"-1": {}}}, "no item '-1'"),
        ({"zones": {"1" * 5000: {}}}, "no item"),
        ({"zones": {"1": {"listed": {"kept": [0, 9, 0, 9]}}}}, "ascending"),
        ({"zones": {"1": {"listed": {"kept": [0, 10]}}}}, "numbers from 0 to 9"),
        ({"zones": {"1": {"listed": {"kept": [], "more": 1}}}}, "unknown '?more"),
        ({"zones": {"1": {"free_pages": "many"}}}, "int is wanted"),
        ({"accepting": {"entries": {"0": {}}}}, "no item '0'"),
        ({"missing": {"zones": 5}}, "str is wanted"),
        ({"target": None}, "dict is wanted"),
        ({"kernel": {"cpus": True}}, "int is wanted"),
    ],
)
def test_a_change_that_cannot_be_is_named(bad: object, words: str) -> None:
    old = with_list(clean(), listed(LISTED))
    with pytest.raises(SnapshotFileError, match=words):
        apply(old, bad)


def test_parts_of_what_was_not_there_are_refused() -> None:
    none = with_list(replace(clean(), accepting=None, table=replace(clean().table, bitmap=None)), None)
    bad: dict[str, Any]
    for bad in (
        {"table": {"bitmap": {"cleared": []}}},
        {"zones": {"1": {"listed": {"kept": []}}}},
        {"accepting": {"entries": []}},
    ):
        with pytest.raises(SnapshotFileError):
            apply(none, bad)
    with pytest.raises(SnapshotFileError, match="not there before"):
        apply(replace(none, zones=None), {"zones": {"0": {}}})


def test_a_list_cannot_grow_over_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drgn_unaccepted.record.change.LISTED_CHUNKS", 9)
    old = with_list(clean(), listed(LISTED))
    new = with_list(clean(), listed([*LISTED, 1]))
    with pytest.raises(SnapshotFileError, match="more than 9 chunks"):
        apply(old, change(old, new))


# The file


def test_a_file_cut_anywhere_gives_the_samples_before_the_cut(tmp_path: Path) -> None:
    taken = series(6)
    whole = write(tmp_path / "whole", taken).read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 0x0A]
    cut = tmp_path / "cut"
    # The first sample is long: every byte of the lines behind it, and some of its own.
    for length in [*range(ends[0], ends[1], 97), *range(ends[1] - 3, len(whole) + 1)]:
        cut.write_bytes(whole[:length])
        recording = Recording(str(cut))
        complete = sum(end <= length for end in ends) - 1
        assert [sample.snapshot for sample in recording] == taken[:complete]
        if length in ends:
            assert recording.dropped is None
        else:
            rest = length - max(end for end in ends if end <= length)
            assert recording.dropped == (
                f"line {complete + 2} was dropped: it is cut short after {rest} bytes, as by the end of the recorder "
                "while it wrote"
            )


def test_zeros_at_the_end_are_dropped_too(tmp_path: Path) -> None:
    # What a file system may leave of a file that grew when the power went.
    path = write(tmp_path / "r", series(3))
    with path.open("ab") as file:
        file.write(bytes(512))
    recording = Recording(str(path))
    assert len(list(recording)) == 3
    assert recording.dropped is not None and "line 5" in recording.dropped


def test_a_damaged_line_is_named_after_what_could_be_read(tmp_path: Path) -> None:
    path = write(tmp_path / "r", series(5))
    lines = path.read_bytes().splitlines(keepends=True)
    for damage, words in (
        (b"{\n", "line 4: not JSON"),
        (b"[" * 100000 + b"\n", "line 4: not JSON"),
        (b"7\n", "line 4: an object is wanted"),
        (lines[4], "line 4: sample 3 where 2 is wanted"),
        (b'{"sample":2,"elapsed":1,"cost":0,"taken_at":"x","change":{"no":1}}\n', "line 4: change: unknown '?no"),
        (b'{"sample":2,"elapsed":NaN,"cost":0,"taken_at":"x","change":{}}\n', "line 4: (elapsed: seconds|not JSON)"),
        (b'{"sample":2,"elapsed":1,"cost":0,"change":{}}\n', "line 4: taken_at: str is wanted"),
        (b'{"sample":2,"elapsed":1,"cost":0,"snapshot":{}}\n', "line 4: snapshot: no "),
        (b"\xff\xfe\n", "line 4: not JSON"),
    ):
        path.write_bytes(b"".join([*lines[:3], damage, *lines[4:]]))
        seen = []
        with pytest.raises(RecordingError, match=words):
            for sample in Recording(str(path)):
                seen.append(sample)
        assert [sample.snapshot for sample in seen] == series(2)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b"", "not JSON"),
        (b'{"schema":"drgn-unaccepted-snapshot/1"}\n', "schema is 'drgn-unaccepted-snapshot/1'"),
        (b'{"schema":"drgn-unaccepted-recording/2","interval":1}\n', "drgn-unaccepted-recording/1"),
        (b'{"schema":"drgn-unaccepted-recording/1"}\n', "interval"),
        (b"\x7fELF" + bytes(100) + b"\n", "not JSON"),
        (b"x" * 10000, "line 1: more than 4096 bytes"),
    ],
)
def test_another_file_is_refused(header: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "r"
    path.write_bytes(header)
    with pytest.raises(RecordingError, match=words):
        Recording(str(path))


def test_a_line_over_the_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "r", series(2))
    monkeypatch.setattr(limits, "RECORDING_LINE_BYTES", 100)
    with pytest.raises(RecordingError, match="line 2: more than 100 bytes"):
        list(Recording(str(path)))


@pytest.mark.parametrize(("number", "name"), [(1, "interval"), (2, "elapsed"), (3, "cost")])
def test_no_recording_is_a_hundred_years_long(number: int, name: str, tmp_path: Path) -> None:
    lines = write(tmp_path / "r", series(2)).read_text().splitlines()
    path = tmp_path / "changed"
    for seconds, refused in ((limits.RECORDING_SECONDS - 1, False), (limits.RECORDING_SECONDS, True)):
        line = {**json.loads(lines[number - 1]), name: seconds}
        path.write_text("".join(f"{text}\n" for text in (*lines[: number - 1], json.dumps(line), *lines[number:])))
        if refused:
            with pytest.raises(RecordingError, match=rf"^line {number}: {name}: seconds are wanted$"):
                list(Recording(str(path)))
        else:
            assert len(list(Recording(str(path)))) == 2


def test_a_recording_that_does_not_begin_whole_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r"
    path.write_text(
        '{"schema":"drgn-unaccepted-recording/1","interval":1}\n'
        '{"sample":0,"elapsed":0,"cost":0,"taken_at":"x","change":{}}\n'
    )
    with pytest.raises(RecordingError, match="line 2: the first sample is not whole"):
        list(Recording(str(path)))


def test_no_file_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "r"
    path.write_text("mine")
    with pytest.raises(FileExistsError):
        Writer(str(path), 1.0)
    assert path.read_text() == "mine"


def test_only_its_owner_reads_a_recording(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        path = write(tmp_path / "r", series(1))
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_full_disk_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, space = tmp_path / "r", 8000
    real = os.write

    def full(descriptor: int, data: memoryview) -> int:
        nonlocal space
        if not space:
            raise OSError(28, "No space left on device")
        written = real(descriptor, data[:space])
        space -= written
        return written

    monkeypatch.setattr(recording_file.os, "write", full)  # type: ignore[attr-defined]
    with pytest.raises(OSError, match="No space"):
        write(path, [replace(each, torn=("x" * 700,) * number) for number, each in enumerate(series(20))])
    recording = Recording(str(path))
    got = [sample.snapshot for sample in recording]
    assert 1 <= len(got) < 20
    assert [each.table for each in got] == [each.table for each in series(20)[: len(got)]]
    assert recording.dropped is None


RECORD = """
import sys
from dataclasses import replace
from drgn_unaccepted.record.loop import record, stopped_by_signals
from tests.samples_over_time import series
taken = series(20)
number = 0
def take():
    global number
    number += 1
    print(number, flush=True)
    return replace(taken[number % 20], torn=("x" * (37 * number % 5000),))
with stopped_by_signals() as stop:
    print("samples", record(take, sys.argv[1], float(sys.argv[2]), None, stop), flush=True)
"""


def start_recorder(path: Path, interval: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RECORD, str(path), str(interval)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )


@pytest.fixture
def heeded() -> Iterator[None]:
    """No signal is ignored: these tests are background jobs of some shells too."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    # What is handled is the default in a child.
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_recorder_that_is_killed_loses_no_whole_line(tmp_path: Path) -> None:
    chance = random.Random(4)
    for attempt in range(12):
        path = tmp_path / f"r{attempt}"
        with start_recorder(path, 0) as process:
            assert process.stdout is not None
            wanted = chance.randrange(2, 150)
            for text in process.stdout:
                if int(text) == wanted:
                    break
            time.sleep(chance.random() / 50)
            process.kill()
        recording = Recording(str(path))
        got = list(recording)
        # The last number that was printed was taken and perhaps not written yet.
        assert len(got) >= wanted - 1
        for number, sample in enumerate(got, 1):
            assert sample.snapshot.table == series(20)[number % 20].table
            assert sample.snapshot.torn == ("x" * (37 * number % 5000),)
        assert [each.name for each in tmp_path.iterdir() if each.name.startswith(f"r{attempt}")] == [path.name]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_recording_after_a_whole_sample(number: signal.Signals, tmp_path: Path, heeded: None) -> None:
    path = tmp_path / "r"
    with start_recorder(path, 3600) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        deadline = time.monotonic() + 20
        while path.read_bytes().count(b"\n") < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(number)
        assert process.stdout.read() == "samples 1\n"
        assert process.wait(20) == 0
    recording = Recording(str(path))
    assert len(list(recording)) == 1 and recording.dropped is None


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_a_signal_that_is_ignored_stays_ignored(number: signal.Signals, tmp_path: Path) -> None:
    # As nohup(1) starts a program, and a shell its background jobs.
    before = signal.signal(number, signal.SIG_IGN)
    try:
        process = start_recorder(tmp_path / "r", 0.01)
    finally:
        signal.signal(number, before)
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        more = [process.stdout.readline() for _ in range(20)]
        assert all(line.strip().isdecimal() for line in more)
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read().splitlines()[-1].startswith("samples ")
        assert process.wait(20) == 0


def test_a_day_fits_in_megabytes(tmp_path: Path) -> None:
    # A guest of 1 TiB: a bitmap of 64 KiB, 262,144 chunks. It accepts a chunk a second, and its free pages move.
    count = 300
    first = 1 << 20
    snapshot = with_list(with_bitmap(clean(), b"\xff" * 65536), listed(range(first, first + 262144 * 1024, 1024)))
    path = tmp_path / "r"
    sizes = []
    with Writer(str(path), 1.0) as writer:
        for number in range(count):
            bitmap = (2 << 524287) - (1 << 2 * number)
            assert snapshot.zones is not None
            *others, normal = snapshot.zones
            assert normal.listed is not None
            chunks = normal.listed if not number else replace_columns(normal.listed, 1)
            zone = replace(normal, listed=chunks, free_pages=10**8 - 777 * number, buddy_pages=10**7 + 13 * number)
            now = Counters(10**8 - 777 * number, 1024 * len(chunks.pfns), 0)
            snapshot = with_bitmap(
                replace(snapshot, zones=(*others, zone), counters=now), bitmap.to_bytes(65536, "little")
            )
            taken_at = f"2026-01-01T00:{number // 60:02}:{number % 60:02}.123+00:00"
            snapshot = replace(snapshot, target=replace(snapshot.target, taken_at=taken_at))
            writer.add(snapshot, 1.0 * number, 0.05)
            sizes.append(path.stat().st_size)
    a_sample = (sizes[-1] - sizes[0]) / (count - 1)
    a_day = sizes[0] + 86400 * a_sample
    print(f"first sample {sizes[0]} bytes, then {a_sample:.0f} each: a day at 1 s is {a_day / 1e6:.1f} MB")
    assert a_day < 30e6
    *_, last = Recording(str(path))
    assert last.snapshot == snapshot


def replace_columns(chunks: ListedChunks, gone: int) -> ListedChunks:
    return ListedChunks(chunks.pfns[gone:], chunks.flags[gone:], chunks.refcounts[gone:], chunks.page_types[gone:])


# The loop


class Clock:
    """A clock that stands still but for waiting and for what a sample takes."""

    def __init__(self, cost: float) -> None:
        self.now, self.cost = 1000.0, cost
        self.waits: list[float] = []

    def __call__(self) -> float:
        return self.now

    def take(self) -> Snapshot:
        self.now += self.cost
        return clean()


def test_a_signal_within_the_wait_s_own_steps_ends_it() -> None:
    """At each line of wait() in turn, as a signal handler would: set() waits for nothing that wait() holds."""
    lines = range(30)
    reached = 0
    for number in lines:
        stop = Stop()
        left = number

        def trace(frame: FrameType, event: str, arg: object, stop: Stop = stop) -> Any:
            nonlocal left, reached
            if event == "line" and frame.f_code.co_name in ("wait", "__enter__", "_is_owned"):
                left -= 1
                if left == 0:
                    sys.settrace(None)
                    frame.f_trace = None
                    reached += 1
                    setting = threading.Thread(target=stop.set, daemon=True)
                    setting.start()
                    setting.join(1)
                    assert not setting.is_alive(), f"set() hangs at line {frame.f_lineno} of {frame.f_code.co_name}"
            return trace

        sys.settrace(trace)
        try:
            stop.wait(0.01)
        finally:
            sys.settrace(None)
    assert reached >= 2


class Waiting(Stop):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def wait(self, seconds: float) -> bool:
        self.clock.waits.append(seconds)
        self.clock.now += max(0.0, seconds)
        return bool(self)


@pytest.mark.parametrize(
    ("cost", "interval", "starts", "waits"),
    [
        (0.25, 1.0, [0, 1, 2, 3], [0.75, 0.75, 0.75]),
        (1.5, 1.0, [0, 1.5, 3, 4.5], [-0.5, -0.5, -0.5]),
        (0.5, 0.0, [0, 0.5, 1, 1.5], [-0.5, -0.5, -0.5]),
    ],
)
def test_samples_are_taken_from_start_to_start(
    cost: float, interval: float, starts: list[float], waits: list[float]
) -> None:
    clock = Clock(cost)
    got = list(samples(clock.take, interval, 4, Waiting(clock), clock))
    assert [(sample.number, sample.elapsed, sample.cost) for sample in got] == [
        (number, start, cost) for number, start in enumerate(starts)
    ]
    assert clock.waits == waits, "and none after the last"


def test_a_stop_before_the_first_sample_takes_none() -> None:
    clock = Clock(0)
    stop = Waiting(clock)
    stop.set()
    assert list(samples(clock.take, 1, None, stop, clock)) == []


# Rates


def at(elapsed: float, bitmap: Optional[bytes], nr_unaccepted: int, number: int = 0) -> Sample:
    snapshot = clean()
    table = replace(snapshot.table, bitmap=bitmap, bitmap_bytes=4 if bitmap is None else len(bitmap))
    if bitmap is None:
        table = replace(table, state="not-captured", reason="no")
    assert snapshot.zones is not None
    *others, normal = snapshot.zones
    zones = (*others, replace(normal, unaccepted_pages=nr_unaccepted, managed_pages=16384))
    return Sample(number, elapsed, 0.01, replace(snapshot, table=table, zones=zones))


def test_a_rate_is_what_was_accepted_over_the_last_ten_seconds() -> None:
    progress = Progress("watch")
    full, half, none = b"\xff\xff\xff\xff", b"\x00\x00\xff\xff", bytes(4)
    unit = 2 << 20
    first = progress.document(at(0, full, 16384))
    assert first["command"] == "watch" and first["source"] == "bitmap"
    assert first["unaccepted_bytes"] == 32 * unit
    assert first["rate_bytes_per_second"] is None and first["rate_seconds"] is None and first["seconds_left"] is None
    second = progress.document(at(4, half, 8192, 1))
    assert second["rate_bytes_per_second"] == 16 * unit / 4 and second["rate_seconds"] == 4
    assert second["seconds_left"] == 4.0
    assert second["zones"][-1]["rate_bytes_per_second"] == 8192 * 4096 / 4
    assert second["zones"][0]["rate_bytes_per_second"] == 0
    third = progress.document(at(12, half, 8192, 2))
    assert third["rate_bytes_per_second"] == 16 * unit / 12, "ten seconds back there was the first"
    fourth = progress.document(at(14, half, 8192, 3))
    assert fourth["rate_bytes_per_second"] == 0 and fourth["rate_seconds"] == 10, "against the second"
    assert fourth["seconds_left"] is None
    fifth = progress.document(at(22, none, 0, 4))
    assert fifth["rate_bytes_per_second"] == 16 * unit / 10 and fifth["seconds_left"] == 0


def test_a_rate_over_two_sources_is_unknown() -> None:
    progress = Progress("replay")
    progress.document(at(0, BITMAP, 9216))
    answer = progress.document(at(1, None, 9216, 1))
    assert answer["source"] == "page-lists" and answer["exact"] is False
    assert answer["rate_bytes_per_second"] is None and answer["rate_seconds"] == 1
    assert answer["zones"][-1]["rate_bytes_per_second"] == 0, "counters do not change with the source"


def test_the_source_can_be_chosen() -> None:
    answer = Progress("replay", "counters").document(at(0, BITMAP, 9216))
    assert answer["source"] == "counters"


def test_what_is_missing_is_null() -> None:
    sample = at(0, None, 0)
    bare = replace(
        sample.snapshot,
        zones=None,
        counters=None,
        accepting=None,
        missing={"zones": "z", "accepting": "a", "counters": "c"},
    )
    answer = Progress("watch").document(sample._replace(snapshot=bare))
    assert answer["source"] == "none" and answer["unaccepted_bytes"] is None
    assert answer["zones"] is None and answer["managed_bytes"] is None and answer["accepting"] is None
    assert answer["missing"] == {"zones": "z", "accepting": "a"}


def test_nodes_are_the_sums_of_their_zones() -> None:
    def zone(node: int, managed: int, unaccepted: Optional[int], rate: Optional[float]) -> dict[str, Any]:
        return {
            "node": node,
            "name": "Z",
            "managed_bytes": managed,
            "free_bytes": 1,
            "unaccepted_bytes": unaccepted,
            "listed_chunks": 2,
            "rate_bytes_per_second": rate,
        }

    got = by_node([zone(0, 10, 4, 1.0), zone(1, 7, None, None), zone(0, 20, 5, 2.0)])
    assert [(n["node"], n["managed_bytes"], n["unaccepted_bytes"], n["rate_bytes_per_second"]) for n in got] == [
        (0, 30, 9, 3.0),
        (1, 7, None, None),
    ]
    assert got[0]["listed_chunks"] == 4 and got[0]["name"] == "all"


# The flight recorder

BOOT = "0f0e0d0c-0b0a-4908-8706-050403020100"


def test_what_is_kept_is_the_table_as_it_lies_in_memory(tmp_path: Path) -> None:
    kept = flight.keep(clean(), BOOT, str(tmp_path))
    table = tmp_path / BOOT / "table-0x7fb73018.bin"
    assert kept.table == str(table)
    assert kept.option == str(tmp_path / BOOT / "snapshot.json")
    # u32 version, u32 unit_size, u64 phys_base, u64 size, bitmap
    assert table.read_bytes() == struct.pack("<IIQQ", 1, 2 << 20, BASE, 4) + BITMAP
    assert load((tmp_path / BOOT / "snapshot.json").read_text()) == clean()
    assert sorted(path.name for path in (tmp_path / BOOT).iterdir()) == ["snapshot.json", "table-0x7fb73018.bin"]
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / BOOT).iterdir()] == [0o600, 0o600]


def test_an_older_table_stays_where_no_newer_one_can_be_read(tmp_path: Path) -> None:
    flight.keep(clean(), BOOT, str(tmp_path))
    before = (tmp_path / BOOT / "table-0x7fb73018.bin").read_bytes()
    without = replace(clean(), table=replace(clean().table, state="not-captured", reason="no BPF", bitmap=None))
    kept = flight.keep(without, BOOT, str(tmp_path))
    assert kept.table is None
    assert kept.option is not None and kept.option.endswith("table-0x7fb73018.bin@0x7fb73018")
    assert (tmp_path / BOOT / "table-0x7fb73018.bin").read_bytes() == before
    assert load((tmp_path / BOOT / "snapshot.json").read_text()) == without
    assert flight.keep(without, BOOT.replace("0f", "1f"), str(tmp_path)).option is None


def test_the_last_boots_are_kept_and_nothing_else_is_touched(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "snapshot.json").write_text("mine")
    boots = [f"{number:08x}-0000-4000-8000-000000000000" for number in range(6)]
    for number, boot in enumerate(boots):
        flight.keep(clean(), boot, str(tmp_path))
        os.utime(tmp_path / boot / "snapshot.json", (number, number))
    (tmp_path / boots[5] / "table-0x1.bin.new").write_text("half")
    flight.keep(clean(), BOOT, str(tmp_path), boots=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([boots[5], BOOT, "notes"])
    assert (tmp_path / "notes" / "snapshot.json").read_text() == "mine"
    (tmp_path / boots[5] / "theirs").write_text("x")
    flight.keep(clean(), BOOT, str(tmp_path), boots=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([boots[5], BOOT, "notes"])
    assert [path.name for path in (tmp_path / boots[5]).iterdir()] == ["theirs"], "a file that is not ours stays"


KEEP = """
import sys
from drgn_unaccepted.record.keep import keep
from tests.samples_over_time import series
taken = series(20)
keep(taken[0], sys.argv[2], sys.argv[1])
print("ready", flush=True)
while True:
    for snapshot in taken:
        keep(snapshot, sys.argv[2], sys.argv[1])
"""


def test_a_kill_leaves_whole_files_and_at_most_one_that_the_next_run_replaces(tmp_path: Path) -> None:
    chance = random.Random(7)
    possible = {struct.pack("<IIQQ", 1, 2 << 20, BASE, 4) + (each.table.bitmap or b"") for each in series(20)}
    for attempt in range(12):
        directory = tmp_path / str(attempt)
        directory.mkdir()
        with subprocess.Popen(
            [sys.executable, "-c", KEEP, str(directory), BOOT], stdout=subprocess.PIPE, text=True, cwd=ROOT
        ) as process:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            time.sleep(chance.random() / 10)
            process.kill()
        place = directory / BOOT
        names = {path.name for path in place.iterdir()}
        assert {name for name in names if not name.endswith(".new")} == {"snapshot.json", "table-0x7fb73018.bin"}
        assert len(names) <= 3
        assert (place / "table-0x7fb73018.bin").read_bytes() in possible
        assert load((place / "snapshot.json").read_text()).table.address == 0x7FB73018
        flight.keep(clean(), BOOT, str(directory))
        flight.keep(clean(), BOOT, str(directory))
        assert {path.name for path in place.iterdir()} == {"snapshot.json", "table-0x7fb73018.bin"}


def test_two_runs_at_once_do_not_meet(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    command = [sys.executable, "-c", KEEP.replace("while True:", "for _ in range(10):"), str(tmp_path), BOOT]
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=ROOT) for _ in range(3)]
    for process in both:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert {path.name for path in (tmp_path / BOOT).iterdir()} == {"snapshot.json", "table-0x7fb73018.bin"}


def test_the_boot_id_is_the_kernels(tmp_path: Path) -> None:
    (tmp_path / "boot_id").write_text(f"{BOOT}\n")
    assert flight.boot_id(str(tmp_path / "boot_id")) == BOOT
    for text in ("", "../../etc", BOOT + "/..", BOOT.upper()):
        (tmp_path / "boot_id").write_text(text)
        with pytest.raises(OSError, match="not a boot id"):
            flight.boot_id(str(tmp_path / "boot_id"))


def test_this_test_knows_the_zone_that_it_changes() -> None:
    zones = clean().zones
    assert zones is not None and isinstance(zones[-1], Zone) and zones[-1].name == "Normal"


#: This machine's running kernel, as far as keep asks.
_LIVE_PROGRAM: Any = SimpleNamespace(flags=ProgramFlags.IS_LIVE | ProgramFlags.IS_LOCAL)
RUNNING = Opened(_LIVE_PROGRAM, "live", None, "btf", None)


@pytest.mark.parametrize("flags", (ProgramFlags(0), ProgramFlags.IS_LIVE), ids=("a dump", "another machine's"))
def test_only_this_machines_kernel_is_kept(
    flags: ProgramFlags, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is filed under the boot of this machine is of this boot; nothing that was kept is touched."""
    monkeypatch.setattr(flight, "boot_id", lambda: BOOT)
    flight.keep(clean(), BOOT, str(tmp_path))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    prog: Any = SimpleNamespace(flags=flags)
    opened = replace(RUNNING, prog=prog, path="vmcore")
    command = COMMANDS["keep"]
    assert isinstance(command, Action)
    with pytest.raises(CommandError, match="vmcore is not its running kernel"):
        command.run(argparse.Namespace(directory=str(tmp_path), boots=3), lambda: opened)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


def test_what_is_printed_of_what_was_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the table it says why, also where one that was read earlier in this boot is there still."""
    from drgn_unaccepted.kernel import capture

    lost = replace(clean(), table=Table("not-captured", "bpf: needs CAP_BPF", clean().table.address))
    args = argparse.Namespace(directory=str(tmp_path), boots=3)
    command = COMMANDS["keep"]
    assert isinstance(command, Action)
    monkeypatch.setattr(flight, "boot_id", lambda: BOOT)
    said = []
    for snapshot in (lost, clean(), lost):
        monkeypatch.setattr(capture, "capture", lambda *_, snapshot=snapshot: snapshot)
        assert command.run(args, lambda: RUNNING) == 0
        said.append(capsys.readouterr().out.splitlines()[1:])
    why = "without the table: not-captured: bpf: needs CAP_BPF"
    assert said[0] == [why]
    assert len(said[1]) == 1 and said[1][0].endswith("/snapshot.json")
    assert said[2][0] == why and said[2][1].endswith(f"@{clean().table.address:#x} (read earlier)")
