# SPDX-License-Identifier: LGPL-2.1-or-later
"""``watch``: the running kernel as it accepts memory, on the whole screen or in lines."""

from __future__ import annotations

import curses
import json
import locale
import sys
import time
from contextlib import suppress
from typing import Any, Callable, Optional

from drgn_unaccepted import exit_status
from drgn_unaccepted.answer.documents import ProgressAnswer
from drgn_unaccepted.answer.history import progress
from drgn_unaccepted.commands import Action, Arguments, Parser
from drgn_unaccepted.commands.record import add_sampling_arguments, samples
from drgn_unaccepted.files import to_stdout
from drgn_unaccepted.kernel.capture import sampler
from drgn_unaccepted.signals import Stop, stopped_by_signals
from drgn_unaccepted.views.watch import line, screen

_REDRAW = 1000  #: Milliseconds after which the screen is drawn again, for a window that has a new size.


class Watch(Action):
    def add_arguments(self, parser: Parser) -> None:
        add_sampling_arguments(parser)

    def run(self, args: Arguments, open_target: Callable[[], Any]) -> int:
        """Show samples until ``q``, a signal or ``--count``: on the screen if there is one, else in lines."""

        def on_screen(window: Any) -> Optional[ProgressAnswer]:
            shown = _Screen(window, stop)
            for answer in progress(samples(take, args.interval, args.count, shown), "watch", args.source):
                shown.answer = answer
            return shown.answer

        take = sampler(open_target())
        with stopped_by_signals() as stop:
            if args.format == "text" and _has_screen():
                locale.setlocale(locale.LC_ALL, "")
                # wrapper() restores the terminal, whatever ends the function.
                last = curses.wrapper(on_screen)
                to_stdout(() if last is None else (line(last),))
            else:
                for answer in progress(samples(take, args.interval, args.count, stop), "watch", args.source):
                    to_stdout((json.dumps(answer) if args.format == "json" else line(answer),))
        return exit_status.ANSWERED


def _has_screen() -> bool:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    try:
        curses.setupterm(fd=sys.stdout.fileno())
    except curses.error:
        return False
    return curses.tigetstr("cup") is not None


class _Screen(Stop):
    """Waits at the keyboard, where ``q`` stops, and draws the last sample."""

    answer: Optional[ProgressAnswer] = None

    def __init__(self, window: Any, signals: Stop) -> None:
        super().__init__()
        self._window, self._signals = window, signals
        # Some terminals cannot hide the cursor.
        with suppress(curses.error):
            curses.curs_set(0)

    def __bool__(self) -> bool:
        return super().__bool__() or bool(self._signals)

    def wait(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while not self:
            self._draw()
            left = end - time.monotonic()
            # Look at the keyboard at least once, however late the next sample is.
            self._window.timeout(max(0, min(_REDRAW, round(1000 * left))))
            if self._window.getch() in (ord("q"), ord("Q")):
                self.set()
            elif left <= 0:
                break
        return bool(self)

    def _draw(self) -> None:
        if self.answer is None:
            return
        height, width = self._window.getmaxyx()
        has_blocks = "utf" in (sys.stdout.encoding or "").lower()
        self._window.erase()
        # The window may have just become smaller.
        with suppress(curses.error):
            for row, text in enumerate(screen(self.answer, width - 1, height, not has_blocks)):
                self._window.addnstr(row, 0, text, max(0, width - 1))
        self._window.refresh()


COMMAND = Watch()
