# SPDX-License-Identifier: LGPL-2.1-or-later
"""The commands: what each needs of the target, how it answers, and when it could not.

The command line and ``%unaccepted`` in drgn's prompt share this table; neither a target nor a terminal is known here.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Callable, NamedTuple, Optional

from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.questions.document import Document
from drgn_unaccepted.questions.resolve import Query, parse_query
from drgn_unaccepted.questions.source import SOURCES, Source, choose_source
from drgn_unaccepted.snapshot import ALL_PARTS, Snapshot, Wanted

Arguments = argparse.Namespace


class CommandError(Exception):
    """A command could not do what it was asked for; the text is the one line that the user sees."""


class Command(NamedTuple):
    name: str
    help: str
    #: Parts of the snapshot that the answer is made of, beside the table.
    parts: frozenset[str]
    answer: Callable[[Snapshot, Source, Arguments], Document]
    #: Why the answer answers nothing, or None where it does.
    lack: Callable[[Document], Optional[str]]
    add_arguments: Callable[[argparse.ArgumentParser], None] = lambda parser: None
    #: The ranges that the user asks for, whose pages are looked at.
    addresses: Callable[[Arguments], Sequence[Range]] = lambda args: ()
    #: From page lists the pages of all memory tell what is accepted.
    whole_memmap: bool = False
    #: Formats beside text and json.
    formats: tuple[str, ...] = ()
    #: The text that answers without a target, or None where one is needed.
    offline: Callable[[Arguments], Optional[str]] = lambda args: None
    exit_status: Callable[[Document], int] = lambda answer: 0
    #: Whether a second sample of a live kernel has to confirm the answer.
    confirm: Callable[[Document], bool] = lambda answer: False


_STATE = frozenset(("kernel", "zones", "counters"))


def _summary(snapshot: Snapshot, source: Source, args: Arguments) -> Document:
    from drgn_unaccepted.questions.summary import summary

    return summary(snapshot, source)


def _header(snapshot: Snapshot, source: Source, args: Arguments) -> Document:
    from drgn_unaccepted.questions.summary import header

    return header(snapshot, source)


def _ranges(snapshot: Snapshot, source: Source, args: Arguments) -> Document:
    from drgn_unaccepted.questions.ranges import ranges

    return ranges(snapshot, source)


def _resolve(snapshot: Snapshot, source: Source, args: Arguments) -> Document:
    from drgn_unaccepted.questions.resolve import resolve

    return resolve(snapshot, source, args.queries)


def _efi(snapshot: Snapshot, source: Source, args: Arguments) -> Document:
    from drgn_unaccepted.questions.maps import efi

    return efi(snapshot, source)


def _e820(snapshot: Snapshot, source: Source, args: Arguments) -> Document:
    from drgn_unaccepted.questions.maps import e820

    return e820(snapshot, source)


def _zones(snapshot: Snapshot, source: Source, args: Arguments) -> Document:
    from drgn_unaccepted.questions.allocator import zones

    return zones(snapshot, source)


def _accepting(snapshot: Snapshot, source: Source, args: Arguments) -> Document:
    from drgn_unaccepted.questions.allocator import accepting

    return accepting(snapshot, source)


def _check(snapshot: Snapshot, source: Source, args: Arguments) -> Document:
    from drgn_unaccepted.questions.check import check

    try:
        return check(snapshot, source, args.rule, args.earlier)
    except ValueError as error:
        raise CommandError(str(error)) from None


def _explain(args: Arguments) -> Optional[str]:
    from drgn_unaccepted.checks import explain

    try:
        return None if args.explain is None else explain(args.explain)
    except ValueError as error:
        raise CommandError(str(error)) from None


def _write_snapshot(snapshot: Snapshot, source: Source, args: Arguments) -> Document:
    from drgn_unaccepted.questions.document import document
    from drgn_unaccepted.snapshot_file import write

    try:
        write(snapshot, args.output)
    except OSError as error:
        raise CommandError(f"{args.output}: {error.strerror}") from None
    return {**document(snapshot, source, "snapshot"), "file": args.output, "missing": dict(snapshot.missing)}


def _no_state(answer: Document) -> Optional[str]:
    """The state of no address is known, and a table should be there."""
    if answer["source"] == "none" and answer["table"]["state"] != "absent":
        return str(answer["source_reason"])
    return None


def _no_header(answer: Document) -> Optional[str]:
    table = answer["table"]
    if table["version"] is None and table["state"] != "absent":
        return f"table {table['state']}: {table['reason']}"
    return None


def _no_ranges(answer: Document) -> Optional[str]:
    if answer["ranges"] is None:
        return _no_state(answer) or f"source {answer['source']} knows no addresses ({answer['source_reason']})"
    return None


def _all_unknown(answer: Document) -> Optional[str]:
    if all(entry["state"] == "unknown" for entry in answer["addresses"]):
        return str(answer["addresses"][0]["reason"])
    return None


def _no_map(answer: Document) -> Optional[str]:
    return None if answer["descriptors"] is not None else f"EFI memory map: {answer['note']}"


def _no_e820(answer: Document) -> Optional[str]:
    if any(table is not None for table in answer["tables"].values()):
        return None
    return "e820: " + "; ".join(sorted(set(answer["missing"].values())))


def _no_zones(answer: Document) -> Optional[str]:
    return None if answer["zones"] is not None else f"zones: {answer['missing']}"


def _no_accepting(answer: Document) -> Optional[str]:
    return None if answer["accepting"] is not None else f"accepting_list: {answer['missing']}"


def _resolve_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "queries",
        metavar="ADDR[-END|+LEN]",
        nargs="+",
        type=_query,
        help="physical address or range: hexadecimal with 0x, or with a suffix K, M, G or T; END is exclusive",
    )


def _check_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rule", metavar="NAME", action="append", help="run this rule only (may be repeated)")
    parser.add_argument("--explain", metavar="NAME", help="what a rule means and why, and what to do")
    parser.set_defaults(earlier=None)


def _snapshot_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="written whole or not at all")


def _query(text: str) -> Query:
    try:
        return parse_query(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        Command(
            "summary",
            "how much is unaccepted, and who says so",
            _STATE | {"platform", "accepting"},
            _summary,
            _no_state,
        ),
        Command("header", "the fields of struct efi_unaccepted_memory", frozenset(), _header, _no_header),
        Command(
            "ranges",
            "what is unaccepted and what is accepted, by physical address",
            _STATE | {"pages", "efi_map"},
            _ranges,
            _no_ranges,
            whole_memmap=True,
        ),
        Command(
            "resolve",
            "which unit an address is in, whether it was accepted, and what the maps say of it",
            _STATE | {"pages", "efi_map", "e820", "accepting"},
            _resolve,
            _all_unknown,
            _resolve_arguments,
            lambda args: [query.range for query in args.queries],
        ),
        Command("efi", "the EFI memory map: what the firmware said", frozenset(("efi_map",)), _efi, _no_map),
        Command("e820", "the e820 tables: what the kernel made of it", frozenset(("e820",)), _e820, _no_e820),
        Command("zones", "zone->unaccepted_pages, counters and watermarks", _STATE, _zones, _no_zones),
        Command(
            "accepting",
            "the accepts in flight, with task and CPU",
            frozenset(("accepting", "efi_map")),
            _accepting,
            _no_accepting,
        ),
        Command(
            "check",
            "hold bitmap, EFI map, e820 and page allocator against each other",
            ALL_PARTS,
            _check,
            lambda answer: None,
            _check_arguments,
            formats=("nagios", "junit"),
            offline=_explain,
            exit_status=lambda answer: {"ok": 0, "warning": 1, "critical": 2, "unknown": 3}[answer["status"]],
            confirm=lambda answer: answer["status"] != "ok",
        ),
        Command(
            "snapshot",
            "write all that can be read to a file, for --snapshot later and elsewhere",
            ALL_PARTS,
            _write_snapshot,
            lambda answer: None,
            _snapshot_arguments,
            whole_memmap=True,
        ),
    )
}


#: What the common options are when they are not given. They go in as the namespace to parse into: parsers that share
#: actions as parents cannot have defaults of their own, the inner parser's would overwrite what the outer one read.
DEFAULTS = {"command": None, "source": "auto", "format": "text"}


class Answered(NamedTuple):
    command: Command
    document: Document
    #: Why the document answers nothing, or None where it does.
    lack: Optional[str]


def common_options() -> argparse.ArgumentParser:
    """The options of every command, as a parent; they may stand before and after the command's name."""
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument(
        "--source",
        choices=("auto", *SOURCES),
        help="where the state comes from; auto: the best that can be read",
    )
    common.add_argument("--format", metavar="FORMAT", help="text (default) or json; check: also nagios, junit")
    return common


