# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where types, symbols and globals come from: DWARF that the user gives, or the target's own BTF and kallsyms."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Optional

import drgn

from drgn_unaccepted.files import open_dump
from drgn_unaccepted.kernel.elf_sections import ElfSections
from drgn_unaccepted.kernel.errors import TargetError, Unavailable

#: The first bytes of BTF that is in no ELF file, in little endian.
_BTF_MAGIC = b"\x9f\xeb"
_NT_GNU_BUILD_ID = 3


def attach_debug_info(prog: drgn.Program, symbols: Sequence[str], wanted: str) -> str:
    """Make types and symbols of ``prog`` resolve; returns ``dwarf`` or ``btf``.

    ``auto`` takes DWARF if a file given has it, else BTF if one has that, else what the target holds. ``dwarf``
    without a file searches where drgn does; ``btf`` takes a file's BTF before the target's own.

    :param symbols: vmlinux, its debug file, or what has BTF alone: a stripped vmlinux, a copy of
        ``/sys/kernel/btf/vmlinux``
    :param wanted: ``auto``, ``dwarf`` or ``btf``
    :raises TargetError: nothing could be had, or a file belongs to another kernel
    """
    files = [_look_into(path) for path in symbols]
    for file in files:
        _check_build_id(prog, file)
    if wanted == "dwarf" or (wanted == "auto" and any(file.has_dwarf for file in files)):
        _load_dwarf(prog, symbols)
        return "dwarf"
    _load_btf(prog, files)
    return "btf"


def target_build_id(prog: drgn.Program) -> Optional[str]:
    """VMCOREINFO's ``BUILD-ID``; None before Linux 5.9, which does not have it."""
    vmcoreinfo: bytes = prog["VMCOREINFO"].string_()
    for line in vmcoreinfo.split(b"\n"):
        name, found, value = line.partition(b"=")
        if found and name == b"BUILD-ID":
            return value.decode("ascii", "replace")
    return None


class _File(NamedTuple):
    """A file given with ``-s``."""

    path: str
    #: None: it has none, as BTF alone.
    build_id: Optional[str]
    has_dwarf: bool
    has_btf: bool


def _look_into(path: str) -> _File:
    try:
        with open_dump(path) as file:
            if file.read(2) == _BTF_MAGIC:
                return _File(path, None, has_dwarf=False, has_btf=True)
            sections = ElfSections(file)
            # Other owners have types of their own: Xen's 3, which every distribution's kernel has, is an address.
            build_ids = [n.data.hex() for n in sections.notes() if (n.name, n.type) == (b"GNU", _NT_GNU_BUILD_ID)]
            names = {section.name for section in sections.all}
    except OSError as error:
        raise TargetError(f"{path}: {error.strerror}") from None
    except Unavailable as error:
        raise TargetError(f"{path}: {error}") from None
    return _File(path, build_ids[0] if build_ids else None, ".debug_info" in names, ".BTF" in names)


def _check_build_id(prog: drgn.Program, file: _File) -> None:
    if file.build_id is None:
        if not file.has_btf:
            raise TargetError(f"{file.path}: no build-id: not a vmlinux or its debug file")
        return  # _check_layout() does what can be done
    expected = target_build_id(prog)
    if expected is not None and file.build_id != expected:
        raise TargetError(f"{file.path}: of another kernel: build-id {file.build_id}, the target's is {expected}")


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


def _load_btf(prog: drgn.Program, files: Sequence[_File]) -> None:
    from drgn_unaccepted.kernel import btf_finder
    from drgn_unaccepted.kernel.btf import BtfError

    file = next((file for file in files if file.has_btf), None)
    if files and file is None:
        raise TargetError(f"{', '.join(file.path for file in files)}: neither DWARF nor BTF in it")
    try:
        if file is None:
            btf_finder.load_btf(prog)
        else:
            btf_finder.attach_kallsyms(prog)
            btf_finder.attach(prog, btf_finder.read_btf_file(Path(file.path)))
    except BtfError as error:
        raise TargetError(f"{'the target' if file is None else file.path}: BTF: {error}") from None
    except Unavailable as error:
        raise TargetError(f"no types: {error}; give a vmlinux with -s") from None
    if file is not None and file.build_id is None:
        _check_layout(prog, file.path)


def _check_layout(prog: drgn.Program, path: str) -> None:
    """Hold types that cannot be told by a build-id against the sizes and offsets that VMCOREINFO has."""
    text: str = prog["VMCOREINFO"].string_().decode("latin-1")
    agreed = 0
    for name, member, number in re.findall(r"^(?:SIZE|OFFSET)\((\w+)(?:\.(\w+))?\)=(\d{1,9})$", text, re.MULTILINE):
        try:
            type_ = prog.type(f"struct {name}")
            found = drgn.offsetof(type_, member) if member else drgn.sizeof(type_)
        except LookupError:
            continue
        if found != int(number):
            what = f"offset of {member} in struct {name}" if member else f"size of struct {name}"
            raise TargetError(f"{path}: of another kernel: {what} is {found}, the target's is {number}")
        agreed += 1
    if not agreed:
        raise TargetError(f"{path}: no build-id, and nothing else to tell whether it is of this kernel")
