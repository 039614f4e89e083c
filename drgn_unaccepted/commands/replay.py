# SPDX-License-Identifier: LGPL-2.1-or-later
"""Interim: until area views brings it."""

from __future__ import annotations

from typing import Any

from drgn_unaccepted.commands import actions
from drgn_unaccepted.commands.base import Action


class _Interim(Action):
    formats = ("svg", "png")

    def add_arguments(self, parser: Any) -> None:
        actions._replay_arguments(parser)

    def run(self, args: Any, open_target: Any) -> int:
        return actions._replay(args, open_target)


COMMAND = _Interim()
