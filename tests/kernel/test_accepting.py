# SPDX-License-Identifier: LGPL-2.1-or-later
from __future__ import annotations

import struct
from typing import Optional

import pytest
from drgn import TypeMember

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.tasks import read_accepting
from drgn_unaccepted.snapshot import Task
from tests.kernel.allocator_program import IRQ_STACK_SIZE, PAGE, THREAD_SIZE, AllocatorProgram, said
from tests.kernel.live_program import walked_again

#: Where CPU 1 has its per-CPU variables, from those of CPU 0.
CPU1 = 0x10000

TASKS = {
    "swapper": Task(0, "swapper/0", 0),
    "idle": Task(0, "swapper/1", 1),
    "dd": Task(70, "dd", 0),
    "init": Task(1, "init", 1),
    "thread": Task(71, "a thread of 15c", 1),
}


class Guest(AllocatorProgram):
    """Two CPUs, that run ``dd`` (pid 70) and the idle task of CPU 1, and three more tasks."""

    def __init__(self, hot: bool = False) -> None:
        super().__init__()
        self.head = self.set_global("accepting_list", "list_head", bytes(16))
        self.link(self.head, [])
        self.symbols["__start_init_stack"] = 0xFFFFFFFF81E00000
        self.symbols["__end_init_stack"] = 0xFFFFFFFF81E00000 + THREAD_SIZE
        self.stacks = {name: self.place(THREAD_SIZE) for name in TASKS}
        self.tasks = {
            name: self.add_task(task.pid, task.comm, cpu=task.cpu or 0, stack=self.stacks[name])
            for name, task in TASKS.items()
        }
        # The idle task of CPU 1 is on no list.
        self.link_tasks([[self.tasks["swapper"]], [self.tasks["init"]], [self.tasks["dd"], self.tasks["thread"]]])
        self.add_cpus([0, CPU1])
        self.irq_stacks = [self.place(IRQ_STACK_SIZE), self.place(IRQ_STACK_SIZE)]
        if hot:
            members = [("current_task", "void*"), ("preempt_count", "int"), ("hardirq_stack_ptr", "void*")]
            self.structs["pcpu_hot"] = members
            current = self.place(2 * CPU1)
            self.globals["pcpu_hot"] = ("pcpu_hot", current)
            irq = current + 16
        else:
            current, irq = self.place(2 * CPU1), self.place(2 * CPU1)
            # Known by their symbols only, as static variables are without debuginfo.
            self.symbols["current_task"], self.symbols["hardirq_stack_ptr"] = current, irq
        for offset, task, stack in ((0, "dd", 0), (CPU1, "idle", 1)):
            self.write(current + offset, struct.pack("<Q", self.tasks[task]))
            self.write(irq + offset, struct.pack("<Q", self.irq_stacks[stack] + IRQ_STACK_SIZE - 8))

    def accept(self, *entries: tuple[int, int, int]) -> None:
        """``struct accept_range`` at these addresses, with their first and end unit."""
        for address, start, end in entries:
            self.write(address, struct.pack("<QQQQ", 0, 0, start, end))
        self.link(self.head, [address for address, _start, _end in entries])

    def owner(self, address: int) -> Optional[Task]:
        self.accept((address, 1, 2))
        (entry,) = read_accepting(self.prog).entries
        return entry.task


def test_nothing_in_flight() -> None:
    guest = Guest()
    # Nobody is looked for.
    guest.symbols.clear()
    assert read_accepting(guest.prog).entries == ()
    assert read_accepting(guest.prog).problems == ()


@pytest.mark.parametrize("hot", [False, True])
@pytest.mark.parametrize(("stack", "task"), TASKS.items())
def test_the_task_whose_stack_it_is(hot: bool, stack: str, task: Task) -> None:
    guest = Guest(hot)
    for offset in (0, THREAD_SIZE - 32):
        assert guest.owner(guest.stacks[stack] + offset) == task


def test_an_interrupt_stack() -> None:
    guest = Guest()
    # The symbols before 6.10.
    guest.symbols["__start_init_task"] = guest.symbols.pop("__start_init_stack")
    guest.symbols["__end_init_task"] = guest.symbols.pop("__end_init_stack")
    for cpu, task in ((0, TASKS["dd"]), (1, TASKS["idle"])):
        assert guest.owner(guest.irq_stacks[cpu]) == task
        assert guest.owner(guest.irq_stacks[cpu] + IRQ_STACK_SIZE - 32) == task
    assert guest.owner(guest.place(64)) is None
    assert read_accepting(guest.prog).problems == ()


