# SPDX-License-Identifier: LGPL-2.1-or-later
"""The page allocator's side on dumps of kernels that booted, against what the guest said of itself."""

from __future__ import annotations

import gzip
import re
from array import array
from collections import Counter
from pathlib import Path

import drgn
import pytest

from drgn_unaccepted.kernel.pages import read_pages
from drgn_unaccepted.kernel.platform import read_kernel_build, read_platform
from drgn_unaccepted.kernel.tasks import TaskReader, read_accepting
from drgn_unaccepted.kernel.zones import read_counters, read_zones
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.targets.symbol_files import read_symbol_file
from drgn_unaccepted.targets.vmcore import open_vmcore
from tests.lab.captures import Capture, captures, find, listed_chunks

pytestmark = pytest.mark.lab

if not captures():
    pytest.skip("no captures of the guest lab: make them with scripts/lab all", allow_module_level=True)

#: drgn opens no dump without VMCOREINFO.
NOT_OPENED = ("novmcoreinfo", "early")
#: Guests that accepted on after they wrote their account.
MOVING = ("panic", "panic-kdump", "inflight")
FILES = [
    (capture, capture.path / name)
    for capture in captures()
    if capture.path.name not in NOT_OPENED
    for name in ("dump.elf", "kdump.elf", "kdump.z")
    if (capture.path / name).exists()
]
DUMPS = [pytest.param(*file, id=f"{file[0].name}-{file[1].name}") for file in FILES]
RAM = [capture for capture in captures() if capture.path.name not in NOT_OPENED and capture.dump.exists()]
STILL = [capture for capture in RAM if capture.path.name not in MOVING]

# include/uapi/linux/kernel-page-flags.h and fs/proc/page.c
KPF = {"LRU": 5, "SLAB": 7, "BUDDY": 10, "COMPOUND_TAIL": 16, "NOPAGE": 20, "RESERVED": 32}


def name_of(capture: Capture) -> str:
    return capture.name


def dwarf(capture: Capture, path: Path) -> drgn.Program:
    return open_vmcore(str(path), [read_symbol_file(capture.vmlinux, "dwarf")], "dwarf").prog


def btf(path: Path) -> drgn.Program:
    return open_vmcore(str(path), (), "btf").prog


def zoneinfo(capture: Capture) -> dict[tuple[int, str], dict[str, int]]:
    """``/proc/zoneinfo``: the numbers of each populated zone."""
    found = {}
    for text in re.split(r"^(?=Node )", capture.account("zoneinfo"), flags=re.M)[1:]:
        head = re.match(r"Node (\d+), zone +(\w+)", text)
        assert head
        pairs = re.findall(r"^ +(?:pages )?(\w+):? +(\d+)$", text, re.M)
        # The first of each name: those of the CPUs' page sets follow the zone's.
        numbers = {key: int(value) for key, value in reversed(pairs)}
        if numbers["present"]:
            found[int(head[1]), head[2]] = numbers
    return found


@pytest.mark.parametrize(("capture", "path"), DUMPS)
def test_zones_and_counters_are_those_of_the_guest(capture: Capture, path: Path) -> None:
    prog = btf(path)
    zones = read_zones(prog, read_kernel_build(prog))
    told = zoneinfo(capture)
    assert {(zone.node, zone.name) for zone in zones} == set(told)
    for zone in zones:
        numbers = told[zone.node, zone.name]
        assert (zone.start_pfn, zone.spanned_pages) == (numbers["start_pfn"], numbers["spanned"])
        assert (zone.present_pages, zone.managed_pages) == (numbers["present"], numbers["managed"])
        marks = zone.watermarks
        # min_wmark_pages() and its like add the boost, which comes and goes between the account and the dump.
        expected = [numbers[name] - numbers["boost"] for name in ("min", "low", "high", "promo")]
        assert [marks.min, marks.low, marks.high, marks.promo] == expected
        assert zone.problems == ()
        assert zone.listed is not None
        assert zone.listed.problems == ()
        assert zone.unaccepted_pages == 1024 * len(zone.listed.pfns)
        # Reference, invariant I9: what is free is on a free list or unaccepted.
        assert zone.unaccepted_pages is not None
        assert zone.free_pages == zone.buddy_pages + zone.unaccepted_pages
        if capture.path.name not in MOVING:
            assert zone.unaccepted_pages == numbers["nr_unaccepted"]
            # The guest frees and takes pages as it writes its account: 17 MiB were seen in one capture of many.
            assert abs(zone.free_pages - numbers["nr_free_pages"]) < 16384
    counters = read_counters(prog)
    assert counters.unaccepted_diff == 0
    if capture.path.name not in MOVING:
        assert counters.unaccepted_pages is not None
        assert counters.unaccepted_pages * 4096 == capture.nr_unaccepted()
        assert read_accepting(prog).entries == ()


@pytest.mark.parametrize("capture", RAM, ids=name_of)
def test_lists_equal_a_walk_with_drgn(capture: Capture) -> None:
    prog = btf(capture.dump)
    build = read_kernel_build(prog)
    zones = read_zones(prog, build)
    ours = {pfn * 4096 for zone in zones if zone.listed is not None for pfn in zone.listed.pfns}
    assert ours == listed_chunks(capture.dump, capture.vmlinux)
    for zone in zones:
        assert zone.listed is not None
        # Reference, C18 and C19: nobody uses them, and they are of this zone.
        assert set(zone.listed.page_types) <= {0xF7000000}
        assert set(zone.listed.refcounts) <= {0}
        assert build.zone_id_shift is not None
        assert {flags >> build.zone_id_shift for flags in zone.listed.flags} <= {zone.zone_id}


