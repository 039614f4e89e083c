# SPDX-License-Identifier: LGPL-2.1-or-later
"""``watch``: its lines, and the command on a terminal of its own."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

import pytest

from drgn_unaccepted.answer.documents import ProgressAnswer
from drgn_unaccepted.answer.history import Sample
from drgn_unaccepted.commands.progress import progress
from drgn_unaccepted.snapshot import Accept, AcceptingList, Snapshot, Task
from drgn_unaccepted.views.watch import line, screen
from tests.checks.build import clean, live
from tests.samples_over_time import with_bitmap
from tests.waiting import wait_for

ROOT = Path(__file__).parents[2]

LONG = pytest.mark.long


def guest() -> Snapshot:
    """Units 13 to 29 are unaccepted, one accept of units 13 and 14 is in flight, by a task with an unfriendly name."""
    accept = Accept(0xFFFFC90000123D48, 13, 15, Task(731, "dd\x1b[2J\n", 1))
    snapshot = live(clean(), torn=("counters: moved",))
    target = replace(snapshot.target, taken_at="2026-01-01T00:00:12.345+00:00")
    return replace(snapshot, target=target, accepting=AcceptingList((accept,)))


def document() -> ProgressAnswer:
    """Ten seconds ago units 8 and 9 were unaccepted too: 4 MiB in 10 s, and 34 MiB are left."""
    before = with_bitmap(guest(), bytes([0, 0b11100011, 0xFF, 0b00111111]))
    zone = before.zones[-1]  # type: ignore[index]
    before = replace(before, zones=(before.zones[0], replace(zone, unaccepted_pages=10240)))  # type: ignore[index]
    _, last = progress((Sample(0, 0.0, 0.04, before), Sample(7, 10.0, 0.0415, guest())), "watch", "auto")
    return last


def test_the_screen() -> None:
    assert screen(document(), 100, 50, ascii_only=True) == [
        "unaccepted memory of 6.12.117  2026-01-01T00:00:12.345+00:00",
        "sample 7, 10 s since the first, took 0.042 s; q quits",
        "",
        "unaccepted   34 MiB  (bitmap, exact)",
        # DMA32 has 0x7e000 pages, 2016 MiB; Normal 0x3f00, 63 MiB, 9216 of which, 36 MiB, are unaccepted.
        "accepted     2043 MiB of 2079 MiB that the page allocator manages",
        f"{'':13} 98.3% |{'#' * 76}{' ' * 2}|",
        "rate         409.6 KiB/s over 10.0 s",
        "time to go   1 min 25 s at this rate",
        "",
        "node  zone     managed    free  unaccepted  chunks         rate",
        "0     DMA32   2016 MiB   1 GiB           0       0          0/s",
        "0     Normal    63 MiB  44 MiB      36 MiB       9  409.6 KiB/s",
        "",
        "accepting now: 1 accept",
        "  0x101a00000-0x101e00000 (2 units from unit 13): dd\\x1b[2J\\n (pid 731), CPU 1",
        "torn: counters: moved",
    ]


def test_the_line() -> None:
    assert line(document()) == ("00:00:12     10.0 s      34 MiB bitmap           409.6 KiB/s   1 in flight  torn")


def test_a_screen_fits_the_window() -> None:
    for width in (0, 7, 40, 200):
        assert max(len(line) for ascii in (True, False) for line in screen(document(), width, 50, ascii)) <= width
    assert screen(document(), 100, 4)[3:] == ["(13 more lines; the window is too low)"]


def test_nothing_that_a_terminal_would_obey() -> None:
    answer = document()
    answer["target"]["release"] = "6.12\x1b]0;owned\x07"
    answer["zones"][0]["name"] = "\x9b2J"
    answer["torn"] = ["a\rb"]
    text = "".join(screen(answer, 300, 50)) + line(answer)
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", text)


def test_two_nodes_are_added_up() -> None:
    answer = document()
    answer["zones"] += [{**answer["zones"][1], "node": 1}, {**answer["zones"][1], "node": 1, "name": "Movable"}]
    text = "\n".join(screen(answer, 100, 50))
    assert re.search(r"^1 +all +126 MiB +88 MiB +72 MiB +18 +819.2 KiB/s$", text, re.M)
    assert re.search(r"^0 +all ", text, re.M)


def test_what_is_not_known_is_said() -> None:
    snapshot = replace(guest(), zones=None, counters=None, accepting=None, efi_map=None, torn=())
    table = replace(snapshot.table, state="not-captured", reason="bpf: no", bitmap=None)
    why = {"zones": "no zones", "counters": "no counters", "accepting": "no list"}
    sample = Sample(0, 0.0, 0.1, replace(snapshot, table=table, missing=why))
    (answer,) = progress([sample], "watch", "auto")
    lines = screen(answer, 80, 50)
    assert lines[3].startswith("unaccepted   unknown: the table was not captured: bpf: no; reconstructed: no EFI")
    assert {
        "accepted     unknown: no zones",
        "rate         unknown until the second sample",
        "time to go   unknown",
        "zones: no zones",
        "accepting now: no list",
    } <= set(lines)
    assert line(answer).endswith(" rate unknown   ? in flight")


@pytest.mark.parametrize(
    ("rate", "left", "unaccepted", "words"),
    [
        (0.0, None, 4096, "nothing is being accepted"),
        (0.0, None, 0, "nothing is left"),
        (1.0, 59.4, 4096, "59 s at this rate"),
        (1.0, 3700.0, 4096, "1 h 1 min at this rate"),
        (1.0, 1e6, 4096, "11 days at this rate"),
        (-5.0, None, 4096, "nothing is being accepted"),
    ],
)
def test_time_to_go(rate: float, left: Optional[float], unaccepted: int, words: str) -> None:
    answer = document()
    answer.update(rate_bytes_per_second=rate, seconds_left=left, unaccepted_bytes=unaccepted)
    assert f"time to go   {words}" in screen(answer, 100, 50)


# On a terminal

WATCH = """
import sys, time
from argparse import Namespace
from drgn_unaccepted.commands.watch import watch
from drgn_unaccepted.record.loop import stopped_by_signals
from tests.views.test_watch import guest
taken = 0
def take():
    global taken
    taken += 1
    if taken > int(sys.argv[1]):
        raise RuntimeError("the guest went away")
    return guest()