def test_tasks_that_are_not_captured() -> None:
    guest = Guest()
    address = guest.stacks["init"]
    guest.accept((address, 1, 2))
    guest.set("task_struct", guest.tasks["swapper"], "tasks.next", 0xFFFF900000000000)
    found = read_accepting(guest.prog)
    assert found.entries[0].task is None
    assert found.problems[0].startswith("tasks of 1 entries not found: task list: task 0xffff8fff")
    assert found.problems[0].endswith("which follows pid 0, is not in this target")


def test_a_size_of_stacks_that_cannot_be() -> None:
    guest = Guest()
    guest.symbols["__end_init_stack"] += 1 << 30
    guest.accept((guest.stacks["dd"], 1, 2))
    found = read_accepting(guest.prog)
    assert found.entries[0].task is None
    assert found.problems == (
        f"tasks of 1 entries not found: kernel stacks have {THREAD_SIZE + (1 << 30)} bytes: "
        f"at most {limits.STACK_BYTES} are expected",
    )


def test_a_kernel_without_the_list() -> None:
    guest = Guest()
    del guest.globals["accepting_list"]
    assert "no accepting_list" in said(lambda: read_accepting(guest.prog))


# --- lists that are not sane ---


def entries_of(guest: Guest, count: int) -> list[int]:
    addresses = [guest.place(PAGE) for _ in range(count)]
    guest.accept(*((address, n, n + 1) for n, address in enumerate(addresses)))
    return addresses


def test_damaged_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in a way that test_lists.py has for lists of pages."""
    guest = Guest()
    first, second, third = addresses = entries_of(guest, 3)

    def found() -> tuple[list[int], tuple[str, ...]]:
        accepting = read_accepting(guest.prog)
        return [entry.address for entry in accepting.entries], accepting.problems

    monkeypatch.setattr(limits, "ACCEPTING_ENTRIES", 2)
    assert found() == ([first, second], ("more than 2 entries",))
    monkeypatch.undo()
    guest.write(third, struct.pack("<Q", second))
    assert found() == (addresses, (f"entry 3: {second:#x} again: a cycle",))
    guest.write(second, struct.pack("<QQ", guest.head, guest.head))
    assert found() == (
        [first, second],
        (
            f"entry 1: {second:#x} has prev {guest.head:#x}, it was reached from {first:#x}",
            f"list head has prev {third:#x}, the last entry is {second:#x}",
        ),
    )
    guest.drop(second)
    assert found() == ([first], (f"entry 1: {second:#x} is not in this target",))


@pytest.mark.parametrize(
    ("size", "start", "end", "refused"),
    [
        (32, 16, 24, False),
        (limits.ACCEPT_RANGE_BYTES, 16, 24, False),
        (limits.ACCEPT_RANGE_BYTES + 8, 16, 24, True),
        (32, 24, 16, False),
        (31, 16, 24, True),
        (32, 25, 16, True),
        (32, 16, 1 << 20, True),
        (8, 0, 0, True),
    ],
)
def test_members_outside_of_their_structure(size: int, start: int, end: int, refused: bool) -> None:
    """Types can be from the target's own BTF, and say anything."""
    guest = Guest()
    addresses = entries_of(guest, 1)
    places = {"list": ("list_head", 0), "start": ("unsigned long", start), "end": ("unsigned long", end)}
    members = [TypeMember(guest.type(of), name, 8 * offset) for name, (of, offset) in places.items()]
    guest._types["accept_range"] = guest.prog.struct_type("accept_range", size, members)
    found = said(lambda: [entry.address for entry in read_accepting(guest.prog).entries])
    assert found == ("struct accept_range is not laid out as expected" if refused else addresses)


@pytest.mark.parametrize("broken", [limits.LIVE_ATTEMPTS - 1, limits.LIVE_ATTEMPTS])
def test_a_list_of_a_running_kernel_is_read_again(broken: int) -> None:
    """So many walks find the list broken, as if an accept had ended under them."""
    guest = Guest()
    first, second = entries_of(guest, 2)
    guest.write(first, bytes(8))
    found = walked_again(
        guest.prog, first, broken, lambda: guest.write(first, struct.pack("<Q", second)), read_accepting
    )
    problems = () if broken < limits.LIVE_ATTEMPTS else ("entry 1: the entry before it points to NULL",)
    assert [entry.address for entry in found.entries] == ([first] if problems else [first, second])
    assert found.problems == problems
