# SPDX-License-Identifier: LGPL-2.1-or-later
"""How far a scan is, on stderr: a bar on a terminal (tqdm, extra ``fleet``), else a line now and then."""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import Any, Optional, TextIO

from drgn_unaccepted.answer.document import Document
from drgn_unaccepted.fleet.targets import Shard

#: Seconds between two lines where there is no bar.
_EVERY = 30.0


class Progress:
    def __init__(
        self, total: int, done: int, quiet: bool = False, stream: Optional[TextIO] = None, shard: Optional[Shard] = None
    ) -> None:
        """
        :param total: targets of this scan
        :param done: of them done by an earlier run
        :param shard: what these are of all targets
        """
        self._stream = sys.stderr if stream is None else stream
        self._shard = "" if shard is None or shard.count == 1 else f"shard {shard.index}/{shard.count}: "
        self._total, self._done, self._before = total, done, done
        self._counts: Counter[str] = Counter()
        self._quiet = quiet
        self._last = time.monotonic()
        self._bar = None if quiet else _bar(total, done, self._shard, self._stream)

    def add(self, record: Document) -> None:
        """One more target is done."""
        self._done += 1
        self._counts["failed" if record["error"] is not None else record["status"]] += 1
        if self._bar is not None:
            self._bar.set_postfix_str(self._found(), refresh=False)
            self._bar.update()
        elif not self._quiet and time.monotonic() - self._last >= _EVERY:
            self._last = time.monotonic()
            self._say()

    def close(self) -> None:
        """The last word, with or without a bar."""
        if self._bar is not None:
            self._bar.close()
        if not self._quiet:
            self._say()

    def _say(self) -> None:
        before = f" ({self._before} by an earlier run)" if self._before else ""
        found = self._found()
        print(
            f"scan: {self._shard}{self._done} of {self._total} targets{before}{': ' if found else ''}{found}",
            file=self._stream,
            flush=True,
        )

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
    return tqdm(
        desc=shard.removesuffix(": ") or None, total=total, initial=done, unit="target", file=stream, dynamic_ncols=True
    )
