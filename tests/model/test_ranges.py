# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ranges against sets of addresses."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drgn_unaccepted.model import ranges as ranges_module
from drgn_unaccepted.model.ranges import Range, chunk_ranges, clip, find, intersect, merge, subtract, total

TOP = 60
pairs = st.lists(
    st.tuples(st.integers(0, TOP), st.integers(0, TOP)).map(lambda pair: (min(pair), max(pair))), max_size=12
)


class Counted(list[int]):
    """Counts what is read of it by index or slice, not by iteration."""

    reads = 0

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        found = super().__getitem__(index)
        self.reads += len(found) if isinstance(index, slice) else 1
        return found


def addresses(ranges: list[Range] | list[tuple[int, int]]) -> set[int]:
    return {address for start, end in ranges for address in range(start, end)}


def is_merged(ranges: list[Range]) -> bool:
    return all(a.end < b.start for a, b in zip(ranges, ranges[1:])) and all(r.start < r.end for r in ranges)


@given(pairs)
def test_merge_keeps_the_addresses_and_nothing_else(ranges: list[tuple[int, int]]) -> None:
    merged = merge(ranges)
    assert addresses(merged) == addresses(ranges)
    assert is_merged(merged)
    assert all(isinstance(item, Range) for item in merged)
    assert total(merged) == len(addresses(ranges))
    with pytest.raises(ValueError, match="0x9-0x5"):
        merge([*ranges, (9, 5)])


@given(pairs, pairs)
def test_intersect_and_subtract_are_those_of_sets(a: list[tuple[int, int]], b: list[tuple[int, int]]) -> None:
    one, other = merge(a), merge(b)
    assert addresses(intersect(one, other)) == addresses(a) & addresses(b)
    assert addresses(subtract(one, other)) == addresses(a) - addresses(b)
    assert is_merged(intersect(one, other))
    assert is_merged(subtract(one, other))


def test_sweeps_are_linear_in_their_steps() -> None:
    """One range of ``a`` over all of ``b``, and the reverse: neither rescans from the start."""
    number = 2000
    holes = Counted(Range(10 * i + 4, 10 * i + 6) for i in range(number))
    assert len(subtract([Range(0, 10 * number)], holes)) == number + 1
    assert len(subtract(merge((10 * i, 10 * i + 8) for i in range(number)), holes)) == 2 * number
    assert len(intersect(holes, holes)) == number
    assert 0 < holes.reads < 40 * number


@pytest.mark.parametrize("block", (1, 2, 3, 4096))
@given(st.lists(st.integers(0, 40), max_size=30), st.integers(1, 4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_chunks_are_the_pages_that_are_in_them(
    monkeypatch: pytest.MonkeyPatch, block: int, pfns: list[int], pages: int
) -> None:
    monkeypatch.setattr(ranges_module, "_BLOCK", block)
    found = chunk_ranges(pages, pfns)
    assert is_merged(found)
    in_pages = [Range(start // 4096, end // 4096) for start, end in found]
    assert addresses(in_pages) == {pfn + page for pfn in pfns for page in range(pages)}


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9))), st.integers(0, 70), st.integers(0, 70))
def test_clip_is_the_common_part_with_one_range(found: list[tuple[int, int]], start: int, end: int) -> None:
    ranges = merge((first, first + size) for first, size in found)
    clipped = list(clip(ranges, start, end))
    assert find(ranges, start) == next((item for item in ranges if item.start <= start < item.end), None)
    assert is_merged(clipped)
    assert addresses(clipped) == addresses(ranges) & set(range(start, end))
