# SPDX-License-Identifier: LGPL-2.1-or-later
"""A dump with one bitmap in it and nothing else, as a file, so that reads of it cost what reads of a dump do."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import drgn

from benchmarks.measure import SAMPLE
from drgn_unaccepted.model.bitmap import Geometry, from_runs, runs

UNIT = 2 << 20
#: Where the bitmaps of the samples begin, too.
BASE = 1 << 32
#: Where the bitmap lies in the dump's virtual memory.
ADDRESS = 0xFFFF_8880_0000_0000

_FILE_OFFSET = 4096
_PIECE = 1 << 24


class Dump(NamedTuple):
    prog: drgn.Program
    geometry: Geometry

    def read(self) -> bytes:
        """The bitmap, by one ``prog.read()``."""
        data: bytes = self.prog.read(ADDRESS, self.geometry.bitmap_bytes)
        return data

    @property
    def bitmap(self) -> drgn.Object:
        """``unsigned long *``, as a member of the table's structure would decay to."""
        return drgn.Object(self.prog, self.prog.pointer_type(self._word), ADDRESS)

    @property
    def array(self) -> drgn.Object:
        """``unsigned long []``."""
        return drgn.Object(
            self.prog, self.prog.array_type(self._word, self.geometry.bitmap_bytes // 8), address=ADDRESS
        )

    @property
    def _word(self) -> drgn.Type:
        return self.prog.int_type("unsigned long", 8, False)


@contextmanager
def dump_of(bitmap: bytes) -> Iterator[Dump]:
    """An ELF dump with this bitmap, opened by drgn; the file is gone afterwards."""
    size = len(bitmap)
    # Elf64_Ehdr of a core for x86-64, and one Elf64_Phdr.
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 4, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 4, _FILE_OFFSET, ADDRESS, BASE, size, size, 4096)
    with TemporaryDirectory(prefix="bench-dump-") as directory:
        path = Path(directory) / "dump"
        with path.open("wb") as file:
            file.write(header + segment)
            file.seek(_FILE_OFFSET)
            file.write(bitmap)
        prog = drgn.Program()
        prog.set_core_dump(path)
        yield Dump(prog, Geometry(BASE, size, UNIT))


def as_in_the_lab(nbytes: int) -> bytes:
    """The bitmap of a sample, stretched: every capture of the lab has two runs of unaccepted units."""
    from drgn_unaccepted.kernel.capture import capture
    from drgn_unaccepted.kernel.target import open_vmcore
    from drgn_unaccepted.snapshot import Wanted

    table = capture(open_vmcore(str(SAMPLE)), Wanted(frozenset())).table
    assert table.bitmap is not None
    return stretched(runs(table.bitmap), 8 * len(table.bitmap), nbytes)


def stretched(runs_: Iterable[tuple[int, int]], bits: int, nbytes: int) -> bytes:
    """Runs in ``bits`` bits, as the same parts of ``nbytes`` bytes."""
    return from_runs(((first * 8 * nbytes // bits, end * 8 * nbytes // bits) for first, end in runs_), nbytes)


def with_holes(nbytes: int, holes: int, seed: int = 1) -> bytes:
    """All unaccepted but for ``holes`` pairs of neighbouring units, none beside another."""
    bitmap = bytearray(b"\xff") * nbytes
    for byte in random.Random(seed).sample(range(nbytes), holes):
        # Bits 0 and 7 stay, so that a hole in each of two bytes are two.
        bitmap[byte] &= ~(3 << random.Random(seed + byte).randrange(1, 6)) & 0xFF
    return bytes(bitmap)


def random_bits(nbytes: int, seed: int = 2) -> bytes:
    """Half of the bits set, without any order: no guest is so."""
    random_ = random.Random(seed)
    # randbytes() takes no more than 256 MiB less one byte at once.
    return b"".join(random_.randbytes(min(_PIECE, nbytes - at)) for at in range(0, nbytes, _PIECE))
