# SPDX-License-Identifier: LGPL-2.1-or-later
"""Open a target, the running kernel or a vmcore, as a drgn program whose types and symbols resolve."""

from __future__ import annotations

import logging
import os
import select
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Callable, NamedTuple, Optional, Union

import drgn

from drgn_unaccepted import limits
from drgn_unaccepted.errors import one_line
from drgn_unaccepted.kernel import vmcoreinfo_search
from drgn_unaccepted.kernel.debug_info import GIVE_VMLINUX, attach_debug_info
from drgn_unaccepted.kernel.elf import ElfCore, read_elf_core
from drgn_unaccepted.kernel.errors import DAMAGED, TargetError
from drgn_unaccepted.kernel.formats import ONLY_X86_64, read_kdump, readable
from drgn_unaccepted.kernel.memory import FileMemory, read_lime, read_raw
from drgn_unaccepted.kernel.page_tables import reach_encrypted
from drgn_unaccepted.kernel.privileges import lacking, lockdown_mode
from drgn_unaccepted.text.log import BootLog

_X86_64 = drgn.Platform(drgn.Architecture.X86_64)
_SPACE_END = 1 << 64
_COMPLETE_KEY = "drgn_unaccepted_complete"
_UNPACKED_KEY = "drgn_unaccepted_unpacked"


class Opened(NamedTuple):
    prog: drgn.Program
    kind: str  #: ``live``, ``remote`` (the running kernel of a guest, from its host) or ``vmcore``.
    path: Optional[str]
    debug_info: str  #: ``dwarf`` or ``btf``.
    #: The file given with ``-s`` that has the types; None for the target itself, or where drgn found one.
    debug_info_path: Optional[str] = None
    elf: Optional[ElfCore] = None  #: The segments of an ELF dump or of raw memory.
    warnings: tuple[str, ...] = ()  #: What the user should know although an answer may be possible.
    logs: Sequence[BootLog] = ()  #: The boots in a log file, of which one is this one.

    @property
    def is_running(self) -> bool:
        return self.kind != "vmcore"

    @property
    def is_this_kernel(self) -> bool:
        """Whether it is this machine's running kernel: no dump, and no other machine's kernel (QMP, gdb)."""
        wanted = drgn.ProgramFlags.IS_LIVE | drgn.ProgramFlags.IS_LOCAL
        return bool(self.prog.flags & wanted == wanted)

    @property
    def name(self) -> str:
        return self.path or ("the running kernel" if self.is_this_kernel else "a remote target")


def open_kernel(symbols: Sequence[str] = (), debug_info: str = "auto") -> Opened:
    """The running kernel, through /proc/kcore."""
    prog = _program()
    with _refusing(lambda error: f"/proc/kcore: {_why_no_kcore(error)}"):
        prog.set_kernel()
    return Opened(prog, "live", None, *attach_debug_info(prog, symbols, debug_info))


