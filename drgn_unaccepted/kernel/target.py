# SPDX-License-Identifier: LGPL-2.1-or-later
"""Open a target, the running kernel or a vmcore, as a drgn program whose types and symbols resolve."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

import drgn

from drgn_unaccepted import limits
from drgn_unaccepted.errors import one_line
from drgn_unaccepted.files import open_dump, open_input
from drgn_unaccepted.kernel.bpf import lockdown_mode
from drgn_unaccepted.kernel.debug_info import attach_debug_info
from drgn_unaccepted.kernel.elf_core import PT_LOAD, ElfCore, read_elf_core
from drgn_unaccepted.kernel.errors import DAMAGED, TargetError, Unavailable
from drgn_unaccepted.kernel.kdump import read_kdump_extent
from drgn_unaccepted.kernel.page_tables import reach_encrypted
from drgn_unaccepted.kernel.vmcoreinfo import parse_vmcoreinfo
from drgn_unaccepted.kernel.vmcoreinfo_search import find_vmcoreinfo, work_out_vmcoreinfo
from drgn_unaccepted.text.log import BootLog

_X86_64 = drgn.Platform(drgn.Architecture.X86_64)
_SPACE_END = 1 << 64
_COMPLETE_KEY = "drgn_unaccepted_complete"


@dataclass(frozen=True)
class Opened:
    """An open target."""

    prog: drgn.Program
    #: ``live`` or ``vmcore``.
    kind: str
    path: Optional[str]
    #: ``dwarf`` or ``btf``.
    debug_info: str
    #: The segments of an ELF dump; None for another format and for a live kernel.
    elf: Optional[ElfCore]
    #: What the user should know although an answer may be possible.
    warnings: tuple[str, ...] = ()
    #: The boots in a log file, of which one is this one.
    logs: Sequence[BootLog] = ()

    @property
    def is_this_kernel(self) -> bool:
        """Whether it is this machine's running kernel: no dump, and no other machine's kernel (QMP, gdb)."""
        wanted = drgn.ProgramFlags.IS_LIVE | drgn.ProgramFlags.IS_LOCAL
        return bool(self.prog.flags & wanted == wanted)

    @property
    def name(self) -> str:
        return self.path or ("the running kernel" if self.is_this_kernel else "a remote target")


def open_kernel(symbols: Sequence[str] = (), debug_info: str = "auto") -> Opened:
    """The running kernel, through /proc/kcore.

    :raises TargetError: with the reason and the fix
    """
    prog = _program()
    try:
        prog.set_kernel()
    except PermissionError as error:
        raise TargetError(f"/proc/kcore: {error.strerror}: {_why_refused()}") from None
    except FileNotFoundError:
        raise TargetError("/proc/kcore: not there: kernel without CONFIG_PROC_KCORE") from None
    except Exception as error:
        if not _is_of_drgn(error):
            raise
        raise TargetError(one_line(error, "/proc/kcore")) from None
    return Opened(prog, "live", None, attach_debug_info(prog, symbols, debug_info), None)


def _why_refused() -> str:
    if os.geteuid() != 0:
        return "the running kernel can be read by root only"
    if lockdown_mode() == "confidentiality":
        return "the kernel is locked down (lockdown=confidentiality)"
    return "this process lacks CAP_SYS_RAWIO, or a security module refuses it"


_REFUSED: tuple[type[Exception], ...] = (TargetError, *DAMAGED)


def open_vmcore(
    path: str, symbols: Sequence[str] = (), debug_info: str = "auto", vmcoreinfo: Optional[str] = None
) -> Opened:
    """A vmcore in any format that drgn reads, or a dump by QEMU that drgn refuses.

    :param vmcoreinfo: file with the text of VMCOREINFO, for a dump without the note
    :raises TargetError: with the reason and the fix
    """
    core, cut, warnings = _examine(path)
    text = None if vmcoreinfo is None else _read_vmcoreinfo(vmcoreinfo)

    def with_text(text: Optional[bytes]) -> Opened:
        prog = _set_core_dump(path, text, None if core is not None or text is None else _X86_64)
        _complete(prog, core)
        found = attach_debug_info(prog, symbols, debug_info)
        return Opened(prog, "vmcore", path, found, core, tuple(warnings))

    try:
        if core is not None and text is None and _lacks_vmcoreinfo(core):
            text, warning = _vmcoreinfo_for(core, symbols)
            warnings.append(f"{path}: {warning}")
        try:
            return with_text(text)
        except _REFUSED as error:
            # The note can be wrong: firmware, a hypervisor or another kernel wrote it.
            other = None if core is None or text is not None else _another_vmcoreinfo(core)
            if other is None:
                raise
            text, address = other
            what = f"its VMCOREINFO note is not this kernel's ({one_line(error)}): taken from memory, at {address:#x}"
            warnings.append(f"{path}: {what}")
            return with_text(text)
    except TargetError as error:
        raise TargetError(f"{path}: {error if cut is None else f'{cut}: {error}'}") from None
    except DAMAGED as error:
        raise TargetError(f"{path}: damaged: {one_line(error)}") from None


def adopt(prog: drgn.Program) -> Opened:
    """A program that somebody else opened (drgn's prompt, a script), with the debug information that it has.

    As in :func:`open_vmcore`, reads of memory that an ELF dump has no bytes for fail from then on, for everybody who
    uses the program, instead of giving zeros.

    :raises TargetError: it has no debug information and does not describe itself, or its file is gone or cut short
    """
    live = bool(prog.flags & drgn.ProgramFlags.IS_LIVE)
    if not live and not hasattr(prog, "core_dump_path"):
        # Without its path, what is not in an ELF dump would read as zeros.
        raise TargetError(f"drgn {drgn.__version__} does not name the dump: use the command line, or update drgn")
    path = None if live else prog.core_dump_path
    core, _, warnings = (None, None, []) if path is None else _examine(path)
    _complete(prog, core)
    try:
        prog.type("struct page")
        found = "btf" if "btf" in prog.enabled_type_finders() else "dwarf"
    except LookupError:
        found = attach_debug_info(prog, (), "btf")
    return Opened(prog, "live" if live else "vmcore", path, found, core, tuple(warnings))


def _examine(path: str) -> tuple[Optional[ElfCore], Optional[str], list[str]]:
    """The segments of an ELF dump, how a dump of any format is cut short, and what the user should know.

    :raises TargetError: the file cannot be read, or nothing tells what is missing from it
    """
    try:
        core = read_elf_core(path)
        extent = read_kdump_extent(path) if core is None else (core.needed_size, core.size, False)
    except OSError as error:
        raise TargetError(one_line(error, path)) from None
    except ValueError as error:
        raise TargetError(f"{path}: damaged headers: {error}") from None
    needed, size, incomplete = extent or (0, 0, False)
    if needed > size:
        cut = f"cut short: its headers name {needed:#x} bytes, the file has {size:#x}"
        if core is None:
            raise TargetError(f"{path}: {cut}")
        return core, cut, [f"{path}: {cut}; what is missing is not in this dump"]
    ended = f"{path}: makedumpfile ran out of space; what is missing is not in this dump"
    return core, None, [ended] if incomplete else []


def _lacks_vmcoreinfo(core: ElfCore) -> bool:
    """Whether this is a dump of a machine's memory, by QEMU or another hypervisor, without the note.

    A process's core dump has no physical addresses.
    """
    names = {note.name for note in core.notes()}
    return b"VMCOREINFO" not in names and (b"QEMU" in names or any(s.paddr for s in core.segments(PT_LOAD)))


def _another_vmcoreinfo(core: ElfCore) -> Optional[tuple[bytes, int]]:
    """The text in the dumped memory and its address, where it is not that of the note."""
    noted = [note.data for note in core.notes() if note.name == b"VMCOREINFO"]
    try:
        text, address = find_vmcoreinfo(core)
    except (OSError, Unavailable):
        return None
    return None if any(data.rstrip(b"\0") == text.rstrip(b"\0") for data in noted) else (text, address)


def _vmcoreinfo_for(core: ElfCore, symbols: Sequence[str]) -> tuple[bytes, str]:
    """VMCOREINFO for a dump without the note, and where it comes from."""
    lack = "no VMCOREINFO note (QEMU without -device vmcoreinfo, or a guest without the fw_cfg driver), and "
    try:
        text, address = find_vmcoreinfo(core)
        return text, f"no VMCOREINFO note; it was found in the dumped memory, at {address:#x}"
    except OSError as error:
        raise TargetError(one_line(error)) from None
    except Unavailable as error:
        lack += str(error)
    if not symbols:
        raise TargetError(
            f"{lack}; a guest that died before it wrote one needs its vmlinux, with -s; else give the text with "
            "--vmcoreinfo FILE"
        )
    try:
        text, cpu, vmlinux = work_out_vmcoreinfo(core, symbols)
    except OSError as error:
        raise TargetError(one_line(error, error.filename)) from None
    except Unavailable as error:
        raise TargetError(f"{lack}; {error}") from None
    return text, f"no VMCOREINFO; addresses are from the registers of CPU {cpu} and {vmlinux}"


def _read_vmcoreinfo(path: str) -> bytes:
    try:
        with open_input(path) as file:
            data = file.read(limits.VMCOREINFO_BYTES + 1)
    except OSError as error:
        raise TargetError(one_line(error, path)) from None
    if len(data) > limits.VMCOREINFO_BYTES or parse_vmcoreinfo(data).get("OSRELEASE") is None:
        raise TargetError(f"{path}: not the text of a VMCOREINFO note (no OSRELEASE= in it)")
    return data


def _program(platform: Optional[drgn.Platform] = None, vmcoreinfo: Optional[bytes] = None) -> drgn.Program:
    # drgn imports its plugins when a target is set, and its own commands import every helper: 60 ms for nothing.
    # A plugin that the user names in DRGN_PLUGINS still runs.
    os.environ.setdefault("DRGN_DISABLE_PLUGINS", "*")
    # This program reports what drgn would warn about (missing debuginfo, the flattened format), if it matters.
    logging.getLogger("drgn").setLevel(logging.ERROR)
    return drgn.Program(platform, vmcoreinfo=vmcoreinfo)


def _set_core_dump(path: str, vmcoreinfo: Optional[bytes], platform: Optional[drgn.Platform] = None) -> drgn.Program:
    """A program over a dump.

    QEMU's kdump-compressed form names the machine but no system (``utsname.sysname``), so that libkdumpfile takes both
    for unknown. It has to be told before it opens the file.
    """
    prog = _program(platform, vmcoreinfo)
    try:
        prog.set_core_dump(path)
    except Exception as error:
        if not _is_of_drgn(error):
            raise
        if platform is None and "KDUMP_ATTR_ARCH_NAME" in str(error):
            return _set_core_dump(path, vmcoreinfo, _X86_64)
        raise TargetError(_why_not_opened(path, one_line(error))) from None
    if not prog.flags & drgn.ProgramFlags.IS_LINUX_KERNEL:
        raise TargetError("not a dump of a Linux kernel (no VMCOREINFO, and not from a hypervisor)")
    return prog


def _is_of_drgn(error: Exception) -> bool:
    """Whether drgn raised it about the file that it was given. For libkdumpfile's errors it raises Exception itself."""
    return type(error) is Exception or isinstance(error, DAMAGED)


#: The reason for the user, by a part of drgn's own words.
_REASONS = {
    "not an ELF core file": "not a dump (neither ELF core nor kdump-compressed nor flattened)",
    "flattened segment": "flattened dump, cut short or damaged: {}",
    "linux.vmcoreinfo.raw is not set": "kdump-compressed without VMCOREINFO (QEMU without -device vmcoreinfo, or a "
    "guest without the fw_cfg driver, or one that died early); dump as ELF (dump-guest-memory without -z), or give the "
    "text with --vmcoreinfo FILE",
}


def _why_not_opened(path: str, words: str) -> str:
    with open_dump(path) as file:
        beginning = file.read(64)
    if not beginning:
        return "empty file"
    if b'"drgn-unaccepted-snapshot/' in beginning:
        return "a file written by snapshot, and no dump: give it with --snapshot"
    return next((reason.format(words) for part, reason in _REASONS.items() if part in words), words)


def _complete(prog: drgn.Program, core: Optional[ElfCore]) -> None:
    """Let reads fail where a PT_LOAD has no bytes in the file, and reach memory behind the C-bit. Does nothing twice.

    drgn reads zeros there. Neither drgn nor we can tell pages that makedumpfile dropped for being zero from pages
    dropped for other reasons.
    In the kdump-compressed format such reads fail, too.
    """
    if core is None or _COMPLETE_KEY in prog.cache:
        return

    def fault(address: int, count: int, offset: int, physical: bool) -> bytes:
        raise drgn.FaultError("not saved in this dump", address)

    for ranges, physical in ((core.lacking, True), (core.lacking_virtual, False)):
        for start, end in ranges:
            if start < _SPACE_END:
                prog.add_memory_segment(start, min(end, _SPACE_END) - start, fault, physical)
    reach_encrypted(prog, core)
    prog.cache[_COMPLETE_KEY] = True
