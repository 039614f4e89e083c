# SPDX-License-Identifier: LGPL-2.1-or-later
"""The one flow behind the command line and ``%unaccepted``: open, capture, answer, confirm on a live kernel, print."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any, Callable

from drgn_unaccepted import exit_status
from drgn_unaccepted.answer.best_source import judge
from drgn_unaccepted.answer.judgement import Judgement
from drgn_unaccepted.commands import Action, Arguments, Command
from drgn_unaccepted.errors import CommandError
from drgn_unaccepted.files import to_stdout
from drgn_unaccepted.model.ranges import merge
from drgn_unaccepted.snapshot import Snapshot, Wanted
from drgn_unaccepted.views.lines import in_full

Take = Callable[[Wanted], Iterator[Snapshot]]


def run(command: Command, args: Arguments, open_target: Callable[[], Any], take: Take) -> int:
    """Carry out a command and return its exit status.

    :param open_target: opens the target (:class:`targets.opened.Opened`)
    :param take: takes snapshots of it: of a live kernel as many as are asked for, of anything else one
    :raises CommandError: it has no answer; the reason
    :raises TargetError: the target cannot be read
    """
    if isinstance(command, Action):
        return command.run(args, open_target)
    text = command.offline(args)
    if text is not None:
        to_stdout((text,))
        return exit_status.ANSWERED
    with _progress():
        judgement, samples = look(take, command.wanted(args), args.source)
        answer = command.answer(judgement.snapshot, judgement, args)
        answer = command.confirmed(answer, judgement.snapshot, samples, args)
    to_stdout(command.output(answer, args))
    if args.verbose and args.format == "text":
        to_stdout(in_full(answer))
    lack = command.lack(answer)
    if lack is not None:
        raise CommandError(lack)
    return command.exit_status(answer)


@contextmanager
def _progress() -> Iterator[None]:
    """Show on a terminal that the program is at work, after two seconds."""
    if not sys.stderr.isatty():
        yield
        return
    ended = Event()

    def show() -> None:
        seconds = 0
        while not ended.wait(2):
            seconds += 2
            print(f"\rreading the target: {seconds} s", end="", file=sys.stderr, flush=True)
        print("\r\x1b[K" if seconds else "", end="", file=sys.stderr, flush=True)

    thread = Thread(target=show)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def look(take: Take, wanted: Wanted, source: str = "auto") -> tuple[Judgement, Iterator[Snapshot]]:
    """Take a sample and judge it; return further samples too.

    Where the table that was read cannot be believed, the pages that tell the state without it are read as well.
    """
    wanted = dataclasses.replace(wanted, bitmap=source in ("auto", "bitmap"))
    taken = take(wanted)
    judgement = judge(next(taken), source)
    if wanted.bitmap and wanted.where and judgement.doubt is not None:
        where = (*wanted.where, *judgement.evidence.unlisted)
        del judgement  # its bitmap can have 256 MiB
        taken = take(dataclasses.replace(wanted, bitmap=False, where=tuple(merge(where))))
        judgement = judge(next(taken), source)
    return judgement, taken
