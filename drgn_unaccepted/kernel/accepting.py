# SPDX-License-Identifier: LGPL-2.1-or-later
"""``accepting_list``: the calls of ``accept_memory()`` in flight, and which tasks are in them."""

from __future__ import annotations

import struct

from drgn import Program, sizeof

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.errors import Unavailable
from drgn_unaccepted.kernel.lists import Entries, ListWalk, settled
from drgn_unaccepted.kernel.probe import member_offset
from drgn_unaccepted.kernel.tasks import owners_of
from drgn_unaccepted.snapshot import Accept, AcceptingList


def read_accepting(prog: Program) -> AcceptingList:
    """The entries of ``static LIST_HEAD(accepting_list)``, ``struct accept_range`` on the stacks of their tasks.

    Linux kernel commit 50e782a86c98 ("efi/unaccepted: Fix soft lockups caused by parallel memory acceptance") (in v6.6,
    6.5.9) introduced the list. The accepting task has interrupts off, so it is the current task of a CPU, except with
    PREEMPT_RT. An allocation in a softirq accepts on the interrupt stack of its CPU.

    :raises Unavailable: the kernel has no such list
    :raises drgn.FaultError: its head is not in the target
    """
    try:
        head = prog["accepting_list"].address_
    except LookupError:
        reason = "no accepting_list: this kernel does not have unaccepted memory, or is 6.5.0 to 6.5.8"
        raise Unavailable(reason) from None
    assert head is not None
    if struct.unpack("<QQ", prog.read(head, 16)) == (head, head):
        # The usual case. The structure is one of the last in BTF, which is read up to what is asked for.
        return AcceptingList((), ())
    entries, problems = settled(prog, lambda: _walk(prog, head), lambda found: found[1])
    owners, problem = owners_of(prog, [address for address, _, _ in entries])
    if problem is not None:
        problems.append(problem)
    return AcceptingList(
        tuple(Accept(address, start, end, owners.get(address)) for address, start, end in entries), tuple(problems)
    )


def _walk(prog: Program, head: int) -> tuple[list[tuple[int, int, int]], list[str]]:
    """Address, start and end of each entry, and what is wrong with the list."""
    size = sizeof(prog.type("struct accept_range"))
    link, start, end = (member_offset(prog, "struct accept_range", name) for name in ("list", "start", "end"))
    if link or size % 8 or not max(start, end, 8) + 8 <= size <= limits.ACCEPT_RANGE_BYTES:
        raise Unavailable("struct accept_range is not laid out as expected")
    entries = Entries(size, link, lambda links: links[: (*links, 0).index(0)], "", "NULL")
    walk = ListWalk(prog, head, entries, limits.ACCEPTING_ENTRIES)
    found = [
        (address, *struct.unpack_from("<Q", data, at + start), *struct.unpack_from("<Q", data, at + end))
        for addresses, data in walk.blocks()
        for address, at in zip(addresses, range(0, len(data), size))
    ]
    return found, walk.problems