@pytest.mark.parametrize("capture", STILL, ids=name_of)
def test_page_states_are_those_of_the_guest(capture: Capture) -> None:
    """``/proc/kpageflags``, which the guest read a little before it was dumped."""
    flags = array("Q", gzip.decompress((capture.path / "guest" / "kpageflags.gz").read_bytes()))
    prog = btf(capture.dump)
    pages = read_pages(prog, [Range(0, len(flags) * 4096)], read_kernel_build(prog))
    assert pages.limited is None
    assert pages.scanned == (Range(0, len(flags) * 4096),)

    by_state: dict[str, Counter[int]] = {}
    for run in pages.runs:
        by_state.setdefault(run.state, Counter()).update(flags[run.start_pfn : run.end_pfn])
    total = {state: sum(counts.values()) for state, counts in by_state.items()}

    def those_with(flag: str) -> dict[str, int]:
        bit = KPF[flag]
        found = {state: sum(n for f, n in counts.items() if f >> bit & 1) for state, counts in by_state.items()}
        return {state: count for state, count in found.items() if count}

    # What does not change while a guest runs is equal to a page. Of a hole inside a section of memory there is a
    # struct page, reserved, which pfn_to_online_page() does not show to /proc/kpageflags (nor 7.3 its flags).
    no_page = those_with("NOPAGE")
    no_page.pop("reserved", None)
    assert no_page in ({"absent": total["absent"]}, {})
    shown = those_with("RESERVED")
    assert set(shown) == {"reserved"}
    if capture.path.name != "e820ext":  # the one with such holes
        assert shown["reserved"] == total["reserved"]
    assert total.get("unaccepted", 0) * 4096 == capture.nr_unaccepted()
    assert set(by_state.get("unaccepted", ())) <= {0}
    assert set(by_state["absent"]) <= {0, 1 << KPF["NOPAGE"]}
    # The rest is, but for the pages that changed hands in between.
    for flag, state in (("BUDDY", "buddy"), ("SLAB", "in-use"), ("COMPOUND_TAIL", "in-use")):
        found = those_with(flag)
        assert found[state] >= 0.97 * sum(found.values())
    assert set(those_with("LRU")) <= {"in-use", "free", "per-cpu", "buddy"}
    assert set(total) <= {"absent", "buddy", "in-use", "reserved", "unaccepted", "free", "per-cpu"}


def crashed_by(capture: Capture) -> tuple[int, int, str]:
    """CPU, pid and name of the task that panicked, as the console said."""
    found = re.search(r"CPU: (\d+) UID: 0 PID: (\d+) Comm: (\S+) ", (capture.path / "serial.log").read_text("latin-1"))
    assert found
    return int(found[1]), int(found[2]), found[3]


@pytest.mark.parametrize(("capture", "path"), [file for file in FILES if file[0].path.name in ("panic", "panic-kdump")])
def test_who_was_accepting_when_the_guest_died(capture: Capture, path: Path) -> None:
    found = read_accepting(btf(path))
    assert found.problems == ()
    (entry,) = found.entries
    assert entry.task is not None
    assert (entry.task.cpu, entry.task.pid, entry.task.comm) == crashed_by(capture)


@pytest.mark.parametrize("capture", find("inflight"), ids=name_of)
def test_who_is_accepting(capture: Capture) -> None:
    prog = dwarf(capture, capture.dump)
    found = read_accepting(prog)
    assert found.problems == ()
    # By the stacks of all tasks that drgn unwinds.
    accepting = set()
    for record in TaskReader(prog).walk():
        if record.pid and "accept_memory" in [frame.name for frame in prog.stack_trace(record.pid)]:
            accepting.add(record.pid)
    assert {entry.task.pid for entry in found.entries if entry.task is not None} == accepting
    assert len(found.entries) == len(accepting) > 0


@pytest.mark.parametrize("capture", RAM, ids=name_of)
def test_tasks_equal_a_walk_with_drgn(capture: Capture) -> None:
    from drgn.helpers.linux.pid import for_each_task
    from drgn.helpers.linux.sched import task_cpu

    prog = dwarf(capture, capture.dump)
    expected = {(t.pid.value_(), t.comm.string_().decode(), task_cpu(t), t.stack.value_()) for t in for_each_task(prog)}
    found = {(t.pid, t.comm, t.cpu, t.stack) for t in TaskReader(prog).walk()}
    # for_each_task() goes by pid and so leaves out the idle task of CPU 0.
    assert found - expected == {t for t in found if t[0] == 0}
    assert expected <= found


@pytest.mark.parametrize(("capture", "path"), DUMPS)
def test_build_and_platform(capture: Capture, path: Path) -> None:
    prog = btf(path)
    build = read_kernel_build(prog)
    assert build.unaccepted_memory is True
    assert build.unaccepted_page_type == 0xF7000000
    assert build.chunk_pages == 1024
    assert build.static_key is None
    # Linux 6.16 and later.
    assert build.vmcoreinfo_unaccepted == (capture.path.parent.name == "7.3")
    assert build.kexec_booted == (capture.path.name == "kexec")
    assert build.unaccepts is False
    assert build.system_state == "running"
    assert build.cpus == len(re.findall(r"^processor\s*:", capture.account("cpuinfo"), re.M))
    platform = read_platform(prog)
    # QEMU emulates neither; its CPU is AMD's without SEV.
    assert (platform.kind, platform.sev_status) == ("none", 0)
    assert platform.lazy == ("accept_memory=eager" not in capture.account("cmdline"))
