# SPDX-License-Identifier: LGPL-2.1-or-later
"""Open the kernel of a running QEMU guest, from its host."""

from __future__ import annotations

import select
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import drgn

from drgn_unaccepted import limits
from drgn_unaccepted.errors import one_line
from drgn_unaccepted.targets.debug_info import SymbolFile, attach_debug_info
from drgn_unaccepted.targets.errors import TargetError
from drgn_unaccepted.targets.opened import X86_64, Opened, program, refusing
from drgn_unaccepted.targets.vmcoreinfo_search import read_vmcoreinfo


def open_qemu(
    path: str, symbols: Sequence[SymbolFile] = (), debug_info: str = "auto", vmcoreinfo: Optional[str] = None
) -> Opened:
    """The running kernel of a QEMU guest, from its host, through QMP."""
    text = None if vmcoreinfo is None else read_vmcoreinfo(vmcoreinfo)
    prog = program()
    if not hasattr(prog, "set_qemu_qmp"):
        raise TargetError(f"drgn {drgn.__version__} knows no QMP: update it to 0.2.0 or later")
    with refusing(lambda error: one_line(error, path)):
        prog.set_qemu_qmp(_connect(path) if Path(path).is_socket() else path)
        if text is not None:
            # drgn 0.3.0 takes no VMCOREINFO for a guest that has none: a program that reads the other one's memory.
            guest, prog = prog, program(X86_64)
            prog.add_memory_segment(
                0, limits.PHYSICAL_END, lambda address, count, *_: guest.read(address, count, physical=True), True
            )
            prog.set_linux_kernel_custom(text, is_live=True)
        if not prog.flags & drgn.ProgramFlags.IS_LINUX_KERNEL:
            raise TargetError(
                f"{path}: no VMCOREINFO (QEMU without -device vmcoreinfo, or a guest without the fw_cfg driver): "
                "give the text with --vmcoreinfo FILE"
            )
        return Opened(prog, "remote", path, *attach_debug_info(prog, symbols, debug_info))


def _connect(path: str) -> int:
    """A connection to QMP that answers. QEMU serves one client, and lets others wait without a word."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    if not select.select([connection], [], [], limits.PIPE_SECONDS)[0]:
        connection.close()
        raise TargetError(
            f"{path}: no answer in {limits.PIPE_SECONDS} s: QEMU serves one client at a time; give it another -qmp"
        )
    return connection.detach()
