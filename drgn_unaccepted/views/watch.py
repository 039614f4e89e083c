# SPDX-License-Identifier: LGPL-2.1-or-later
"""Acceptance as it goes on: a screen that is drawn again with each sample, and one line a sample."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any, Callable, Optional

from drgn_unaccepted.answer.document import Document
from drgn_unaccepted.answer.progress import Progress, by_node
from drgn_unaccepted.record.loop import Stop, samples
from drgn_unaccepted.snapshot import Snapshot
from drgn_unaccepted.words import count, safe, span

_UNITS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))

#: Accepts that the screen shows; each is a CPU at work.
_ACCEPTS_SHOWN = 16


def watch(
    take: Callable[[], Snapshot], interval: float, count_: Optional[int], stop: Stop, source: str = "auto"
) -> None:
    """Take samples and show them, on the whole screen if there is one, else in lines, until ``q`` or a signal.

    :param count_: how many samples at most
    """
    progress = Progress("watch", source)
    if _has_screen():
        import curses
        import locale

        locale.setlocale(locale.LC_ALL, "")
        # Puts the terminal back as it was, whatever ends the function.
        last = curses.wrapper(lambda window: _on_screen(window, take, interval, count_, stop, progress))
        if last is not None:
            print(line(last))
        return
    for sample in samples(take, interval, count_, stop):
        print(line(progress.document(sample)), flush=True)


def _has_screen() -> bool:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    import curses

    try:
        curses.setupterm(fd=sys.stdout.fileno())
    except curses.error:
        return False
    return curses.tigetstr("cup") is not None


def _on_screen(
    window: Any, take: Callable[[], Snapshot], interval: float, count_: Optional[int], stop: Stop, progress: Progress
) -> Optional[Document]:
    """Show samples; the last of them."""
    keys = _Keys(window, stop)
    for sample in samples(take, interval, count_, keys):
        keys.show(progress.document(sample))
    return keys.shown


class _Keys(Stop):
    """Waits at the keyboard: ``q`` stops, a new size of the window draws it again."""

    def __init__(self, window: Any, signals: Stop) -> None:
        import curses

        super().__init__()
        self._window, self._signals = window, signals
        self._resize = curses.KEY_RESIZE
        self._error = curses.error
        self.shown: Optional[Document] = None
        # There are terminals whose cursor cannot be hidden.
        with suppress(curses.error):
            curses.curs_set(0)

    def __bool__(self) -> bool:
        return super().__bool__() or bool(self._signals)

    def wait(self, seconds: float) -> bool:
        from time import monotonic

        end = monotonic() + seconds
        while not self:
            left = end - monotonic()
            # At least one look at the keyboard, however late the next sample is; and again soon, because curses
            # misses a new size that is told just before it waits.
            self._window.timeout(max(0, min(500, round(1000 * left))))
            key = self._window.getch()
            if key in (ord("q"), ord("Q")):
                self.set()
            elif key == self._resize:
                self._draw()
            if left <= 0:
                break
        return bool(self)

    def show(self, answer: Document) -> None:
        self.shown = answer
        self._draw()

    def _draw(self) -> None:
        if self.shown is None:
            return
        height, width = self._window.getmaxyx()
        lines = screen(self.shown, width - 1, not _prints_blocks())
        if len(lines) > height:
            lines = [*lines[: height - 1], f"({len(lines) - height + 1} more lines; the window is too low)"]
        self._window.erase()
        for row, text in enumerate(lines):
            try:
                self._window.addnstr(row, 0, text, max(0, width - 1))
            except self._error:
                break  # the window has just become smaller
        self._window.refresh()


def _prints_blocks() -> bool:
    return "utf" in (sys.stdout.encoding or "").lower()


def screen(answer: Document, width: int, ascii_only: bool = False) -> list[str]:
    """The lines of one sample, cut to ``width``."""
    target = answer["target"]
    lines = [
        f"unaccepted memory of {safe(target['release'] or 'a kernel of unknown release')}  {target['taken_at']}",
        f"sample {answer['sample']}, {_duration(answer['elapsed_seconds'])} since the first, "
        f"took {answer['cost_seconds']:.3f} s; q quits",
        "",
        f"unaccepted   {_unaccepted(answer)}",
        *_accepted(answer, width, ascii_only),
        f"rate         {_rate(answer)}",
        f"time to go   {_time_to_go(answer)}",
        "",
        *_zones(answer),
        "",
        *_accepting(answer),
    ]
    lines += [f"torn: {safe(note)}" for note in answer["torn"]]
    return [text[: max(0, width)] for text in lines]


def line(answer: Document) -> str:
    """One sample on one line, for a log or a pipe."""
    in_flight = "unknown" if answer["accepting"] is None else str(len(answer["accepting"]))
    rate = answer["rate_bytes_per_second"]
    return "  ".join(
        (
            answer["target"]["taken_at"],
            f"{answer['elapsed_seconds']:9.1f} s",
            f"{about(answer['unaccepted_bytes']):>11} unaccepted ({answer['source']})",
            f"{'rate unknown' if rate is None else _mean(answer):>22}",
            f"{in_flight} in flight",
            *(["torn"] if answer["torn"] else []),
        )
    )


def about(number: Optional[float]) -> str:
    """Bytes with three digits, in the largest binary unit that they fill."""
    if number is None:
        return "unknown"
    for unit, name in _UNITS:
        if abs(number) >= unit:
            filled = abs(number) / unit
            return f"{number / unit:.{0 if filled >= 99.95 else 1 if filled >= 9.995 else 2}f} {name}"
    return f"{number:.0f} bytes"


def _unaccepted(answer: Document) -> str:
    if answer["source"] == "none":
        return f"unknown: {safe(answer['source_reason'])}"
    exact = "exact" if answer["exact"] else "not exact: a listed chunk can hold a unit that is accepted already"
    return f"{about(answer['unaccepted_bytes'])}  ({answer['source']}, {exact})"


def _accepted(answer: Document, width: int, ascii_only: bool) -> list[str]:
    """What the page allocator manages and has not listed as unaccepted, with a bar."""
    zones = answer["zones"]
    if zones is None or any(zone["unaccepted_bytes"] is None for zone in zones):
        return [f"accepted     unknown: {safe(answer['missing'].get('zones', 'a kernel without NR_UNACCEPTED'))}"]
    managed = answer["managed_bytes"]
    accepted = managed - sum(zone["unaccepted_bytes"] for zone in zones)
    text = f"accepted     {about(accepted)} of {about(managed)} that the page allocator manages"
    bar = _bar(accepted, managed, width - 13, ascii_only)
    return [text, *([f"{'':13}{bar}"] if bar else [])]


def _bar(part: int, whole: int, width: int, ascii_only: bool) -> Optional[str]:
    if whole <= 0 or width < 12:
        return None
    percent = f"{100 * part / whole:5.1f}%"
    try:
        from tqdm import tqdm
    except ImportError:
        return percent
    return str(tqdm.format_meter(part, whole, 0, width, ascii=ascii_only, bar_format=f"{percent} |{{bar}}|"))


def _rate(answer: Document) -> str:
    rate = answer["rate_bytes_per_second"]
    if rate is None:
        return "unknown until the second sample" if answer["rate_seconds"] is None else "unknown: the source changed"
    return _mean(answer)


def _mean(answer: Document) -> str:
    return f"{about(answer['rate_bytes_per_second'])}/s over {answer['rate_seconds']:.1f} s"


def _time_to_go(answer: Document) -> str:
    if answer["unaccepted_bytes"] == 0:
        return "nothing is left"
    if answer["seconds_left"] is None:
        return "unknown" if answer["rate_bytes_per_second"] is None else "nothing is being accepted"
    return f"{_duration(answer['seconds_left'])} at this rate"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} days"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _zones(answer: Document) -> list[str]:
    zones = answer["zones"]
    if zones is None:
        return [f"zones: {safe(answer['missing']['zones'])}"]
    nodes = by_node(zones)
    if len(nodes) > 1:
        zones = [*zones, *nodes]
    rows = [("node", "zone", "managed", "free", "unaccepted", "chunks", "rate")]
    for zone in zones:
        rate = zone["rate_bytes_per_second"]
        rows.append(
            (
                str(zone["node"]),
                safe(zone["name"]),
                about(zone["managed_bytes"]),
                about(zone["free_bytes"]),
                about(zone["unaccepted_bytes"]),
                "unknown" if zone["listed_chunks"] is None else str(zone["listed_chunks"]),
                "" if rate is None else f"{about(rate)}/s",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        "  ".join(cell.ljust(width) if i < 2 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths)))
        for row in rows
    ]


def _accepting(answer: Document) -> list[str]:
    entries = answer["accepting"]
    if entries is None:
        return [f"accepting now: {safe(answer['missing']['accepting'])}"]
    lines = [f"accepting now: {count(len(entries), 'accept')}"]
    for entry in entries[:_ACCEPTS_SHOWN]:
        units = f"units {entry['start_unit']}-{entry['end_unit']}"
        where = units if entry["start"] is None else span(entry["start"], entry["end"])
        task = entry["task"]
        who = "nobody's stack" if task is None else f"pid {task['pid']} ({safe(task['comm'])})"
        cpu = "" if task is None or task["cpu"] is None else f" on CPU {task['cpu']}"
        lines.append(f"  {where}  {who}{cpu}")
    if len(entries) > _ACCEPTS_SHOWN:
        lines.append(f"  and {len(entries) - _ACCEPTS_SHOWN} more")
    lines += [f"accepting_list: {safe(problem)}" for problem in answer["accepting_problems"]]
    return lines
