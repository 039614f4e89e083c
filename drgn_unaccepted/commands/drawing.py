# SPDX-License-Identifier: LGPL-2.1-or-later
"""Options and outputs that the commands with pictures share."""

from __future__ import annotations

import os
import shutil
import sys

from drgn_unaccepted.commands.base import Arguments, Parser, refuse
from drgn_unaccepted.errors import CommandError, concerning
from drgn_unaccepted.files import write_atomically
from drgn_unaccepted.views.map import GLYPHS, Style

#: A narrower terminal has no room for a map.
_NARROWEST = 40


def add_style_arguments(parser: Parser) -> None:
    parser.add_argument("-o", "--output", metavar="FILE", help="write an SVG figure to FILE")
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


def style(args: Arguments) -> Style:
    """How to draw on standard output.

    ``TERM=dumb`` means ASCII without colour, ``NO_COLOR`` no colour (no-color.org: any value but an empty one).
    """
    try:
        "".join(entry.text for entry in GLYPHS.values()).encode(sys.stdout.encoding or "utf-8")
        is_ascii = args.ascii or os.environ.get("TERM") == "dumb"
    except (LookupError, UnicodeEncodeError):
        is_ascii = True
    return Style(args.width, is_ascii, {"always": True, "never": False}.get(args.color, is_colored()))


def is_colored() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")


def is_figure(args: Arguments) -> bool:
    """Whether an SVG figure is wanted, by ``--format`` or ``-o``.

    :raises CommandError: a file of another format is wanted
    """
    if args.output is not None and args.format not in ("text", "svg"):
        raise CommandError(f"-o {args.output}: for SVG figures alone; {args.format} goes to stdout")
    if args.output is not None and not args.output.lower().endswith(".svg"):
        raise CommandError(f"-o {args.output}: figures are SVG; give a name that ends in .svg")
    return args.output is not None or args.format == "svg"


def save(path: str, text: str) -> str:
    """Write a file to be passed on, whole or not at all, and return the line that says so.

    :raises CommandError: it cannot be written
    """
    with concerning(path):
        write_atomically(path, text, mode=None)
    return f"{path}: written"
