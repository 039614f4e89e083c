# SPDX-License-Identifier: LGPL-2.1-or-later
"""drgn-unaccepted: the command line. Exit 0: answered; 3: not answered, with the reason on stderr."""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
import traceback
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Optional

from drgn_unaccepted import __version__, commands, errors, exit_status
from drgn_unaccepted.answer.best_source import judge
from drgn_unaccepted.commands import Arguments
from drgn_unaccepted.files import open_input, to_stderr
from drgn_unaccepted.limits import BITMAP_BYTES, PHYSICAL_END
from drgn_unaccepted.log.sos import sos_snapshot
from drgn_unaccepted.log.target import log_snapshot, read_logs
from drgn_unaccepted.model.header import HEADER
from drgn_unaccepted.run import run
from drgn_unaccepted.snapshot import Snapshot, Wanted
from drgn_unaccepted.snapshot_file import read

_TARGET_DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(("kernel", "core", "snapshot", "qemu", "raw", "log", "sos", "symbols", "table", "vmcoreinfo")),
    **{"debug_info": "auto", "debug": False},
}

_EPILOG = """\
Options and an example of a command: %(prog)s COMMAND --help

exit status: 0 answered; 3 not answered, or usage error, with the reason on
stderr; check: 1 warning, 2 critical

The bitmap is read physically. Since Linux 6.6 it lies in ACPI memory, which
kdump and /proc/kcore omit; there the answer comes from the bits at boot (EFI
memory map), the page allocator's lists and struct pages, and says so.
"""


def main(argv: Optional[Sequence[str]] = None) -> int:
    if sys.stderr is None:
        # Else the next file that is opened would take its place.
        sys.stderr = Path(os.devnull).open("w", encoding="ascii")  # noqa: SIM115
    if sys.stdout is None:
        to_stderr("drgn-unaccepted: stdout: closed")
        return exit_status.CANNOT
    for stream in (sys.stdout, sys.stderr):
        # Names out of a target can have characters that the terminal's encoding lacks.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    words = sys.argv[1:] if argv is None else argv
    try:
        command, args = commands.parse(parser(words), words, **_TARGET_DEFAULTS)
        target = _CommandLine(args)
        if args.command in commands.OF_FILES:
            allowed = ("debug", "symbols") if args.command == "scan" else ("debug",)
            given = (name for name in _TARGET_DEFAULTS if name not in allowed)
            target.refuse(f"{args.command} reads files of its own: it takes no {{}}", *given)
        return run(command, args, target.open, target.samples)
    except (errors.CommandError, errors.TargetError) as error:
        to_stderr(f"drgn-unaccepted: {errors.one_line(error)}")
        return exit_status.CANNOT
    except BrokenPipeError:
        # The reader of the output went away (| head): nothing is wrong, and nothing more can be said.
        return exit_status.ANSWERED
    except KeyboardInterrupt:
        return exit_status.INTERRUPTED
    except Exception as error:  # noqa: BLE001
        # A defect of this program is no finding: check defines 1 and 2.
        if "--debug" in words:
            traceback.print_exc()
        said = f"{type(error).__name__}: {errors.one_line(error)} (--debug shows the traceback)"
        to_stderr(f"drgn-unaccepted: {errors.INTERNAL_ERROR}: {said}")
        return exit_status.CANNOT


def parser(mentioned: Collection[str] = tuple(commands.COMMANDS)) -> commands.Parser:
    """The command line, from which man page and completion are generated; only commands ``mentioned`` have options."""
    hidden = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    _add_target_options(hidden)
    for action in hidden._actions:
        # A command takes them too; its --help is about the command.
        action.help = argparse.SUPPRESS
    top = commands.Parser(
        prog="drgn-unaccepted",
        usage="%(prog)s [TARGET] [COMMAND] [OPTIONS]",
        description="Show the unaccepted memory of a confidential guest, live or in a vmcore.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        parents=[commands.common_options()],
    )
    _add_target_options(top)
    top.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands.add_commands(top, [hidden], mentioned)
    return top


def _add_target_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("target")
    which = group.add_mutually_exclusive_group()
    which.add_argument("-k", "--kernel", action="store_true", help="the running kernel (default)")
    which.add_argument("-c", "--core", metavar="PATH", help="a vmcore: ELF, kdump-compressed, flattened, QEMU's ELF")
    which.add_argument("--snapshot", metavar="PATH", help="a file written by snapshot (- is standard input)")
    which.add_argument("--qemu", metavar="QMP", help="the kernel of a running QEMU guest, through its QMP socket")
    help_ = "guest RAM as a file (may be repeated): FILE@ADDR[-END|+LEN], or the name of a LiME file"
    which.add_argument("--raw", metavar="RAM", action="append", help=help_)
    which.add_argument("--sos", metavar="DIR", help="an unpacked sos report: its dmesg, and what /proc said")
    help_ = "vmlinux, debug file, bzImage or BTF (repeatable)"
    group.add_argument("-s", "--symbols", metavar="PATH", action="append", help=help_)
    help_ = "where types come from; auto: DWARF if -s gives it, else the target's own BTF and kallsyms"
    group.add_argument("--debug-info", choices=("auto", "dwarf", "btf"), help=help_)
    help_ = "a kernel log (console, dmesg, journalctl -k): a target of its own, or what a dump's own log has lost"
    group.add_argument("--log", metavar="FILE", help=help_)
    group.add_argument("--table", metavar="FILE@ADDR|SNAPSHOT", help="a table saved earlier in this boot")
    group.add_argument("--vmcoreinfo", metavar="FILE", help="text of VMCOREINFO, for a dump that has none")
    group.add_argument("--debug", action="store_true", help="show the traceback of an internal error")


