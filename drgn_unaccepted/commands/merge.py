# SPDX-License-Identifier: LGPL-2.1-or-later
"""``merge``: the results of scans and checks, the worst findings first."""

from __future__ import annotations

from typing import Any, Callable

from drgn_unaccepted.commands.base import Action, Arguments, Parser
from drgn_unaccepted.fleet.merge import add_merge_arguments, run_merge


class Merge(Action):
    formats = ("csv",)

    def add_arguments(self, parser: Parser) -> None:
        add_merge_arguments(parser)

    def run(self, args: Arguments, open_target: Callable[[], Any]) -> int:
        return run_merge(args)


COMMAND = Merge()
