# SPDX-License-Identifier: LGPL-2.1-or-later
"""Recordings give back what went in, also when cut anywhere; damage is named; changes have the documented form."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drgn_unaccepted import limits
from drgn_unaccepted.cli import main
from drgn_unaccepted.codec import Context
from drgn_unaccepted.errors import SnapshotFileError
from drgn_unaccepted.record import file as recording_file
from drgn_unaccepted.record.file import Recording, Writer, apply, change
from drgn_unaccepted.snapshot import Counters, Snapshot
from tests.asking import Capsys, Patch
from tests.checks.build import BITMAP, LISTED, clean
from tests.samples_over_time import listed, series, with_bitmap, with_list, write_recording
from tests.snapshot_strategies import snapshots


def read(path: Path) -> list[Snapshot]:
    return [sample.snapshot for sample in Recording(str(path))]


def applied(old: Snapshot, changed: object) -> Snapshot:
    return apply(old, json.loads(json.dumps(changed)), Context())


@settings(max_examples=20, suppress_health_check=list(HealthCheck), deadline=None)
@given(st.lists(snapshots(), min_size=1, max_size=3))
def test_what_goes_in_comes_out(tmp_path: Path, taken: list[Snapshot]) -> None:
    path = tmp_path / "recording"
    path.unlink(missing_ok=True)
    recording = Recording(str(write_recording(path, taken)))
    assert list(recording) == [(number, float(number), 0.25, snapshot) for number, snapshot in enumerate(taken)]
    assert recording.dropped is None


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 200), st.booleans()), max_size=60),
    st.lists(st.integers(201, 400), max_size=5),
    st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255)), min_size=1, max_size=300),
)
def test_chunks_and_bits_that_come_and_go(
    chunks: list[tuple[int, bool]], added: list[int], pairs: list[tuple[int, int]]
) -> None:
    before, after = map(bytes, zip(*pairs))
    old = with_list(with_bitmap(clean(), before), listed(pfn for pfn, _ in chunks))
    new = with_list(with_bitmap(clean(), after), listed([*(pfn for pfn, kept in chunks if kept), *added]))
    assert applied(old, change(old, new)) == new
    assert change(new, new) == {}


def test_the_form_of_a_change_is_as_documented() -> None:
    # Bits 13 to 29 are set; 13 to 16 and 20 are cleared. The first two of nine chunks go, one comes.
    assert bytes([0b0, 0b11100000, 0b11111111, 0b00111111]) == BITMAP
    old = with_list(clean(), listed(LISTED))
    new = with_bitmap(clean(), bytes([0b0, 0b0, 0b11101110, 0b00111111]))
    new = with_list(replace(new, counters=Counters(7, 8, 9)), listed([*LISTED[2:], 0x104000]))
    changed = change(replace(old, counters=Counters(6, 8, 9)), new)
    assert set(changed["zones"]["1"]["listed"].pop("added")) == {"pfns", "flags", "refcounts", "page_types", "problems"}
    assert changed == {
        "table": {"bitmap": {"cleared": [13, 17, 20, 21]}},
        "zones": {"1": {"listed": {"kept": [2, 9], "problems": []}}},
        "counters": {"free_pages": 7},
    }


def test_a_change_that_an_earlier_version_wrote_is_read() -> None:
    old = with_list(clean(), listed([10, 20, 30, 40, 50]))
    bitmap = {"cleared": [13, 16, 24, 30], "set": [0, 2]}
    new = applied(old, {"table": {"bitmap": bitmap}, "zones": {"1": {"listed": {"kept": [1, 2, 3, 5]}}}})
    assert new == with_list(with_bitmap(old, bytes([0b11, 0, 0xFF, 0])), listed([20, 40, 50]))


PAIRS = [n for at in range(0, 2 * limits.RECORDED_RUNS, 2) for n in (at, at + 1)]


@pytest.mark.parametrize(("last", "whole"), [(b"\0", False), (b"\1", True)])
def test_a_change_of_too_many_runs_is_written_whole(last: bytes, whole: bool) -> None:
    """Bits 0, 2, 4, ...: each is a run."""
    bitmap = bytes([0x55]) * (limits.RECORDED_RUNS // 4) + last
    old, new = with_bitmap(clean(), bitmap), with_bitmap(clean(), bytes(len(bitmap)))
    changed = change(old, new)
    assert applied(old, changed) == new
    assert (changed["table"]["bitmap"] == {"cleared": PAIRS}) is not whole


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ([], "dict is wanted"),
        ({"table": {"bitmap": {"cleared": [0, 1]}}}, "clears bits that are not set"),
        ({"table": {"bitmap": {"set": [13, 14]}}}, "sets bits that are"),
        ({"table": {"bitmap": {"cleared": [16, 13]}}}, "numbers from 0 to 32 are wanted, ascending"),
        ({"table": {"bitmap": {"cleared": [13]}}}, "pairs"),
        ({"table": {"bitmap": {"cleared": [True, 14]}}}, "int is wanted"),
        ({"table": {"bitmap": {"flipped": []}}}, "unknown '?flipped"),
        ({"table": {"bitmap": [1]}}, "str is wanted"),
        ({"zones": {"7": {}}}, "no item '7'"),
        ({"zones": {"1" * 5000: {}}}, "no item"),
        ({"zones": {"1": {"listed": {"kept": [0, 9, 0, 9]}}}}, "ascending"),
        ({"zones": {"1": {"listed": {"kept": [0, 10]}}}}, "numbers from 0 to 9"),
        ({"table": {"bitmap": {"set": [*PAIRS, 1, 2]}}}, r"\.set: at most 1024 pairs are wanted"),
        ({"zones": {"1": {"listed": {"kept": [], "more": 1}}}}, "unknown '?more"),
        ({"zones": {"1": {"listed": {"kept": [], "added": {}}}}}, "no 'pfns'"),
        ({"zones": {"1": {"free_pages": "many"}}}, "int is wanted"),
        ({"accepting": {"entries": {"0": {}}}}, "no item '0'"),
        ({"target": None}, "dict is wanted"),
        ({"kernel": {"cpus": 8193}}, "change.kernel.cpus: 8193 is not from 0 to 8192"),
        # Parts of what was not there before.
        ({"pages": {"limited": "no"}}, "no 'runs'"),
        ({"kexec_segments": {"0": {}}}, "list is wanted"),
        ({"zones": {"0": {"listed": {"kept": []}}}}, "no 'pfns'"),
    ],
)
def test_a_change_that_cannot_be_is_named(bad: object, words: str) -> None:
    old = with_list(replace(clean(), pages=None, kexec_segments=None), listed(LISTED))
    zones = old.zones or ()
    old = replace(old, zones=(replace(zones[0], listed=None), zones[1]))
    with pytest.raises(SnapshotFileError, match=words):
        applied(old, bad)


def test_a_list_cannot_grow_over_its_limit(monkeypatch: Patch) -> None:
    monkeypatch.setattr(limits, "LISTED_CHUNKS", 9)
    old, new = with_list(clean(), listed(LISTED)), with_list(clean(), listed([*LISTED, 1]))
    with pytest.raises(SnapshotFileError, match="10 listed chunks, more than 9"):
        applied(old, change(old, new))


# The file


def test_a_file_cut_anywhere_gives_the_samples_before_the_cut(tmp_path: Path) -> None:
    taken = series(6)
    whole = write_recording(tmp_path / "whole", taken).read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 0x0A]
    cut = tmp_path / "cut"
    # The first sample is long: every byte of the lines behind it, and some of its own.
    for length in [*range(ends[0], ends[1], 97), *range(ends[1] - 3, len(whole) + 1, 7), *ends]:
        cut.write_bytes(whole[:length])
        recording = Recording(str(cut))
        complete = sum(end <= length for end in ends) - 1
        assert [sample.snapshot for sample in recording] == taken[:complete]
        rest = length - max(end for end in ends if end <= length)
        dropped = f"line {complete + 2} was dropped: it is cut short after {rest} bytes" if rest else "None"
        assert str(recording.dropped).startswith(dropped)
    # A file system may leave zeros when the power fails.
    cut.write_bytes(whole + bytes(512))
    recording = Recording(str(cut))
    assert len(list(recording)) == 6
    assert recording.dropped is not None and "line 8" in recording.dropped


def sample_line(**changes: object) -> bytes:
    line = {"sample": 2, "elapsed": 1, "cost": 0, "taken_at": "2026-01-01T00:00:00+00:00", "change": {}, **changes}
    return json.dumps(line).encode() + b"\n"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (b"{\n", "not JSON"),
        (b"[" * 50_000 + b"\n", "not JSON"),
        (b"\xff\xfe\n", "not JSON"),
        (b"7\n", "sample 2 is wanted"),
        (sample_line(sample=3), "sample 2 is wanted"),
        (sample_line(taken_at="x"), "target.taken_at is no time"),
        (sample_line(taken_at=None), "taken_at: str is wanted"),
        (sample_line(elapsed=float("nan")), "not JSON"),
        (sample_line(elapsed=limits.RECORDING_SECONDS), "elapsed: seconds are wanted"),
        (sample_line(elapsed=10**400), "elapsed: seconds are wanted"),
        (sample_line(cost=True), "cost: seconds are wanted"),
        (b"x" * 100_000 + b"\n", "more than 90000 bytes"),
    ],
)
def test_a_damaged_line_is_named(damage: bytes, words: str, tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(limits, "RECORDING_LINE_BYTES", 90_000)
    path = write_recording(tmp_path / "r", series(5))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], damage, *lines[4:]]))
    seen = []
    with pytest.raises(SnapshotFileError, match=f"^line 4: .*{words}"):
        for sample in Recording(str(path)):
            seen.append(sample.snapshot)
    assert seen == series(2)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "line 1: not JSON"),
        (b'{"schema":"drgn-unaccepted-snapshot/1"}\n', "schema is 'drgn-unaccepted-snapshot/1'"),
        (b'{"schema":"drgn-unaccepted-recording/2","interval":1}\n', "drgn-unaccepted-recording/1"),
        (b"\x7fELF" + bytes(100) + b"\n", "not JSON"),
        (b"x" * 10000, "line 1: more than 4096 bytes"),
        (b'{"schema":"drgn-unaccepted-recording/1"}\n{"sample":0,"change":{}}\n', "line 2: snapshot: dict is wanted"),
    ],
)
def test_another_file_is_refused(data: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "r"
    path.write_bytes(data)
    with pytest.raises(SnapshotFileError, match=words):
        list(Recording(str(path)))


def test_a_recording_is_its_owners_and_never_overwritten(tmp_path: Path) -> None:
    first, second = series(2)
    path, before = tmp_path / "r", os.umask(0)
    try:
        with Writer(str(path), 1.0) as writer:
            writer.add(first, 0, 0)
            # What could not be read again is not written.
            with pytest.raises(SnapshotFileError, match="free_pages: "):
                writer.add(replace(second, counters=Counters(1 << 200, None, None)), 1, 0)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        Writer(str(path), 1.0)
    assert read(path) == [first]


def test_fields_of_a_later_version_are_left_out_with_a_warning(tmp_path: Path, capsys: Capsys) -> None:
    path = write_recording(tmp_path / "r", series(3))
    header, first, *lines = map(json.loads, path.read_text().splitlines())
    header["later"] = first["later"] = 1
    del first["snapshot"]["torn"]
    for line in lines:
        line["change"] = {**line["change"], "later": 1, "counters": {"later": 5}}
    path.write_text("".join(json.dumps(line) + "\n" for line in (header, first, *lines)))
    assert read(path) == series(3)
    assert main(["replay", str(path)]) == 0
    assert capsys.readouterr().err.splitlines() == [
        f"drgn-unaccepted: warning: {path}: unknown field {name} ignored"
        for name in ("header.later", "sample.later", "Snapshot.later", "Counters.later")
    ]


@pytest.mark.parametrize(("space", "least"), ((20, 0), (2000, 0), (8000, 1), (20000, 2)))
def test_a_full_disk_leaves_whole_lines_or_no_file(space: int, least: int, tmp_path: Path, monkeypatch: Patch) -> None:
    path, real = tmp_path / "r", os.write

    def full(descriptor: int, data: memoryview) -> int:
        nonlocal space
        if not space:
            raise OSError(28, "No space left on device")
        written = real(descriptor, data[:space])
        space -= written
        return written

    monkeypatch.setattr(recording_file.os, "write", full)  # type: ignore[attr-defined]
    taken = [replace(each, torn=("x" * 700,) * number) for number, each in enumerate(series(20))]
    with pytest.raises(OSError, match="No space"):
        write_recording(path, taken)
    if not least:
        assert not path.exists(), "the next recording has the same name"
        return
    recording = Recording(str(path))
    got = [sample.snapshot for sample in recording]
    assert least <= len(got) < 20 and got == taken[: len(got)]
    assert recording.dropped is None


def test_a_day_fits_in_megabytes() -> None:
    """A guest of 1 TiB has a bitmap of 64 KiB and 262,144 chunks. It accepts one a second; its free pages move."""
    first = 1 << 20
    old = with_list(with_bitmap(clean(), b"\xff" * 65536), listed(range(first, first + 262144 * 1024, 1024)))
    bitmap = ((1 << 524288) - 4).to_bytes(65536, "little")
    new = with_list(with_bitmap(old, bitmap), listed(range(first + 1024, first + 262144 * 1024, 1024)))
    zones = tuple(replace(zone, free_pages=zone.free_pages - 777, buddy_pages=13) for zone in new.zones or ())
    new = replace(new, counters=Counters(10**8, 1024 * 262143, 0), zones=zones)
    changed = change(old, new)
    assert 86400 * (len(json.dumps(changed, separators=(",", ":"))) + 100) < 30e6
    assert applied(old, changed) == new
