# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where types, symbols and variables come from: DWARF that the user gives, or the target's own BTF and kallsyms."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple, Optional

import drgn

from drgn_unaccepted import limits
from drgn_unaccepted.errors import one_line
from drgn_unaccepted.files import open_dump
from drgn_unaccepted.kernel import btf_finder
from drgn_unaccepted.kernel.elf import ElfSections, build_id
from drgn_unaccepted.kernel.errors import TargetError, Unavailable
from drgn_unaccepted.kernel.formats import vmlinux_in
from drgn_unaccepted.kernel.vmcoreinfo import vmcoreinfo_of

GIVE_VMLINUX = "; give a vmlinux with -s"
#: The first bytes of BTF outside an ELF file, in little endian.
_BTF_MAGIC = b"\x9f\xeb"


class _File(NamedTuple):
    """A file given with ``-s``."""

    path: str
    #: None: it has none, for example bare BTF.
    build_id: Optional[str]
    has_dwarf: bool
    #: None: it has none, or its DWARF is used.
    btf: Optional[bytes]


def attach_debug_info(prog: drgn.Program, symbols: Sequence[str], wanted: str) -> tuple[str, Optional[str]]:
    """Make types and symbols of ``prog`` resolve; returns ``dwarf`` or ``btf``, and the file that has the types.

    ``auto`` takes DWARF if a given file has it, else BTF if a given file has it, else what the target holds. ``dwarf``
    without a file searches where drgn does; ``btf`` prefers a file's BTF to the target's own.

    :param symbols: paths of vmlinux, its debug file, or files with BTF alone: a stripped vmlinux, a kernel image, a
        copy of ``/sys/kernel/btf/vmlinux``
    :param wanted: ``auto``, ``dwarf`` or ``btf``
    :raises TargetError: nothing was found, or a file belongs to another kernel
    """
    files = [_look_into(path, wanted) for path in symbols]
    # Before Linux 5.9 VMCOREINFO has no build-id.
    expected = vmcoreinfo_of(prog).get("BUILD-ID") if files else None
    for file in files:
        if file.build_id is None and file.btf is None:
            raise TargetError(f"{file.path}: no build-id: not a vmlinux or its debug file")
        if None not in (file.build_id, expected) and file.build_id != expected:
            raise TargetError(f"{file.path}: of another kernel: build-id {file.build_id}, the target's is {expected}")
    if wanted == "dwarf" or (wanted == "auto" and any(file.has_dwarf for file in files)):
        _load_dwarf(prog, symbols)
        return "dwarf", next((file.path for file in files if file.has_dwarf), None)
    return "btf", _load_btf(prog, files)


def _look_into(path: str, wanted: str) -> _File:
    try:
        with open_dump(path) as file:
            if file.read(2) == _BTF_MAGIC:
                file.seek(0)
                return _File(path, None, False, file.read(limits.BTF_BYTES + 1))  # one more than Btf takes
            file.seek(0)
            sections = ElfSections(vmlinux_in(file))
            has_dwarf = ".debug_info" in sections.named
            use_btf = wanted == "btf" or not has_dwarf
            btf = sections.data(".BTF", limits.BTF_BYTES) if use_btf else None
            return _File(path, build_id(sections.notes()), has_dwarf, btf)
    except (OSError, Unavailable) as error:
        raise TargetError(one_line(error, path)) from None


def _load_dwarf(prog: drgn.Program, symbols: Sequence[str]) -> None:
    release = vmcoreinfo_of(prog).get("OSRELEASE") or ""
    if not symbols and not re.fullmatch(r"[\w+~-][\w.+~-]*", release, re.ASCII):
        # drgn makes paths of it.
        raise TargetError(f"DWARF is searched by the kernel's release, and {release!r} is none: give a vmlinux with -s")
    try:
        prog.load_debug_info(symbols, main=not symbols)
        prog.type("struct page")
    except drgn.MissingDebugInfoError as error:
        why = f"no DWARF for this kernel: {str(error).splitlines()[0]}; give a vmlinux with -s, or use"
        raise TargetError(f"{why} --debug-info btf") from None
    except (ValueError, OSError) as error:
        raise TargetError(one_line(error, ", ".join(symbols))) from None
    except LookupError:
        raise TargetError(f"{', '.join(symbols)}: no DWARF in it; try --debug-info btf") from None


def _load_btf(prog: drgn.Program, files: Sequence[_File]) -> Optional[str]:
    """Returns the file that it is from; None for the target itself."""
    file = next((file for file in files if file.btf is not None), None)
    if files and file is None:
        raise TargetError(f"{', '.join(file.path for file in files)}: neither DWARF nor BTF in it")
    try:
        btf_finder.load_btf(prog, None if file is None else file.btf)
    except (ValueError, Unavailable) as error:
        if file is not None and isinstance(error, ValueError):
            raise TargetError(f"{file.path}: BTF: {error}") from None
        raise TargetError(f"no types: {error}{GIVE_VMLINUX}") from None
    if file is not None and file.build_id is None:
        _check_layout(prog, file.path)
    return None if file is None else file.path


def _check_layout(prog: drgn.Program, path: str) -> None:
    """Compare types without a build-id with the sizes and offsets in VMCOREINFO."""
    agreed = False
    for key, value in vmcoreinfo_of(prog).entries.items():
        entry = re.fullmatch(r"(?:SIZE|OFFSET)\((\w+)(?:\.(\w+))?\)", key)
        if entry is None or not re.fullmatch("[0-9]{1,9}", value):
            continue
        name, member = entry.groups()
        try:
            type_ = prog.type(f"struct {name}")
            found = drgn.offsetof(type_, member) if member else drgn.sizeof(type_)
        except LookupError:
            continue
        if found != int(value):
            what = f"offset of {member} in struct {name}" if member else f"size of struct {name}"
            raise TargetError(f"{path}: of another kernel: {what} is {found}, the target's is {value}")
        agreed = True
    if not agreed:
        raise TargetError(f"{path}: no build-id, and nothing else to tell whether it is of this kernel")
