# SPDX-License-Identifier: LGPL-2.1-or-later
"""How fast memory is accepted; ``watch``: its lines, and the command on a terminal of its own."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
import termios
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

import pexpect
import pytest

from drgn_unaccepted.answer.best_source import judge
from drgn_unaccepted.answer.documents import ProgressAnswer
from drgn_unaccepted.answer.history import progress
from drgn_unaccepted.commands import accepting
from drgn_unaccepted.snapshot import Accept, AcceptingList, Sample, Snapshot, Task
from drgn_unaccepted.views.watch import by_node, line, screen
from tests.checks import changes
from tests.checks.build import BITMAP, UNIT, clean, live
from tests.samples_over_time import with_bitmap

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


def test_only_all_is_100_percent() -> None:
    for waiting, said in ((4096, " 99.9% |"), (0, "100.0% |")):
        answer = document()
        answer["managed_bytes"], zones = 1 << 40, answer["zones"]
        for zone, nbytes in zip(zones, (waiting, 0)):
            zone["unaccepted_bytes"] = nbytes
        assert any(said in line for line in screen(answer, 100, 50))


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


def test_what_is_not_known_is_said() -> None:
    snapshot = replace(guest(), zones=None, counters=None, accepting=None, efi_map=None, torn=())
    table = replace(snapshot.table, state="not-captured", reason="bpf: no", bitmap=None)
    why = {"zones": "no zones", "counters": "no counters", "accepting": "no list"}
    sample = Sample(0, 0.0, 0.1, replace(snapshot, table=table, missing=why))
    (answer,) = progress([sample], "watch", "auto")
    assert [answer[key] for key in ("unaccepted_bytes", "zones", "managed_bytes", "accepting")] == [None] * 4
    assert answer["missing"] == {"zones": "no zones", "accepting": "no list"}
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


# Rates, their sources, and nodes as sums of zones


def at(elapsed: float, bitmap: Optional[bytes], nr_unaccepted: int) -> Sample:
    """A running guest: its EFI memory map is not mapped, and its lists change while they are read."""
    snapshot = replace(live(clean()), efi_map=None, missing={"efi_map": "no"})
    table = replace(snapshot.table, bitmap=bitmap)
    if bitmap is None:
        table = replace(table, state="not-captured", reason="no")
    assert snapshot.zones is not None
    *others, normal = snapshot.zones
    zones = (*others, replace(normal, unaccepted_pages=nr_unaccepted, managed_pages=16384))
    return Sample(0, elapsed, 0.01, replace(snapshot, table=table, zones=zones))


def test_a_rate_is_what_was_accepted_over_the_last_ten_seconds() -> None:
    full, half, none = b"\xff\xff\xff\xff", b"\x00\x00\xff\xff", bytes(4)
    samples = (at(0, full, 16384), at(4, half, 8192), at(12, half, 8192), at(14, half, 8192), at(22, none, 0))
    answers = list(progress(samples, "watch", "auto"))
    assert [(a["rate_bytes_per_second"], a["rate_seconds"], a["seconds_left"]) for a in answers] == [
        (None, None, None),
        (16 * UNIT / 4, 4, 4.0),
        (16 * UNIT / 12, 12, 12.0),  # ten seconds back there was the first
        (0, 10, None),  # against the second
        (16 * UNIT / 10, 10, 0),
    ]
    assert answers[0]["command"] == "watch" and answers[0]["source"] == "bitmap"
    assert answers[0]["unaccepted_bytes"] == 32 * UNIT
    zones = answers[1]["zones"]
    assert zones is not None and [z["rate_bytes_per_second"] for z in zones] == [0, 8192 * 4096 / 4]


def test_a_rate_over_two_sources_is_unknown() -> None:
    _, answer = progress((at(0, BITMAP, 9216), at(1, None, 9216)), "replay", "auto")
    assert answer["source"] == "page-lists" and answer["exact"] is False
    assert answer["rate_bytes_per_second"] is None and answer["rate_seconds"] == 1
    assert answer["zones"][-1]["rate_bytes_per_second"] == 0, "counters do not change with the source"
    assert next(progress([at(0, BITMAP, 9216)], "replay", "counters"))["source"] == "counters"


def test_nodes_are_the_sums_of_their_zones() -> None:
    names = ("node", "managed_bytes", "unaccepted_bytes", "rate_bytes_per_second")
    rest = {"name": "Z", "free_bytes": 1, "listed_chunks": 2}
    zones: list[Any] = [
        {**dict(zip(names, values)), **rest} for values in ((0, 10, 4, 1.0), (1, 7, None, None), (0, 20, 5, 2.0))
    ]
    got = by_node(zones)
    assert [tuple(node[name] for name in names) for node in got] == [(0, 30, 9, 3.0), (1, 7, None, None)]
    assert got[0]["listed_chunks"] == 4 and got[0]["name"] == "all"


@pytest.mark.parametrize(
    ("kind", "entry", "dead"), [("vmcore", (0, 0), 1), ("live", (0, 0), 0), ("vmcore", (32, 32), 0)]
)
def test_an_accept_whose_stack_was_rewound_says_so(kind: str, entry: tuple[int, int], dead: int) -> None:
    """One of memory above the bitmap, of 32 units, has no units either."""
    snapshot = changes.accepting(entry)(clean())
    snapshot = replace(snapshot, target=replace(snapshot.target, kind=kind))
    lines = "\n".join(accepting.COMMAND.text(accepting.accepting(snapshot, judge(snapshot)), Namespace()))
    assert lines.count("stack is dead") == dead


# On a terminal

WATCH = """
import sys
print("begins", flush=True)
sys.stdin.readline()
from argparse import Namespace
from drgn_unaccepted.commands import watch
from tests.views.test_watch import guest
taken = 0
def take():
    global taken
    taken += 1
    if taken > int(sys.argv[1]):
        raise RuntimeError("the guest went away")
    return guest()
