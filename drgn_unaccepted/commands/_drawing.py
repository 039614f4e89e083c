# SPDX-License-Identifier: LGPL-2.1-or-later
"""Options and outputs that the commands with pictures share."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Union

from drgn_unaccepted.commands import Arguments, Parser, refuse
from drgn_unaccepted.errors import CommandError, concerning, one_line
from drgn_unaccepted.files import write_atomically
from drgn_unaccepted.views.map import GLYPHS, Style

FIGURES = ("svg", "png")  #: Formats beside text and json.
_NARROWEST = 40  #: A narrower terminal has no room for a map.


def add_style_arguments(parser: Parser) -> None:
    parser.add_argument("-o", "--output", metavar="FILE", help="write a figure to FILE (.svg, or .png with cairosvg)")
    # argparse converts a default that is text, so that the width is that of the moment.
    help_ = "default: the terminal's width"
    parser.add_argument("--width", metavar="COLUMNS", type=_width, default="terminal", help=help_)
    parser.add_argument("--ascii", action="store_true", help="7-bit characters only")
    colors = ("auto", "always", "never")
    parser.add_argument("--color", choices=colors, default="auto", help="default: on a terminal only")


def _width(text: str) -> int:
    if text == "terminal":
        # As shutil.get_terminal_size(), whose module takes a fiftieth of a start.
        with suppress(OSError, ValueError):
            return max(_NARROWEST, int(os.environ.get("COLUMNS") or os.get_terminal_size().columns))
        return 80
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
    """Whether a figure is wanted, by ``--format`` or ``-o``. CommandError: another format, or PNG without a file."""
    path, format_ = args.output, args.format
    if path is None and format_ == "png":
        raise CommandError("--format png: a PNG is written to a file; add -o FILE.png")
    if path is not None and format_ not in ("text", *FIGURES):
        raise CommandError(f"-o {path}: for figures alone; {format_} goes to stdout")
    endings = FIGURES if format_ == "text" else (format_,)
    if path is not None and not path.lower().endswith(tuple(f".{ending}" for ending in endings)):
        raise CommandError(f"-o {path}: give a name that ends in .{' or .'.join(endings)}")
    return path is not None or format_ in FIGURES


def figure(args: Arguments, svg: str) -> str:
    """The figure for standard output, or the line that says where it is. CommandError: not written, or no cairosvg."""
    if args.output is None:
        return svg.rstrip("\n")
    return save(args.output, _png(svg) if args.output.lower().endswith(".png") else svg)


def _png(svg: str) -> bytes:
    try:
        # Optional, and slow to import.
        from cairosvg import svg2png
    except (ImportError, OSError) as error:  # OSError: the package is there, the library cairo is not
        raise CommandError(f"PNG needs cairosvg: pip install cairosvg, or write SVG ({one_line(error)})") from None
    png: bytes = svg2png(bytestring=svg.encode(), scale=2)
    return png


def save(path: str, text: Union[str, bytes]) -> str:
    """Write a file to be passed on, whole or not at all; returns the line that says so. CommandError: it cannot."""
    with concerning(path):
        write_atomically(path, text, mode=None)
    return f"{path}: written"
