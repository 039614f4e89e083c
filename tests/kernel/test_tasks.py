# SPDX-License-Identifier: LGPL-2.1-or-later
from __future__ import annotations

import pytest
from drgn import offsetof

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.tasks import TaskReader, read_reclaiming
from drgn_unaccepted.snapshot import Task
from tests.kernel.allocator_program import AllocatorProgram, said
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
