# SPDX-License-Identifier: LGPL-2.1-or-later
"""A bitmap to ranges: against reading it, against C, against drgn's for_each_set_bit."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tracemalloc
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

from drgn.helpers.linux.bitops import for_each_set_bit

from benchmarks.dump import BASE, UNIT, Dump, as_in_the_lab, dump_of, random_bits, with_holes
from benchmarks.measure import Missing, Row, drain, pairs, row, timed
from drgn_unaccepted.model.bitmap import Geometry, unaccepted_ranges
from drgn_unaccepted.model.ranges import Range

MIB = 1 << 20

#: What a loop over for_each_set_bit() comes to in the kernel; the sum is there so that the loop does something.
_LOOP = """
#include <stddef.h>
#include <stdint.h>

static size_t find_next_bit(const uint64_t *bitmap, size_t size, size_t start)
{
    if (start >= size)
        return size;
    size_t at = start / 64;
    uint64_t word = bitmap[at] & ~UINT64_C(0) << start % 64;
    while (!word) {
        if (++at * 64 >= size)
            return size;
        word = bitmap[at];
    }
    size_t bit = at * 64 + (size_t)__builtin_ctzll(word);
    return bit < size ? bit : size;
}

uint64_t sum_of_set_bits(const uint64_t *bitmap, size_t size)
{
    uint64_t sum = 0;
    for (size_t bit = find_next_bit(bitmap, size, 0); bit < size; bit = find_next_bit(bitmap, size, bit + 1))
        sum += bit;
    return sum;
}
"""


def geometry_of(bitmap: bytes) -> Geometry:
    return Geometry(BASE, len(bitmap), UNIT)


def ranges(bitmap: bytes) -> Iterator[Range]:
    """Ours."""
    return unaccepted_ranges(geometry_of(bitmap), bitmap)


def ranges_of_dump(dump: Dump) -> Iterator[Range]:
    """Ours, with the read."""
    return unaccepted_ranges(dump.geometry, dump.read())


def set_bits(dump: Dump) -> Iterator[int]:
    """drgn's, as one types it: ``for_each_set_bit(table.bitmap, nbits)``, which reads a word at a time."""
    bits: Iterator[int] = for_each_set_bit(dump.bitmap, dump.geometry.units)
    return bits


def set_bits_of_copy(dump: Dump) -> Iterator[int]:
    """drgn's, of a bitmap that was read at once before."""
    bits: Iterator[int] = for_each_set_bit(dump.array.read_(), dump.geometry.units)
    return bits


@lru_cache(maxsize=1)
def c_loop() -> Callable[[bytes], int]:
    """The sum of the numbers of all set bits, by a loop over find_next_bit() in C, compiled here.

    :raises Missing: there is no C compiler
    """
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise Missing("no C compiler: apt-get install gcc")
    with TemporaryDirectory(prefix="bench-c-") as directory:
        source, library = Path(directory) / "loop.c", Path(directory) / "loop.so"
        source.write_text(_LOOP)
        subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
        function = ctypes.CDLL(str(library)).sum_of_set_bits
    function.restype, function.argtypes = ctypes.c_uint64, (ctypes.c_char_p, ctypes.c_size_t)
    return lambda bitmap: int(function(bitmap, 8 * len(bitmap)))


def peak_of_ranges(bitmap: bytes) -> int:
    """Most bytes of Python's memory while all ranges are taken one after the other, the bitmap not counted."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        drain(ranges(bitmap))
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def largest_bitmap(runs: int = 9) -> list[Row]:
    """a bitmap of 256 MiB (4 PiB of guest) to ranges against one prog.read() of it"""
    rows = []
    for name, bitmap in (
        ("256 MiB to ranges, two runs as in the lab / one prog.read()", as_in_the_lab(256 * MIB)),
        ("256 MiB to ranges, 1,000 holes / one prog.read()", with_holes(256 * MIB, 1000)),
    ):
        with dump_of(bitmap) as dump:
            rows.append(row(name, pairs(timed(lambda b=bitmap: drain(ranges(b))), timed(dump.read), runs), 0.5))  # type: ignore[misc]
    return rows


def random_bitmap(runs: int = 9) -> list[Row]:
    """1 MiB of random bits (16 TiB of guest) to ranges against a C loop over find_next_bit; what they need of memory"""
    loop, bitmap = c_loop(), random_bits(MIB)
    both = pairs(timed(lambda: drain(ranges(bitmap))), timed(lambda: loop(bitmap)), runs)
    # The bitmaps of the two are made before their memory is measured.
    small, large = peak_of_ranges(random_bits(MIB // 4)), peak_of_ranges(bitmap)
    return [
        row("1 MiB of random bits to ranges / C loop over find_next_bit", both, 25),
        row("ranges of 1 MiB of random bits / of 256 KiB: peak memory", [(large, small)], 1.1, "bytes"),
    ]


def terabyte(runs: int = 9) -> list[Row]:
    """the table of a guest of 1 TiB, read and made ranges, against drgn's for_each_set_bit"""
    with dump_of(as_in_the_lab((1 << 40) // UNIT // 8)) as dump:
        ours = timed(lambda: drain(ranges_of_dump(dump)))
        typed = pairs(ours, timed(lambda: drain(set_bits(dump))), runs)
        copied = pairs(ours, timed(lambda: drain(set_bits_of_copy(dump))), runs)
    return [
        row("1 TiB, with the read / for_each_set_bit", typed, 0.001),
        row("1 TiB, with the read / for_each_set_bit of a copy", copied, 0.001),
    ]