class _CommandLine:
    def __init__(self, args: Arguments) -> None:
        self._args = args

    def open(self) -> Any:
        why = f"{self._args.command} reads a kernel or a dump anew each time: it takes no {{}}"
        self.refuse(why, "snapshot", "table", "log", "sos")
        return self._open()

    def samples(self, wanted: Wanted) -> Iterator[Snapshot]:
        args, how = self._args, ("table", "symbols", "vmcoreinfo", "debug_info")
        if args.snapshot is not None:
            self.refuse("--snapshot was read from its target already: {} is for the command snapshot", *how, "log")
            with errors.concerning(args.snapshot):
                return iter((read(args.snapshot, lambda text: _warn(f"{args.snapshot}: {text}")),))
        if args.sos is not None:
            self.refuse("--sos is a target that is text: {} is for a kernel or a dump", *how, "log")
            return iter((sos_snapshot(args.sos),))
        logs: Sequence[Any] = ()
        if args.log is not None:
            if not (args.core or args.kernel or args.qemu or args.raw):
                self.refuse("--log alone is a target that is text: {} is for a kernel or a dump beside it", *how)
                return iter((log_snapshot(args.log, _warn),))
            logs = read_logs(args.log, every=True)
        # drgn is optional: a snapshot file needs none.
        from drgn_unaccepted.kernel.capture import samples
        from drgn_unaccepted.kernel.crash_kernel import table_beside

        opened = self._open()._replace(logs=logs)
        saved = table_beside(opened, _warn) if args.table is None else _read_saved_table(args.table)
        return samples(opened, wanted, saved)

    def _open(self) -> Any:
        args = self._args
        source = args.core if args.core is not None else args.raw
        # With drgn. Each way of opening a target loads only what it needs itself.
        types: tuple[Any, str] = (), args.debug_info
        if args.symbols:
            from drgn_unaccepted.targets.symbol_files import read_symbol_file

            types = [read_symbol_file(path, args.debug_info) for path in args.symbols], args.debug_info
        if source is not None:
            from drgn_unaccepted.targets.vmcore import open_vmcore

            opened = open_vmcore(source, *types, args.vmcoreinfo)
        elif args.qemu is not None:
            from drgn_unaccepted.targets.qemu import open_qemu

            opened = open_qemu(args.qemu, *types, args.vmcoreinfo)
        elif args.vmcoreinfo is not None:
            raise errors.CommandError("--vmcoreinfo is for a dump, and the running kernel has its own: give -c, too")
        else:
            from drgn_unaccepted.targets.live import open_kernel

            opened = open_kernel(*types)
        for warning in opened.warnings:
            _warn(warning)
        return opened

    def refuse(self, why: str, *names: str) -> None:
        for name in names:
            if getattr(self._args, name) != _TARGET_DEFAULTS[name]:
                raise errors.CommandError(why.format("-s" if name == "symbols" else f"--{name.replace('_', '-')}"))


def _read_saved_table(text: str) -> Any:
    """The table that ``--table`` names: ``FILE@ADDR`` has its bytes, a snapshot knows its boot too."""
    from drgn_unaccepted.kernel.table import SavedTable, saved_table_from_snapshot  # with drgn

    bare = re.fullmatch(r"(.+)@(0x[0-9a-f]+)", text, re.IGNORECASE | re.DOTALL)
    with errors.concerning():
        if bare is not None:
            if int(bare[2], 16) >= PHYSICAL_END:
                raise errors.CommandError(f"--table {text}: {bare[2]} is no physical address")
            with open_input(bare[1]) as file:
                return SavedTable(bare[1], int(bare[2], 16), file.read(HEADER.size + BITMAP_BYTES))
        try:
            snapshot = read(text)
        except errors.SnapshotFileError as error:
            raise errors.CommandError(f"{text}: neither FILE@0xADDRESS nor a snapshot file: {error}") from None
    doubt = judge(snapshot, "bitmap").doubt
    if doubt is not None:
        raise errors.CommandError(f"{text}: its table is not to be believed: {doubt}")
    return saved_table_from_snapshot(text, snapshot)


def _warn(text: str) -> None:
    to_stderr(f"drgn-unaccepted: warning: {text}")
