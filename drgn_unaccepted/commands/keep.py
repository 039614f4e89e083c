# SPDX-License-Identifier: LGPL-2.1-or-later
"""``keep``: the flight recorder, which saves the state of this boot for a later crash dump."""

from __future__ import annotations

from typing import Any, Callable

from drgn_unaccepted.commands.base import Action, Arguments, Parser, from_1
from drgn_unaccepted.errors import EXIT_ANSWERED, CommandError, SnapshotFileError, one_line
from drgn_unaccepted.kernel.capture import capture
from drgn_unaccepted.record.keep import BOOTS, DIRECTORY, boot_id, keep
from drgn_unaccepted.snapshot import ALL_PARTS, Wanted
from drgn_unaccepted.words import safe


class Keep(Action):
    def add_arguments(self, parser: Parser) -> None:
        parser.add_argument("--directory", default=DIRECTORY, help="where to keep it (default: %(default)s)")
        parser.add_argument(
            "--boots", metavar="N", type=from_1, default=BOOTS, help="number of boots to keep (default: %(default)s)"
        )

    def run(self, args: Arguments, open_target: Callable[[], Any]) -> int:
        opened = open_target()
        if not opened.is_this_kernel:
            raise CommandError(f"keep files by the boot of this machine, and {opened.name} is not its running kernel")
        try:
            # To read the boot id makes the kernel set it, so that a dump of this boot has it too.
            boot = boot_id()
            snapshot = capture(opened, Wanted(ALL_PARTS - {"pages"}))
            kept = keep(snapshot, boot, args.directory, args.boots)
        except OSError as error:
            raise CommandError(one_line(error, error.filename)) from None
        except SnapshotFileError as error:
            raise CommandError(str(error)) from None
        print(kept.snapshot)
        if kept.table is None:
            print(safe(f"without the table: {snapshot.table.state}: {snapshot.table.reason}"))
        if kept.option is not None:
            earlier = "" if kept.table is not None else " (read earlier)"
            print(f"for a crash dump of this boot: --table {kept.option}{earlier}")
        return EXIT_ANSWERED


COMMAND = Keep()
