# SPDX-License-Identifier: LGPL-2.1-or-later
"""A target that is open: a drgn program whose types and symbols resolve. How each kind is opened has its own module."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Callable, NamedTuple, Optional

import drgn

from drgn_unaccepted.log.boots import BootLog
from drgn_unaccepted.targets.elf import ElfCore
from drgn_unaccepted.targets.errors import DAMAGED, TargetError

if TYPE_CHECKING:
    from drgn_unaccepted.targets.bpf import KernelReader

X86_64 = drgn.Platform(drgn.Architecture.X86_64)


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
    kernel_reader: Optional[type[KernelReader]] = None  #: Reads what /proc/kcore omits; for :mod:`kernel.acpi` alone.

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


def program(platform: Optional[drgn.Platform] = None, vmcoreinfo: Optional[bytes] = None) -> drgn.Program:
    # drgn imports its plugins when a target is set, and its own commands import every helper: 60 ms for nothing.
    # A plugin that the user names in DRGN_PLUGINS still runs.
    os.environ.setdefault("DRGN_DISABLE_PLUGINS", "*")
    # This program reports what drgn would warn about (missing debuginfo, the flattened format), if it matters.
    logging.getLogger("drgn").setLevel(logging.ERROR)
    return drgn.Program(platform, vmcoreinfo=vmcoreinfo)


@contextmanager
def refusing(why: Callable[[Exception], str]) -> Iterator[None]:
    """Give the reason for what drgn raises about its file. For libkdumpfile's errors it raises Exception itself."""
    try:
        yield
    except Exception as error:
        if type(error) is not Exception and not isinstance(error, DAMAGED):
            raise
        raise TargetError(why(error)) from None
