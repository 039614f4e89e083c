# SPDX-License-Identifier: LGPL-2.1-or-later
"""Capture one running kernel again and again; parts that cannot change are read once."""

from __future__ import annotations

import dataclasses

from drgn_unaccepted.kernel.capture import capture
from drgn_unaccepted.kernel.errors import TargetError
from drgn_unaccepted.kernel.target import Opened
from drgn_unaccepted.snapshot import ALL_PARTS, Snapshot, Wanted

#: Parts that change while memory is accepted. Reading every struct page each second would take too long.
MOVING = frozenset(("kernel", "zones", "counters", "accepting"))

#: Parts that stay as they were at boot.
FIXED = ALL_PARTS - MOVING - {"pages", "reclaiming", "panic"}


class Sampler:
    """Takes snapshots of one running kernel.

    :raises TargetError: it is not a running kernel
    """

    def __init__(self, opened: Opened) -> None:
        if not opened.is_running:
            raise TargetError(f"{opened.path}: watch and record need a running kernel")
        self._opened = opened
        self._first = capture(opened, Wanted(FIXED))

    def take(self) -> Snapshot:
        """A snapshot: the parts of :data:`MOVING` as they are now, those of :data:`FIXED` as they were first."""
        now = capture(self._opened, Wanted(MOVING))
        missing = {name: reason for name, reason in now.missing.items() if name.partition(".")[0] not in FIXED}
        missing.update((name, why) for name, why in self._first.missing.items() if name.partition(".")[0] in FIXED)
        return dataclasses.replace(now, **{name: getattr(self._first, name) for name in FIXED}, missing=missing)
