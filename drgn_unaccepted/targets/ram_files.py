# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guest RAM in files: the segments of an ELF dump that drgn cannot open as such, LiME's ranges, and raw images."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Optional

from drgn import Architecture, Platform, Program, __version__

from drgn_unaccepted import limits
from drgn_unaccepted.errors import one_line
from drgn_unaccepted.files import open_dump
from drgn_unaccepted.model import ranges as rng
from drgn_unaccepted.model.addresses import parse_query
from drgn_unaccepted.targets.elf import SPACE_END, ElfCore, Piece
from drgn_unaccepted.targets.errors import TargetError, Unavailable

#: magic, version, s_addr, e_addr (inclusive) of LiME's header, which precedes each range.
_HEADER = struct.Struct("<4sIQQ8x")
_LIME_MAGIC = b"EMiL"


def read_raw(names: Sequence[str]) -> ElfCore:
    """The memory that ``FILE@ADDR[-END|+LEN]`` or the name of a LiME file stands for.

    A file that is named again continues behind the bytes that it gave: QEMU puts RAM below and above 4 GiB into one.

    :raises TargetError: a file that cannot be read, or has no such bytes; or two of them overlap
    """
    pieces: list[Piece] = []
    try:
        for name in names:
            path, _, where = name.rpartition("@")
            pieces += [_piece(path, where, pieces)] if path else _lime(name)
        return _core_of(pieces)
    except OSError as error:
        raise TargetError(one_line(error, error.filename)) from None
    except ValueError as error:
        raise TargetError(f"--raw {' '.join(names)}: {error}") from None


def read_lime(path: str) -> Optional[ElfCore]:
    """The memory in a LiME file; None for any other file. OSError: unreadable. ValueError: damaged, cut short."""
    with open_dump(path) as file:
        if file.read(4) != _LIME_MAGIC:
            return None
    return _core_of(_lime(path))


def _core_of(pieces: Sequence[Piece]) -> ElfCore:
    covered = rng.merge((piece.address, piece.address + piece.size) for piece in pieces)
    size = sum(piece.size for piece in pieces)
    if rng.total(covered) < size:
        raise ValueError("the same memory twice")
    return ElfCore(pieces[0].path, [], [], size, size, b"", tuple(pieces))


def _piece(path: str, where: str, before: Iterable[Piece]) -> Piece:
    start, end = parse_query(where)[:2]
    with open_dump(path) as file:
        offset = max((piece.offset + piece.size for piece in before if piece.path == path), default=0)
        left = file.seek(0, io.SEEK_END) - offset
    size = left if end is None else end - start
    if not 0 < size <= left or start + size > limits.PHYSICAL_END:
        raise ValueError(f"{size:#x} bytes of RAM: the file has {left:#x} from {offset:#x} on")
    return Piece(path, offset, start, size)


def _lime(path: str) -> list[Piece]:
    pieces: list[Piece] = []
    at = 0
    with open_dump(path) as file:
        end = file.seek(0, io.SEEK_END)
        while at < end or not at:
            file.seek(at)
            magic, version, start, last = _HEADER.unpack(file.read(_HEADER.size).ljust(_HEADER.size, b"\0"))
            size = last - start + 1
            if not at and magic != _LIME_MAGIC:
                raise ValueError("not LiME: give the physical address of its first byte, FILE@0xADDRESS")
            if (magic, version) != (_LIME_MAGIC, 1) or size <= 0 or last >= limits.PHYSICAL_END:
                raise ValueError(f"LiME, damaged: no header of a range at {at:#x}")
            pieces.append(Piece(path, at + _HEADER.size, start, size))
            at += _HEADER.size + size
            if at > end:
                raise ValueError(f"LiME, cut short: its last range ends at {at:#x}, the file has {end:#x}")
            if len(pieces) > limits.ELF_SEGMENTS:
                raise ValueError(f"LiME: more than {limits.ELF_SEGMENTS} ranges")
    return pieces


class FileMemory(ExitStack):
    """Physical memory that lies in files, which are closed at the end of a with statement."""

    def __init__(self, pieces: Iterable[Piece], prog: Optional[Program] = None) -> None:
        super().__init__()
        #: A program that reads this memory; by default one of no kernel.
        self.prog = Program(Platform(Architecture.X86_64)) if prog is None else prog
        self._pieces = [piece for piece in pieces if piece.size > 0]
        self._files = {path: self.enter_context(io.FileIO(path)) for path in {piece.path for piece in self._pieces}}
        for piece in self._pieces:
            self._add(piece, piece.address, physical=True)

    def _add(self, piece: Piece, address: int, physical: bool = False) -> None:
        file = self._files[piece.path]

        def read(address: int, count: int, offset: int, physical: bool) -> bytes:
            return os.pread(file.fileno(), count, piece.offset + offset)

        self.prog.add_memory_segment(address, min(piece.size, SPACE_END - address), read, physical)

    def open_kernel(self, vmcoreinfo: bytes) -> None:
        """Make the program one of the kernel in this memory. TargetError: drgn cannot do so."""
        if not hasattr(self.prog, "set_linux_kernel_custom"):
            raise TargetError(f"drgn {__version__} reads dumps in regular files only; update it to 0.1.0 or later")
        self.prog.set_linux_kernel_custom(vmcoreinfo, is_live=False)
        for piece in self._pieces:
            if piece.virtual:
                self._add(piece, piece.virtual)

    def read(self, address: int, size: int) -> bytes:
        """``size`` bytes at a physical address. FaultError: the files do not hold them all."""
        # A damaged base can make an address negative.
        data: bytes = self.prog.read(address % SPACE_END, size, physical=True)
        return data

    def find(self, pattern: bytes, most: int) -> Iterator[int]:
        """Physical addresses of ``pattern`` in ``most`` bytes of files, without holes. Unavailable: there are more."""
        # Pieces that all name the same bytes would be searched again and again: no more than the files have.
        whole = sum(file.seek(0, io.SEEK_END) for file in self._files.values())
        step, left = limits.SEARCH_PIECE_BYTES, min(most, whole)
        for piece in self._pieces:
            file = self._files[piece.path].fileno()
            for start, stop in _data(file, piece.offset, piece.offset + piece.size):
                for at in range(start, stop, step):
                    if left <= 0 and whole <= most:
                        raise Unavailable("its program headers name the same bytes more than once")
                    if left <= 0:
                        raise Unavailable(f"not found in the first {most >> 30} GiB of the dump")
                    # Overlap by len(pattern) - 1, so that a match across the boundary is found.
                    data = os.pread(file, min(step + len(pattern) - 1, stop - at), at)
                    left -= min(step, len(data))
                    found = data.find(pattern)
                    while found >= 0:
                        yield piece.address + at + found - piece.offset
                        found = data.find(pattern, found + 1)


def _data(file: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The parts of a file between two offsets that are no holes."""
    while start < end:
        try:
            start = os.lseek(file, start, os.SEEK_DATA)
        except OSError:
            return  # a hole up to the end of the file
        stop = min(end, os.lseek(file, start, os.SEEK_HOLE))
        yield start, stop
        start = stop
