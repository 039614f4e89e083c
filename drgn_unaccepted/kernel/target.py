# SPDX-License-Identifier: LGPL-2.1-or-later
"""Open a target: the running kernel or a vmcore, as a drgn program whose types and symbols resolve."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import drgn

from drgn_unaccepted import limits
from drgn_unaccepted.kernel import elf
from drgn_unaccepted.kernel.debug_info import attach_debug_info
from drgn_unaccepted.kernel.errors import TargetError


@dataclass(frozen=True)
class Opened:
    """An open target."""

    prog: drgn.Program
    #: ``live`` or ``vmcore``.
    kind: str
    path: Optional[str]
    #: ``dwarf``, ``btf`` or ``none``.
    debug_info: str
    #: The segments of an ELF dump; None for another format and for a live kernel.
    elf: Optional[elf.ElfCore]
    #: What the user should know although an answer may be possible.
    warnings: tuple[str, ...] = ()


def open_kernel(symbols: Sequence[str] = (), debug_info: str = "auto") -> Opened:
    """The running kernel, through /proc/kcore.

    :raises TargetError: with the reason and the mend
    """
    prog = _program()
    try:
        prog.set_kernel()
    except PermissionError as error:
        raise TargetError(f"/proc/kcore: {error.strerror}: the running kernel can be read by root only") from None
    except FileNotFoundError:
        raise TargetError("/proc/kcore: not there: kernel without CONFIG_PROC_KCORE") from None
    except Exception as error:
        if not _is_of_drgn(error):
            raise
        raise TargetError(f"/proc/kcore: {_text(error)}") from None
    return Opened(prog, "live", None, attach_debug_info(prog, symbols, debug_info), None)


def open_vmcore(
    path: str, symbols: Sequence[str] = (), debug_info: str = "auto", vmcoreinfo: Optional[str] = None
) -> Opened:
    """A vmcore in any format that drgn reads.

    :param vmcoreinfo: file with the text of VMCOREINFO, for a dump without the note
    :raises TargetError: with the reason and the mend
    """
    try:
        core = elf.read_elf_core(path)
    except OSError as error:
        raise TargetError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise TargetError(f"{path}: damaged ELF file: {error}") from None
    warnings = []
    if core is not None and core.cut_short:
        cut = f"cut short: its headers name {core.needed_size:#x} bytes, the file has {core.size:#x}"
        warnings.append(f"{path}: {cut}; what is missing is not in this dump")
    prog = _program(None if vmcoreinfo is None else _read_vmcoreinfo(vmcoreinfo))
    try:
        prog.set_core_dump(path)
    except Exception as error:
        if not _is_of_drgn(error):
            raise
        raise TargetError(f"{path}: {cut if warnings else _open_reason(path, error)}") from None
    if not prog.flags & drgn.ProgramFlags.IS_LINUX_KERNEL:
        raise TargetError(f"{path}: not a dump of a Linux kernel (no VMCOREINFO, and not from QEMU)")
    try:
        found = attach_debug_info(prog, symbols, debug_info)
    except TargetError as error:
        raise TargetError(f"{path}: {cut if warnings else error}") from None
    return Opened(prog, "vmcore", path, found, core, tuple(warnings))


def adopt(prog: drgn.Program) -> Opened:
    """A program that somebody else opened (drgn's prompt, a script), with the debug information that it has.

    :raises TargetError: it has none and does not describe itself
    """
    live = bool(prog.flags & drgn.ProgramFlags.IS_LIVE)
    path = None if live else prog.core_dump_path
    core = None if path is None else elf.read_elf_core(path)
    try:
        prog.type("struct page")
        found = "btf" if "btf" in prog.enabled_type_finders() else "dwarf"
    except LookupError:
        found = attach_debug_info(prog, (), "btf")
    return Opened(prog, "live" if live else "vmcore", path, found, core)


def _program(vmcoreinfo: Optional[bytes] = None) -> drgn.Program:
    # Plugins of drgn are imported when a target is set, and drgn's own commands among them import every helper:
    # 60 ms for nothing. A plugin that the user names in DRGN_PLUGINS still runs.
    os.environ.setdefault("DRGN_DISABLE_PLUGINS", "*")
    # What drgn would warn of (missing debuginfo, the flattened format) is said here in other words or not at all.
    logging.getLogger("drgn").setLevel(logging.ERROR)
    return drgn.Program(vmcoreinfo=vmcoreinfo)


def _read_vmcoreinfo(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            data = file.read(limits.VMCOREINFO_BYTES + 1)
    except OSError as error:
        raise TargetError(f"{path}: {error.strerror}") from None
    if len(data) > limits.VMCOREINFO_BYTES or b"OSRELEASE=" not in data:
        raise TargetError(f"{path}: not the text of a VMCOREINFO note (no OSRELEASE= in it)")
    return data


def _open_reason(path: str, error: BaseException) -> str:
    text = _text(error)
    if text == "not an ELF core file":
        size = Path(path).stat().st_size
        return "empty file" if size == 0 else "not a dump (neither ELF core nor kdump-compressed nor flattened)"
    if "unrecognized QEMU memory dump" in text:
        return (
            "QEMU dump without a VMCOREINFO note (QEMU runs without -device vmcoreinfo, or the guest without the "
            "fw_cfg driver); give the note's text with --vmcoreinfo FILE"
        )
    if "KDUMP_ATTR_ARCH_NAME" in text:
        return (
            "kdump-compressed by QEMU in a form that libkdumpfile does not open; dump again as ELF "
            "(dump-guest-memory without -z)"
        )
    return text


def _is_of_drgn(error: Exception) -> bool:
    """Whether drgn raised it for what it was given to open. For libkdumpfile's errors it raises Exception itself."""
    return type(error) is Exception or isinstance(error, (OSError, ValueError, LookupError, drgn.FaultError))


def _text(error: BaseException) -> str:
    """An exception's own words on one line."""
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(words.split())
