# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel log: the printk ring buffer, in three bulk reads.

drgn has ``drgn.helpers.linux.printk.get_printk_records()``. It is not used here because it trusts the sizes
in the target, makes one read for each record, and (in 0.3.0) starts a record that wraps around the end of
the buffer at its block's ID and not at its text.
"""

from __future__ import annotations

from drgn import Object, Program, offsetof, sizeof

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

# Positions in the text are an unsigned long; the first lap ends where it wraps.
_POSITIONS = 1 << 64


def read_log_lines(prog: Program, containing: bytes = b"") -> list[str]:
    """Return the lines of the kernel log, oldest first, without time stamps.

    ``struct printk_ringbuffer *prb`` as it is since Linux kernel commit 896fbe20b4e2 ("printk: use the
    lockless ringbuffer") (in v5.10). Records that are being written, or are overwritten while they are read,
    are left out. One that could still be continued is not: a dead kernel continues nothing, although
    ``/dev/kmsg`` would wait for it. Bytes that are no UTF-8 are replaced.

    :param containing: leave out records (of one or more lines) without these bytes
    :raises Unavailable: a size in the target is out of bounds
    :raises drgn.FaultError: the buffer is not in the target
    """
    ring = prog["prb"][0].read_()
    text = _read_text(prog, ring.text_data_ring)
    size = len(text)

    desc_ring = ring.desc_ring
    count_bits = desc_ring.count_bits.value_()
    if not 0 < count_bits < 64 or 1 << count_bits > limits.LOG_RECORDS:
        raise Unavailable(f"prb: {1 << min(count_bits, 63)} descriptors: not between 2 and {limits.LOG_RECORDS}")
    count = 1 << count_bits
    tail = desc_ring.tail_id.counter.value_() & _ID_MASK
    head = desc_ring.head_id.counter.value_() & _ID_MASK
    used = (head - tail & _ID_MASK) + 1
    if used > count:
        raise Unavailable(f"prb: {used} records in a ring of {count}")

    desc_type = prog.type("struct prb_desc")
    desc_size = sizeof(desc_type)
    state_at = offsetof(desc_type, "state_var")
    begin_at = offsetof(desc_type, "text_blk_lpos.begin")
    next_at = offsetof(desc_type, "text_blk_lpos.next")
    descs = memoryview(prog.read(desc_ring.descs.value_(), count * desc_size))

    info_type = prog.type("struct printk_info")
    info_size = sizeof(info_type)
    length_at = offsetof(info_type, "text_len")
    infos = memoryview(prog.read(desc_ring.infos.value_(), count * info_size))

    lines: list[str] = []
    total = 0
    for current in range(tail, tail + used):
        identifier = current & _ID_MASK
        index = identifier & (count - 1)
        at = index * desc_size
        state = _u64(descs, at + state_at)
        if state & _ID_MASK != identifier or state >> _STATE_SHIFT not in (_COMMITTED, _FINALIZED):
            continue
        block = _block(_u64(descs, at + begin_at), _u64(descs, at + next_at), size)
        if block is None:
            continue
        start, end = block
        if _u64(text, start) != identifier:
            continue
        length_start = index * info_size + length_at
        length = int.from_bytes(infos[length_start : length_start + 2], "little")
        start += _BLOCK_ID_BYTES
        record = bytes(text[start : min(start + length, end)])
        total += len(record)
        if total > size:
            raise Unavailable(f"prb: records of more than {size} bytes in a buffer of that size")
        if containing in record:
            lines.extend(record.decode(errors="replace").split("\n"))
    return lines


def read_panic(prog: Program) -> str:
    """Return what follows the last ``Kernel panic - not syncing: `` in the log; empty where it has none.

    :raises Unavailable: a size in the target is out of bounds
    :raises drgn.FaultError: the buffer is not in the target
    """
    for line in reversed(read_log_lines(prog, _PANIC.encode())):
        if line.startswith(_PANIC):
            return line[len(_PANIC) :]
    return ""


def _read_text(prog: Program, data_ring: Object) -> memoryview:
    size_bits = data_ring.size_bits.value_()
    if not 4 <= size_bits < 64 or 1 << size_bits > limits.LOG_BYTES:
        raise Unavailable(f"prb: 2^{size_bits} bytes of text: not between 16 and {limits.LOG_BYTES}")
    return memoryview(prog.read(data_ring.data.value_(), 1 << size_bits))


def _block(begin: int, end: int, size: int) -> tuple[int, int] | None:
    """Offsets of a text block in the buffer (ID included), or None where the record has no text.

    A block that would cross the end of the buffer starts at its beginning instead, one lap later. One that
    ends exactly there does so too before the commit "printk: ringbuffer: don't needlessly wrap data blocks
    around"; the position of its end tells which.
    """
    if begin & 1 or end & 1:  # FAILED_LPOS, EMPTY_LINE_LPOS
        return None
    last = (end - 1) % _POSITIONS
    laps = (last // size - begin // size) % (_POSITIONS // size)
    stop = last % size + 1
    if laps == 0:
        start = begin % size
    elif laps == 1:
        start = 0
    else:
        return None
    return (start, stop) if stop - start >= _BLOCK_ID_BYTES else None


def _u64(data: memoryview, at: int) -> int:
    return int.from_bytes(data[at : at + 8], "little")
