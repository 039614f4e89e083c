# SPDX-License-Identifier: LGPL-2.1-or-later
"""``replay``: a recording as lines, as a picture, or as a page."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from typing import Any, Callable

from drgn_unaccepted import exit_status
from drgn_unaccepted.answer.best_source import judge
from drgn_unaccepted.answer.history import history, progress
from drgn_unaccepted.commands import Action, Arguments, Parser, _drawing
from drgn_unaccepted.commands.report import report, write_page
from drgn_unaccepted.errors import CommandError, concerning
from drgn_unaccepted.files import to_stderr, to_stdout
from drgn_unaccepted.record.file import Recording
from drgn_unaccepted.views.map import history_bins_for, history_lines
from drgn_unaccepted.views.svg import history_svg
from drgn_unaccepted.views.watch import line

_LINES = 40  #: Slices of time on a terminal.
_FIGURE = (256, 160)  #: Bins, and slices of time, on a page and in a figure.


class Replay(Action):
    formats = _drawing.FIGURES

    def add_arguments(self, parser: Parser) -> None:
        parser.add_argument("recording", metavar="FILE", help="written by record")
        parser.add_argument("--map", action="store_true", help="acceptance by time and address, as a picture")
        parser.add_argument("--report", metavar="FILE.html", help="a page about the last sample and all before it")
        _drawing.add_style_arguments(parser)

    def run(self, args: Arguments, open_target: Callable[[], Any]) -> int:
        recording = Recording(args.recording)
        to_stdout(_lines(recording, args))
        for warning in recording.warnings:
            to_stderr(f"drgn-unaccepted: warning: {args.recording}: {warning}")
        if recording.dropped:
            to_stderr(f"drgn-unaccepted: {args.recording}: {recording.dropped}")
        return exit_status.ANSWERED


def _lines(recording: Recording, args: Arguments) -> Iterator[str]:
    """The lines for stdout; a file is written before its line. CommandError: it cannot, or a sample cannot be read."""
    is_figure = _drawing.is_figure(args)
    if args.report is not None and is_figure:
        raise CommandError("--report and a figure: one of them at a time")
    with concerning(args.recording):
        if args.report is None and not is_figure and not args.map:
            for document in progress(recording, "replay", args.source):
                yield json.dumps(document) if args.format == "json" else line(document)
            return
        columns, lines = (history_bins_for(args.width), _LINES) if args.report is None and not is_figure else _FIGURE
        past = history(recording, args.source, columns, lines)
        if args.report is not None:
            last = deque(recording, maxlen=1).pop().snapshot
            yield write_page(report(last, judge(last, args.source), past=past), args.report, args.format)
        elif is_figure:
            yield _drawing.figure(args, history_svg(past))
        elif args.format == "json":
            yield json.dumps(past)
        else:
            yield from history_lines(past, _drawing.style(args))


COMMAND = Replay()
