# SPDX-License-Identifier: LGPL-2.1-or-later
"""Take a drgn program that somebody else opened for a target."""

from __future__ import annotations

import drgn

from drgn_unaccepted.errors import one_line
from drgn_unaccepted.targets.bpf import KernelReader
from drgn_unaccepted.targets.debug_info import attach_debug_info
from drgn_unaccepted.targets.errors import DAMAGED, TargetError
from drgn_unaccepted.targets.opened import Opened
from drgn_unaccepted.targets.vmcore import complete, examine, warnings_of


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
    core, flaw, lacking = (None, None, ()) if path is None else examine(path, path)
    complete(prog, core, lacking)
    try:
        prog.type("struct page")
        found = "btf" if "btf" in prog.enabled_type_finders() else "dwarf"
    except LookupError:
        found, _ = attach_debug_info(prog, (), "btf")
    except DAMAGED as error:
        raise TargetError(f"{path or 'the running kernel'}: no struct page: {one_line(error)}") from None
    kind = "vmcore" if not live else "live" if prog.flags & drgn.ProgramFlags.IS_LOCAL else "remote"
    reader = KernelReader if kind == "live" else None
    return Opened(prog, kind, path, found, None, core, tuple(warnings_of(str(path), flaw)), kernel_reader=reader)
