# SPDX-License-Identifier: LGPL-2.1-or-later
"""All tasks of a kernel, threads included, and the accepts in flight, whose entries are on the stacks of tasks."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple, Optional

from drgn import FaultError, Program, sizeof

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.probe import U64_MAX, Entries, ListWalk, member_offset, per_cpu_word, possible_cpus, settled
from drgn_unaccepted.snapshot import Accept, AcceptingList, Task
from drgn_unaccepted.targets.errors import Unavailable

# include/linux/sched.h
_PF_KSWAPD = 0x00020000
_TASK_COMM_LEN = 16


class TaskRecord(NamedTuple):
    pid: int
    comm: str
    cpu: Optional[int]  #: ``task_cpu()``; None without CONFIG_SMP.
    flags: int  #: ``PF_*``.
    stack: int  #: Lowest address of the kernel stack.
    reclaim_state: int
    signal: int
    tasks: int  #: ``tasks.next``, and ``thread_node.next``.
    thread_node: int


class TaskReader:
    """Reads each ``struct task_struct`` with one read."""

    def __init__(self, prog: Program) -> None:
        self._prog = prog
        self._offsets = {
            name: member_offset(prog, "struct task_struct", name) for name in TaskRecord._fields if name != "cpu"
        }
        with suppress(LookupError):  # no CONFIG_SMP
            self._offsets["cpu"] = member_offset(prog, "struct task_struct", "thread_info.cpu", "cpu")
        self._thread_head = member_offset(prog, "struct signal_struct", "thread_head")
        used = self._offsets.values()
        self._start, self._size = min(used), max(used) + _TASK_COMM_LEN - min(used)
        if self._size > limits.TASK_STRUCT_BYTES:
            raise Unavailable(f"struct task_struct has {self._size} bytes: not supported")

    def read(self, address: int) -> TaskRecord:
        data = self._prog.read(address + self._start & U64_MAX, self._size)
        found: dict[str, Any] = {"cpu": None}
        for name, offset in self._offsets.items():
            at = offset - self._start
            found[name] = int.from_bytes(data[at : at + (4 if name in ("pid", "cpu", "flags") else 8)], "little")
        comm = self._offsets["comm"] - self._start
        found["comm"] = data[comm : comm + _TASK_COMM_LEN].split(b"\0")[0].decode("utf-8", "backslashreplace")
        return TaskRecord(**found)

    def walk(self) -> Iterator[TaskRecord]:
        """``init_task``, then every thread of every process.

        The idle tasks of the other CPUs are on no list. Threads are linked through ``signal->thread_head`` (Linux
        kernel commit 0c740d0afc3b ("introduce for_each_thread() to replace the buggy while_each_thread()") (in v3.14)).

        :raises Unavailable: a list is damaged, not in the target, or longer than the limit
        """
        init = self._prog["init_task"].address_of_().value_()
        leader = self.read(init)
        seen = {init}
        yield leader
        while True:
            address = leader.tasks - self._offsets["tasks"] & U64_MAX
            if address == init:
                return
            leader = thread = self._next(address, leader, seen)
            yield leader
            head = leader.signal + self._thread_head & U64_MAX
            while thread.thread_node != head:
                thread = self._next(thread.thread_node - self._offsets["thread_node"] & U64_MAX, thread, seen)
                yield thread

    def _next(self, address: int, before: TaskRecord, seen: set[int]) -> TaskRecord:
        if address in seen:
            raise Unavailable(f"task list: task {address:#x} follows pid {before.pid} and was met before")
        if len(seen) >= limits.TASKS:
            raise Unavailable(f"task list: more than {limits.TASKS} tasks")
        seen.add(address)
        try:
            return self.read(address)
        except FaultError:
            where = f"task {address:#x}, which follows pid {before.pid}"
            raise Unavailable(f"task list: {where}, is not in this target") from None


def read_reclaiming(prog: Program) -> tuple[Task, ...]:
    """Tasks in direct reclaim: ``task->reclaim_state`` is set. kswapd has it too, but reclaims for others.

    :raises Unavailable: the task list is damaged, or a task is not in the target
    """
    reader = TaskReader(prog)

    def read() -> tuple[list[TaskRecord], list[Unavailable]]:
        try:
            return list(reader.walk()), []
        except Unavailable as error:
            # On a live kernel a task can exit while the walk is at it.
            return [], [error]

    records, problems = settled(prog, read, lambda found: found[1])
    if problems:
        raise problems[0]
    return tuple(Task(*record[:3]) for record in records if record.reclaim_state and not record.flags & _PF_KSWAPD)


def read_accepting(prog: Program) -> AcceptingList:
    """The entries of ``static LIST_HEAD(accepting_list)``, ``struct accept_range`` on the stacks of their tasks.

    Linux kernel commit 50e782a86c98 ("efi/unaccepted: Fix soft lockups caused by parallel memory acceptance") (in v6.6,
    6.5.9) introduced the list. The accepting task has interrupts off, so it is the current task of a CPU, except with
    PREEMPT_RT. An allocation in a softirq accepts on the interrupt stack of its CPU: then it is the interrupted task.

    :raises Unavailable: the kernel has no such list
    """
    try:
        head = prog["accepting_list"].address_of_().value_()
    except LookupError:
        reason = "no accepting_list: this kernel does not have unaccepted memory, or is 6.5.0 to 6.5.8"
        raise Unavailable(reason) from None
    if struct.unpack("<QQ", prog.read(head, 16)) == (head, head):
        # The usual case. The structure is one of the last in BTF, which is read up to what is asked for.
        return AcceptingList((), ())
    entries, problems = settled(prog, lambda: _walk(prog, head), lambda found: found[1])
    owners: dict[int, Task] = {}
    wanted = {address for address, _, _ in entries}
    try:
        stacks = _stacks(prog) if wanted else iter(())
        for start, end, task in stacks:
            owners.update((address, task) for address in wanted if start <= address < end)
            wanted -= owners.keys()
            if not wanted:
                break
    except (Unavailable, FaultError, LookupError) as error:
        problems.append(f"tasks of {len(wanted)} entries not found: {error}")
    accepts = tuple(Accept(address, start, end, owners.get(address)) for address, start, end in entries)
    return AcceptingList(accepts, tuple(problems))


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


def _stacks(prog: Program) -> Iterator[tuple[int, int, Task]]:
    """Start, end (exclusive) and task of each CPU's current (or idle) and interrupt stack, then of all stacks."""
    # THREAD_SIZE: the linker script reserves as much for the first stack. The symbols have other names before v6.10.
    try:
        size = prog.symbol("__end_init_stack").address - prog.symbol("__start_init_stack").address
    except LookupError:
        size = prog.symbol("__end_init_task").address - prog.symbol("__start_init_task").address
    if not 0 < size <= limits.STACK_BYTES:
        raise Unavailable(f"kernel stacks have {size} bytes: at most {limits.STACK_BYTES} are expected")
    reader = TaskReader(prog)
    for number, offset in possible_cpus(prog).items():
        # A CPU that never came up has no current task.
        with suppress(FaultError):
            record = reader.read(per_cpu_word(prog, "current_task", offset))
            task = Task(record.pid, record.comm, number)
            yield record.stack, record.stack + size, task
            # irq_init_percpu_irqstack() stores the address of the stack's last word.
            end = per_cpu_word(prog, "hardirq_stack_ptr", offset) + 8
            yield end - sizeof(prog.type("struct irq_stack")), end, task
    for record in reader.walk():
        yield record.stack, record.stack + size, Task(*record[:3])
