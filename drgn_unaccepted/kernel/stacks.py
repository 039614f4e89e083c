# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whose kernel stack an address lies on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Optional

from drgn import FaultError, Program, sizeof

from drgn_unaccepted.kernel.errors import Unavailable
from drgn_unaccepted.kernel.percpu import per_cpu_pointer, possible_cpus
from drgn_unaccepted.kernel.tasks import TaskReader, thread_size
from drgn_unaccepted.snapshot import Task


class _Stack(NamedTuple):
    start: int
    end: int
    task: Task


def owners_of(prog: Program, addresses: Iterable[int]) -> tuple[dict[int, Task], Optional[str]]:
    """The task on whose stack each of these lies, and what ended the search while some were without.

    On an interrupt stack it is the task that was interrupted there. An address that lies on no stack is left out.
    """
    owners: dict[int, Task] = {}
    wanted = set(addresses)
    try:
        for stacks in (_running_stacks, _all_stacks):
            if not wanted:
                break
            for stack in stacks(prog):
                for address in [address for address in wanted if stack.start <= address < stack.end]:
                    owners[address] = stack.task
                    wanted.remove(address)
                if not wanted:
                    break
    except (Unavailable, FaultError, LookupError) as error:
        return owners, f"tasks of {len(wanted)} entries not found: {error}"
    return owners, None


def _running_stacks(prog: Program) -> Iterator[_Stack]:
    """The stack of each CPU's current task, idle tasks among them, and each CPU's interrupt stack."""
    size = thread_size(prog)
    reader = TaskReader(prog)
    for cpu in possible_cpus(prog):
        try:
            record = reader.read(per_cpu_pointer(prog, "current_task", cpu))
        except FaultError:
            # A CPU that never came up has no current task.
            continue
        task = Task(record.pid, record.comm, cpu.number)
        yield _Stack(record.stack, record.stack + size, task)
        try:
            top = per_cpu_pointer(prog, "hardirq_stack_ptr", cpu)
        except FaultError:
            continue
        # irq_init_percpu_irqstack() stores the address of the stack's last word.
        end = top + 8
        yield _Stack(end - sizeof(prog.type("struct irq_stack")), end, task)


def _all_stacks(prog: Program) -> Iterator[_Stack]:
    size = thread_size(prog)
    for record in TaskReader(prog).walk():
        yield _Stack(record.stack, record.stack + size, record.task)
