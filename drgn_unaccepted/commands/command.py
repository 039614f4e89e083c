# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a command is: a question asked of one snapshot, or an action that does its own work."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Callable, NamedTuple, NoReturn, Optional

from drgn_unaccepted.answer.document import Document
from drgn_unaccepted.answer.source import Source
from drgn_unaccepted.errors import CommandError
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import Snapshot

if TYPE_CHECKING:
    from drgn_unaccepted.kernel.target import Opened

__all__ = ["Action", "Arguments", "CommandError", "Question", "to_stdout"]

Arguments = argparse.Namespace


def _nothing(parser: argparse.ArgumentParser) -> None:
    pass


class Question(NamedTuple):
    """Answered by one document out of one snapshot."""

    name: str
    help: str
    #: Parts of the snapshot that the answer is made of, beside the table.
    parts: frozenset[str]
    answer: Callable[[Snapshot, Source, Arguments], Document]
    #: Why the answer answers nothing, or None where it does.
    lack: Callable[[Document], Optional[str]] = lambda answer: None
    add_arguments: Callable[[argparse.ArgumentParser], None] = _nothing
    #: The ranges that the user asks for, whose pages are looked at.
    addresses: Callable[[Arguments], Sequence[Range]] = lambda args: ()
    #: From page lists the pages of all memory tell what is accepted.
    whole_memmap: Callable[[Arguments], bool] = lambda args: False
    #: Formats beside text and json.
    formats: tuple[str, ...] = ()
    #: Lines for stdout where they depend on the terminal or a file; by default the view of the format.
    show: Optional[Callable[[Document, Arguments], Iterable[str]]] = None
    #: Lines that follow the document, in chunks made as they are asked for.
    more: Callable[[Snapshot, Source, Arguments], Iterable[str]] = lambda snapshot, source, args: ()
    #: The text that answers without a target, or None where one is needed.
    offline: Callable[[Arguments], Optional[str]] = lambda args: None
    exit_status: Callable[[Document], int] = lambda answer: 0
    #: Whether a second sample of a live kernel has to confirm the answer.
    confirm: Callable[[Document], bool] = lambda answer: False


class Action(NamedTuple):
    """Does its own work: over time, over many targets, or on files."""

    name: str
    help: str
    #: Returns the exit status. The target is opened only by those that need one, with what the user said of it.
    run: Callable[[Arguments, Callable[[], Opened]], int]
    add_arguments: Callable[[argparse.ArgumentParser], None] = _nothing
    formats: tuple[str, ...] = ()


def to_stdout(texts: Iterable[str]) -> None:
    """Write texts as they are made, and flush. Errors of their making are not taken for errors of writing.

    :raises CommandError: stdout takes no more, as a file on a full disk
    :raises BrokenPipeError: its reader went away
    """
    for text in texts:
        try:
            sys.stdout.write(text)
        except OSError as error:
            _lost(error)
    try:
        sys.stdout.flush()
    except OSError as error:
        _lost(error)


def _lost(error: OSError) -> NoReturn:
    if isinstance(error, BrokenPipeError):
        raise error
    # What is buffered has nowhere to go either, and would fail once more when the interpreter ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise CommandError(f"stdout: {error.strerror}") from None
