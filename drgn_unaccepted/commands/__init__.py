# SPDX-License-Identifier: LGPL-2.1-or-later
"""The commands, for the command line and for ``%unaccepted`` in drgn's prompt: one module each, imported by name.

Each module has an instance called ``COMMAND`` of one of the two kinds of commands: a question about one snapshot, or an
action that does its own work.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from itertools import takewhile
from textwrap import fill
from types import MappingProxyType
from typing import Any, Callable, Generic, NoReturn, Optional, TypeVar, Union, cast

from drgn_unaccepted import exit_status
from drgn_unaccepted.answer.best_source import SOURCES
from drgn_unaccepted.answer.judgement import Judgement
from drgn_unaccepted.errors import CommandError
from drgn_unaccepted.files import to_stdout
from drgn_unaccepted.snapshot import ALL_MEMORY, STATE, Snapshot, Wanted
from drgn_unaccepted.words import WIDTH

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

OF_FILES = ("replay", "scan", "merge")  #: Commands that read files of their own.

#: Examples of commands, where their name is not enough.
_EXAMPLES = {
    "resolve": "-c vmcore resolve 0x125a00000 ffff888125a00008",
    "check": "-c vmcore check --format nagios",
    "map": "-c vmcore map --range 4G-5G",
    "report": "-c vmcore report -o page.html",
    "snapshot": "-c vmcore snapshot -o guest.json",
    "watch": "watch --interval 5",
    "record": "record --count 60 -o boot.rec",
    "replay": "replay boot.rec --map",
    "keep": "keep --boots 5",
    "scan": "scan /var/crash -o scan.jsonl",
    "merge": "merge scan.jsonl",
}

#: The common options where they are not given. They are in the namespace to parse into: parsers that share actions as
#: parents cannot have defaults of their own, since those of the inner parser would overwrite what the outer one read.
_DEFAULTS = {"command": "summary", "source": "auto", "format": "text", "verbose": False}


Arguments = argparse.Namespace

A = TypeVar("A")


class Parser(argparse.ArgumentParser):
    """Says in one plain line which word is wrong, and which one may have been meant."""

    commands: Mapping[str, argparse.ArgumentParser] = MappingProxyType({})

    def error(self, message: str) -> NoReturn:
        command = "".join(f"{name}: " for name in self.prog.split(" ")[1:])
        raise CommandError(f"{command}{message.removeprefix('argument ')} (try --help)")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        option = "".join(f"{name}: " for name in action.option_strings[:1])
        if value == "":
            # As a path it would be the working directory.
            self.error(f"{option or f'{action.metavar}: '}an empty value")
        if action.choices is not None and value not in action.choices:
            self.error(option + no_such(value, "choice" if option else "command", action.choices))

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse takes no notice of an error.
        to_stdout((message.rstrip("\n"),))


def load(name: str) -> Command:
    return cast(Command, import_module(f"drgn_unaccepted.commands.{name}").COMMAND)


def add_commands(parser: Parser, parents: Sequence[argparse.ArgumentParser], mentioned: Collection[str]) -> None:
    """Give ``parser`` the commands.

    :param parents: have the options of targets; none at a prompt, which has its program
    :param mentioned: words of the command line; only commands among them are imported and get their options
    """
    commands: Any = parser.add_subparsers(metavar="COMMAND", dest="command", prog=parser.prog)
    parser.commands = commands.choices
    for name, text in COMMANDS.items():
        if not parents and name in OF_FILES:
            continue
        if name not in mentioned:
            commands.add_parser(name, help=text, add_help=False)
            continue
        command, example = load(name), _EXAMPLES.get(name, f"-c vmcore {name}")
        more = f"\n\ntarget options (-c, --snapshot, ...): {parser.prog} --help" if parents else ""
        epilog = f"example: {parser.prog} {example if parents else example.removeprefix('-c vmcore ')}{more}"
        of_command = commands.add_parser(
            name,
            # argparse cannot print the usage of a group of which all options are hidden.
            usage="%(prog)s [OPTIONS]",
            help=text,
            description=fill(text, WIDTH),
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            parents=[*parents, common_options(("text", "json", *command.formats))],
        )
        command.add_arguments(of_command)
        if command.has_long_list:
            of_command.add_argument("--all", action="store_true", help="all of a long list")


def prompt_parser(shown: str, mentioned: Collection[str]) -> Parser:
    """The words after ``shown`` at drgn's prompt, which has a target."""
    parser = Parser(prog=shown, description="Show unaccepted memory.", parents=[common_options()])
    add_commands(parser, [], mentioned)
    return parser


def completions(parser: Parser, before: Sequence[str]) -> list[str]:
    """The words that can follow others: values of an option, or options, and before a command the commands."""
    command = next((parser.commands[word] for word in before if word in parser.commands), parser)
    option = command._option_string_actions.get(before[-1]) if before else None
    if option is not None and option.nargs != 0:
        return sorted(option.choices or ())
    return sorted([*command._option_string_actions, *(parser.commands if command is parser else ())])


