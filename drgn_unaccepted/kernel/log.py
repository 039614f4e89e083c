# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel log: the printk ring buffer, in three bulk reads.

drgn has ``drgn.helpers.linux.printk.get_printk_records()``. It is not used here because it trusts the sizes
in the target, makes one read for each record, and (in 0.3.0) starts a record that wraps around the end of
the buffer at its block's ID and not at its text.
"""

from __future__ import annotations

import struct
from typing import Literal

from drgn import Program, Type, offsetof, sizeof

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.errors import Unavailable

# panic() in kernel/panic.c
_PANIC = "Kernel panic - not syncing: "

# enum desc_state, in the two highest bits of prb_desc.state_var; the rest is the descriptor's ID.
_COMMITTED = 1
_FINALIZED = 2
_STATE_SHIFT = 62
_ID_MASK = (1 << _STATE_SHIFT) - 1

# Every text block starts with the ID of its descriptor, an unsigned long.
_BLOCK_ID_BYTES = 8

# LOG_KERN
_KERNEL = 0

# Positions in the text are an unsigned long; the first lap ends where it wraps.
_POSITIONS = 1 << 64


def read_log_lines(prog: Program, containing: bytes = b"") -> list[str]:
    """Return the lines of the kernel's own records in its log, oldest first, without time stamps.

    ``struct printk_ringbuffer *prb`` as it is since Linux kernel commit 896fbe20b4e2 ("printk: use the
    lockless ringbuffer") (in v5.10). Records that are being written, or are overwritten while they are read,
    are omitted. A record that could still be continued is returned: a dead kernel continues nothing, although
    ``/dev/kmsg`` would wait for it. Bytes that are not UTF-8 are replaced.

    :param containing: leave out lines without these bytes
    :raises Unavailable: a size in the target is out of bounds, or the log has more lines than records can be
    :raises drgn.FaultError: the buffer is not in the target
    """
    ring = prog["prb"][0].read_()
    size_bits = ring.text_data_ring.size_bits.value_()
    if not 4 <= size_bits < 64 or 1 << size_bits > limits.LOG_BYTES:
        raise Unavailable(f"prb: 2^{size_bits} bytes of text: not between 16 and {limits.LOG_BYTES}")
    size = 1 << size_bits
    text = prog.read(ring.text_data_ring.data.value_(), size)
    if containing not in text:
        return []
    # Blocks start at multiples of an unsigned long, with the ID of their descriptor.
    block_ids = memoryview(text).cast("Q")

    desc_ring = ring.desc_ring
    count_bits = desc_ring.count_bits.value_()
    if not 0 < count_bits < 64 or 1 << count_bits > limits.LOG_RECORDS:
        raise Unavailable(f"prb: 2^{count_bits} descriptors: not between 2 and {limits.LOG_RECORDS}")
    count = 1 << count_bits
    tail = desc_ring.tail_id.counter.value_() & _ID_MASK
    head = desc_ring.head_id.counter.value_() & _ID_MASK
    used = (head - tail & _ID_MASK) + 1
    if used > count:
        raise Unavailable(f"prb: {used} records in a ring of {count}")

    desc_type = prog.type("struct prb_desc")
    descs = prog.read(desc_ring.descs.value_(), count * sizeof(desc_type))
    states = _column(descs, desc_type, "state_var", "Q")
    begins = _column(descs, desc_type, "text_blk_lpos.begin", "Q")
    ends = _column(descs, desc_type, "text_blk_lpos.next", "Q")
    info_type = prog.type("struct printk_info")
    infos = prog.read(desc_ring.infos.value_(), count * sizeof(info_type))
    lengths = _column(infos, info_type, "text_len", "H")
    facilities = _column(infos, info_type, "facility", "B")

    lines: list[str] = []
    total = 0
    for current in range(tail, tail + used):
        identifier = current & _ID_MASK
        index = identifier & (count - 1)
        state = states[index]
        # Other facilities are user space, through /dev/kmsg: it can write whatever the kernel can.
        if facilities[index] != _KERNEL:
            continue
        if state & _ID_MASK != identifier or state >> _STATE_SHIFT not in (_COMMITTED, _FINALIZED):
            continue
        start, end = _block(begins[index], ends[index], size)
        if end - start < _BLOCK_ID_BYTES or block_ids[start >> 3] != identifier:
            continue
        start += _BLOCK_ID_BYTES
        record = text[start : min(start + lengths[index], end)]
        total += len(record)
        if total > size:
            raise Unavailable(f"prb: records of more than {size} bytes in a buffer of that size")
        if containing in record:
            lines.extend(line.decode(errors="replace") for line in record.split(b"\n") if containing in line)
            if len(lines) > limits.LOG_RECORDS:
                raise Unavailable(f"prb: more than {limits.LOG_RECORDS} lines")
    return lines


def read_panic(prog: Program) -> str:
    """Return what follows the last ``Kernel panic - not syncing: `` in the log; empty where it has none."""
    for line in reversed(read_log_lines(prog, _PANIC.encode())):
        if line.startswith(_PANIC):
            return line[len(_PANIC) :]
    return ""


def _column(data: bytes, type_: Type, member: str, format_: Literal["B", "H", "Q"]) -> memoryview[int]:
    """One member of an array of structures, without a Python object for each.

    :param format_: the member's, as in the struct module
    """
    width = struct.calcsize(format_)
    stride, offset = sizeof(type_), offsetof(type_, member)
    if stride % width or offset % width:
        raise Unavailable(f"{type_.type_name()}.{member} is not aligned")
    return memoryview(data).cast(format_)[offset // width :: stride // width]


def _block(begin: int, end: int, size: int) -> tuple[int, int]:
    """Offsets of a text block in the buffer, ID included; both 0 where the record has no text.

    A block that would cross the end of the buffer starts at its beginning instead, one lap later. One that
    ends exactly there does so too before the commit "printk: ringbuffer: don't needlessly wrap data blocks
    around"; the position of its end tells which.
    """
    if begin & 7 or end & 7:  # FAILED_LPOS, EMPTY_LINE_LPOS
        return 0, 0
    last = (end - 1) % _POSITIONS
    laps = (last // size - begin // size) % (_POSITIONS // size)
    if laps > 1:
        return 0, 0
    return (0 if laps else begin % size), last % size + 1
