# SPDX-License-Identifier: LGPL-2.1-or-later
"""The map's bins, compared with a model that looks at each unit by itself, and with what real guests recorded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from drgn_unaccepted import limits
from drgn_unaccepted.answer.documents import MapAnswer
from drgn_unaccepted.answer.evidence import Evidence
from drgn_unaccepted.answer.judgement import Judgement, judge
from drgn_unaccepted.answer.map import map_document
from drgn_unaccepted.kernel.capture import capture
from drgn_unaccepted.kernel.target import open_vmcore
from drgn_unaccepted.model.e820 import E820Entry
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import ALL_MEMORY, Snapshot, Wanted
from tests.views import guests
from tests.views.guests import BASE, GIB, MIB, UNIT

SAMPLES = sorted((Path(__file__).parent.parent.parent / "vmcore-samples").glob("*/truth.json"))


def answer(snapshot: Snapshot, **how: Any) -> MapAnswer:
    return map_document(snapshot, judge(snapshot), **how)


def of_bits(snapshot: Snapshot, **how: Any) -> MapAnswer:
    """From the bitmap, although nothing else agrees with it."""
    judgement = Judgement(Evidence(snapshot), "bitmap", None, None, snapshot.table.geometry)
    return map_document(snapshot, judgement, **how)


def with_ram(bitmap: bytes, first_unit: int, ram: list[tuple[int, int]]) -> Snapshot:
    """A guest with this bitmap and this RAM, in units."""
    e820 = guests.e820(*((start * UNIT, end * UNIT) for start, end in ram))
    return replace(guests.only_bitmap(guests.small()), table=guests.table(bitmap, first_unit * UNIT), e820=e820)


runs = st.lists(st.tuples(st.integers(0, 400), st.integers(1, 60)), max_size=4).map(
    lambda pairs: [(start, start + length) for start, length in pairs]
)


# A set bit outside RAM, in a byte of the bitmap that is RAM in part.
@example(bitmap=b"\x40", first_unit=2, ram=[(0, 3)], columns=8, finest=1, window=None)
@settings(max_examples=50, deadline=None)
@given(
    bitmap=st.binary(min_size=1, max_size=24),
    first_unit=st.integers(0, 40),
    ram=runs,
    columns=st.sampled_from((8, 16, 64)),
    finest=st.sampled_from((1, 2, 4, 8, 16)),
    window=st.none() | st.tuples(st.integers(0, 300), st.integers(1, 200)),
)
def test_each_bin_holds_what_its_units_say(
    bitmap: bytes,
    first_unit: int,
    ram: list[tuple[int, int]],
    columns: int,
    finest: int,
    window: Optional[tuple[int, int]],
) -> None:
    is_ram = {unit for start, end in ram for unit in range(start, end)}
    is_set = {first_unit + bit for bit in range(8 * len(bitmap)) if bitmap[bit // 8] >> bit % 8 & 1}
    asked = None if window is None else Range(window[0] * UNIT, (window[0] + window[1]) * UNIT)
    got = of_bits(with_ram(bitmap, first_unit, ram), columns=columns, finest=finest, window=asked)
    wanted = range(1 << 20) if window is None else range(window[0], window[0] + window[1])
    per_bin = got["units_per_bin"]
    assert per_bin >= finest and got["bytes_per_bin"] == per_bin * UNIT
    drawn = set()
    for row in got["rows"]:
        assert row["start"] % UNIT == 0
        for index in range(got["bins_per_row"]):
            first = row["start"] // UNIT + index * per_bin
            units = set(range(first, first + per_bin)).intersection(wanted)
            drawn.update(units)
            assert row["unaccepted_units"][index] == len(is_set.intersection(units))
            assert row["unaccepted_bytes"][index] == len(is_set.intersection(units)) * UNIT
            assert row["ram_bytes"][index] == len(is_ram.intersection(units)) * UNIT
            covered = range(first_unit, first_unit + 8 * len(bitmap))
            assert row["uncovered_bytes"][index] == len(is_ram.intersection(units).difference(covered)) * UNIT
            assert row["unknown_bytes"][index] == 0
            # A bin of a byte or more is whole bytes of the bitmap.
            assert per_bin < 8 or (first - first_unit) % 8 == 0 or asked is not None
    before = got["left_out"][0]["ram_bytes"] if got["left_out"] else 0
    assert all(gap["ram_bytes"] == 0 for gap in got["left_out"][1:])
    if asked is None:
        assert is_set <= drawn
        assert len(is_ram - drawn) * UNIT == before
    else:
        assert (is_set | is_ram) & set(wanted) <= drawn
    assert got["totals"]["units"] == len(is_set & drawn)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.parent.name)
def test_samples_against_what_the_guest_said(path: Path) -> None:
    """The units that the guest never accepted, counted by bin, from its own account."""
    truth = json.loads(path.read_text())
    opened = open_vmcore(str(path.parent / "vmcore"), (), "auto", None)
    snapshot = capture(opened, Wanted(frozenset(("kernel", "zones", "counters", "e820")), ALL_MEMORY))
    got = answer(snapshot)
    never = set(truth["unaccepted_units"])
    known = got["source"] == "bitmap"
    assert got["bytes_per_bin"] == 8 * UNIT
    for row in got["rows"]:
        for index in range(64):
            first = row["start"] // UNIT + index * 8
            units = len(never.intersection(range(first, first + 8)))
            count = row["unaccepted_units"][index]
            if known and "panic" not in path.parent.name:
                assert count == units, hex(row["start"] + index * 8 * UNIT)
            else:
                # A listed chunk can hold units that are accepted, at the edges of its run; a dying guest went on.
                assert count >= units - 8 * (not known and row["unknown_bytes"][index] > 0)
                assert count - units <= row["guard_units"][index] or "panic" in path.parent.name
    if known:
        assert got["totals"]["units"] * UNIT == got["unaccepted_bytes"]


def test_a_guest_of_4_pib_makes_few_rows() -> None:
    """The largest bitmap that is read, of which a byte in the middle is set."""
    nbytes = limits.BITMAP_BYTES
    snapshot = with_ram(bytes(nbytes // 2) + b"\xff" + bytes(nbytes // 2 - 1), 0, [(0, 8 * nbytes)])
    got = of_bits(snapshot, columns=64, wide=128)
    assert len(got["rows"]) <= 64
    assert got["bins_per_row"] == 128
    assert got["totals"]["units"] == 8
    assert sum(1 for row in got["rows"] for units in row["unaccepted_units"] if units) == 1


def test_e820_from_the_target_is_cut_at_the_end_of_physical_memory() -> None:
    e820 = guests.e820((0, 1 << 64), (1 << 60, 1 << 61), (5, 5), more=(E820Entry(7, 3, 2),))
    got = answer(replace(guests.small(), e820=e820))
    assert got["totals"]["ram_bytes"] <= 1 << 52
    assert len(got["rows"]) <= 64


def test_the_higher_type_wins_where_entries_overlap() -> None:
    e820 = guests.e820((0, 64 * MIB), more=(E820Entry(16 * MIB, 32 * MIB, 2),))
    got = answer(replace(guests.uneven(), e820=e820, table=guests.NOT_CAPTURED))
    assert got["rows"][0]["ram_bytes"][:5] == [16 * MIB, 0, 16 * MIB, 16 * MIB, 0]
    assert got["rows"][0]["reserved_bytes"][:5] == [0, 16 * MIB, 0, 0, 0]
    assert [(one["start"], one["type"]) for one in got["lanes"]["e820"] or ()] == [(0, 1), (16 * MIB, 2), (32 * MIB, 1)]


def test_listed_chunks_smaller_than_a_unit_are_counted_as_they_are() -> None:
    got = map_document(guests.large_units(), judge(guests.large_units(), "page-lists"))
    assert got["totals"]["unaccepted_bytes"] == got["unaccepted_bytes"] == 32 * MIB
    # The whole guest is one bin; each of its units holds something listed.
    assert got["totals"]["units"] == 8
    row = next(row for row in got["rows"] if row["start"] <= BASE)
    index = (BASE - row["start"]) // GIB
    assert (row["unaccepted_units"][index], row["unaccepted_bytes"][index]) == (8, 32 * MIB)


def test_a_saved_table_is_corrected_by_the_lists() -> None:
    """Bits of the saved table that the lists do not confirm are not drawn as unaccepted."""
    saved = guests.table(guests.BITMAP, read_through="file", same_boot=True)
    got = answer(replace(guests.with_chunks(guests.lists(), *range(0x120000000, 0x138000000, 4 * MIB)), table=saved))
    assert (got["source"], got["exact"]) == ("reconstructed", False)
    row = next(row for row in got["rows"] if row["start"] == BASE)
    # The first 128 MiB are in use now. The first unit of the listed run can be a guard.
    assert row["unaccepted_units"] == [0] * 32 + [7] + [8] * 23 + [0] * 8
    # Units 64 to 71, the full byte of the stairs, are neither listed nor used by a known page.
    assert row["unknown_bytes"] == [0] * 8 + [8 * UNIT] + [0] * 23 + [UNIT] + [0] * 31