def _why_no_kcore(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "not there: kernel without CONFIG_PROC_KCORE, or a container that hides it"
    if not isinstance(error, PermissionError):
        kcore = Path("/proc/kcore")
        # It has the size of the address space. Container runtimes mount /dev/null or an empty file over it.
        return one_line(error) if kcore.is_file() and kcore.stat().st_size else "masked, as by a container runtime"
    wanted = ("CAP_SYS_RAWIO", *(("CAP_DAC_READ_SEARCH",) if os.geteuid() else ()))
    missing = lacking(*wanted)
    if missing:
        return f"{error.strerror}: this process lacks {' and '.join(missing)}, which root has"
    if lockdown_mode() == "confidentiality":
        return f"{error.strerror}: the kernel is locked down (lockdown=confidentiality)"
    return f"{error.strerror}: a security module or a user namespace refuses it"


def open_qemu(
    socket: str, symbols: Sequence[str] = (), debug_info: str = "auto", vmcoreinfo: Optional[str] = None
) -> Opened:
    """The running kernel of a QEMU guest, from its host, through QMP."""
    text = None if vmcoreinfo is None else vmcoreinfo_search.read_vmcoreinfo(vmcoreinfo)
    prog = _program()
    if not hasattr(prog, "set_qemu_qmp"):
        raise TargetError(f"drgn {drgn.__version__} knows no QMP: update it to 0.2.0 or later")
    with _refusing(lambda error: one_line(error, socket)):
        prog.set_qemu_qmp(_connect(socket) if Path(socket).is_socket() else socket)
        if text is not None:
            # drgn 0.3.0 takes no VMCOREINFO for a guest that has none: a program that reads the other one's memory.
            guest, prog = prog, _program(_X86_64)
            prog.add_memory_segment(
                0, limits.PHYSICAL_END, lambda address, count, *_: guest.read(address, count, physical=True), True
            )
            prog.set_linux_kernel_custom(text, is_live=True)
        if not prog.flags & drgn.ProgramFlags.IS_LINUX_KERNEL:
            raise TargetError(
                f"{socket}: no VMCOREINFO (QEMU without -device vmcoreinfo, or a guest without the fw_cfg driver): "
                "give the text with --vmcoreinfo FILE"
            )
        return Opened(prog, "remote", socket, *attach_debug_info(prog, symbols, debug_info))


def _connect(path: str) -> int:
    """A connection to QMP that answers. QEMU serves one client, and lets others wait without a word."""
    import socket  # only --qemu needs it

    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    if not select.select([connection], [], [], limits.PIPE_SECONDS)[0]:
        connection.close()
        raise TargetError(
            f"{path}: no answer in {limits.PIPE_SECONDS} s: QEMU serves one client at a time; give it another -qmp"
        )
    return connection.detach()


_REFUSED: tuple[type[Exception], ...] = (TargetError, *DAMAGED)


def open_vmcore(
    source: Union[str, Sequence[str]],
    symbols: Sequence[str] = (),
    debug_info: str = "auto",
    vmcoreinfo: Optional[str] = None,
) -> Opened:
    """A vmcore in any format that drgn reads, LiME, or a dump by QEMU that drgn refuses; perhaps compressed.

    :param source: its path; or guest RAM in files, each as ``FILE@ADDR`` (:func:`memory.read_raw`)
    :param vmcoreinfo: file with the text of VMCOREINFO, for a dump without the note
    """
    unpacked: Optional[IO[bytes]] = None
    core: Optional[ElfCore]
    if isinstance(source, str):
        path = source
        try:
            place, unpacked = readable(path)
        except OSError as error:
            raise TargetError(one_line(error, path)) from None
        core, flaw = _examine(place, path)
    else:
        core, flaw, path = read_raw(source), None, " ".join(source)
        place = core.path
    warnings = _warnings(path, flaw)
    text = None if vmcoreinfo is None else vmcoreinfo_search.read_vmcoreinfo(vmcoreinfo)

    def with_text(text: Optional[bytes]) -> Opened:
        # libelf takes the size of a block device for 0.
        if core is not None and (core.raw or stat.S_ISBLK(Path(core.path).stat().st_mode)):
            memory = FileMemory(core.pieces, _program(_X86_64))
            notes = (note.data for note in core.notes() if note.name == b"VMCOREINFO")
            memory.open_kernel((next(notes) if text is None else text).rstrip(b"\0"))
            prog = memory.prog
        else:
            prog = _set_core_dump(place, core, text)
        prog.cache[_UNPACKED_KEY] = unpacked  # the file is gone when it is closed
        _complete(prog, core)
        return Opened(prog, "vmcore", path, *attach_debug_info(prog, symbols, debug_info), core, tuple(warnings))

    try:
        if core is not None and text is None and vmcoreinfo_search.lacks_vmcoreinfo(core):
            text, warning = vmcoreinfo_search.vmcoreinfo_for(core, symbols)
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
    core, flaw = (None, None) if path is None else _examine(path, path)
    _complete(prog, core)
    try:
        prog.type("struct page")
        found = "btf" if "btf" in prog.enabled_type_finders() else "dwarf"
    except LookupError:
        found, _ = attach_debug_info(prog, (), "btf")
    except DAMAGED as error:
        raise TargetError(f"{path or 'the running kernel'}: no struct page: {one_line(error)}") from None
    kind = "vmcore" if not live else "live" if prog.flags & drgn.ProgramFlags.IS_LOCAL else "remote"
    return Opened(prog, kind, path, found, None, core, tuple(_warnings(str(path), flaw)))


def _warnings(path: str, flaw: Optional[str]) -> list[str]:
    return [] if flaw is None else [f"{path}: {flaw}; what is missing is not in this dump"]


def _examine(place: str, path: str) -> tuple[Optional[ElfCore], Optional[str]]:
    """The segments of an ELF dump, and what a dump of any format lacks.

    :param path: the name of the dump for the user
    :raises TargetError: the file cannot be read, or nothing tells what is missing from it
    """
    try:
        core = read_elf_core(place) or read_lime(place)
        kdump = None if core is not None else read_kdump(place)
    except OSError as error:
        raise TargetError(one_line(error, path)) from None
    except ValueError as error:
        raise TargetError(f"{path}: damaged headers: {error}") from None
    found = core or kdump
    flaw = None if kdump is None else kdump.incomplete
    if found is not None and found.needed_size > found.size:
        flaw = f"cut short: its headers name {found.needed_size:#x} bytes, the file has {found.size:#x}"
        if core is None:
            raise TargetError(f"{path}: {flaw}: copy it anew, or give the kernel log beside it with --log")
    return core, flaw


def _program(platform: Optional[drgn.Platform] = None, vmcoreinfo: Optional[bytes] = None) -> drgn.Program:
    # drgn imports its plugins when a target is set, and its own commands import every helper: 60 ms for nothing.
    # A plugin that the user names in DRGN_PLUGINS still runs.
    os.environ.setdefault("DRGN_DISABLE_PLUGINS", "*")
    # This program reports what drgn would warn about (missing debuginfo, the flattened format), if it matters.
    logging.getLogger("drgn").setLevel(logging.ERROR)
    return drgn.Program(platform, vmcoreinfo=vmcoreinfo)


def _set_core_dump(
    path: str, core: Optional[ElfCore], vmcoreinfo: Optional[bytes], platform: Optional[drgn.Platform] = None
) -> drgn.Program:
    """A program over a dump.

    QEMU's kdump-compressed form names the machine but no system (``utsname.sysname``), so that libkdumpfile takes both
    for unknown. It has to be told before it opens the file.
    """
    if core is None and vmcoreinfo is not None:
        platform = _X86_64
    prog = _program(platform, vmcoreinfo)

    def why(error: Exception) -> str:
        words = one_line(error)
        return next((reason.format(words) for part, reason in _REASONS.items() if part in words), words)

    try:
        with _refusing(why):
            prog.set_core_dump(path)
    except TargetError as error:
        if platform is not None or "KDUMP_ATTR_ARCH_NAME" not in str(error):
            raise
        return _set_core_dump(path, core, vmcoreinfo, _X86_64)
    if not prog.flags & drgn.ProgramFlags.IS_LINUX_KERNEL:
        raise TargetError("not a dump of a Linux kernel (no VMCOREINFO, and not from a hypervisor)")
    if prog.platform is None or prog.platform.arch != drgn.Architecture.X86_64:
        raise TargetError(f"a dump of another machine ({prog.platform}): {ONLY_X86_64}")
    return prog


@contextmanager
def _refusing(why: Callable[[Exception], str]) -> Iterator[None]:
    """Give the reason for what drgn raises about its file. For libkdumpfile's errors it raises Exception itself."""
    try:
        yield
    except Exception as error:
        if type(error) is not Exception and not isinstance(error, DAMAGED):
            raise
        raise TargetError(why(error)) from None


#: The reason for the user, by a part of drgn's own words.
_REASONS = {
    "not an ELF core file": "not a dump (neither ELF core nor kdump-compressed nor flattened nor LiME); RAM as it "
    "is: --raw FILE@ADDRESS",
    "flattened segment": "flattened dump, cut short or damaged: {}",
    "linux.vmcoreinfo.raw is not set": "kdump-compressed without VMCOREINFO (QEMU without -device vmcoreinfo, or a "
    "guest without the fw_cfg driver, or one that died early); dump as ELF (dump-guest-memory without -z), or give the "
    "text with --vmcoreinfo FILE",
}


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
