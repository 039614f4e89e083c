# SPDX-License-Identifier: LGPL-2.1-or-later
"""The loop that takes samples, and what signals and kills leave."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from drgn_unaccepted.record.file import Recording
from drgn_unaccepted.record.loop import Stop, samples
from drgn_unaccepted.snapshot import Snapshot
from tests.checks.build import clean
from tests.samples_over_time import series
from tests.waiting import wait_for

ROOT = Path(__file__).parents[2]

RECORD = """
import signal, sys
from dataclasses import replace
from drgn_unaccepted.record.loop import record, stopped_by_signals
from tests.samples_over_time import series
for name in ("SIGINT", "SIGTERM", "SIGHUP"):
    signal.signal(getattr(signal, name), signal.SIG_IGN if name == sys.argv[3] else signal.SIG_DFL)
taken = series(20)
number = 0
def take():
    global number
    number += 1
    print(number, flush=True)
    return replace(taken[number % 20], torn=("x" * (37 * number % 5000),))
with stopped_by_signals() as stop:
    print("samples", record(take, sys.argv[1], float(sys.argv[2]), None, stop), flush=True)
"""


def start_recorder(path: Path, interval: float, ignored: str = "") -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", RECORD, str(path), str(interval), ignored]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def test_a_recorder_that_is_killed_loses_no_whole_line(tmp_path: Path) -> None:
    chance = random.Random(4)
    for attempt in range(3):
        path = tmp_path / f"r{attempt}"
        with start_recorder(path, 0) as process:
            assert process.stdout is not None
            wanted = chance.randrange(2, 150)
            for text in process.stdout:
                if int(text) == wanted:
                    break
            time.sleep(chance.random() / 50)
            process.kill()
        got = list(Recording(str(path)))
        # The last number that was printed was taken and perhaps not written yet.
        assert len(got) >= wanted - 1
        for number, sample in enumerate(got, 1):
            assert sample.snapshot.table == series(20)[number % 20].table
            assert sample.snapshot.torn == ("x" * (37 * number % 5000),)
        assert [each.name for each in tmp_path.iterdir() if each.name.startswith(f"r{attempt}")] == [path.name]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_recording_after_a_whole_sample(number: signal.Signals, tmp_path: Path) -> None:
    path = tmp_path / "r"
    with start_recorder(path, 3600) as process:
        assert process.stdout is not None and process.stdout.readline() == "1\n"
        wait_for(lambda: path.read_bytes().count(b"\n") == 2, path.read_bytes)
        process.send_signal(number)
        assert (process.stdout.read(), process.wait(120)) == ("samples 1\n", 0)
    recording = Recording(str(path))
    assert len(list(recording)) == 1 and recording.dropped is None


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_a_signal_that_is_ignored_stays_ignored(number: signal.Signals, tmp_path: Path) -> None:
    """nohup(1) starts a program so, and a shell its background jobs."""
    with start_recorder(tmp_path / "r", 0.01, number.name) as process:
        assert process.stdout is not None and process.stdout.readline()
        process.send_signal(number)
        assert all(process.stdout.readline().strip().isdecimal() for _ in range(20))
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read().splitlines()[-1].startswith("samples ") and process.wait(120) == 0


def test_a_signal_within_the_wait_s_own_steps_ends_it() -> None:
    """At each line of wait() in turn, as a signal handler would: set() waits for nothing that wait() holds."""
    reached = 0
    for number in range(30):
        stop, left = Stop(), number

        def trace(frame: FrameType, event: str, arg: object, stop: Stop = stop) -> Any:
            nonlocal left, reached
            if event == "line" and frame.f_code.co_name in ("wait", "__enter__", "_is_owned"):
                left -= 1
                if left == 0:
                    sys.settrace(None)
                    frame.f_trace = None
                    reached += 1
                    setting = threading.Thread(target=stop.set, daemon=True)
                    setting.start()
                    setting.join(60)
                    assert not setting.is_alive(), f"set() hangs at line {frame.f_lineno} of {frame.f_code.co_name}"
            return trace

        sys.settrace(trace)
        try:
            stop.wait(0.01)
        finally:
            sys.settrace(None)
    assert reached >= 2


class Clock(Stop):
    """Time passes only in waits and in samples, which take ``cost``."""

    def __init__(self, cost: float) -> None:
        super().__init__()
        self.now, self.cost = 1000.0, cost
        self.waits: list[float] = []

    def take(self) -> Snapshot:
        self.now += self.cost
        return clean()

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        self.now += max(0.0, seconds)
        return bool(self)


@pytest.mark.parametrize(
    ("cost", "interval", "starts", "waits"),
    [
        (0.25, 1.0, [0, 1, 2, 3], [0.75, 0.75, 0.75]),
        (1.5, 1.0, [0, 1.5, 3, 4.5], [-0.5, -0.5, -0.5]),
        (0.5, 0.0, [0, 0.5, 1, 1.5], [-0.5, -0.5, -0.5]),
    ],
)
def test_samples_are_taken_from_start_to_start(
    cost: float, interval: float, starts: list[float], waits: list[float]
) -> None:
    clock = Clock(cost)
    got = list(samples(clock.take, interval, 4, clock, lambda: clock.now))
    assert [sample[:3] for sample in got] == [(number, start, cost) for number, start in enumerate(starts)]
    assert clock.waits == waits, "and none after the last"
    clock.set()
    assert list(samples(clock.take, interval, None, clock)) == []
