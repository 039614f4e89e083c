# SPDX-License-Identifier: LGPL-2.1-or-later
"""The commands, for the command line and for ``%unaccepted`` in drgn's prompt."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Optional, Union, cast

from drgn_unaccepted.answer.document import Document
from drgn_unaccepted.answer.source import SOURCES, choose_source
from drgn_unaccepted.commands.actions import ACTIONS
from drgn_unaccepted.commands.command import Action, Arguments, CommandError, Question, to_stdout
from drgn_unaccepted.commands.questions import QUESTIONS
from drgn_unaccepted.snapshot import ALL_PARTS, Snapshot, Wanted

__all__ = [
    "COMMANDS",
    "DEFAULTS",
    "Action",
    "Answered",
    "Arguments",
    "CommandError",
    "Question",
    "add_commands",
    "ask",
    "chosen",
    "common_options",
    "print_answer",
    "wanted",
]

Command = Union[Question, Action]

COMMANDS: dict[str, Command] = {command.name: command for command in (*QUESTIONS, *ACTIONS)}

#: What the common options are when they are not given. They go in as the namespace to parse into: parsers that share
#: actions as parents cannot have defaults of their own, the inner parser's would overwrite what the outer one read.
DEFAULTS = {"command": None, "source": "auto", "format": "text", "earlier": None}


class Answered(NamedTuple):
    question: Question
    document: Document
    #: Why the document answers nothing, or None where it does.
    lack: Optional[str]
    #: Lines that follow the document, in chunks.
    more: Iterable[str]


def common_options() -> argparse.ArgumentParser:
    """The options of every command, as a parent; they may stand before and after the command's name."""
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument(
        "--source",
        choices=("auto", *SOURCES),
        help="where the state comes from; auto: the best that can be read",
    )
    more = "; ".join(f"{name}: {', '.join(command.formats)}" for name, command in COMMANDS.items() if command.formats)
    common.add_argument("--format", metavar="FORMAT", help=f"text (default) or json; {more}")
    return common


class _Later:
    """A command's parser, made when one of its attributes is asked for: most starts need one of them, or none."""

    def __init__(self, command: Command, kind: type[argparse.ArgumentParser], **options: Any) -> None:
        self._command = command
        self._kind = kind
        self._options = options

    def __getattr__(self, name: str) -> Any:
        if "_made" not in self.__dict__:
            self._made = self._kind(**self._options)
            self._command.add_arguments(self._made)
        return getattr(self._made, name)


def add_commands(parser: argparse.ArgumentParser, parents: Sequence[argparse.ArgumentParser]) -> None:
    """Give ``parser`` the commands, each with the options of ``parents``."""
    # With the name of the program given, argparse does not format a usage text to get at it.
    commands: Any = parser.add_subparsers(
        metavar="COMMAND", dest="command", prog=parser.prog, parser_class=cast(Any, _Later)
    )
    for command in COMMANDS.values():
        commands.add_parser(
            command.name,
            command=command,
            kind=type(parser),
            parents=parents,
            help=command.help,
            description=command.help,
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


def wanted(question: Question, args: Arguments) -> Wanted:
    """What a question needs of the target."""
    return Wanted(
        question.parts,
        tuple(question.addresses(args)),
        question.whole_memmap(args),
        args.source not in ("auto", "bitmap"),
        # Only who asks for everything looks at pages for their own sake.
        pages_for_state=question.parts != ALL_PARTS,
    )


def ask(question: Question, snapshot: Snapshot, args: Arguments) -> Answered:
    """The answer to a question.

    :raises CommandError: what was asked for cannot be done
    """
    source = choose_source(snapshot, args.source)
    document = question.answer(snapshot, source, args)
    return Answered(question, document, question.lack(document), question.more(snapshot, source, args))


def print_answer(answered: Answered, args: Arguments) -> None:
    """To stdout, or where check's ``-o`` says: JSON always, since it says what is unknown; text only for an answer.

    :raises CommandError: it cannot be written where it should go
    """
    lines = _lines(answered, args)
    if answered.question.name == "check" and args.output is not None:
        from drgn_unaccepted.snapshot_file import write_atomically

        try:
            # For whoever collects it, as node_exporter does under a user of its own.
            write_atomically(args.output, "".join(f"{line}\n" for line in lines), mode=0o644)
        except OSError as error:
            raise CommandError(f"{args.output}: {error.strerror}") from None
        return
    to_stdout(f"{line}\n" for line in lines)
    if answered.lack is None:
        for chunk in answered.more:
            to_stdout((chunk,))


def _lines(answered: Answered, args: Arguments) -> Iterable[str]:
    question, document = answered.question, answered.document
    if args.format == "json":
        import json

        return (json.dumps(document),)
    if answered.lack is not None:
        return ()
    if question.show is not None:
        return question.show(document, args)
    from drgn_unaccepted.views import view

    return view(question.name, args.format)(document)
