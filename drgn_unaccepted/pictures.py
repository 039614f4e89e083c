# SPDX-License-Identifier: LGPL-2.1-or-later
"""``map``, ``report`` and the pictures of ``replay``: their arguments, what they write, and to where."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Optional

from drgn_unaccepted.answer.document import Document, document
from drgn_unaccepted.answer.source import Source
from drgn_unaccepted.errors import CommandError
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import Snapshot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from drgn_unaccepted.record.file import Recording

#: Lines of time of a recording on a terminal; bins and slices of time of it on a page and in a figure.
HISTORY_LINES = 40
HISTORY_FIGURE = (256, 400)

#: Bins of a row in JSON, and on a terminal that is wide enough: rows of 1 GiB where the unit is 2 MiB.
COLUMNS = 64

#: A terminal of less columns has no room for a map.
NARROWEST = 40


def add_map_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--range", dest="window", metavar="START-END", type=_window, help="show these addresses only, finer if they fit"
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="a figure: .svg, .png, or as --format says")
    _add_style_arguments(parser)


def _add_style_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--width", metavar="COLUMNS", type=_width, help="default: the terminal's width")
    parser.add_argument("--ascii", action="store_true", help="7-bit characters only")
    parser.add_argument(
        "--color", choices=("auto", "always", "never"), default="auto", help="default: on a terminal only"
    )


def _window(text: str) -> Range:
    from drgn_unaccepted.model.addresses import parse_query

    try:
        query = parse_query(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if query.end is None:
        raise argparse.ArgumentTypeError(f"{text}: no range (START-END or START+LENGTH)")
    return query.range


def _width(text: str) -> int:
    if not text.isdecimal() or not NARROWEST <= int(text) <= 1000:
        raise argparse.ArgumentTypeError(f"{text}: not a width from {NARROWEST} to 1000")
    return int(text)


def map_answer(snapshot: Snapshot, source: Source, args: argparse.Namespace) -> Document:
    """Bins as fine as what they are shown on: a terminal's columns, or a figure's pixels.

    :raises CommandError: a figure without a file to go to, or a file for what is no figure
    """
    from drgn_unaccepted.answer.map import map_document

    if figure_format(args) is None:
        from drgn_unaccepted.views.map import bins_for

        wide = bins_for(_terminal_width(args)) if args.format == "text" else COLUMNS
        return map_document(snapshot, source, window=args.window, columns=min(COLUMNS, wide), wide=wide)
    from drgn_unaccepted.views import figure

    return map_document(snapshot, source, window=args.window, columns=figure.COLUMNS, finest=1)


def figure_format(args: argparse.Namespace) -> Optional[str]:
    """``svg`` or ``png``, by ``--format`` or the name that ``-o`` gives; None where no figure is wanted.

    :raises CommandError: the one without the other
    """
    if args.format in ("svg", "png"):
        if args.output is None:
            raise CommandError(f"--format {args.format} needs -o FILE")
        return str(args.format)
    if args.output is None:
        return None
    format_ = Path(args.output).suffix[1:].lower()
    if format_ not in ("svg", "png") or args.format != "text":
        raise CommandError(f"-o {args.output}: for figures alone, --format svg or png; {args.format} goes to stdout")
    return format_


def show_map(answer: Document, args: argparse.Namespace) -> Iterator[str]:
    """The lines for stdout; a figure is written, and one line says so.

    :raises CommandError: it cannot be written
    """
    format_ = figure_format(args)
    if format_ is None:
        from drgn_unaccepted.views.map import map_lines, style_for

        yield from map_lines(answer, style_for(sys.stdout, os.environ, args.color, args.ascii, _terminal_width(args)))
        return
    from drgn_unaccepted.views.figure import draw

    _save(draw, answer, args.output, format_)
    yield f"{args.output}: written"


def _save(drawing: Callable[[Document], Figure], answer: Document, path: str, format_: str) -> None:
    from drgn_unaccepted.views.figure import NoMatplotlib, save

    try:
        save(drawing, answer, path, format_)
    except NoMatplotlib as error:
        raise CommandError(str(error)) from None
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from None


def _terminal_width(args: argparse.Namespace) -> int:
    width: Optional[int] = args.width
    return max(NARROWEST, shutil.get_terminal_size().columns) if width is None else width


def add_report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", metavar="FILE.html", required=True, help="one page that needs nothing else")


def report_answer(snapshot: Snapshot, source: Source, args: argparse.Namespace) -> Document:
    """Write the page; the answer says where to, and what the checks came to.

    :raises CommandError: it is too large, or cannot be written
    """
    from drgn_unaccepted.answer.report import report

    answer = report(snapshot, source)
    return {
        **document(snapshot, source, "report"),
        "file": args.output,
        "file_bytes": _write_page(answer, args.output),
        "status": answer["checks"]["status"],
    }


def _write_page(answer: Document, path: str) -> int:
    """How many bytes were written."""
    from drgn_unaccepted.files import write_atomically
    from drgn_unaccepted.views.report import ReportTooLarge, report_page

    try:
        page = report_page(answer)
        write_atomically(path, page)
    except ReportTooLarge as error:
        raise CommandError(str(error)) from None
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from None
    return len(page.encode())


def show_report(answer: Document, args: argparse.Namespace) -> Iterable[str]:
    return [f"{answer['file']}: {answer['file_bytes']} bytes; checks: {answer['status']}"]


def add_replay_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--map", action="store_true", help="acceptance by time and address, as a picture")
    parser.add_argument("--report", metavar="FILE.html", help="a page about the last sample and all before it")
    parser.add_argument("-o", "--output", metavar="FILE", help="a figure: .svg, .png, or as --format says")
    _add_style_arguments(parser)


def replay_picture(recording: Recording, args: argparse.Namespace) -> Optional[Iterable[str]]:
    """The lines for stdout where a picture was asked for, else None.

    :raises CommandError: it cannot be made or written
    """
    format_ = figure_format(args)
    if args.report is not None:
        if format_ is not None:
            raise CommandError("--report and a figure: one of them at a time")
        return _replay_report(recording, args)
    if format_ is not None:
        return _replay_figure(recording, args, format_)
    return _replay_map(recording, args) if args.map else None


def _history(recording: Recording, args: argparse.Namespace, columns: int, lines: int) -> Document:
    from drgn_unaccepted.answer.history import NoSamples, history

    try:
        return history(recording, args.source, columns, lines)
    except NoSamples as error:
        raise CommandError(f"{args.recording}: {error}") from None


def _replay_map(recording: Recording, args: argparse.Namespace) -> Iterator[str]:
    from drgn_unaccepted.views.history import bins_for, history_lines
    from drgn_unaccepted.views.map import style_for

    width = _terminal_width(args)
    answer = _history(recording, args, bins_for(width), HISTORY_LINES)
    if args.format == "json":
        yield json.dumps(answer)
    else:
        yield from history_lines(answer, style_for(sys.stdout, os.environ, args.color, args.ascii, width))


def _replay_figure(recording: Recording, args: argparse.Namespace, format_: str) -> Iterator[str]:
    from drgn_unaccepted.views.figure import draw_history

    _save(draw_history, _history(recording, args, *HISTORY_FIGURE), args.output, format_)
    yield f"{args.output}: written"


def _replay_report(recording: Recording, args: argparse.Namespace) -> Iterator[str]:
    from drgn_unaccepted.answer.report import report
    from drgn_unaccepted.answer.source import choose_source

    past = _history(recording, args, *HISTORY_FIGURE)
    last = None
    for sample in recording:
        last = sample.snapshot
    assert last is not None
    answer = report(last, choose_source(last, args.source), history=past)
    yield f"{args.report}: {_write_page(answer, args.report)} bytes; checks: {answer['checks']['status']}"
