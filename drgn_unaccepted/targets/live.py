# SPDX-License-Identifier: LGPL-2.1-or-later
"""Open the running kernel."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from drgn_unaccepted.errors import one_line
from drgn_unaccepted.targets.bpf import KernelReader
from drgn_unaccepted.targets.debug_info import SymbolFile, attach_debug_info
from drgn_unaccepted.targets.opened import Opened, program, refusing
from drgn_unaccepted.targets.privileges import lacking, lockdown_mode


def open_kernel(symbols: Sequence[SymbolFile] = (), debug_info: str = "auto") -> Opened:
    """The running kernel, through /proc/kcore."""
    prog = program()
    with refusing(lambda error: f"/proc/kcore: {_why_no_kcore(error)}"):
        prog.set_kernel()
    return Opened(prog, "live", None, *attach_debug_info(prog, symbols, debug_info), kernel_reader=KernelReader)


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
