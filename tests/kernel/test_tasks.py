# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who accepts, whose stack is whose, and who reclaims."""

from __future__ import annotations

import struct
from typing import Optional

import pytest
from drgn import TypeMember, offsetof

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.tasks import TaskReader, read_accepting, read_reclaiming
from drgn_unaccepted.snapshot import Task
from tests.kernel.allocator_program import IRQ_STACK_SIZE, PAGE, THREAD_SIZE, AllocatorProgram, said
from tests.kernel.live_program import walked_again

PF_KSWAPD = 0x00020000
RECLAIM = 0xFFFF888000123000


def make() -> tuple[AllocatorProgram, dict[int, int]]:
    """Three processes beside init_task, one with three threads: tasks by pid."""
    guest = AllocatorProgram()
    names = {0: "swapper/0", 1: "init", 40: "kswapd0", 50: "worker", 51: "worker-1", 52: "worker-2"}
    tasks = {pid: guest.add_task(pid, comm, cpu=pid % 2) for pid, comm in names.items()}
    guest.link_tasks([[tasks[0]], [tasks[1]], [tasks[40]], [tasks[50], tasks[51], tasks[52]]])
    return guest, tasks


def test_all_threads_of_all_processes() -> None:
    guest, _tasks = make()
    assert [(record.pid, record.comm, record.cpu) for record in TaskReader(guest.prog).walk()] == [
        (0, "swapper/0", 0),
        (1, "init", 1),
        (40, "kswapd0", 0),
        (50, "worker", 0),
        (51, "worker-1", 1),
        (52, "worker-2", 0),
    ]


def test_who_reclaims() -> None:
    guest, tasks = make()
    assert read_reclaiming(guest.prog) == ()
    for pid in (1, 40, 52):
        guest.set("task_struct", tasks[pid], "reclaim_state", RECLAIM)
    guest.set("task_struct", tasks[40], "flags", PF_KSWAPD | 0x800)
    guest.set("task_struct", tasks[52], "flags", 0x800)
    assert read_reclaiming(guest.prog) == (Task(1, "init", 1), Task(52, "worker-2", 0))


def test_without_smp_there_is_no_cpu() -> None:
    guest = AllocatorProgram()
    guest.structs["thread_info"] = [("flags", "unsigned long")]
    task = guest.new("task_struct", reclaim_state=RECLAIM, pid=9)
    guest.link_tasks([[task]])
    assert read_reclaiming(guest.prog) == (Task(9, "", None),)


def test_a_name_that_is_no_text() -> None:
    guest, tasks = make()
    guest.write(guest.at("task_struct", tasks[1], "comm"), b"\xff\x1b[31m" + b"x" * 10)
    guest.set("task_struct", tasks[1], "reclaim_state", RECLAIM)
    (task,) = read_reclaiming(guest.prog)
    assert task.comm == "\\xff\x1b[31m" + "x" * 10


@pytest.mark.parametrize(("at", "member", "to"), [(50, "tasks", 1), (52, "thread_node", 51)])
def test_a_cycle(at: int, member: str, to: int) -> None:
    guest, tasks = make()
    guest.set("task_struct", tasks[at], f"{member}.next", guest.at("task_struct", tasks[to], member))
    expected = f"task list: task {tasks[to]:#x} follows pid {at} and was met before"
    assert said(lambda: read_reclaiming(guest.prog)) == expected


def test_lists_that_lead_away_or_are_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    guest, tasks = make()
    for address in (0, 0xFFFF900000000000):
        guest.set("task_struct", tasks[1], "tasks.next", address)
        assert "which follows pid 1, is not in this target" in said(lambda: read_reclaiming(guest.prog))
    guest.set("task_struct", tasks[1], "tasks.next", guest.at("task_struct", tasks[40], "tasks"))
    monkeypatch.setattr(limits, "TASKS", 4)
    assert "more than 4 tasks" in said(lambda: read_reclaiming(guest.prog))


@pytest.mark.parametrize("beyond", [0, 8])
def test_as_large_a_struct_task_struct_as_is_read(beyond: int) -> None:
    """From the first member that is read to 16 bytes, the most that one has, from the start of the last."""
    guest = AllocatorProgram()
    plain = AllocatorProgram().type("task_struct")
    span = offsetof(plain, "reclaim_state") + 16 - offsetof(plain, "thread_info.cpu")
    padding = ("padding", f"unsigned char[{limits.TASK_STRUCT_BYTES - span + beyond}]")
    guest.structs["task_struct"].insert(-1, padding)
    task = guest.new("task_struct", reclaim_state=RECLAIM, pid=9)
    guest.link_tasks([[task]])
    expected = "struct task_struct has 65544 bytes: not supported" if beyond else (Task(9, "", 0),)
    assert said(lambda: read_reclaiming(guest.prog)) == expected


@pytest.mark.parametrize("broken", [limits.LIVE_ATTEMPTS - 1, limits.LIVE_ATTEMPTS])
def test_the_tasks_of_a_running_kernel_are_read_again(broken: int) -> None:
    """So many walks stand on a task that exits."""
    guest, tasks = make()
    guest.set("task_struct", tasks[52], "reclaim_state", RECLAIM)
    there = guest.at("task_struct", tasks[40], "tasks")
    guest.set("task_struct", tasks[1], "tasks.next", 0)
    first = tasks[0] + offsetof(guest.type("task_struct"), "thread_info.cpu")
    found = walked_again(
        guest.prog, first, broken, lambda: guest.set("task_struct", tasks[1], "tasks.next", there), read_reclaiming
    )
    if broken < limits.LIVE_ATTEMPTS:
        assert found == (Task(52, "worker-2", 0),)
    else:
        assert "which follows pid 1, is not in this target" in found


# The list of accepts in flight

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
