# SPDX-License-Identifier: LGPL-2.1-or-later
"""All tasks of a kernel, threads included, read in bulk."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Optional

from drgn import FaultError, Program, ProgramFlags

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.errors import Unavailable
from drgn_unaccepted.kernel.probe import member_offset
from drgn_unaccepted.snapshot import Task

# include/linux/sched.h
_PF_KSWAPD = 0x00020000

_TASK_COMM_LEN = 16

_MASK = (1 << 64) - 1


class TaskRecord(NamedTuple):
    """What is read of one ``struct task_struct``."""

    #: Virtual address of the structure.
    address: int
    pid: int
    comm: str
    #: ``task_cpu()``; None without CONFIG_SMP.
    cpu: Optional[int]
    #: ``PF_*``.
    flags: int
    #: Lowest address of the kernel stack.
    stack: int
    reclaim_state: int
    signal: int
    next_task: int
    next_thread: int

    @property
    def task(self) -> Task:
        return Task(self.pid, self.comm, self.cpu)


class TaskReader:
    """Reads ``struct task_struct`` as bytes: one read for each task."""

    def __init__(self, prog: Program) -> None:
        self._prog = prog
        self._offsets = {
            name: member_offset(prog, "struct task_struct", name)
            for name in ("pid", "comm", "flags", "stack", "reclaim_state", "signal", "tasks", "thread_node")
        }
        try:
            self._cpu: Optional[int] = member_offset(prog, "struct task_struct", "thread_info.cpu", "cpu")
        except LookupError:
            self._cpu = None
        self.thread_head = member_offset(prog, "struct signal_struct", "thread_head")
        used = [*self._offsets.values(), *([] if self._cpu is None else [self._cpu])]
        self._start, self._size = min(used), max(used) + _TASK_COMM_LEN - min(used)
        if self._size > limits.TASK_STRUCT_BYTES:
            raise Unavailable(f"struct task_struct has {self._size} bytes: not supported")

    def read(self, address: int) -> TaskRecord:
        """The task at this address.

        :raises drgn.FaultError: not in the target
        """
        data = self._prog.read(address + self._start & _MASK, self._size)
        offsets = self._offsets

        def number(offset: int, size: int) -> int:
            return int.from_bytes(data[offset - self._start : offset - self._start + size], "little")

        comm = offsets["comm"] - self._start
        return TaskRecord(
            address=address,
            pid=number(offsets["pid"], 4),
            comm=data[comm : comm + _TASK_COMM_LEN].split(b"\0")[0].decode("utf-8", "backslashreplace"),
            cpu=None if self._cpu is None else number(self._cpu, 4),
            flags=number(offsets["flags"], 4),
            stack=number(offsets["stack"], 8),
            reclaim_state=number(offsets["reclaim_state"], 8),
            signal=number(offsets["signal"], 8),
            next_task=number(offsets["tasks"], 8),
            next_thread=number(offsets["thread_node"], 8),
        )

    def walk(self) -> Iterator[TaskRecord]:
        """``init_task``, then every thread of every process.

        The idle tasks of the other CPUs are on no list. Threads are linked through ``signal->thread_head`` (Linux
        kernel commit 0c740d0afc3b ("introduce for_each_thread() to replace the buggy while_each_thread()") (in v3.14)).

        :raises Unavailable: a list is damaged, not in the target, or longer than the limit
        :raises drgn.FaultError: the first task is not in the target
        """
        init = self._prog["init_task"].address_
        assert init is not None
        leader = self.read(init)
        seen = {init}
        yield leader
        while True:
            address = leader.next_task - self._offsets["tasks"] & _MASK
            if address == init:
                return
            leader = self._next(address, leader, seen)
            yield leader
            head = leader.signal + self.thread_head & _MASK
            thread = leader
            while thread.next_thread != head:
                address = thread.next_thread - self._offsets["thread_node"] & _MASK
                thread = self._next(address, thread, seen)
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


def thread_size(prog: Program) -> int:
    """THREAD_SIZE, bytes of a kernel stack: the linker script reserves as much for the first one.

    The symbols around it are ``__start_init_task`` and ``__end_init_task`` before v6.10.

    :raises Unavailable: more than any kernel has
    :raises LookupError: the symbols are not known
    """
    try:
        start, end = prog.symbol("__start_init_stack"), prog.symbol("__end_init_stack")
    except LookupError:
        start, end = prog.symbol("__start_init_task"), prog.symbol("__end_init_task")
    size = int(end.address - start.address)
    if not 0 < size <= limits.STACK_BYTES:
        raise Unavailable(f"kernel stacks have {size} bytes: at most {limits.STACK_BYTES} are expected")
    return size


def read_reclaiming(prog: Program) -> tuple[Task, ...]:
    """Tasks in direct reclaim: ``task->reclaim_state`` is set, and the task is not kswapd, which reclaims for others.

    :raises Unavailable: the task list is damaged, or a task is not in the target
    :raises drgn.FaultError: the first task is not in the target
    """
    attempts = limits.LIVE_ATTEMPTS if prog.flags & ProgramFlags.IS_LIVE else 1
    reader = TaskReader(prog)
    while True:
        attempts -= 1
        try:
            return tuple(
                record.task for record in reader.walk() if record.reclaim_state and not record.flags & _PF_KSWAPD
            )
        except Unavailable:
            # On a live kernel a task can exit, and its memory be used again, while the walk stands on it.
            if not attempts:
                raise
