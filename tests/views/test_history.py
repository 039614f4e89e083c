# SPDX-License-Identifier: LGPL-2.1-or-later
"""Acceptance by time and address: a sweep and other shapes, from samples written by hand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from drgn_unaccepted.answer.documents import HistoryAnswer
from drgn_unaccepted.answer.history import history
from drgn_unaccepted.record.file import Recording
from drgn_unaccepted.snapshot import Sample, Snapshot
from drgn_unaccepted.views.map import Style, history_bins_for, history_lines
from tests.asking import Capsys, answered, refused
from tests.samples_over_time import write_recording
from tests.views import guests
from tests.views.guests import BASE, GIB, MIB


def sample(number: int, snapshot: Snapshot) -> Sample:
    return Sample(number, 0.5 * number, 0.001, snapshot)


def sweep(samples: int) -> Iterator[Sample]:
    """A byte of the bitmap more is accepted with each sample, from the lowest address on; 64 bytes in all."""
    for number in range(samples):
        done = min(64, number)
        table = guests.table(bytes(done) + b"\xff" * (64 - done))
        yield sample(number, replace(guests.only_bitmap(guests.small()), table=table))


def strips(answer: HistoryAnswer, width: int = 132) -> list[str]:
    lines = [line for line in history_lines(answer, Style(width, False, False)) if line.endswith("|")]
    return [line.split("|")[1] for line in lines]


def test_a_sweep_is_a_diagonal() -> None:
    answer = history(sweep(40), columns=64, lines=40)
    assert answer["bins"] == [BASE + n * 16 * MIB for n in range(64)]
    assert strips(answer) == [" " * n + "█" * (64 - n) for n in range(40)]
    assert answer["samples"] == 40 and answer["elapsed_seconds"] == 19.5
    assert [one["unaccepted_bytes"] for one in answer["slices"]] == [GIB - n * 16 * MIB for n in range(40)]
    # 16 MiB in half a second; nothing comes before the first.
    assert [one["rate_bytes_per_second"] for one in answer["slices"]] == [None] + [32.0 * MIB] * 39


@pytest.mark.parametrize("samples", (1, 40, 41, 81, 161))
def test_many_samples_become_few_slices(samples: int) -> None:
    answer = history(sweep(samples), lines=40)
    slices = answer["slices"]
    assert len(slices) <= 40 and (samples < 40 or len(slices) >= 20)
    assert sum(one["samples"] for one in slices) == answer["samples"] == samples
    assert slices[0]["elapsed_seconds"] == 0 and slices[-1]["elapsed_seconds"] == 0.5 * (samples - 1)
    # Each slice shows what was so at its end.
    for one in slices:
        done = min(64, round(one["elapsed_seconds"] * 2))
        assert one["bins_unaccepted_bytes"] == [0] * done + [16 * MIB] * (64 - done)


def test_holes_are_left_out_and_groups_are_told_apart() -> None:
    low = replace(guests.small(), table=guests.table(b"\xff" * 320, 0))
    answer = history([sample(0, low)], columns=200)
    line = next(line for line in history_lines(answer, Style(250, False, False)) if line.endswith("|"))
    # RAM below 496 MiB and from 4 GiB on, 1 GiB of it under the bitmap's 5 GiB.
    assert [len(part) for part in line.split("|")[1:-1]] == [31, 64]


def test_page_lists_and_counters() -> None:
    lists = guests.lists()
    answer = history([sample(0, lists), sample(1, lists)], columns=200)
    assert answer["source"] == "page-lists" and answer["bins"][0] == 0x10C000000
    # 0x10c000000, nothing is known up to 0x110000000, free pages up to 0x120000000, and 24 bins of listed chunks.
    assert answer["slices"][0]["bins_unaccepted_bytes"] == [4 * MIB] + [None] * 3 + [0] * 16 + [16 * MIB] * 24
    assert strips(answer)[0] == "▂" + "?" * 3 + " " * 16 + "█" * 24
    counters = history([sample(0, lists)], "counters")
    assert counters["slices"][0]["bins_unaccepted_bytes"] is None
    assert set("".join(strips(counters))) <= {"?"}


def test_what_has_left_the_lists_is_accepted_and_what_was_never_on_them_unknown() -> None:
    lists = replace(guests.lists(), pages=None, missing={"pages": "not asked for"})
    before = guests.with_chunks(lists, BASE, BASE + 4 * MIB, BASE + 32 * MIB)
    after = guests.with_chunks(before, BASE + 32 * MIB)
    answer = history([sample(0, before), sample(1, after)], "page-lists")
    assert [one["bins_unaccepted_bytes"] for one in answer["slices"]] == [[8 * MIB, None, 4 * MIB], [0, None, 4 * MIB]]


@pytest.mark.parametrize(("source", "first"), (("auto", 14 * MIB), ("page-lists", 16 * MIB)))
def test_a_recording_without_the_table(source: str, first: int) -> None:
    """The lists tell, and the EFI map that the first unit of a run can be a guard."""
    run, missing = range(0x120000000, 0x138000000, 4 * MIB), {"pages": "not asked for"}
    snapshot = replace(guests.small(), table=guests.NOT_CAPTURED, pages=None, missing=missing)
    taken = [guests.with_chunks(snapshot, *run), guests.with_chunks(snapshot, *run[8:])]
    answer = history([sample(number, one) for number, one in enumerate(taken)], source)
    assert answer["source"] == ("reconstructed" if source == "auto" else source)
    bins = [one["bins_unaccepted_bytes"] for one in answer["slices"]]
    assert bins == [[first] + [16 * MIB] * 23, [0, 0, first] + [16 * MIB] * 21]


def test_chunks_smaller_than_a_unit_are_not_lost() -> None:
    """Units of 128 MiB: eight listed chunks of 4 MiB, each in a unit of its own, are not eight accepted units."""
    answer = history([sample(0, guests.large_units())], "page-lists")
    assert answer["bytes_per_bin"] == GIB
    assert answer["slices"][0]["bins_unaccepted_bytes"] == [32 * MIB]
    assert strips(answer) == ["▁"]


def test_sources_are_not_compared_with_each_other() -> None:
    answer = history([sample(0, guests.small()), sample(1, guests.lists())])
    assert answer["slices"][1]["rate_bytes_per_second"] is None


def test_lines_fit_and_say_their_scale() -> None:
    for width in (80, 132):
        answer = history(sweep(100), columns=history_bins_for(width))
        assert sum(answer["slices"][0]["bins_unaccepted_bytes"] or ()) == GIB
        lines = list(history_lines(answer, Style(width, True, False)))
        text = " ".join(lines)
        assert max(map(len, lines)) <= width and text.isascii()
        assert "1 character is 32 MiB, 16 units; 100 samples in 49.5 seconds" in text or width == 132
        assert "0x100000000-0x140000000" in text


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    return write_recording(tmp_path / "guest.rec", [one.snapshot for one in sweep(30)])


def test_replay_makes_a_page_and_a_figure(recording: Path, tmp_path: Path, capsys: Capsys) -> None:
    page, figure = tmp_path / "report.html", tmp_path / "history.svg"
    lines = answered(capsys, "replay", recording, "--map", "--width", 132).splitlines()
    assert [line.split("|")[1] for line in lines if line.endswith("|")] == [" " * n + "█" * (64 - n) for n in range(30)]
    said = refused(capsys, "replay", recording, "--report", page, "-o", figure)
    assert "--report and a figure: one of them at a time" in said and not figure.exists()
    said = answered(capsys, "replay", recording, "--report", page)
    assert said.startswith(f"{page}: {page.stat().st_size} bytes; checks: ")
    assert answered(capsys, "replay", recording, "-o", figure) == f"{figure}: written\n"
    svg = figure.read_text(encoding="utf-8")
    assert answered(capsys, "replay", recording, "--format", "svg") == svg and svg in page.read_text(encoding="utf-8")
    assert "29.0 seconds; source: bitmap, exact; a column is 16 MiB, a row 1 of 30 samples" in svg
    said = re.findall("<title>(.*?)</title>", svg)
    assert len(said) == 30 and said[29] == "29.0 s: 560 MiB unaccepted, 16 MiB/s accepted"
    # The last row: 29 of 64 columns are accepted.
    last = svg.split("<title>")[-1].split("</g>")[0]
    accepted, waiting, *_ = map(float, re.findall(r'd="M[\d.]+ \d+h([\d.]+)', last))
    assert accepted / (accepted + waiting) == pytest.approx(29 / 64, abs=0.001)


#: Recorded in the lab (`scripts/lab live fresh --kernel 6.12`) while a tmpfs was filled in three bursts.
REAL = Path(__file__).parents[2] / "vmcore-samples" / "6.12-fill.rec"

#: nr_unaccepted in the guest's /proc/vmstat before the first burst and after the last.
BEFORE, AFTER = 600 * MIB, 148 * MIB


def test_a_real_recording() -> None:
    answer = history(Recording(str(REAL)), columns=256, lines=400)
    slices = answer["slices"]
    assert answer["samples"] == len(slices) == 139
    # The counter goes by chunks, the bits by units: chunks whose guard is accepted already count whole.
    for one, said in ((slices[0], BEFORE), (slices[-1], AFTER)):
        assert 0 <= said - one["unaccepted_bytes"] < 4 * MIB * 4
        assert sum(one["bins_unaccepted_bytes"]) == one["unaccepted_bytes"]
    for before, after in zip(slices, slices[1:]):
        # Bits only ever clear.
        assert all(was >= now for was, now in zip(before["bins_unaccepted_bytes"], after["bins_unaccepted_bytes"]))
    busy = [one["elapsed_seconds"] for one in slices if one["rate_bytes_per_second"]]
    assert sum(after - before > 3 for before, after in zip(busy, busy[1:])) == 2, "three bursts"


def test_replay_of_an_empty_recording(tmp_path: Path, capsys: Capsys) -> None:
    path = write_recording(tmp_path / "guest.rec", [])
    assert refused(capsys, "replay", path, "--map") == f"drgn-unaccepted: {path}: the recording has no samples\n"
