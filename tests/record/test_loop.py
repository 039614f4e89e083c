# SPDX-License-Identifier: LGPL-2.1-or-later
"""The loop that takes samples, and what signals and kills leave."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from drgn_unaccepted.record.file import Recording
from drgn_unaccepted.record.loop import Stop, samples
from drgn_unaccepted.snapshot import Snapshot
from tests.checks.build import clean
from tests.samples_over_time import series

ROOT = Path(__file__).parents[2]

RECORD = """
import sys
from dataclasses import replace
from drgn_unaccepted.record.loop import record, stopped_by_signals
from tests.samples_over_time import series
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


def start_recorder(path: Path, interval: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RECORD, str(path), str(interval)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )


@pytest.fixture
def heeded() -> Iterator[None]:
    """No signal is ignored: these tests are background jobs of some shells too."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    # What is handled is the default in a child.
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


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
        recording = Recording(str(path))
        got = list(recording)
        # The last number that was printed was taken and perhaps not written yet.
        assert len(got) >= wanted - 1
        for number, sample in enumerate(got, 1):
            assert sample.snapshot.table == series(20)[number % 20].table
            assert sample.snapshot.torn == ("x" * (37 * number % 5000),)
        assert [each.name for each in tmp_path.iterdir() if each.name.startswith(f"r{attempt}")] == [path.name]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_recording_after_a_whole_sample(number: signal.Signals, tmp_path: Path, heeded: None) -> None:
    path = tmp_path / "r"
    with start_recorder(path, 3600) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        deadline = time.monotonic() + 20
        while path.read_bytes().count(b"\n") < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(number)
        assert process.stdout.read() == "samples 1\n"
        assert process.wait(20) == 0
    recording = Recording(str(path))
    assert len(list(recording)) == 1 and recording.dropped is None


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_a_signal_that_is_ignored_stays_ignored(number: signal.Signals, tmp_path: Path) -> None:
    # As nohup(1) starts a program, and a shell its background jobs.
    before = signal.signal(number, signal.SIG_IGN)
    try:
        process = start_recorder(tmp_path / "r", 0.01)
    finally:
        signal.signal(number, before)
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        more = [process.stdout.readline() for _ in range(20)]
        assert all(line.strip().isdecimal() for line in more)
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read().splitlines()[-1].startswith("samples ")
        assert process.wait(20) == 0


class Clock:
    """A clock that stands still but for waiting and for what a sample takes."""

    def __init__(self, cost: float) -> None:
        self.now, self.cost = 1000.0, cost
        self.waits: list[float] = []

    def __call__(self) -> float:
        return self.now

    def take(self) -> Snapshot:
        self.now += self.cost
        return clean()


def test_a_signal_within_the_wait_s_own_steps_ends_it() -> None:
    """At each line of wait() in turn, as a signal handler would: set() waits for nothing that wait() holds."""
    lines = range(30)
    reached = 0
    for number in lines:
        stop = Stop()
        left = number

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
                    setting.join(1)
                    assert not setting.is_alive(), f"set() hangs at line {frame.f_lineno} of {frame.f_code.co_name}"
            return trace

        sys.settrace(trace)
        try:
            stop.wait(0.01)
        finally:
            sys.settrace(None)
    assert reached >= 2


class Waiting(Stop):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def wait(self, seconds: float) -> bool:
        self.clock.waits.append(seconds)
        self.clock.now += max(0.0, seconds)
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
    got = list(samples(clock.take, interval, 4, Waiting(clock), clock))
    assert [(sample.number, sample.elapsed, sample.cost) for sample in got] == [
        (number, start, cost) for number, start in enumerate(starts)
    ]
    assert clock.waits == waits, "and none after the last"


def test_a_stop_before_the_first_sample_takes_none() -> None:
    clock = Clock(0)
    stop = Waiting(clock)
    stop.set()
    assert list(samples(clock.take, 1, None, stop, clock)) == []