count = None if sys.argv[3] == "-" else int(sys.argv[3])
with stopped_by_signals() as stop:
    watch(take, Namespace(interval=float(sys.argv[2]), count=count, source="auto", format="text"), stop)
print("after", taken)
"""


def _as_at_a_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    # A shell that runs these tests in the background may have had them ignored.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


class Terminal:
    """The program on a pseudo terminal of its own."""

    def __init__(self, *arguments: str, term: str = "xterm", size: tuple[int, int] = (24, 80)) -> None:
        self.host, self.device = pty.openpty()
        self.resize(*size)
        self.before = termios.tcgetattr(self.device)
        self.output = b""
        # readline has given pytest's workers the size of another terminal.
        plain = {name: value for name, value in os.environ.items() if name not in ("LINES", "COLUMNS")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", WATCH, *arguments],
            stdin=self.device,
            stdout=self.device,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env={**plain, "TERM": term, "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"},
            start_new_session=True,
            preexec_fn=_as_at_a_terminal,
        )

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.device, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def wait_for(self, words: bytes, start: int = 0) -> int:
        wait_for(lambda: self._read(0.1) or words in self.output[start:], lambda: self.output[start:])
        return len(self.output)

    def end(self) -> str:
        """Wait for the end; what the program said on stderr."""
        wait_for(lambda: self._read(0.05) or self.process.poll() is not None, lambda: "the program does not end")
        self._read(0.2)
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()

    def _read(self, seconds: float) -> None:
        while select.select([self.host], [], [], seconds)[0]:
            self.output += os.read(self.host, 65536)
            seconds = 0

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        os.close(self.host)
        os.close(self.device)

    def ends_well(self) -> None:
        assert self.end() == ""
        assert self.process.returncode == 0
        self.assert_as_before()

    def assert_as_before(self) -> None:
        assert termios.tcgetattr(self.device) == self.before, "line discipline"
        # xterm's smcup and rmcup, civis and cnorm.
        assert self.output.count(b"\x1b[?1049h") == self.output.count(b"\x1b[?1049l") == 1
        assert self.output.rindex(b"\x1b[?1049l") > self.output.rindex(b"\x1b[?1049h")
        hidden, shown = self.output.rfind(b"\x1b[?25l"), self.output.rfind(b"\x1b[?25h")
        assert hidden < shown


ENDS = (b"Q", b"\x03", signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.mark.parametrize(
    ("how", "interval"),
    ((b"xq", "3600"), *(pytest.param(how, "3600", marks=LONG) for how in ENDS), pytest.param(b"q", "0", marks=LONG)),
)
def test_a_key_or_signal_ends_it_and_the_terminal_is_as_it_was(how: Any, interval: str) -> None:
    with Terminal("99999", interval, "-") as terminal:
        terminal.wait_for(b"accepting now: 1 accept")
        assert termios.tcgetattr(terminal.device) != terminal.before, "keys come one by one"
        if isinstance(how, bytes):
            os.write(terminal.host, how)
        else:
            terminal.process.send_signal(how)
        terminal.ends_well()


@pytest.mark.parametrize("size", [(24, 80), pytest.param((1, 1), marks=LONG), pytest.param((2, 5), marks=LONG)])
def test_the_last_sample_stays_on_the_terminal(size: tuple[int, int]) -> None:
    with Terminal("99", "0.05", "5", size=size) as terminal:
        terminal.ends_well()
        assert re.search(rb"\n?[^\n]* 34 MiB bitmap [^\n]*\r\nafter 5\r\n$", terminal.output)


@LONG
def test_a_failure_gives_the_terminal_back_first() -> None:
    with Terminal("2", "0.01", "-") as terminal:
        assert "RuntimeError: the guest went away" in terminal.end()
        terminal.assert_as_before()


def test_a_window_of_a_new_size_is_drawn_again_without_a_new_sample() -> None:
    with Terminal("1", "3600", "-", size=(6, 40)) as terminal:
        end = terminal.wait_for(b"more lines; the window is too low")
        terminal.resize(40, 120)
        terminal.process.send_signal(signal.SIGWINCH)
        terminal.wait_for(b"counters: moved", end)
        os.write(terminal.host, b"q")
        terminal.ends_well()


@pytest.mark.parametrize("term", ["dumb", pytest.param("no-such-terminal", marks=LONG)])
def test_a_terminal_that_cannot_move_its_cursor_gets_lines(term: str) -> None:
    with Terminal("99", "0.01", "3", term=term) as terminal:
        assert terminal.end() == ""
        assert terminal.output.count(b"34 MiB bitmap") == 3
        assert b"\x1b" not in terminal.output
        assert termios.tcgetattr(terminal.device) == terminal.before
