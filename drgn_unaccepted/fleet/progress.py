# SPDX-License-Identifier: LGPL-2.1-or-later
"""The progress of a scan on stderr: a bar on a terminal (tqdm, extra ``fleet``), else a line every 30 seconds."""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import Any, Optional, TextIO

from drgn_unaccepted.fleet.documents import ScanRecord
from drgn_unaccepted.fleet.targets import Shard

#: Seconds between two lines.
_EVERY = 30.0


class Progress:
    def __init__(self, total: int, done: int, shard: Shard, stream: Optional[TextIO] = None) -> None:
        """
        :param total: targets of the shard
        :param done: those that earlier runs did
        """
        self._stream = sys.stderr if stream is None else stream
        self._shard = "" if shard.count == 1 else f"shard {shard.index}/{shard.count}: "
        self._total, self._done, self._before = total, done, done
        self._counts: Counter[str] = Counter()
        self._last = time.monotonic()
        self._bar = _bar(total, done, self._shard, self._stream)

    def add(self, record: ScanRecord) -> None:
        """One more target is done."""
        self._done += 1
        self._counts["failed" if record["error"] is not None else record["status"]] += 1
        if self._bar is not None:
            self._bar.set_postfix_str(self._found(), refresh=False)
            self._bar.update()
        elif time.monotonic() - self._last >= _EVERY:
            self._last = time.monotonic()
            self._say()

    def close(self) -> None:
        """End the bar, and print the last line."""
        if self._bar is not None:
            self._bar.close()
        self._say()

    def _say(self) -> None:
        before = f" ({self._before} by an earlier run)" if self._before else ""
        found = f": {self._found()}" if self._counts else ""
        print(f"scan: {self._shard}{self._done} of {self._total} targets{before}{found}", file=self._stream, flush=True)

    def _found(self) -> str:
        names = ("critical", "warning", "ok", "unknown", "failed")
        return ", ".join(f"{self._counts[name]} {name}" for name in names if self._counts[name])


def _bar(total: int, done: int, shard: str, stream: TextIO) -> Optional[Any]:
    if not stream.isatty():
        return None
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    title = shard.removesuffix(": ") or None
    return tqdm(desc=title, total=total, initial=done, unit="target", file=stream, dynamic_ncols=True)
