# SPDX-License-Identifier: LGPL-2.1-or-later
"""VMCOREINFO for a dump that has no VMCOREINFO note: found in its memory, or worked out from a CPU's registers.

QEMU writes the note only with ``-device vmcoreinfo`` and if the guest's fw_cfg driver was loaded; drgn refuses a dump
without it. But the kernel keeps the text in a page of its own (``vmcoreinfo_data``, kernel/vmcore_info.c), which every
whole-RAM dump contains. A match may also be a copy in a file, a leftover of the kernel before a kexec, or the format
strings ``OSRELEASE=%s`` and ``SYMBOL(%s)=%lx`` of any kernel, so each match is checked against the memory that it
describes.

A guest that dies in its first second has no VMCOREINFO, because an initcall writes it. (A kernel that cannot accept
memory panics with the first allocation.) But its page tables are there, and QEMU notes the registers that lead to them
(``struct QEMUCPUState``, target/i386/arch_dump.c in QEMU), so that its symbols can be read from kallsyms in its memory.
For a kernel without kallsyms, where it begins in them tells by how much KASLR moved a vmlinux.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import groupby, islice
from typing import Optional

from drgn import Architecture, FaultError, Platform, Program

from drgn_unaccepted import limits
from drgn_unaccepted.errors import concerning, one_line
from drgn_unaccepted.files import open_dump, open_input
from drgn_unaccepted.model.addresses import START_KERNEL_MAP
from drgn_unaccepted.model.ranges import PAGE_SIZE
from drgn_unaccepted.targets.elf import PT_LOAD, ElfCore, build_id, parse_notes
from drgn_unaccepted.targets.errors import TargetError, Unavailable
from drgn_unaccepted.targets.kallsyms import Kallsyms, find_kallsyms
from drgn_unaccepted.targets.page_tables import PageTables, kernel_page_tables
from drgn_unaccepted.targets.ram_files import FileMemory
from drgn_unaccepted.targets.vmcoreinfo import Vmcoreinfo, parse_vmcoreinfo

_TEXT = re.compile(rb"(?:[ -~]+\n)+")
_UTS_LENGTH = 65  #: Two members of __NEW_UTS_LEN + 1 bytes precede ``utsname.release``.
#: What tells one kernel from another.
_IDENTITY = ("OSRELEASE", "SYMBOL(init_uts_ns)", "SYMBOL(swapper_pg_dir)", "NUMBER(phys_base)", "KERNELOFFSET")

_STATE = struct.Struct("<I412xQQ")  #: version, cr[3] and cr[4] of ``struct QEMUCPUState``.
#: PTI_USER_PGTABLE_BIT: under page table isolation the user's page tables follow right after the kernel's.
_PTI_USER_TABLES = 1 << 12
_CR4_LA57 = 1 << 12

#: KASLR moves the kernel by a multiple of CONFIG_PHYSICAL_ALIGN, which is at least this, within KERNEL_IMAGE_SIZE.
_KASLR_ALIGN = 2 << 20
_KASLR_END = 1 << 30
_LINKED = START_KERNEL_MAP + (16 << 20)  #: Where kernels are linked: CONFIG_PHYSICAL_START is 16 MiB.
#: Symbols whose addresses VMCOREINFO has under the same names.
_PLAIN_SYMBOLS = (
    *("_stext", "init_uts_ns", "kallsyms_names", "kallsyms_num_syms", "kallsyms_offsets", "kallsyms_relative_base"),
    *("kallsyms_token_index", "kallsyms_token_table", "node_data"),
)
_NEEDED_SYMBOLS = ("__start_notes", "__stop_notes", "_stext", "init_top_pgt", "linux_banner")
_SYMBOLS = (*_PLAIN_SYMBOLS, *_NEEDED_SYMBOLS)


def cpu_page_tables(core: ElfCore, memory: FileMemory) -> Iterator[tuple[int, PageTables]]:
    """The page tables of the CPUs that QEMU noted, by their numbers, and the kernel's for one that may be in user mode.

    None in a dump by another program.
    """
    notes = (_STATE.unpack_from(n.data) for n in core.notes() if n.name == b"QEMU" and len(n.data) >= _STATE.size)
    known = ((cr3, 5 if cr4 & _CR4_LA57 else 4) for version, cr3, cr4 in notes if version == 1)
    for number, (root, levels) in enumerate(islice(known, limits.GLOBAL_ARRAY_LENGTH)):
        yield number, PageTables(memory.read, root, levels)
        if root & _PTI_USER_TABLES:
            yield number, PageTables(memory.read, root - _PTI_USER_TABLES, levels)


def lacks_vmcoreinfo(core: ElfCore) -> bool:
    """Whether it is a dump of a machine's memory without the note. A process's has no physical addresses."""
    names = {note.name for note in core.notes()}
    known = core.raw or b"QEMU" in names or any(s.paddr for s in core.segments(PT_LOAD))
    return b"VMCOREINFO" not in names and bool(known)


def another_vmcoreinfo(core: ElfCore) -> Optional[tuple[bytes, int]]:
    """The text in the dumped memory and its address, where it is not that of the note."""
    noted = [note.data for note in core.notes() if note.name == b"VMCOREINFO"]
    try:
        text, address = find_vmcoreinfo(core)
    except (OSError, Unavailable):
        return None
    return None if any(data.rstrip(b"\0") == text.rstrip(b"\0") for data in noted) else (text, address)


def vmcoreinfo_for(core: ElfCore, symbols: Sequence[str]) -> tuple[bytes, str]:
    """VMCOREINFO for a dump without the note, and where it comes from."""
    lack = "no VMCOREINFO note (QEMU without -device vmcoreinfo, or a guest without the fw_cfg driver), and "
    try:
        try:
            text, address = find_vmcoreinfo(core)
            return text, f"no VMCOREINFO note; it was found in the dumped memory, at {address:#x}"
        except Unavailable as error:
            lack += str(error)
            text, cpu, source = work_out_vmcoreinfo(core, symbols)
    except OSError as error:
        raise TargetError(one_line(error, error.filename)) from None
    except Unavailable as error:
        raise TargetError(f"{lack}; {error}; give the text with --vmcoreinfo FILE") from None
    return text, f"no VMCOREINFO; addresses are from the registers of CPU {cpu} and {source}"


def read_vmcoreinfo(path: str) -> bytes:
    with concerning(path), open_input(path) as file:
        data = file.read(limits.VMCOREINFO_BYTES + 1)
    if len(data) > limits.VMCOREINFO_BYTES or parse_vmcoreinfo(data).entries.get("OSRELEASE") is None:
        raise TargetError(f"{path}: not the text of a VMCOREINFO note (no OSRELEASE= in it)")
    if b"\n." in b"\n" + data:
        raise TargetError(f"{path}: VMCOREINFO, damaged: a line begins with a dot")  # libkdumpfile dies of it
    return data


def find_vmcoreinfo(core: ElfCore) -> tuple[bytes, int]:
    """The VMCOREINFO of the kernel that ran when the dump was taken, and its physical address.

    This is the first one whose kernel is mapped by a CPU's own page tables. If none is (a dump without registers), it
    is the only one whose kernel is in the memory.

    :raises Unavailable: none, or several and nothing to tell which
    :raises OSError: the file cannot be read
    """
    plausible: dict[tuple[str, ...], tuple[bytes, int]] = {}
    with FileMemory(core.pieces) as memory:
        cpus = list(cpu_page_tables(core, memory))
        for address in memory.find(b"OSRELEASE=", limits.VMCOREINFO_SEARCH_BYTES):
            found = _kernel_at(memory, address)
            if found is None:
                continue
            vmcoreinfo, virtual, physical = found
            kernel = tuple(vmcoreinfo.entries[key] for key in _IDENTITY)
            if kernel in plausible:
                continue  # a copy: the CPUs say the same about it
            if any(_maps(tables, virtual, physical) for _, tables in cpus):
                return vmcoreinfo.text, address
            plausible[kernel] = vmcoreinfo.text, address
            if len(plausible) > limits.VMCOREINFO_COPIES:
                raise Unavailable(f"more than {limits.VMCOREINFO_COPIES} different VMCOREINFO are in its memory")
    if len(plausible) == 1:
        return next(iter(plausible.values()))
    places = ", ".join(f"{kernel[0]} at {address:#x}" for kernel, (_, address) in plausible.items())
    several = f"several are in its memory, and nothing tells which kernel ran last: {places}"
    raise Unavailable(several if places else "none is in its memory")


def _kernel_at(memory: FileMemory, address: int) -> Optional[tuple[Vmcoreinfo, int, int]]:
    """VMCOREINFO, and the virtual and physical address of ``init_uts_ns`` in the kernel that it describes.

    None if the text does not begin a page, is not built like VMCOREINFO, or its kernel is not in the memory.
    """
    if address % PAGE_SIZE:
        return None
    try:
        # Behind a copy in a page that was used before, no zero need follow.
        text = _TEXT.match(memory.read(address, PAGE_SIZE))
        found = parse_vmcoreinfo(text[0] if text else b"")
        virtual, phys_base = found.symbol("init_uts_ns"), found.number("phys_base")
        tables = kernel_page_tables(memory.prog, found)
        whole = found.entries.get("PAGESIZE") == str(PAGE_SIZE) and all(key in found.entries for key in _IDENTITY)
        if not whole or virtual is None or phys_base is None or tables is None:
            return None
        physical = virtual - START_KERNEL_MAP + phys_base
        release_at = int(found.entries.get("OFFSET(uts_namespace.name)") or "0") + 2 * _UTS_LENGTH
        release = memory.read(physical + release_at, _UTS_LENGTH).partition(b"\0")[0].decode("latin-1")
    except (ValueError, FaultError):
        return None
    is_there = release == found.entries.get("OSRELEASE") and _maps(tables, virtual, physical)
    return (found, virtual, physical) if is_there else None


def _maps(tables: PageTables, virtual: int, physical: int) -> bool:
    try:
        return tables.translate(virtual).start == physical
    except FaultError:
        return False


def work_out_vmcoreinfo(core: ElfCore, vmlinux: Sequence[str]) -> tuple[bytes, int, str]:
    """VMCOREINFO, as far as it is read, from a CPU's registers and the kernel's symbols, checked against the memory.

    :param vmlinux: files, of which the first one that has the symbols is used; else kallsyms in the memory is
    :return: the text, the number of the CPU, where the symbols are from
    :raises Unavailable: no CPU was in this kernel, or nothing has its symbols
    :raises OSError: a file cannot be read
    """
    path, linked = next(filter(None, map(_symbols_of, vmlinux)), (None, {}))
    number, seen = None, set[Optional[tuple[int, int]]]()
    with FileMemory(core.pieces) as memory:
        for number, tables in cpu_page_tables(core, memory):
            kernel = _kernel(tables)
            if kernel is None or kernel in seen or len(seen) >= limits.KERNEL_SEARCHES:
                continue
            seen.add(kernel)
            moved = kernel[0] - linked.get("_stext", 0)
            with suppress(FaultError, LookupError):
                text = _text(memory, tables, {name: at + moved for name, at in linked.items()}, moved)
                return text, number, str(path)
            with suppress(FaultError, LookupError, ValueError):
                own = _own_symbols(tables, kernel[0])
                return _text(memory, tables, own, kernel[0] - _LINKED), number, "kallsyms in the memory"
    if number is None:
        raise Unavailable("the dump has no registers of a CPU (QEMU's notes)")
    lack = f"the kernel of {path}" if path else "a kernel with kallsyms, and no vmlinux with symbols is given (-s)"
    raise Unavailable(f"no CPU of it was in {lack}")


def _symbols_of(path: str) -> Optional[tuple[str, dict[str, int]]]:
    """The addresses in a vmlinux before KASLR; None where it does not have them all."""
    prog = Program(Platform(Architecture.X86_64))
    with open_dump(path):
        prog.extra_module("vmlinux", create=True).try_file(path, force=True)
    found = {name: symbol.address for name in _SYMBOLS for symbol in prog.symbols(name)[:1]}
    return (path, found) if found.keys() >= {*_NEEDED_SYMBOLS} else None


def _kernel(tables: PageTables) -> Optional[tuple[int, int]]:
    """The virtual and physical address of the kernel's first byte, _text and _stext, where it is mapped."""
    for address in range(START_KERNEL_MAP, START_KERNEL_MAP + _KASLR_END, _KASLR_ALIGN):
        with suppress(FaultError):
            return address, tables.translate(address).start
    return None


