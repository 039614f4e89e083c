# SPDX-License-Identifier: LGPL-2.1-or-later
"""drgn-unaccepted: parse, open the target, capture, answer, print. Exit 0 answered, 3 could not, with the reason."""

from __future__ import annotations

import argparse
import io
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Callable, NoReturn, Optional

from drgn_unaccepted import __version__, commands
from drgn_unaccepted.commands import (
    Action,
    Arguments,
    CommandError,
    Question,
    ask,
    chosen,
    print_answer,
    wanted,
)
from drgn_unaccepted.errors import TargetError, internal_error
from drgn_unaccepted.snapshot import Snapshot
from drgn_unaccepted.words import safe

if TYPE_CHECKING:
    from drgn_unaccepted.kernel.target import Opened

EXIT_ANSWERED = 0
EXIT_CANNOT = 3
EXIT_INTERRUPTED = 130

_TARGET_DEFAULTS = {
    "core": None,
    "snapshot": None,
    "symbols": None,
    "debug_info": "auto",
    "table": None,
    "vmcoreinfo": None,
    "debug": False,
}

_EPILOG = """\
exit status: 0 answered; 3 could not answer, or usage error, with the reason on stderr; of check: 1 warning, 2 critical

The bitmap is read physically. Since Linux 6.6 it lies in ACPI memory, which no kdump and no /proc/kcore holds; there
the answer comes from the page allocator's lists (zone->unaccepted_pages, chunks of 4 MiB), and says so.
"""


