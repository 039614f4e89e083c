# SPDX-License-Identifier: LGPL-2.1-or-later
"""A writer of the printk ring buffer, after the description at the top of kernel/printk/printk_ringbuffer.c.

It keeps what a reader would still find, so that tests have expected lines that no reader has made.
"""

from __future__ import annotations

import struct
from collections import OrderedDict

from .firmware_program import DIRECT_MAP, FirmwareProgram

_U64 = (1 << 64) - 1
_IDS = (1 << 62) - 1
COMMITTED, FINALIZED, REUSABLE, RESERVED = 1, 2, 3, 0
FAILED, EMPTY_LINE = 1, 3


class PrintkWriter:
    def __init__(self, count_bits: int = 5, size_bits: int = 10, wrap_exact_fit: bool = True) -> None:
        self.count_bits, self.size_bits = count_bits, size_bits
        #: Whether a block that ends exactly at the end of the buffer is put to its beginning (before 6.18).
        self.wrap_exact_fit = wrap_exact_fit
        self.count, self.size = 1 << count_bits, 1 << size_bits
        # Positions and IDs start right before they wrap, as in the kernel (DESC0_ID, BLK0_LPOS).
        self.head_id = self.tail_id = -(self.count + 1) & _IDS
        self.lpos = -self.size & _U64
        self.text = bytearray(self.size)
        self.descs = [(0, RESERVED, 0, 0)] * (self.count - 1) + [(self.head_id, REUSABLE, FAILED, FAILED)]
        self.lengths = [0] * self.count
        self.facilities = [0] * self.count
        #: ID to text of the records whose text is still there.
        self.kept: OrderedDict[int, bytes] = OrderedDict()

    def write(self, text: bytes, state: int = FINALIZED, facility: int = 0) -> None:
        self.head_id = self.head_id + 1 & _IDS
        if (self.head_id - self.tail_id & _IDS) >= self.count:
            self._drop()
        begin = end = EMPTY_LINE
        if text:
            size = 8 + (len(text) + 7 & ~7)
            begin = self.lpos
            end = begin + size
            limit = begin // self.size * self.size + self.size
            if end > limit or (end == limit and self.wrap_exact_fit):
                start, end = 0, limit + size
            else:
                start = begin % self.size
            # Everything that the buffer no longer has room for goes, oldest first.
            while end - self.size > self._oldest_begin(begin):
                self._drop()
            end &= _U64
            self.lpos = end
            struct.pack_into("<Q", self.text, begin % self.size, self.head_id)
            block = struct.pack("<Q", self.head_id) + text
            self.text[start : start + len(block)] = block
        index = self.head_id % self.count
        self.descs[index] = (self.head_id, state, begin, end)
        self.lengths[index] = len(text)
        self.facilities[index] = facility
        if state in (COMMITTED, FINALIZED) and text and facility == 0:
            self.kept[self.head_id] = text

    def _oldest_begin(self, now: int) -> int:
        """Position of the oldest text, unwrapped to the lap of ``now``."""
        identifier = self.tail_id
        while identifier != self.head_id:
            ident, _state, begin, _end = self.descs[identifier % self.count]
            if ident == identifier and not begin & 1:
                return now - (now - begin & _U64)
            identifier = identifier + 1 & _IDS
        return now

    def _drop(self) -> None:
        index = self.tail_id % self.count
        ident, _state, begin, end = self.descs[index]
        if ident == self.tail_id:
            self.descs[index] = (ident, REUSABLE, begin, end)
        self.kept.pop(self.tail_id, None)
        self.tail_id = self.tail_id + 1 & _IDS

    @property
    def lines(self) -> list[str]:
        return [line for text in self.kept.values() for line in text.decode().split("\n")]

    def install(self, program: FirmwareProgram) -> None:
        """Make it ``struct printk_ringbuffer *prb``."""
        descs = program.place(b"".join(struct.pack("<QQQ", s << 62 | i, b, e) for i, s, b, e in self.descs))
        pairs = zip(self.lengths, self.facilities)
        infos = program.place(b"".join(struct.pack("<16xHB69x", length, facility) for length, facility in pairs))
        text = program.place(bytes(self.text))
        ring = struct.pack(
            "<I4xQQQQ8x", self.count_bits, DIRECT_MAP + descs, DIRECT_MAP + infos, self.head_id, self.tail_id
        ) + struct.pack("<I4xQ16x8x", self.size_bits, DIRECT_MAP + text)
        program.set_pointer("prb", "printk_ringbuffer", program.place(ring))


def install_log(program: FirmwareProgram, lines: list[str]) -> None:
    """A log with these lines, large enough to keep them all."""
    writer = PrintkWriter(count_bits=12, size_bits=18)
    for line in lines:
        writer.write(line.encode())
    assert writer.lines == lines
    writer.install(program)
