# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where types, symbols and globals come from: DWARF that the user gives, or the target's own BTF and kallsyms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import drgn

from drgn_unaccepted.kernel.errors import TargetError, Unavailable


def attach_debug_info(prog: drgn.Program, symbols: Sequence[str], wanted: str) -> str:
    """Make types and symbols of ``prog`` resolve; returns ``dwarf`` or ``btf``.

    ``auto`` takes the files given, else what the target holds. ``dwarf`` without a file searches where drgn does.

    :param symbols: vmlinux, a debug file, or a file with a ``.BTF`` section
    :param wanted: ``auto``, ``dwarf`` or ``btf``
    :raises TargetError: nothing could be had, or a file belongs to another kernel
    """
    for path in symbols:
        _check_build_id(prog, path)
    if wanted == "dwarf" or (wanted == "auto" and symbols):
        _load_dwarf(prog, symbols)
        return "dwarf"
    _load_btf(prog, symbols)
    return "btf"


def target_build_id(prog: drgn.Program) -> Optional[str]:
    """VMCOREINFO's ``BUILD-ID``; None before Linux 5.9, which does not have it."""
    vmcoreinfo: bytes = prog["VMCOREINFO"].string_()
    for line in vmcoreinfo.split(b"\n"):
        name, found, value = line.partition(b"=")
        if found and name == b"BUILD-ID":
            return value.decode("ascii", "replace")
    return None


def _check_build_id(prog: drgn.Program, path: str) -> None:
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import NoteSection

    try:
        with Path(path).open("rb") as file:
            sections = [s for s in ELFFile(file).iter_sections() if isinstance(s, NoteSection)]
            notes = [note for section in sections for note in section.iter_notes()]
    except OSError as error:
        raise TargetError(f"{path}: {error.strerror}") from None
    except ELFError as error:
        raise TargetError(f"{path}: not an ELF file with symbols: {error}") from None
    found = next((n["n_desc"] for n in notes if (n["n_name"], n["n_type"]) == ("GNU", "NT_GNU_BUILD_ID")), None)
    expected = target_build_id(prog)
    if found is None:
        raise TargetError(f"{path}: no build-id: not a vmlinux or its debug file")
    if expected is not None and found != expected:
        raise TargetError(f"{path}: of another kernel: build-id {found}, the target's is {expected}")


def _load_dwarf(prog: drgn.Program, symbols: Sequence[str]) -> None:
    try:
        if symbols:
            prog.load_debug_info(symbols)
        else:
            prog.load_debug_info(main=True)
    except drgn.MissingDebugInfoError as error:
        first = str(error).splitlines()[0]
        raise TargetError(
            f"no DWARF for this kernel: {first}; give a vmlinux with -s, or use --debug-info btf"
        ) from None
    except (ValueError, OSError) as error:
        raise TargetError(f"{', '.join(symbols)}: {error}") from None
    try:
        prog.type("struct page")
    except LookupError:
        raise TargetError(f"{', '.join(symbols)}: no DWARF in it; try --debug-info btf") from None


def _load_btf(prog: drgn.Program, symbols: Sequence[str]) -> None:
    from drgn_unaccepted.kernel import btf_finder

    try:
        btf_finder.load_btf(prog)
    except Unavailable as error:
        raise TargetError(f"no types: {error}; give a vmlinux with -s") from None