class _Parser(argparse.ArgumentParser):
    """argparse exits with 2 on a usage error, which for a monitoring system is "critical"."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_CANNOT, f"{self.prog}: {safe(message)} (try --help)\n")


class _CannotAnswer(Exception):
    """The one line for stderr."""


def main(argv: Optional[Sequence[str]] = None) -> int:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        # Names out of a target can have characters that the terminal's encoding lacks.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    args = parser().parse_args(argv, argparse.Namespace(**commands.DEFAULTS, **_TARGET_DEFAULTS))
    try:
        return _run(args)
    except _CannotAnswer as error:
        print(f"drgn-unaccepted: {safe(str(error))}", file=sys.stderr)
        return EXIT_CANNOT
    except BrokenPipeError:
        # The reader of our output went away (| head): nothing is wrong, and nothing more can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_ANSWERED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001
        # A defect of this program is no finding: check defines 1 and 2.
        if args.debug:
            traceback.print_exc()
        print(f"drgn-unaccepted: {internal_error(error)}", file=sys.stderr)
        return EXIT_CANNOT


def parser() -> argparse.ArgumentParser:
    """The command line; man page, completion and docs are generated from it."""
    parents = [_target_options(), commands.common_options()]
    top = _Parser(
        prog="drgn-unaccepted",
        description="Show the unaccepted memory of a confidential guest, in a live kernel or a vmcore.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=parents,
    )
    top.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands.add_commands(top, parents)
    return top


def _target_options() -> argparse.ArgumentParser:
    target = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    group = target.add_argument_group("target")
    which = group.add_mutually_exclusive_group()
    which.add_argument("-k", "--kernel", action="store_true", help="the running kernel (default)")
    which.add_argument("-c", "--core", metavar="PATH", help="a vmcore: ELF, kdump-compressed, flattened, QEMU's ELF")
    which.add_argument("--snapshot", metavar="PATH", help="a file written by the command snapshot")
    group.add_argument(
        "-s", "--symbols", metavar="PATH", action="append", help="vmlinux, its debug file, or BTF (may be repeated)"
    )
    group.add_argument(
        "--debug-info",
        choices=("auto", "dwarf", "btf"),
        help="where types come from; auto: DWARF if -s gives it, else the target's own BTF and kallsyms",
    )
    group.add_argument(
        "--table",
        metavar="FILE@ADDR|SNAPSHOT",
        help="a table saved earlier in this boot",
    )
    group.add_argument("--vmcoreinfo", metavar="FILE", help="text of VMCOREINFO, for a dump that has none")
    group.add_argument("--debug", action="store_true", help="show the traceback of an internal error")
    return target


def _run(args: Arguments) -> int:
    try:
        command = chosen(args)
        if isinstance(command, Action):
            return command.run(args, lambda: _open_for(command, args))
        return _answer(command, args)
    except (CommandError, TargetError) as error:
        raise _CannotAnswer(str(error)) from None


def _answer(question: Question, args: Arguments) -> int:
    text = question.offline(args)
    if text is not None:
        print(text)
        return EXIT_ANSWERED
    snapshot, take_again = _snapshot(question, args)
    answered = ask(question, snapshot, args)
    if take_again is not None and question.confirm(answered.document):
        args.earlier = snapshot
        answered = ask(question, take_again(), args)
    print_answer(answered, args)
    if answered.lack is not None:
        raise _CannotAnswer(answered.lack)
    status = question.exit_status(answered.document)
    if status == EXIT_CANNOT:
        # check, which has printed what it found all the same.
        table = answered.document["table"]
        raise _CannotAnswer(answered.document["source_reason"] or f"table {table['state']}: {table['reason']}")
    return status


def _snapshot(question: Question, args: Arguments) -> tuple[Snapshot, Optional[Callable[[], Snapshot]]]:
    """The snapshot, and for a live kernel how to take another one."""
    if args.snapshot is not None:
        _refuse_with_snapshot(args)
        return _read_snapshot(args.snapshot), None
    # Imports drgn, which a snapshot file does not need.
    from drgn_unaccepted.kernel.capture import capture
    from drgn_unaccepted.kernel.table import read_saved_table

    saved = None if args.table is None else read_saved_table(args.table)
    opened = _open(args)

    def take() -> Snapshot:
        return capture(opened, wanted(question, args), saved)

    return take(), take if opened.kind == "live" else None


def _refuse_with_snapshot(args: Arguments) -> None:
    """What is said of a target comes too late for a file that was read from it."""
    given = {"--table": args.table, "-s": args.symbols, "--vmcoreinfo": args.vmcoreinfo}
    for option, value in given.items():
        if value is not None:
            raise _CannotAnswer(f"--snapshot was read from its target already: {option} is for the command snapshot")
    if args.debug_info != _TARGET_DEFAULTS["debug_info"]:
        raise _CannotAnswer("--snapshot needs no types: --debug-info is for the command snapshot")


def _open_for(action: Action, args: Arguments) -> Opened:
    for option, value in (("--snapshot", args.snapshot), ("--table", args.table)):
        if value is not None:
            raise _CannotAnswer(f"{action.name} reads a kernel or a dump anew each time: it takes no {option}")
    return _open(args)


def _open(args: Arguments) -> Opened:
    from drgn_unaccepted.kernel.target import open_kernel, open_vmcore

    if args.core is not None:
        opened = open_vmcore(args.core, args.symbols or (), args.debug_info, args.vmcoreinfo)
    else:
        if args.vmcoreinfo is not None:
            raise _CannotAnswer("--vmcoreinfo is for a dump, and the running kernel has its own: give -c, too")
        opened = open_kernel(args.symbols or (), args.debug_info)
    for warning in opened.warnings:
        print(f"drgn-unaccepted: warning: {safe(warning)}", file=sys.stderr)
    return opened


def _read_snapshot(path: str) -> Snapshot:
    from drgn_unaccepted.snapshot_file import SnapshotFileError, read

    try:
        return read(path)
    except OSError as error:
        raise _CannotAnswer(f"{path}: {error.strerror}") from None
    except SnapshotFileError as error:
        if _begins_with(path, b"\x7fELF", b"KDUMP   ", b"makedumpfile"):
            raise _CannotAnswer(f"{path}: a dump, and no file written by snapshot: give it with -c") from None
        raise _CannotAnswer(f"{path}: {error}") from None


def _begins_with(path: str, *signatures: bytes) -> bool:
    """Whether a regular file does; a pipe cannot be read again."""
    file = Path(path)
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return opened.read(max(map(len, signatures))).startswith(signatures)
