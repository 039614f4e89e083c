# SPDX-License-Identifier: LGPL-2.1-or-later
"""The progress of a scan on stderr: a bar on a terminal (tqdm, extra ``fleet``), else a line every 30 seconds."""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import Any, Optional

from drgn_unaccepted.fleet.documents import ScanRecord
from drgn_unaccepted.fleet.records import COLUMNS, column
from drgn_unaccepted.fleet.targets import Shard

#: Seconds between two lines.
_EVERY = 30.0


class Progress:
    def __init__(self, total: int, done: int, shard: Shard, quiet: bool) -> None:
        """
        :param total: targets of the shard
        :param done: those that earlier runs did
        """
        self.done = done
        self._total, self._quiet = total, quiet
        self._shard = "" if shard[1] == 1 else f"shard {shard[0]}/{shard[1]}: "
        self._before = f" ({done} by an earlier run)" if done else ""
        self._counts: Counter[str] = Counter()
        self._last = time.monotonic()
        self._bar = None if quiet or not sys.stderr.isatty() else self._new_bar()

    def add(self, record: ScanRecord) -> None:
        """One more target is done."""
        self.done += 1
        self._counts[column(record)] += 1
        if self._bar is not None:
            self._bar.set_postfix_str(self._found(), refresh=False)
            self._bar.update()
        elif time.monotonic() - self._last >= _EVERY:
            self._last = time.monotonic()
            self._say()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._say()

    def _say(self) -> None:
        if not self._quiet:
            found = f": {self._found()}" if self._counts else ""
            print(f"scan: {self._shard}{self.done} of {self._total} targets{self._before}{found}", file=sys.stderr)

    def _found(self) -> str:
        return ", ".join(f"{self._counts[name]} {name}" for name in COLUMNS if self._counts[name])

    def _new_bar(self) -> Optional[Any]:
        try:
            from tqdm import tqdm
        except ImportError:
            return None
        title = self._shard.removesuffix(": ") or None
        return tqdm(desc=title, total=self._total, initial=self.done, unit="target", dynamic_ncols=True)
