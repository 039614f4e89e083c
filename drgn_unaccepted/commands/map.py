# SPDX-License-Identifier: LGPL-2.1-or-later
"""Interim: until area views brings it."""

from __future__ import annotations

from typing import Any

from drgn_unaccepted.commands.base import STATE, Question
from drgn_unaccepted.snapshot import ALL_MEMORY


class Map(Question[Any]):
    parts = STATE | {"efi_map", "e820", "accepting"}
    formats = {"svg": list, "png": list}  # noqa: RUF012

    def add_arguments(self, parser: Any) -> None:
        from drgn_unaccepted.pictures import add_map_arguments

        add_map_arguments(parser)

    def where(self, args: Any) -> Any:
        return ALL_MEMORY if args.window is None else (args.window,)

    def answer(self, snapshot: Any, source: Any, args: Any) -> Any:
        from drgn_unaccepted.pictures import map_answer

        return map_answer(snapshot, source, args)

    def lack(self, answer: Any) -> Any:
        from drgn_unaccepted.commands import lines

        return lines.no_addresses(answer)

    def output(self, answer: Any, args: Any) -> Any:
        from drgn_unaccepted.pictures import show_map

        if args.format == "json":
            return super().output(answer, args)
        return () if self.lack(answer) is not None else show_map(answer, args)


COMMAND = Map()