def add_commands(parser: argparse.ArgumentParser, parents: Sequence[argparse.ArgumentParser]) -> None:
    """Give ``parser`` the commands, each with the options of ``parents``."""
    commands = parser.add_subparsers(metavar="COMMAND", dest="command")
    for command in COMMANDS.values():
        command.add_arguments(
            commands.add_parser(command.name, parents=parents, help=command.help, description=command.help)
        )


def wanted(args: Arguments) -> Wanted:
    """What the parsed command needs."""
    command = chosen(args)
    return Wanted(
        command.parts, tuple(command.addresses(args)), command.whole_memmap, args.source not in ("auto", "bitmap")
    )


def chosen(args: Arguments) -> Command:
    """The command that was parsed.

    :raises CommandError: it has no such format
    """
    command = COMMANDS[args.command or "summary"]
    if args.format not in ("text", "json", *command.formats):
        formats = ", ".join(("text", "json", *command.formats))
        raise CommandError(f"--format {args.format}: {command.name} has {formats}")
    return command


def ask(snapshot: Snapshot, args: Arguments) -> Answered:
    """The answer to the parsed command.

    :raises CommandError: what was asked for cannot be done
    """
    command = chosen(args)
    document = command.answer(snapshot, choose_source(snapshot, args.source), args)
    return Answered(command, document, command.lack(document))


def print_answer(answered: Answered, args: Arguments) -> None:
    """To stdout: JSON always, since it says what is unknown; text only where there is an answer."""
    if args.format == "json":
        import json

        json.dump(answered.document, sys.stdout)
        print()
    elif answered.lack is None:
        from drgn_unaccepted.views import view

        for line in view(answered.command.name, args.format)(answered.document):
            print(line)
    sys.stdout.flush()
