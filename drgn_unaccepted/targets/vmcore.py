# SPDX-License-Identifier: LGPL-2.1-or-later
"""Open a vmcore."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Optional, Union

import drgn

from drgn_unaccepted.errors import one_line
from drgn_unaccepted.model import ranges as rng
from drgn_unaccepted.model.addresses import KERNEL_SPACE
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.targets import vmcoreinfo_search
from drgn_unaccepted.targets.debug_info import GIVE_VMLINUX, SymbolFile, attach_debug_info
from drgn_unaccepted.targets.elf import SPACE_END, ElfCore, read_elf_core
from drgn_unaccepted.targets.errors import DAMAGED, TargetError
from drgn_unaccepted.targets.formats import ONLY_X86_64, read_kdump, readable
from drgn_unaccepted.targets.opened import X86_64, Opened, program, refusing
from drgn_unaccepted.targets.page_tables import kernel_page_tables
from drgn_unaccepted.targets.ram_files import FileMemory, read_lime, read_raw
from drgn_unaccepted.targets.vmcoreinfo import vmcoreinfo_of

_COMPLETE_KEY = "drgn_unaccepted_complete"

_REFUSED: tuple[type[Exception], ...] = (TargetError, *DAMAGED)


def open_vmcore(
    source: Union[str, Sequence[str]],
    symbols: Sequence[SymbolFile] = (),
    debug_info: str = "auto",
    vmcoreinfo: Optional[str] = None,
) -> Opened:
    """A vmcore in any format that drgn reads, LiME, or a dump by QEMU that drgn refuses; perhaps compressed.

    :param source: its path; or guest RAM in files, each as ``FILE@ADDR`` (:func:`ram_files.read_raw`)
    :param vmcoreinfo: file with the text of VMCOREINFO, for a dump without the note
    """
    unpacked: Optional[BinaryIO] = None
    core: Optional[ElfCore]
    if isinstance(source, str):
        path = source
        try:
            place, unpacked = readable(path)
        except OSError as error:
            raise TargetError(one_line(error, path)) from None
        core, flaw, lacking = examine(place, path)
    else:
        core, flaw, lacking, path = read_raw(source), None, (), " ".join(source)
        place = core.path
    warnings = warnings_of(path, flaw)
    text = None if vmcoreinfo is None else vmcoreinfo_search.read_vmcoreinfo(vmcoreinfo)

    def with_text(text: Optional[bytes]) -> Opened:
        # libelf takes the size of a block device for 0.
        if core is not None and (core.raw or stat.S_ISBLK(Path(core.path).stat().st_mode)):
            memory = FileMemory(core.pieces, program(X86_64))
            notes = (note.data for note in core.notes() if note.name == b"VMCOREINFO")
            memory.open_kernel((next(notes) if text is None else text).rstrip(b"\0"))
            prog = memory.prog
        else:
            prog = _set_core_dump(place, core, text)
        prog.cache["drgn_unaccepted_unpacked"] = unpacked  # the file is gone when it is closed
        complete(prog, core, lacking)
        return Opened(prog, "vmcore", path, *attach_debug_info(prog, symbols, debug_info), core, tuple(warnings))

    try:
        if core is not None and text is None and vmcoreinfo_search.lacks_vmcoreinfo(core):
            text, warning = vmcoreinfo_search.vmcoreinfo_for(core, [file.path for file in symbols])
            # Bare memory never has a note.
            warnings += () if core.raw else (f"{path}: {warning}",)
        try:
            return with_text(text)
        except _REFUSED as error:
            # The note can be wrong: firmware, a hypervisor or another kernel wrote it.
            other = None if core is None or text is not None else vmcoreinfo_search.another_vmcoreinfo(core)
            if other is None:
                raise
            text, address = other
            what = f"its VMCOREINFO note is not this kernel's ({one_line(error)}): taken from memory, at {address:#x}"
            warnings.append(f"{path}: {what}")
            return with_text(text)
    except TargetError as error:
        # What is missing is no fault of the types.
        words = str(error) if flaw is None else f"{flaw}: {str(error).removesuffix(GIVE_VMLINUX)}"
    except DAMAGED as error:
        words = f"damaged: {one_line(error)}"
    raise TargetError(f"{path}: {words}")


def warnings_of(path: str, flaw: Optional[str]) -> list[str]:
    return [] if flaw is None else [f"{path}: {flaw}; what is missing is not in this dump"]


def examine(place: str, path: str) -> tuple[Optional[ElfCore], Optional[str], Sequence[Range]]:
    """The segments of an ELF dump; what a dump of any format lacks, in words; and where it must not be read.

    :param path: the name of the dump for the user
    :raises TargetError: the file cannot be read, or nothing tells what is missing from it
    """
    try:
        core = read_elf_core(place) or read_lime(place)
        if core is None:
            return (None, *read_kdump(place, path))
    except OSError as error:
        raise TargetError(one_line(error, path)) from None
    except ValueError as error:
        raise TargetError(f"{path}: damaged headers: {error}") from None
    except drgn.FaultError as error:
        raise TargetError(
            f"{path}: flattened dump, cut short or damaged: no segment of it has byte {error.address:#x}"
        ) from None
    flaw = f"cut short: its headers name {core.needed_size:#x} bytes, the file has {core.size:#x}"
    return core, flaw if core.needed_size > core.size else None, core.lacking


def _set_core_dump(
    path: str, core: Optional[ElfCore], vmcoreinfo: Optional[bytes], platform: Optional[drgn.Platform] = None
) -> drgn.Program:
    """A program over a dump.

    QEMU's kdump-compressed form names the machine but no system (``utsname.sysname``), so that libkdumpfile takes both
    for unknown. It has to be told before it opens the file.
    """
    if core is None and vmcoreinfo is not None:
        platform = X86_64
    prog = program(platform, vmcoreinfo)

    def why(error: Exception) -> str:
        words = one_line(error)
        return next((reason.format(words) for part, reason in _REASONS.items() if part in words), words)

    try:
        with refusing(why):
            prog.set_core_dump(path)
    except TargetError as error:
        if platform is not None or "KDUMP_ATTR_ARCH_NAME" not in str(error):
            raise
        return _set_core_dump(path, core, vmcoreinfo, X86_64)
    if not prog.flags & drgn.ProgramFlags.IS_LINUX_KERNEL:
        raise TargetError("not a dump of a Linux kernel (no VMCOREINFO, and not from a hypervisor)")
    if prog.platform is None or prog.platform.arch != drgn.Architecture.X86_64:
        raise TargetError(f"a dump of another machine ({prog.platform}): {ONLY_X86_64}")
    return prog


#: The reason for the user, by a part of drgn's own words.
_REASONS = {
    "not an ELF core file": "not a dump (neither ELF core nor kdump-compressed nor flattened nor LiME); RAM as it "
    "is: --raw FILE@ADDRESS",
    "flattened segment": "flattened dump, cut short or damaged: {}",
    "linux.vmcoreinfo.raw is not set": "kdump-compressed without VMCOREINFO (QEMU without -device vmcoreinfo, or a "
    "guest without the fw_cfg driver, or one that died early); dump as ELF (dump-guest-memory without -z), or give the "
    "text with --vmcoreinfo FILE",
}


def complete(prog: drgn.Program, core: Optional[ElfCore], lacking: Sequence[Range]) -> None:
    """Let reads fail where the file has no bytes, and reach memory behind the C-bit. Does nothing twice.

    drgn reads zeros where a PT_LOAD has no bytes. Neither drgn nor we can tell pages that makedumpfile dropped for
    being zero from pages dropped for other reasons. In the kdump-compressed format reads of those fail, and what it is
    ``lacking`` must not be read; libkdumpfile would follow page tables there.
    """
    if _COMPLETE_KEY in prog.cache or (core is None and not lacking):
        return

    def fault(address: int, count: int, offset: int, physical: bool) -> bytes:
        raise drgn.FaultError("not saved in this dump", address)

    lacking_virtual = [Range(0, KERNEL_SPACE.start), KERNEL_SPACE] if core is None else core.lacking_virtual
    for ranges, physical in ((lacking, True), (lacking_virtual, False)):
        for start, end in ranges:
            if start < SPACE_END:
                prog.add_memory_segment(start, min(end, SPACE_END) - start, fault, physical)
    tables = kernel_page_tables(prog) if core is None or vmcoreinfo_of(prog).number("sme_mask") else None
    if tables is not None:
        # Where no PT_LOAD describes memory; drgn's other reads stay as they were.
        for start, end in rng.subtract([KERNEL_SPACE], [] if core is None else core.virtual()):
            prog.add_memory_segment(start, end - start, lambda at, size, *_, of=tables: of.read(at, size), False)
    prog.cache[_COMPLETE_KEY] = True