def common_options(formats: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The options of every command, as a parent; they may stand before and after its name."""
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    text = f"where the state of memory comes from: {', '.join(SOURCES)}, or auto (default): the best of them"
    common.add_argument("--source", metavar="SOURCE", choices=("auto", *SOURCES), help=text)
    common.add_argument("-v", "--verbose", action="store_true", help="the reasons in full, too")
    text = f"{', '.join(formats)} (default: text)" if formats else "text (default), json, or another of the command's"
    common.add_argument("--format", metavar="FORMAT", choices=formats or None, help=text)
    return common


def parse(parser: Parser, words: Sequence[str], **defaults: object) -> tuple[Command, Arguments]:
    """The command that a command line names, and its arguments. CommandError: a word is wrong; which one."""
    options = {name for each in (parser, *parser.commands.values()) for name in each._option_string_actions}
    for word in takewhile(lambda word: word != "--", words):
        # A long option may be shortened, and a short one have its value without a blank.
        option = word.partition("=")[0] if word.startswith("--") else word[:2]
        if option[:1] == "-" and option[1:].strip("0123456789") and not any(n.startswith(option) for n in options):
            parser.error(no_such(option, "option", sorted(options)))
    args = parser.parse_args(words, argparse.Namespace(**{**_DEFAULTS, **defaults}))
    # Python 3.9 stores None for a command that is not given.
    args.command = args.command or "summary"
    command = load(args.command)
    formats = ("text", "json", *command.formats)
    if args.format not in formats:
        raise CommandError(f"--format {args.format}: {args.command} has {', '.join(formats)}")
    return command, args


class Question(Generic[A]):
    """A command that one snapshot answers. ``A`` is the type of the answer, in general a document."""

    parts: frozenset[str] = STATE  #: Parts of the snapshot that the answer needs, beside the table.
    #: Beside text and json, each with its view; None where :meth:`text` writes it.
    formats: Mapping[str, Optional[Callable[[A], Iterable[str]]]] = {}
    has_long_list = False
    answers_in_part = False  #: Its lines are worth reading also where :meth:`lack` has a reason.

    def __init__(self, document: Optional[Callable[[Snapshot, Judgement], A]] = None) -> None:
        """:param document: makes the answer, where no argument of the command changes it"""
        self._document = document

    def add_arguments(self, parser: Parser) -> None:
        """Declare the options of this command alone."""

    def offline(self, args: Arguments) -> Optional[str]:
        """The text that answers without a target; None where a target is needed."""

    def wanted(self, args: Arguments) -> Wanted:
        """What the answer needs of the target. CommandError: the arguments are no question; what is wrong."""
        return Wanted(self.parts, ALL_MEMORY)

    def answer(self, snapshot: Snapshot, judgement: Judgement, args: Arguments) -> A:
        """The answer, out of the snapshot alone. CommandError: the question cannot be answered at all."""
        assert self._document is not None
        return self._document(snapshot, judgement)

    def lack(self, answer: A) -> Optional[str]:
        """Why the answer answers nothing; None where it does."""

    def confirmed(self, answer: A, first: Snapshot, more: Iterator[Snapshot], args: Arguments) -> A:
        """The answer; if it is suspect, that of the first snapshot and one more, which a live kernel has."""
        return answer

    def exit_status(self, answer: A) -> int:
        return exit_status.ANSWERED

    def text(self, answer: A, args: Arguments) -> Iterable[str]:
        """The lines of text, and of formats without a view."""
        raise NotImplementedError

    def output(self, answer: A, args: Arguments) -> Iterable[str]:
        """The lines for standard output; a file that it writes is written before them. CommandError: it cannot be."""
        if args.format == "json":
            return (json.dumps(answer),)
        if not self.answers_in_part and self.lack(answer) is not None:
            return ()
        view = self.formats.get(args.format)
        return self.text(answer, args) if view is None else view(answer)


class Action:
    """A command that does its own work: over time, over many targets, or on files."""

    formats: tuple[str, ...] = ()  #: Beside text and json.
    has_long_list = False

    def add_arguments(self, parser: Parser) -> None:
        """Declare the options of this command alone."""

    def run(self, args: Arguments, open_target: Callable[[], Any]) -> int:
        """Do it, and return the exit status; ``open_target`` is that of :func:`run.run`. CommandError: it cannot."""
        raise NotImplementedError


Command = Union[Question[Any], Action]


def refuse(argument: str) -> NoReturn:
    raise argparse.ArgumentTypeError(argument)


def no_such(word: str, kind: str, names: Iterable[str]) -> str:
    """One line for a word that is none of ``names``."""
    near = get_close_matches(word, names, 1)
    return f"{word}: no such {kind}; {f'did you mean {near[0]}?' if near else 'there are ' + ', '.join(names)}"


def from_1(text: str) -> int:
    """An option's value: a whole number from 1 to 9999999."""
    if not text.isascii() or not text.isdecimal() or len(text) > 7 or int(text) < 1:
        refuse(f"{text}: not a number from 1 to 9999999")
    return int(text)
