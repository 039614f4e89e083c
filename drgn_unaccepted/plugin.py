# SPDX-License-Identifier: LGPL-2.1-or-later
"""drgn's entry point: registers ``%unaccepted``. It is imported for every drgn user, so it does no more than that."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any, NoReturn, Optional

import drgn

try:
    from drgn.commands import CommandArgumentError, CommandError, argument, parse_shell_command
    from drgn.commands.linux import linux_kernel_custom_command
except ImportError:
    # Before drgn 0.1.0 no plugin can add a command.
    linux_kernel_custom_command = None

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drgn_unaccepted.kernel.target import Opened
    from drgn_unaccepted.snapshot import Snapshot, Wanted


class _Answered(Exception):
    """--help has been printed."""


class _Parser(argparse.ArgumentParser):
    def exit(self, status: int = 0, message: Optional[str] = None) -> NoReturn:
        raise CommandArgumentError(message.strip()) if message else _Answered

    def error(self, message: str) -> NoReturn:
        raise CommandArgumentError(f"{self.prog}: {message}")


def _cmd_unaccepted(prog: drgn.Program, name: str, args: Any, **kwargs: Any) -> None:
    # Each user of drgn imports this module; the rest is for those who use the command.
    from drgn_unaccepted import commands
    from drgn_unaccepted.errors import CommandError as NoAnswer
    from drgn_unaccepted.errors import TargetError
    from drgn_unaccepted.run import run

    options = commands.common_options()
    parser = _Parser(prog=f"%{name}", description="Show unaccepted memory.", parents=[options])
    commands.add_commands(parser, [], args)
    try:
        command, parsed = commands.parse(parser, args)
        run(command, parsed, _Prompt(prog))
    except _Answered:
        return
    except (TargetError, NoAnswer) as error:
        raise CommandError(str(error)) from None


class _Prompt:
    """The program of drgn's prompt."""

    def __init__(self, prog: drgn.Program) -> None:
        self._prog = prog

    def open(self) -> Opened:
        from drgn_unaccepted.kernel.target import adopt
        from drgn_unaccepted.words import safe

        opened = adopt(self._prog)
        for warning in opened.warnings:
            print(f"%unaccepted: warning: {safe(warning)}", file=sys.stderr)
        return opened

    def samples(self, wanted: Wanted) -> Iterator[Snapshot]:
        from drgn_unaccepted.errors import TargetError
        from drgn_unaccepted.kernel.capture import samples
        from drgn_unaccepted.kernel.crash import table_beside
        from drgn_unaccepted.words import safe

        opened = self.open()
        try:
            saved = table_beside(opened)
        except TargetError as error:
            saved = None
            print(f"%unaccepted: warning: {safe(str(error))}", file=sys.stderr)
        return samples(opened, wanted, saved)


if linux_kernel_custom_command is not None:
    linux_kernel_custom_command(
        name="unaccepted",
        description="unaccepted memory of a confidential guest (Intel TDX, AMD SEV-SNP)",
        usage="**unaccepted** [*COMMAND*] [*OPTIONS*]",
        long_description=(
            "Show which memory the guest has not accepted yet: summary (default), header, ranges, resolve ADDR..., "
            "map, check, efi, e820, zones, accepting; write it to a file: report, snapshot, record, keep; show it over "
            "time: watch, replay; and of many dumps: scan, merge. The same words as after drgn-unaccepted on the "
            "command line; --help after each of them says more."
        ),
        arguments=(
            argument("COMMAND", nargs="?", help="see above"),
            argument("--source", help="auto, bitmap, page-lists or counters"),
            argument("--format", help="text or json"),
        ),
        parse=parse_shell_command,
    )(_cmd_unaccepted)
