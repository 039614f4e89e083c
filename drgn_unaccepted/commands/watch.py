# SPDX-License-Identifier: LGPL-2.1-or-later
"""Interim: until area views brings it."""

from __future__ import annotations

from typing import Any

from drgn_unaccepted.commands import actions
from drgn_unaccepted.commands.base import Action


class _Interim(Action):
    formats = ()

    def add_arguments(self, parser: Any) -> None:
        actions._over_time(parser)

    def run(self, args: Any, open_target: Any) -> int:
        return actions._watch(args, open_target)


COMMAND = _Interim()
