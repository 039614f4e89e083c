# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel log: the printk ring buffer, in three bulk reads.

drgn has ``drgn.helpers.linux.printk.get_printk_records()``. It is not used here because it trusts the sizes
in the target, makes one read for each record, and (in 0.3.0) starts a record that wraps around the end of
the buffer at its block's ID and not at its text.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timezone
from typing import Callable, Literal, Optional, cast

from drgn import Object, Program, ProgramFlags, offsetof, sizeof

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.probe import U64_MAX, enumerators, possible_cpus
from drgn_unaccepted.log.boots import BootLog, is_telling, read_boots
from drgn_unaccepted.targets.errors import UNREADABLE, TargetError, Unavailable

# enum desc_state, in the two highest bits of prb_desc.state_var; the rest is the descriptor's ID.
_COMMITTED = 1
_FINALIZED = 2
_STATE_SHIFT = 62
_ID_MASK = (1 << _STATE_SHIFT) - 1

_ENOUGH = 3  #: Lines with their time of printk that two logs share only if they are of one boot.
_CLOCK_SECONDS = 10  #: By which the RTC may differ from the clock that was set later; no two boots are so close.

# Every text block starts with the ID of its descriptor, an unsigned long.
_BLOCK_ID_BYTES = 8
_KERNEL = 0  # LOG_KERN
# Positions in the text are an unsigned long; the first lap ends where it wraps.
_POSITIONS = 1 << 64


def read_log(prog: Program) -> BootLog:
    """What the kernel's own records say. Unavailable: as :func:`read_log_lines`."""
    key = ("drgn_unaccepted_log", prog["prb"].value_())
    if key not in prog.cache or prog.flags & ProgramFlags.IS_LIVE:
        prog.cache[key] = (read_boots(read_log_lines(prog, is_telling), bare=True) or [BootLog()])[-1]
    return cast(BootLog, prog.cache[key])


def read_log_lines(
    prog: Program, telling: Optional[Callable[[bytes], bool]] = None, stamped: bool = False
) -> list[str]:
    """Return the lines of the kernel's own records in its log, oldest first; with their times as dmesg prints them.

    ``struct printk_ringbuffer *prb`` as it is since Linux kernel commit 896fbe20b4e2 ("printk: use the lockless
    ringbuffer") (in v5.10). Records that are being written, or are overwritten while they are read, are omitted. A
    record that could still be continued is returned: a dead kernel continues nothing, although ``/dev/kmsg`` would
    wait for it.

    :param telling: leave out lines for which it is false
    :raises Unavailable: a size in the target is out of bounds, or the log has more lines than records can be
    """
    ring = prog["prb"][0].read_()
    size_bits = ring.text_data_ring.size_bits.value_()
    if not 4 <= size_bits < 64 or 1 << size_bits > limits.LOG_BYTES:
        raise Unavailable(f"prb: 2^{size_bits} bytes of text: not between 16 and {limits.LOG_BYTES}")
    size = 1 << size_bits
    text = prog.read(ring.text_data_ring.data.value_(), size)
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

    def array_of(name: str, pointer: Object) -> Callable[[str, Literal["B", "H", "Q"]], memoryview[int]]:
        """Columns of an array of structures, without a Python object for each."""
        type_ = prog.type(name)
        data = memoryview(prog.read(pointer.value_(), count * sizeof(type_)))

        def column(member: str, format_: Literal["B", "H", "Q"]) -> memoryview[int]:
            width = struct.calcsize(format_)
            stride, offset = sizeof(type_), offsetof(type_, member)
            if stride % width or offset % width:
                raise Unavailable(f"{type_.type_name()}.{member} is not aligned")
            return data.cast(format_)[offset // width :: stride // width]

        return column

    desc = array_of("struct prb_desc", desc_ring.descs)
    info = array_of("struct printk_info", desc_ring.infos)
    states, begins, ends = (desc(name, "Q") for name in ("state_var", "text_blk_lpos.begin", "text_blk_lpos.next"))
    lengths, facilities = info("text_len", "H"), info("facility", "B")
    times = info("ts_nsec", "Q") if stamped else None
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
        if telling is None or telling(record):
            stamp = "" if times is None else f"[{times[index] // 10**9:5}.{times[index] // 1000 % 10**6:06}] "
            found = (line for line in record.split(b"\n") if telling is None or telling(line))
            lines.extend(stamp + line.decode(errors="replace") for line in found)
            if len(lines) > limits.LOG_RECORDS:
                raise Unavailable(f"prb: more than {limits.LOG_RECORDS} lines")
    return lines


def log_of_this_boot(prog: Program, logs: Sequence[BootLog], table_address: Optional[int]) -> BootLog:
    """The one of ``logs``, the boots in a log file, that is of this kernel's boot. TargetError: none is proven."""
    own = (read_boots(read_log_lines(prog, stamped=True)) or [BootLog()])[-1]
    started = own.started
    with suppress(*UNREADABLE):
        if started is None:  # by the kernel's clocks
            bases = prog.symbol("hrtimer_bases").address + min(possible_cpus(prog).items())[1] & U64_MAX
            realtime = enumerators(prog, "hrtimer_base_type")["HRTIMER_BASE_REALTIME"]
            base = Object(prog, "struct hrtimer_cpu_base", address=bases).clock_base[realtime]
            started = float(base.offset.value_()) / 1e9 or None
    release = prog["UTS_RELEASE"].string_().decode("ascii", "replace")
    why = "it has only the kernel that wrote the dump"
    for log in (log for log in logs if not log.is_crash_kernel):
        address = log.table_address
        if log.release not in (None, release):
            why = f"its release is {log.release}, the target's is {release}"
        elif None not in (address, table_address) and address != table_address:
            why = f"its table is at {address:#x}, the target's at {table_address:#x}"
        elif len(set(own.stamped) & set(log.stamped)) >= _ENOUGH:
            return log
        elif log.started is None or started is None:
            why = "no lines with their time of printk are in both, and the RTC's line of the boot is not in it"
        elif abs(log.started - started) > _CLOCK_SECONDS:
            its, own_date = (datetime.fromtimestamp(at, timezone.utc) for at in (log.started, started))
            why = f"its kernel started at {its:%F %T+00:00}, the target's at {own_date:%F %T+00:00}"
        else:
            return log
    raise TargetError(f"--log is not of the target's boot: {why}")


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