def _own_symbols(tables: PageTables, stext: int) -> dict[str, int]:
    """The addresses in a kernel that begins here, from its kallsyms; LookupError or ValueError: it has none."""

    def read(address: int) -> bytes:
        with suppress(FaultError):
            return tables.read(address, _KASLR_ALIGN)
        return b""

    pieces = ((address, read(address)) for address in range(stext, START_KERNEL_MAP + _KASLR_END, _KASLR_ALIGN))
    for _, group in groupby(pieces, lambda piece: bool(piece[1])):
        run = list(islice(group, limits.KERNEL_SEARCH_BYTES // _KASLR_ALIGN))
        found = find_kallsyms(b"".join(data for _, data in run), run[0][0])
        if found:
            found["_stext"] = stext
            return {**found, **{s.name: s.address for s in Kallsyms(tables.read, found.get).find(_SYMBOLS)}}
    raise LookupError("kallsyms")


def _text(memory: FileMemory, tables: PageTables, address: Mapping[str, int], offset: int) -> bytes:
    """VMCOREINFO of a kernel with these symbols, which KASLR moved by ``offset``; FaultError: none is mapped there."""
    physical = tables.translate(address["linux_banner"]).start
    phys_base = physical - (address["linux_banner"] - START_KERNEL_MAP)
    banner = re.match(rb"Linux version (\S+) ", memory.read(physical, limits.BANNER_BYTES))
    # A kernel's own page tables, which are in its image, map it as well.
    own = PageTables(memory.read, address["init_top_pgt"] - START_KERNEL_MAP + phys_base, tables.levels)
    if banner is None or not _maps(own, address["linux_banner"], physical):
        raise FaultError("no kernel", physical)
    # From the image in memory, so that a vmlinux of another build is noticed.
    size = min(max(0, address["__stop_notes"] - address["__start_notes"]), limits.ELF_NOTE_BYTES)
    found = build_id(parse_notes(memory.read(address["__start_notes"] - START_KERNEL_MAP + phys_base, size)))
    lines = [
        f"OSRELEASE={banner[1].decode('latin-1')}",
        "PAGESIZE=4096",
        f"SYMBOL(swapper_pg_dir)={address['init_top_pgt']:x}",
        f"NUMBER(phys_base)={phys_base}",
        f"KERNELOFFSET={offset:x}",
        f"NUMBER(pgtable_l5_enabled)={int(tables.levels == 5)}",
        *(f"SYMBOL({name})={address[name]:x}" for name in _PLAIN_SYMBOLS if name in address),
        *([] if found is None else [f"BUILD-ID={found}"]),
    ]
    return ("\n".join(lines) + "\n").encode("latin-1")
