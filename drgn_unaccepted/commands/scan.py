# SPDX-License-Identifier: LGPL-2.1-or-later
"""``scan``: check many vmcores and snapshots, each in its own process."""

from __future__ import annotations

from typing import Any, Callable

from drgn_unaccepted.commands.base import Action, Arguments, Parser
from drgn_unaccepted.fleet.scan import add_scan_arguments, run_scan


class Scan(Action):
    def add_arguments(self, parser: Parser) -> None:
        add_scan_arguments(parser)

    def run(self, args: Arguments, open_target: Callable[[], Any]) -> int:
        return run_scan(args)


COMMAND = Scan()
