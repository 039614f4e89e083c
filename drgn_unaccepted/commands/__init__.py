# SPDX-License-Identifier: LGPL-2.1-or-later
"""The commands, for the command line and for ``%unaccepted`` in drgn's prompt: one module each, imported by name."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence
from importlib import import_module
from typing import Any, cast

from drgn_unaccepted.answer.judgement import SOURCES
from drgn_unaccepted.commands.base import Arguments, Command, Parser
from drgn_unaccepted.errors import CommandError

#: All commands with their line of help.
COMMANDS = {
    "summary": "how much memory is unaccepted, and how that is known",
    "header": "the fields of struct efi_unaccepted_memory",
    "ranges": "which memory is unaccepted and which is accepted, by physical address",
    "resolve": "the unit of an address, whether it was accepted, and what the maps say of it",
    "efi": "the EFI memory map, as the firmware reported it",
    "e820": "the e820 tables, in which unaccepted memory is ordinary RAM",
    "zones": "zone->unaccepted_pages, counters and watermarks",
    "accepting": "the accepts in flight, with task and CPU",
    "check": "cross-check the bitmap, the EFI memory map, e820 and the page allocator",
    "map": "a picture of where unaccepted memory is, one character for each byte of the bitmap",
    "report": "everything as one HTML page",
    "snapshot": "write all that can be read to a file, for --snapshot later and elsewhere",
    "watch": "the running kernel as it accepts: bytes, rate, zones, who is accepting",
    "record": "samples of the running kernel over time, to a file",
    "replay": "a recording: one line for each sample, or a picture",
    "keep": "save the state of this boot for a later crash dump (the flight recorder)",
    "scan": "check many vmcores and snapshots, each in its own process: JSON lines",
    "merge": "the results of scans and checks: the worst findings first, the hosts that stand out",
}

#: The common options where they are not given. They are in the namespace to parse into: parsers that share actions as
#: parents cannot have defaults of their own, since those of the inner parser would overwrite what the outer one read.
_DEFAULTS = {"command": "summary", "source": "auto", "format": "text", "verbose": False}


def load(name: str) -> Command:
    """The command of this name."""
    return cast(Command, import_module(f"drgn_unaccepted.commands.{name}").COMMAND)


def add_commands(parser: Parser, parents: Sequence[Parser], mentioned: Collection[str]) -> None:
    """Give ``parser`` the commands, each with the options of ``parents``.

    :param mentioned: words of the command line; only commands among them are imported and get their options
    """
    commands: Any = parser.add_subparsers(metavar="COMMAND", dest="command", prog=parser.prog)
    for name, text in COMMANDS.items():
        if name not in mentioned:
            commands.add_parser(name, help=text, add_help=False)
            continue
        command = load(name)
        formats = common_options(("text", "json", *command.formats))
        of_command = commands.add_parser(name, help=text, description=text, parents=[*parents, formats])
        command.add_arguments(of_command)


def common_options(formats: Sequence[str] = ()) -> Parser:
    """The options of every command, as a parent; they may stand before and after its name."""
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument(
        "--source",
        choices=("auto", *SOURCES),
        help="where the state of memory comes from; auto: the best that can be read",
    )
    common.add_argument("-v", "--verbose", action="store_true", help="the reasons in full, too")
    text = f"{', '.join(formats)} (default: text)" if formats else "text (default), json, or another of the command's"
    common.add_argument("--format", metavar="FORMAT", help=text)
    return common


def parse(parser: Parser, words: Sequence[str], **defaults: object) -> tuple[Command, Arguments]:
    """The command that a command line names, and its arguments.

    :raises CommandError: the command has no such format
    """
    args = parser.parse_args(words, argparse.Namespace(**{**_DEFAULTS, **defaults}))
    # Python 3.9 stores None for a command that is not given.
    args.command = args.command or "summary"
    command = load(args.command)
    formats = ("text", "json", *command.formats)
    if args.format not in formats:
        raise CommandError(f"--format {args.format}: {args.command} has {', '.join(formats)}")
    return command, args
