# SPDX-License-Identifier: LGPL-2.1-or-later
"""All tasks of a kernel, threads included, and on whose kernel stack an address lies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple, Optional

from drgn import FaultError, Program, sizeof

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.errors import Unavailable
from drgn_unaccepted.kernel.lists import settled
from drgn_unaccepted.kernel.percpu import per_cpu_pointer, possible_cpus
from drgn_unaccepted.kernel.probe import U64_MAX, member_offset
from drgn_unaccepted.snapshot import Task

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
    next_task: int
    next_thread: int

    @property
    def task(self) -> Task:
        return Task(self.pid, self.comm, self.cpu)


class TaskReader:
    """Reads each ``struct task_struct`` with one read."""

    def __init__(self, prog: Program) -> None:
        self._prog = prog
        self._offsets = {
            name: member_offset(prog, "struct task_struct", name)
            for name in ("pid", "comm", "flags", "stack", "reclaim_state", "signal", "tasks", "thread_node")
        }
        with suppress(LookupError):  # no CONFIG_SMP
            self._offsets["cpu"] = member_offset(prog, "struct task_struct", "thread_info.cpu", "cpu")
        self._thread_head = member_offset(prog, "struct signal_struct", "thread_head")
        used = self._offsets.values()
        self._start, self._size = min(used), max(used) + _TASK_COMM_LEN - min(used)
        if self._size > limits.TASK_STRUCT_BYTES:
            raise Unavailable(f"struct task_struct has {self._size} bytes: not supported")

    def read(self, address: int) -> TaskRecord:
        """The task at this address.

        :raises drgn.FaultError: not in the target
        """
        data = self._prog.read(address + self._start & U64_MAX, self._size)

        def number(name: str, size: int) -> int:
            offset = self._offsets[name] - self._start
            return int.from_bytes(data[offset : offset + size], "little")

        comm = self._offsets["comm"] - self._start
        return TaskRecord(
            pid=number("pid", 4),
            comm=data[comm : comm + _TASK_COMM_LEN].split(b"\0")[0].decode("utf-8", "backslashreplace"),
            cpu=number("cpu", 4) if "cpu" in self._offsets else None,
            flags=number("flags", 4),
            stack=number("stack", 8),
            reclaim_state=number("reclaim_state", 8),
            signal=number("signal", 8),
            next_task=number("tasks", 8),
            next_thread=number("thread_node", 8),
        )

    def walk(self) -> Iterator[TaskRecord]:
        """``init_task``, then every thread of every process.

        The idle tasks of the other CPUs are on no list. Threads are linked through ``signal->thread_head`` (Linux
        kernel commit 0c740d0afc3b ("introduce for_each_thread() to replace the buggy while_each_thread()") (in v3.14)).

        :raises Unavailable: a list is damaged, not in the target, or longer than the limit
        """
        init = self._prog["init_task"].address_
        assert init is not None
        leader = self.read(init)
        seen = {init}
        yield leader
        while True:
            address = leader.next_task - self._offsets["tasks"] & U64_MAX
            if address == init:
                return
            leader = thread = self._next(address, leader, seen)
            yield leader
            head = leader.signal + self._thread_head & U64_MAX
            while thread.next_thread != head:
                thread = self._next(thread.next_thread - self._offsets["thread_node"] & U64_MAX, thread, seen)
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
            raise Unavailable(
                f"task list: task {address:#x}, which follows pid {before.pid}, is not in this target"
            ) from None


def read_reclaiming(prog: Program) -> tuple[Task, ...]:
    """Tasks in direct reclaim: ``task->reclaim_state`` is set. kswapd has it too, but reclaims for others.

    :raises Unavailable: the task list is damaged, or a task is not in the target
    :raises drgn.FaultError: the first task is not in the target
    """
    reader = TaskReader(prog)

    def read() -> tuple[list[Task], list[Unavailable]]:
        try:
            walk = list(reader.walk())
        except Unavailable as error:
            # On a live kernel a task can exit while the walk is at it.
            return [], [error]
        return [record.task for record in walk if record.reclaim_state and not record.flags & _PF_KSWAPD], []

    tasks, problems = settled(prog, read, lambda found: found[1])
    if problems:
        raise problems[0]
    return tuple(tasks)


def owners_of(prog: Program, addresses: Iterable[int]) -> tuple[dict[int, Task], Optional[str]]:
    """The task on whose stack each address lies, and what ended the search while some were not found.

    On an interrupt stack it is the task that was interrupted there. An address that is on no stack is left out.
    """
    owners: dict[int, Task] = {}
    wanted = set(addresses)
    if not wanted:
        return owners, None
    try:
        for start, end, task in _stacks(prog):
            owners.update((address, task) for address in wanted if start <= address < end)
            wanted -= owners.keys()
            if not wanted:
                break
    except (Unavailable, FaultError, LookupError) as error:
        return owners, f"tasks of {len(wanted)} entries not found: {error}"
    return owners, None


def _stacks(prog: Program) -> Iterator[tuple[int, int, Task]]:
    """The stack of each CPU's current task (idle tasks among them), each CPU's interrupt stack, then all stacks.

    :return: start, end (exclusive) and task of each
    """
    size = _thread_size(prog)
    reader = TaskReader(prog)
    for number, offset in possible_cpus(prog).items():
        # A CPU that never came up has no current task.
        with suppress(FaultError):
            record = reader.read(per_cpu_pointer(prog, "current_task", offset))
            task = Task(record.pid, record.comm, number)
            yield record.stack, record.stack + size, task
            # irq_init_percpu_irqstack() stores the address of the stack's last word.
            end = per_cpu_pointer(prog, "hardirq_stack_ptr", offset) + 8
            yield end - sizeof(prog.type("struct irq_stack")), end, task
    for record in reader.walk():
        yield record.stack, record.stack + size, record.task


def _thread_size(prog: Program) -> int:
    """THREAD_SIZE, bytes of a kernel stack: the linker script reserves as much for the first one.

    Before v6.10 the symbols around it are ``__start_init_task`` and ``__end_init_task``.
    """
    try:
        start, end = prog.symbol("__start_init_stack"), prog.symbol("__end_init_stack")
    except LookupError:
        start, end = prog.symbol("__start_init_task"), prog.symbol("__end_init_task")
    size = int(end.address - start.address)
    if not 0 < size <= limits.STACK_BYTES:
        raise Unavailable(f"kernel stacks have {size} bytes: at most {limits.STACK_BYTES} are expected")
    return size
