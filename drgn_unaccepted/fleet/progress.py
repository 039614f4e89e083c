# SPDX-License-Identifier: LGPL-2.1-or-later
"""Progress on stderr of what takes more than two seconds: one line, renewed on a terminal, else now and then."""

from __future__ import annotations

import sys
import time

#: Seconds before the first line; between two lines on a terminal, and elsewhere.
_FIRST, _RENEWED, _EVERY = 2.0, 0.2, 30.0


class Progress:
    def __init__(self, quiet: bool) -> None:
        self._quiet, self._on_terminal = quiet, sys.stderr.isatty()
        self._next = time.monotonic() + (_FIRST if self._on_terminal else _EVERY)
        self._shown = 0

    def show(self, line: str) -> None:
        now = time.monotonic()
        if self._quiet or now < self._next:
            return
        if not self._on_terminal:
            print(line, file=sys.stderr)
        else:
            print(f"\r{line:{self._shown}}", end="", file=sys.stderr, flush=True)
            self._shown = len(line)
        self._next = now + (_RENEWED if self._on_terminal else _EVERY)

    def end(self) -> None:
        """Leave the terminal's line empty for what follows."""
        if self._shown:
            print(f"\r{'':{self._shown}}\r", end="", file=sys.stderr, flush=True)
            self._shown = 0
