# SPDX-License-Identifier: LGPL-2.1-or-later
"""Options and outputs that the commands with pictures share."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any, Callable, Optional, TextIO, Union

from drgn_unaccepted.commands.base import Arguments, Parser, refuse
from drgn_unaccepted.errors import CommandError, one_line
from drgn_unaccepted.files import write_atomically
from drgn_unaccepted.views import figure
from drgn_unaccepted.views.map import GLYPHS, Style

#: A narrower terminal has no room for a map.
_NARROWEST = 40


def add_style_arguments(parser: Parser) -> None:
    parser.add_argument("-o", "--output", metavar="FILE", help="a figure: .svg, .png, or as --format says")
    # argparse converts a default that is text, so that the width is that of the moment.
    parser.add_argument(
        "--width", metavar="COLUMNS", type=_width, default="terminal", help="default: the terminal's width"
    )
    parser.add_argument("--ascii", action="store_true", help="7-bit characters only")
    parser.add_argument(
        "--color", choices=("auto", "always", "never"), default="auto", help="default: on a terminal only"
    )


def _width(text: str) -> int:
    if text == "terminal":
        return max(_NARROWEST, shutil.get_terminal_size().columns)
    if not text.isdecimal() or not _NARROWEST <= int(text) <= 1000:
        refuse(f"{text}: not a width from {_NARROWEST} to 1000")
    return int(text)


def style(args: Arguments, stream: Optional[TextIO] = None) -> Style:
    """How to draw on ``stream``, by default standard output.

    ``TERM=dumb`` means ASCII without colour, ``NO_COLOR`` no colour (no-color.org: any value but an empty one).
    """
    stream = stream or sys.stdout
    try:
        "".join(entry.text for entry in GLYPHS.values()).encode(stream.encoding or "utf-8")
        is_ascii = args.ascii or os.environ.get("TERM") == "dumb"
    except (LookupError, UnicodeEncodeError):
        is_ascii = True
    return Style(args.width, is_ascii, {"always": True, "never": False}.get(args.color, is_colored(stream)))


def is_colored(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")


def figure_format(args: Arguments) -> Optional[str]:
    """``svg`` or ``png``, by ``--format`` or the name that ``-o`` gives; None where no figure is wanted.

    :raises CommandError: one without the other
    """
    if args.format in figure.FORMATS:
        if args.output is None:
            raise CommandError(f"--format {args.format} needs -o FILE")
        return str(args.format)
    if args.output is None:
        return None
    format_ = Path(args.output).suffix[1:].lower()
    if format_ not in figure.FORMATS or args.format != "text":
        raise CommandError(f"-o {args.output}: for figures alone, --format svg or png; {args.format} goes to stdout")
    return format_


def save_figure(args: Arguments, drawing: Callable[[Any], Any], answer: object) -> str:
    """Write the figure that the options ask for, and return the line that says so."""
    save(args.output, figure.image(drawing, answer, figure_format(args) or ""))
    return f"{args.output}: written"


def save(path: str, data: Union[str, bytes]) -> None:
    """Write a file, whole or not at all.

    :raises CommandError: it cannot be written
    """
    try:
        write_atomically(path, data)
    except OSError as error:
        raise CommandError(one_line(error, path)) from None
