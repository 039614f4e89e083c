# SPDX-License-Identifier: LGPL-2.1-or-later
"""BTF and kallsyms out of the lab's dumps, against the DWARF of the same kernels and the guests' own symbols."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from math import prod
from pathlib import Path

import drgn
import pytest
from drgn import Program, Type, TypeKind

from drgn_unaccepted import limits
from drgn_unaccepted.targets.debug_info import GLOBALS, SYMBOLS, attach, load_btf
from drgn_unaccepted.targets.symbol_files import ElfSections
from tests.lab.captures import Capture, captures

pytestmark = pytest.mark.lab

# A guest that died before it wrote VMCOREINFO, and one without the driver for it: kallsyms cannot be found there.
WITHOUT_VMCOREINFO = ("early", "novmcoreinfo")
CAPTURES = [c for c in captures() if c.path.name not in WITHOUT_VMCOREINFO]
KERNELS = sorted({c.vmlinux for c in CAPTURES if Path(c.vmlinux).exists()})

if not KERNELS:
    pytest.skip("no captures of the guest lab: make them with scripts/lab all", allow_module_level=True)

USED = [
    *("struct zone", "struct page", "struct pglist_data", "struct per_cpu_zonestat", "struct mem_section"),
    *("struct efi", "struct boot_params", "struct e820_table", "struct efi_unaccepted_memory", "struct accept_range"),
    *("struct resource", "struct kimage", "struct task_struct", "struct printk_ringbuffer", "struct printk_info"),
    *("struct list_head", "struct cpuinfo_x86", "struct uts_namespace", "struct mm_struct", "struct irq_stack"),
    *("efi_memory_desc_t", "nodemask_t", "atomic_long_t", "size_t", "bool", "u64", "unsigned long", "char", "pgd_t"),
    *("enum cc_vendor", "enum zone_stat_item", "enum pageflags", "enum pagetype", "enum migratetype"),
    *("enum zone_watermarks", "enum zone_type", "enum system_states"),
]


def dumps(capture: Capture) -> list[Path]:
    return [path for name in ("dump.elf", "kdump.elf", "kdump.z") if (path := capture.path / name).exists()]


def open_dump(path: Path, vmlinux: str = "") -> Program:
    prog = Program()
    prog.set_core_dump(path)
    if vmlinux:
        prog.load_debug_info([vmlinux])
    else:
        load_btf(prog)
    return prog


def btf_section(vmlinux: str) -> bytes:
    with Path(vmlinux).open("rb") as file:
        data = ElfSections(file).data(".BTF", limits.BTF_BYTES)
    assert data is not None
    return data


@cache
def without_target(vmlinux: str, kind: str) -> Program:
    prog = Program(drgn.Platform(drgn.Architecture.X86_64))
    if kind == "btf":
        attach(prog, btf_section(vmlinux))
    else:
        prog.extra_module(vmlinux, create=True).try_file(vmlinux, force=True)
    return prog


def text(of: Type) -> str:
    """As C writes it, but all dimensions of an array in one and ``[0]`` like ``[]``, as BTF has them."""
    return re.sub(
        r"(\[\d+\]){2,}", lambda m: f"[{prod(map(int, re.findall(r'[0-9]+', m[0])))}]", str(of).replace("[0]", "[]")
    )


def element(of: Type) -> Type:
    while of.kind == TypeKind.ARRAY:
        of = of.type
    return of


def differences(dwarf: Type, btf: Type, path: str, depth: int, seen: set[str]) -> Iterator[str]:
    """Field for field, through pointers to the given depth; each named structure once."""
    dwarf, btf, kind = element(dwarf), element(btf), element(dwarf).kind
    if text(dwarf) != text(btf) or getattr(dwarf, "size", None) != getattr(btf, "size", None):
        yield f"{path}: {dwarf}, in BTF {btf}"
    elif kind == TypeKind.TYPEDEF or (kind == TypeKind.ENUM and dwarf.type):
        yield from differences(dwarf.type, btf.type, path, depth, seen)
    elif kind in (TypeKind.POINTER, TypeKind.FUNCTION) and depth:
        yield from differences(dwarf.type, btf.type, path + "*", depth - 1, seen)
        for ours, theirs in zip(dwarf.parameters, btf.parameters) if kind == TypeKind.FUNCTION else ():
            yield from differences(ours.type, theirs.type, path + "()", depth - 1, seen)
    elif kind in (TypeKind.STRUCT, TypeKind.UNION) and dwarf.members and dwarf.tag not in seen:
        seen |= {dwarf.tag} - {None}
        for ours, theirs in zip(dwarf.members, btf.members):
            if (ours.bit_offset, ours.bit_field_size) != (theirs.bit_offset, theirs.bit_field_size):
                yield f"{path}.{ours.name}: at bit {ours.bit_offset}, in BTF {theirs.bit_offset}"
            yield from differences(ours.type, theirs.type, f"{path}.{ours.name}", depth, seen)


@pytest.mark.parametrize("vmlinux", KERNELS, ids=lambda path: Path(path).parent.name)
def test_types_are_those_of_dwarf_field_for_field(vmlinux: str) -> None:
    dwarf, btf = without_target(vmlinux, "dwarf"), without_target(vmlinux, "btf")
    seen: set[str] = set()
    compared = 0
    for name in USED:
        try:
            expected = dwarf.type(name)
        except LookupError:
            # This kernel does not have it; then BTF must not either.
            with pytest.raises(LookupError):
                btf.type(name)
            continue
        compared += 1
        assert list(differences(expected, btf.type(name), name, 2, seen)) == []
    assert compared > 25 and len(seen) > 150


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda c: c.name)
def test_variables_are_those_of_dwarf(capture: Capture) -> None:
    dump = dumps(capture)[0]
    dwarf, btf = open_dump(dump, capture.vmlinux), open_dump(dump)

    def places(prog: Program) -> dict[str, tuple[str, int]]:
        found = {}
        for name in GLOBALS:
            try:
                variable = prog[name]
            except LookupError:
                continue
            assert variable.address_ is not None
            found[name] = variable.type_.type_name(), variable.address_
        return found

    expected = places(dwarf)
    assert len(expected) > 35
    assert places(btf) == expected
    for constant in ("NR_FREE_PAGES", "NR_UNACCEPTED", "NR_VM_ZONE_STAT_ITEMS", "SYSTEM_RUNNING", "PG_reserved"):
        ours, theirs = btf.constant(constant), dwarf.constant(constant)
        assert (ours.value_(), ours.type_.type_name()) == (theirs.value_(), theirs.type_.type_name())


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda c: c.name)
def test_symbols_are_those_that_the_guest_printed(capture: Capture) -> None:
    if not (capture.path / "guest/kallsyms").exists():
        pytest.skip("the guest left no /proc/kallsyms")
    if capture.path.name == "kexec":
        pytest.skip("the account is of the kernel before the kexec")
    wanted = {*GLOBALS, *SYMBOLS}
    printed: dict[str, set[int]] = {}
    for line in capture.account("kallsyms").splitlines():
        address, _, name = line.split()[:3]
        if name in wanted and "[" not in line:
            printed.setdefault(name, set()).add(int(address, 16))
    assert len(printed) > 40
    for dump in dumps(capture):
        prog = Program()
        prog.set_core_dump(dump)
        load_btf(prog)
        found = {name: {symbol.address for symbol in prog.symbols(name)} for name in wanted}
        assert {name: addresses for name, addresses in found.items() if addresses} == printed, dump


@pytest.mark.parametrize("vmlinux", KERNELS, ids=lambda path: Path(path).parent.name)
def test_drgns_own_helpers_answer_as_with_dwarf(vmlinux: str) -> None:
    from drgn.helpers.linux import cpumask, ioport, mm, mmzone, pid, printk, vmstat
    from drgn.helpers.linux.list import list_for_each_entry

    # "fresh" of them if it is there: .ci/run makes "fill" alone.
    capture = max((c for c in CAPTURES if c.vmlinux == vmlinux), key=lambda c: c.path.name == "fresh")

    def ask(prog: Program) -> list[object]:
        zones = [z for node in mmzone.for_each_online_pgdat(prog) for z in node.node_zones if z.present_pages]
        page = mm.pfn_to_page(prog, 0x1000)
        return [
            printk.get_dmesg(prog),
            [(z.name.string_(), z.present_pages.value_()) for z in zones],
            [
                mm.page_to_phys(p).value_()
                for z in zones
                for p in list_for_each_entry("struct page", z.unaccepted_pages.address_of_(), "lru")
            ],
            vmstat.nr_free_pages(prog),
            vmstat.global_zone_page_state(prog, prog["NR_UNACCEPTED"]),
            [
                (r.start.value_(), r.end.value_())
                for r in ioport.for_each_resource(prog["iomem_resource"].address_of_())
            ],
            sorted((t.pid.value_(), t.comm.string_()) for t in pid.for_each_task(prog)),
            list(cpumask.for_each_online_cpu(prog)),
            mm.decode_page_flags(page),
            [(start, end, m.value_()) for start, end, m in mm.for_each_valid_page_range(prog)],
            mm.totalram_pages(prog),
            prog["init_uts_ns"].name.release.string_(),
        ]

    dump = dumps(capture)[0]
    assert ask(open_dump(dump)) == ask(open_dump(dump, vmlinux))
