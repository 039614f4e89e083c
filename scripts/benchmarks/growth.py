# SPDX-License-Identifier: LGPL-2.1-or-later
"""How what scripts/bench measures grows with the size of the guest, ours and the other."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from typing import NamedTuple, Optional

from benchmarks import addresses, lists, ranges
from benchmarks.dump import BASE, UNIT, Dump, as_in_the_lab, dump_of, random_bits
from benchmarks.measure import drain, timed
from drgn_unaccepted.limits import LISTED_CHUNKS, PAGES_SCANNED

GIB, TIB = 1 << 30, 1 << 40

#: 4 PiB is the kernel's own stated worst case, a bitmap of 256 MiB.
SIZES = (10 * GIB, 100 * GIB, TIB, 10 * TIB, 4096 * TIB)

#: Addresses in the file.
ADDRESSES = 100_000


class Point(NamedTuple):
    #: Bytes of guest.
    size: int
    ours: Optional[float]
    #: None where it is not measured; :attr:`Series.stops` says why.
    other: Optional[float]


class Series(NamedTuple):
    name: str
    #: What the two lines are.
    ours: str
    other: Optional[str]
    #: ``s`` or ``bytes``.
    unit: str
    points: list[Point]
    #: Why a line ends before the largest guest.
    stops: Optional[str] = None


def seconds(work: Callable[[], object]) -> float:
    """The median of some runs, of which the first is not counted; what takes long is done once."""
    measure = timed(work)
    first = measure()
    if first > 2:
        return first
    return statistics.median(measure() for _ in range(9 if first < 0.1 else 3))


def nbytes(size: int) -> int:
    """Bytes of bitmap for a guest of ``size`` bytes."""
    return size // UNIT // 8


def to_ranges() -> Series:
    """bitmap to ranges"""
    points = []
    for size in SIZES:
        bitmap = as_in_the_lab(nbytes(size))
        with dump_of(bitmap) as dump:
            ours = seconds(lambda b=bitmap: drain(ranges.ranges(b)))  # type: ignore[misc]
            points.append(Point(size, ours, seconds(dump.read)))
    return Series("bitmap to ranges, two runs", "ranges of bytes in hand", "one prog.read() of them", "s", points)


def random_to_ranges(quick: bool = False) -> Series:
    """random bits to ranges"""
    loop = ranges.c_loop()
    points = []
    for size in SIZES:
        if quick and size > 10 * TIB:
            points.append(Point(size, None, None))
            continue
        bitmap = random_bits(nbytes(size))
        points.append(
            Point(
                size,
                seconds(lambda b=bitmap: drain(ranges.ranges(b))),  # type: ignore[misc]
                seconds(lambda b=bitmap: loop(b)),  # type: ignore[misc]
            )
        )
    stops = "no further than 10 TiB with --quick" if quick else None
    return Series("random bits to ranges", "ranges", "C loop over find_next_bit", "s", points, stops)


def set_bits() -> Series:
    """a table to ranges"""
    points = []
    for size in SIZES:
        with dump_of(as_in_the_lab(nbytes(size))) as dump:
            ours = seconds(lambda d=dump: drain(ranges.ranges_of_dump(d)))  # type: ignore[misc]
            other = seconds(lambda d=dump: drain(ranges.set_bits(d))) if size <= 10 * TIB else None  # type: ignore[misc]
            points.append(Point(size, ours, other))
    stops = "for_each_set_bit stops at 10 TiB: 4 PiB have 400 times as many bits, which takes it minutes"
    return Series("table to ranges", "read and ranges", "for_each_set_bit", "s", points, stops)


def resolved() -> Series:
    """a file of addresses to lines"""
    points = []
    for size in SIZES:
        with dump_of(as_in_the_lab(nbytes(size))) as dump:
            points.append(_resolved(dump, size))
    name = f"resolve -f of {ADDRESSES:,} addresses to lines"
    return Series(name, "resolve -f", "test_bit loop, fields read once", "s", points)


def _resolved(dump: Dump, size: int) -> Point:
    some = addresses.some_addresses(ADDRESSES, BASE, dump.geometry.end)
    with addresses.file_of(some) as directory:
        ours, other = addresses.of_dump(dump, directory / "addresses")
        out = directory / "out"
        return Point(
            size, seconds(lambda: addresses.printed(ours, out)), seconds(lambda: addresses.printed(other, out))
        )


def guests() -> Iterator[Series]:
    """summary and check of guests whose memory is all listed, each in a process of its own: time and peak memory"""
    found: dict[str, list[tuple[Optional[float], Optional[int]]]] = {what: [] for what in ("summary", "check", "walk")}
    for what in found:
        # Not counted: it writes the bytecode, which the others use.
        lists.alone(what, SIZES[0])
    for size in SIZES:
        for what, results in found.items():
            if size // (4 << 20) <= LISTED_CHUNKS:
                took, process = lists.alone(what, size)
            elif what == "summary":
                # Up to the last physical address: the bitmap does not begin at 0.
                took, process = lists.alone(what, size - BASE, 10 * GIB)
            else:
                results.append((None, None))
                continue
            results.append((took, process.peak_bytes))

    def column(what: str, index: int) -> list[Optional[float]]:
        return [result[index] for result in found[what]]

    def points(ours: list[Optional[float]], other: list[Optional[float]]) -> list[Point]:
        return [Point(*values) for values in zip(SIZES, ours, other)]

    limit = f"LISTED_CHUNKS, {LISTED_CHUNKS:,} or 16 TiB, after which a list is reported as too long"
    stops = (
        f"stops at 10 TiB: a billion chunks are beyond {limit}; a kernel has page tables for 64 TiB with four levels"
    )
    of_4_pib = "at 4 PiB the bitmap has 256 MiB and 10 GiB are unaccepted, since no list may be that long"
    none: list[Optional[float]] = [None] * len(SIZES)
    yield Series("summary, all memory listed", "summary", None, "s", points(column("summary", 0), none), of_4_pib)
    both = points(column("check", 0), column("walk", 0))
    pages = f"looks at each struct page of guests of up to {PAGES_SCANNED * 4096 // GIB} GiB, not so beyond"
    yield Series("check, all memory listed", "check", "list_for_each_entry", "s", both, f"{pages}; {stops}")
    both = points(column("summary", 1), column("check", 1))
    yield Series(
        "peak memory, all memory listed",
        "summary",
        "check",
        "bytes",
        both,
        f"check {stops}; {of_4_pib}; that bitmap is in it twice, once as the dump",
    )


def everything(quick: bool = False) -> Iterator[Series]:
    yield from guests()
    yield to_ranges()
    yield random_to_ranges(quick)
    yield set_bits()
    yield resolved()
