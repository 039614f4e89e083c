# SPDX-License-Identifier: LGPL-2.1-or-later
"""``map``: a picture of where unaccepted memory is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Optional

from drgn_unaccepted.answer.documents import MapAnswer
from drgn_unaccepted.answer.judgement import Judgement
from drgn_unaccepted.answer.map import map_document
from drgn_unaccepted.answer.translation import physical
from drgn_unaccepted.commands import Arguments, Parser, Question, _drawing, refuse
from drgn_unaccepted.errors import CommandError
from drgn_unaccepted.model.addresses import Query, parse_query
from drgn_unaccepted.snapshot import Snapshot
from drgn_unaccepted.views import lines
from drgn_unaccepted.views.map import bins_for, map_lines
from drgn_unaccepted.views.svg import COLUMNS, map_svg

_COLUMNS = 64  #: Bins of a row in JSON, and on a terminal that is wide enough: rows of 1 GiB where the unit is 2 MiB.


class Map(Question[MapAnswer]):
    formats = dict.fromkeys(_drawing.FIGURES)

    def add_arguments(self, parser: Parser) -> None:
        help_ = "only these addresses, finer if they fit"
        parser.add_argument("--range", dest="window", metavar="START-END", type=_window, help=help_)
        _drawing.add_style_arguments(parser)

    def answer(self, snapshot: Snapshot, judgement: Judgement, args: Arguments) -> MapAnswer:
        try:
            window = None if args.window is None else physical(snapshot, args.window).range
        except ValueError as error:
            raise CommandError(str(error)) from None
        if _drawing.is_figure(args):
            return map_document(snapshot, judgement, window=window, columns=COLUMNS, finest=1)
        wide = bins_for(args.width) if args.format == "text" else _COLUMNS
        return map_document(snapshot, judgement, window=window, columns=min(_COLUMNS, wide), wide=wide)

    def lack(self, answer: MapAnswer) -> Optional[str]:
        return lines.no_addresses(answer)

    def text(self, answer: MapAnswer, args: Arguments) -> Iterable[str]:
        if _drawing.is_figure(args):
            return (_drawing.figure(args, map_svg(answer)),)
        return map_lines(answer, _drawing.style(args))


def _window(text: str) -> Query:
    try:
        query = parse_query(text)
    except ValueError as error:
        refuse(str(error))
    if query.end is None:
        refuse(f"{text}: no range (START-END or START+LENGTH)")
    return query


COMMAND = Map()
