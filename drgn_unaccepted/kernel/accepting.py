# SPDX-License-Identifier: LGPL-2.1-or-later
"""``accepting_list``: the calls of ``accept_memory()`` in flight, and who is in them."""

from __future__ import annotations

import struct
from typing import NamedTuple

from drgn import FaultError, Program, ProgramFlags, sizeof

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.errors import Unavailable
from drgn_unaccepted.kernel.probe import member_offset
from drgn_unaccepted.snapshot import Accept, AcceptingList


class _Entry(NamedTuple):
    address: int
    start: int
    end: int


def read_accepting(prog: Program) -> AcceptingList:
    """The entries of ``static LIST_HEAD(accepting_list)``, ``struct accept_range`` on the stacks of their tasks.

    Linux kernel commit 50e782a86c98 ("efi/unaccepted: Fix soft lockups caused by parallel memory acceptance") (in v6.6,
    6.5.9) introduced the list. The accepting task has interrupts off, so that it is the current task of a CPU, unless
    the kernel is PREEMPT_RT; an allocation in a softirq accepts on the interrupt stack of its CPU.

    :raises Unavailable: the kernel has no such list
    :raises drgn.FaultError: its head is not in the target
    """
    try:
        head = prog["accepting_list"].address_
    except LookupError:
        raise Unavailable(
            "no accepting_list: this kernel does not have unaccepted memory, or is 6.5.0 to 6.5.8"
        ) from None
    assert head is not None
    entries, problems = _walk(prog, head)
    if prog.flags & ProgramFlags.IS_LIVE:
        for _attempt in range(limits.LIVE_ATTEMPTS - 1):
            if not problems:
                break
            entries, problems = _walk(prog, head)
    if not entries:
        return AcceptingList((), tuple(problems))
    from drgn_unaccepted.kernel.stacks import owners_of

    owners, problem = owners_of(prog, [entry.address for entry in entries])
    if problem is not None:
        problems.append(problem)
    return AcceptingList(
        tuple(Accept(entry.address, entry.start, entry.end, owners.get(entry.address)) for entry in entries),
        tuple(problems),
    )


def _walk(prog: Program, head: int) -> tuple[list[_Entry], list[str]]:
    """Follow the list from its head, within bounds: an entry that is gone leaves a stack's old bytes behind."""
    address, last = struct.unpack("<QQ", prog.read(head, 16))
    if address == last == head:
        # Almost always; and the structure is one of the last in BTF, which is read up to what is asked for.
        return [], []
    type_ = prog.type("struct accept_range")
    link = member_offset(prog, "struct accept_range", "list")
    start = member_offset(prog, "struct accept_range", "start") - link
    end = member_offset(prog, "struct accept_range", "end") - link
    size = sizeof(type_)
    if link or not max(start, end, 8) + 8 <= size <= limits.ACCEPT_RANGE_BYTES:
        raise Unavailable("struct accept_range is not laid out as expected")
    entries: list[_Entry] = []
    problems: list[str] = []
    seen = set()
    previous = head
    while address != head:
        if address == 0:
            problems.append(f"entry {len(entries)}: the entry before it points to NULL")
            break
        if address in seen:
            problems.append(f"entry {len(entries)}: {address:#x} again: a cycle")
            break
        if len(entries) == limits.ACCEPTING_ENTRIES:
            problems.append(f"more than {limits.ACCEPTING_ENTRIES} entries")
            break
        seen.add(address)
        try:
            data = prog.read(address, size)
        except FaultError:
            problems.append(f"entry {len(entries)}: {address:#x} is not in this target")
            break
        following, back = struct.unpack_from("<QQ", data)
        if back != previous:
            problems.append(f"entry {len(entries)}: {address:#x} has prev {back:#x}, it was reached from {previous:#x}")
        entries.append(_Entry(address, *struct.unpack_from("<Q", data, start), *struct.unpack_from("<Q", data, end)))
        previous, address = address, following
    else:
        if last != previous:
            problems.append(f"list head has prev {last:#x}, the last entry is {previous:#x}")
    return entries, problems