count = None if sys.argv[3] == "-" else int(sys.argv[3])
watch.sampler = lambda opened: take
arguments = Namespace(interval=float(sys.argv[2]), count=count, source="auto", format="text")
watch.COMMAND.run(arguments, lambda: None)
print("after", taken)
"""


def heeds_signals() -> None:
    """A shell that runs these tests in the background may have had them ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


class Terminal(pexpect.spawn):  # type: ignore[misc]
    """The program on a pseudo terminal of its own."""

    def __init__(self, *arguments: str, term: str = "xterm", size: tuple[int, int] = (24, 80)) -> None:
        # readline has given pytest's workers the size of another terminal.
        plain = {name: value for name, value in os.environ.items() if name not in ("LINES", "COLUMNS")}
        env = {**plain, "TERM": term, "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"}
        how: Any = {"cwd": str(ROOT), "env": env, "dimensions": size, "preexec_fn": heeds_signals, "timeout": 600}
        super().__init__(sys.executable, ["-c", WATCH, *arguments], **how)
        self.logfile_read = io.BytesIO()
        self.expect_exact("begins")
        self.attributes = termios.tcgetattr(self.child_fd)
        self.sendline()

    def end(self) -> bytes:
        """All output, when the program has ended and left the terminal as it was."""
        self.expect(pexpect.EOF)
        assert termios.tcgetattr(self.child_fd) == self.attributes, "line discipline"
        self.wait()
        return bytes(self.logfile_read.getvalue())

    def ends_well(self) -> bytes:
        output = self.end()
        assert self.exitstatus == 0 and b"Traceback" not in output
        assert_restored(output)
        return output


def assert_restored(output: bytes) -> None:
    """xterm's smcup and rmcup, civis and cnorm."""
    assert output.count(b"\x1b[?1049h") == output.count(b"\x1b[?1049l") == 1
    assert output.rindex(b"\x1b[?1049l") > output.rindex(b"\x1b[?1049h")
    assert output.rfind(b"\x1b[?25l") < output.rfind(b"\x1b[?25h")


ENDS = (b"Q", b"\x03", signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.mark.parametrize(
    ("how", "interval"),
    ((b"xq", "3600"), *(pytest.param(how, "3600", marks=LONG) for how in ENDS), pytest.param(b"q", "0", marks=LONG)),
)
def test_a_key_or_signal_ends_it_and_the_terminal_is_as_it_was(how: Any, interval: str) -> None:
    with Terminal("99999", interval, "-") as terminal:
        terminal.expect_exact("accepting now: 1 accept")
        assert termios.tcgetattr(terminal.child_fd) != terminal.attributes, "keys come one by one"
        (terminal.send if isinstance(how, bytes) else terminal.kill)(how)
        terminal.ends_well()


@pytest.mark.parametrize("size", [(24, 80), pytest.param((1, 1), marks=LONG), pytest.param((2, 5), marks=LONG)])
def test_the_last_sample_stays_on_the_terminal(size: tuple[int, int]) -> None:
    with Terminal("99", "0.05", "5", size=size) as terminal:
        assert re.search(rb"\n?[^\n]* 34 MiB bitmap [^\n]*\r\nafter 5\r\n$", terminal.ends_well())


@LONG
def test_a_failure_gives_the_terminal_back_first() -> None:
    with Terminal("2", "0.01", "-") as terminal:
        output = terminal.end()
        assert_restored(output)
        assert output.rindex(b"RuntimeError: the guest went away") > output.rindex(b"\x1b[?1049l")


def test_a_window_of_a_new_size_is_drawn_again_without_a_new_sample() -> None:
    with Terminal("1", "3600", "-", size=(6, 40)) as terminal:
        terminal.expect_exact("more lines; the window is too low")
        terminal.setwinsize(40, 120)
        terminal.expect_exact("counters: moved")
        terminal.send("q")
        terminal.ends_well()


@pytest.mark.parametrize("term", ["dumb", pytest.param("no-such-terminal", marks=LONG)])
def test_a_terminal_that_cannot_move_its_cursor_gets_lines(term: str) -> None:
    with Terminal("99", "0.01", "3", term=term) as terminal:
        output = terminal.end()
        assert output.count(b"34 MiB bitmap") == 3 and b"\x1b" not in output
