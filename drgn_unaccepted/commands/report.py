# SPDX-License-Identifier: LGPL-2.1-or-later
"""Interim: until area views brings it."""

from __future__ import annotations

from typing import Any

from drgn_unaccepted.commands.base import Question
from drgn_unaccepted.snapshot import ALL_MEMORY, ALL_PARTS


class Report(Question[Any]):
    parts = ALL_PARTS

    def add_arguments(self, parser: Any) -> None:
        from drgn_unaccepted.pictures import add_report_arguments

        add_report_arguments(parser)

    def where(self, args: Any) -> Any:
        return ALL_MEMORY

    def answer(self, snapshot: Any, source: Any, args: Any) -> Any:
        from drgn_unaccepted.pictures import report_answer

        return report_answer(snapshot, source, args)

    def text(self, answer: Any, args: Any) -> Any:
        from drgn_unaccepted.pictures import show_report

        return show_report(answer, args)


COMMAND = Report()
