# SPDX-License-Identifier: LGPL-2.1-or-later
"""``keep``: the flight recorder, which saves the state of this boot for a later crash dump."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

from drgn_unaccepted import exit_status
from drgn_unaccepted.commands import Action, Arguments, Parser, from_1
from drgn_unaccepted.errors import CommandError, concerning
from drgn_unaccepted.files import to_stdout
from drgn_unaccepted.kernel.capture import capture
from drgn_unaccepted.kernel.crash_kernel import DUMP, capture_at_crash, own_memory
from drgn_unaccepted.model.bitmap import units_of
from drgn_unaccepted.record.keep import BOOTS, DIRECTORY, boot_id, keep
from drgn_unaccepted.snapshot import ALL_PARTS, Wanted
from drgn_unaccepted.snapshot_file import write
from drgn_unaccepted.targets.opened import Opened
from drgn_unaccepted.targets.vmcore import open_vmcore
from drgn_unaccepted.words import count, safe, span


class Keep(Action):
    def add_arguments(self, parser: Parser) -> None:
        parser.add_argument("--directory", default=DIRECTORY, help="where to keep it (default: %(default)s)")
        help_ = "number of boots to keep (default: %(default)s)"
        parser.add_argument("--boots", metavar="N", type=from_1, default=BOOTS, help=help_)
        help_ = "in a crash kernel: save the table of the kernel that crashed into FILE, VMCORE.unaccepted-table"
        parser.add_argument("--crash-kernel", action="store_true", help=help_)
        parser.add_argument("-o", "--output", metavar="FILE", help="with --crash-kernel: beside the dump")

    def run(self, args: Arguments, open_target: Callable[[], Any]) -> int:
        if args.crash_kernel != (args.output is not None):
            raise CommandError("keep: --crash-kernel and -o FILE go together")
        opened = open_target()
        if args.crash_kernel:
            return _keep_at_crash(opened, args.output)
        if not opened.is_this_kernel:
            raise CommandError(f"keep files by the boot of this machine, and {opened.name} is not its running kernel")
        with concerning():
            # To read the boot id makes the kernel set it, so that a dump of this boot has it too.
            boot = boot_id()
            snapshot = capture(opened, Wanted(ALL_PARTS - {"pages"}))
            kept = keep(snapshot, boot, args.directory, args.boots)
        to_stdout((kept.snapshot,))
        if kept.table is None:
            to_stdout((safe(f"without the table: {snapshot.table.state}: {snapshot.table.reason}"),))
        if kept.option is not None:
            earlier = "" if kept.table is not None else " (read earlier)"
            to_stdout((f"for a crash dump of this boot: --table {kept.option}{earlier}",))
        return exit_status.ANSWERED


def _keep_at_crash(running: Opened, path: str) -> int:
    if not running.is_this_kernel or not Path(DUMP).exists():
        raise CommandError(f"no crash kernel: it has {DUMP}, the memory of the kernel that crashed")
    snapshot = capture_at_crash(running, open_vmcore(DUMP))
    with concerning(path):
        write(snapshot, path)
    geometry, own = snapshot.table.geometry, own_memory(running)
    units = 0 if geometry is None else sum(len(units_of(geometry, *range_)) for range_ in own)
    where = ", ".join(span(*range_) for range_ in own) or "unknown"
    to_stdout((f"{path}: {count(units, 'unit')} in the crash kernel's own memory, {where}",))
    return exit_status.ANSWERED


COMMAND = Keep()
