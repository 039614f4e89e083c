# SPDX-License-Identifier: LGPL-2.1-or-later
"""The two kinds of commands: a question about one snapshot, and an action that does its own work.

Each command is one module of this package with an instance called ``COMMAND``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from typing import Any, Callable, Generic, NoReturn, Optional, TypeVar, Union

from drgn_unaccepted.answer.judgement import Judgement
from drgn_unaccepted.errors import EXIT_ANSWERED
from drgn_unaccepted.snapshot import ALL_MEMORY, Snapshot, Wanted

Arguments = argparse.Namespace
Parser = argparse.ArgumentParser

#: The parts of a snapshot that tell the state of memory, beside the table and the pages.
STATE = frozenset(("kernel", "zones", "counters", "efi_map", "e820", "kernel_memory", "accepting"))

A = TypeVar("A")


class Question(Generic[A]):
    """A command that one snapshot answers. ``A`` is the type of the answer, in general a document."""

    #: Parts of the snapshot that the answer needs, beside the table.
    parts: frozenset[str] = STATE
    #: Formats beside text and json, each with its view.
    formats: Mapping[str, Callable[[A], Iterable[str]]] = {}

    def __init__(self, document: Optional[Callable[[Snapshot, Judgement], A]] = None) -> None:
        """:param document: makes the answer, where no argument of the command changes it"""
        self._document = document

    def add_arguments(self, parser: Parser) -> None:
        """Declare the options of this command alone."""

    def offline(self, args: Arguments) -> Optional[str]:
        """The text that answers without a target; None where a target is needed."""

    def wanted(self, args: Arguments) -> Wanted:
        """What the answer needs of the target.

        :raises CommandError: the arguments are no question; the one line that names what is wrong
        """
        return Wanted(self.parts, ALL_MEMORY)

    def answer(self, snapshot: Snapshot, judgement: Judgement, args: Arguments) -> A:
        """The answer, out of the snapshot alone.

        :raises CommandError: the question cannot be answered at all
        """
        assert self._document is not None
        return self._document(snapshot, judgement)

    def lack(self, answer: A) -> Optional[str]:
        """Why the answer answers nothing; None where it does."""

    def is_suspect(self, answer: A) -> bool:
        """Whether a second sample of a live kernel has to confirm the answer."""
        return False

    def confirmed(self, before: Snapshot, now: Snapshot, judgement: Judgement, args: Arguments) -> A:
        """The answer of two samples of a live kernel, if the first is suspect."""
        raise NotImplementedError

    def exit_status(self, answer: A) -> int:
        return EXIT_ANSWERED

    def text(self, answer: A, args: Arguments) -> Iterable[str]:
        """The lines of ``--format text``."""
        raise NotImplementedError

    def output(self, answer: A, args: Arguments) -> Iterable[str]:
        """The lines for standard output. A command that writes a file does it here, before its first line.

        :raises CommandError: a file cannot be written
        """
        if args.format == "json":
            return (json.dumps(answer),)
        return () if self.lack(answer) is not None else self.shown(answer, args)

    def shown(self, answer: A, args: Arguments) -> Iterable[str]:
        """The lines of any format but JSON."""
        return self.formats[args.format](answer) if args.format in self.formats else self.text(answer, args)


class Action:
    """A command that does its own work: over time, over many targets, or on files."""

    #: Formats beside text and json.
    formats: tuple[str, ...] = ()

    def add_arguments(self, parser: Parser) -> None:
        """Declare the options of this command alone."""

    def run(self, args: Arguments, open_target: Callable[[], Any]) -> int:
        """Do it, and return the exit status.

        :param open_target: opens the target of the command line (:class:`kernel.target.Opened`)
        :raises CommandError: it cannot be done
        """
        raise NotImplementedError


Command = Union[Question[Any], Action]


def refuse(argument: str) -> NoReturn:
    """End the parsing of an option's value with one line."""
    raise argparse.ArgumentTypeError(argument)


def no_such(word: str, kind: str, names: Iterable[str]) -> str:
    """One line for a word that is none of ``names``."""
    # Only who mistypes waits for it.
    from difflib import get_close_matches

    near = get_close_matches(word, names, 1)
    return f"{word}: no such {kind}; {f'did you mean {near[0]}?' if near else 'there are ' + ', '.join(names)}"


def from_1(text: str) -> int:
    """An option's value: a whole number from 1 to 9999999."""
    if not text.isascii() or not text.isdecimal() or len(text) > 7 or int(text) < 1:
        refuse(f"{text}: not a number from 1 to 9999999")
    return int(text)
