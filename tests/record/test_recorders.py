# SPDX-License-Identifier: LGPL-2.1-or-later
"""The flight recorder and the loop that takes samples: what is kept and deleted, what signals and kills leave."""

from __future__ import annotations

import argparse
import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any, Optional

import pytest
from drgn import ProgramFlags

from drgn_unaccepted.commands import keep as command
from drgn_unaccepted.commands.record import samples
from drgn_unaccepted.errors import CommandError
from drgn_unaccepted.record import keep as flight
from drgn_unaccepted.record.file import Recording
from drgn_unaccepted.signals import Stop
from drgn_unaccepted.snapshot import Snapshot, Table
from drgn_unaccepted.snapshot_file import load
from drgn_unaccepted.targets.opened import Opened
from tests.asking import Capsys, Patch
from tests.checks.build import BASE, BITMAP, clean
from tests.fleet.tools import give_away
from tests.samples_over_time import series
from tests.waiting import wait_for

ROOT = Path(__file__).parents[2]

BOOT = "0f0e0d0c-0b0a-4908-8706-050403020100"
TABLE = "table-0x7fb73018.bin"
#: u32 version, u32 unit_size, u64 phys_base, u64 size
HEADER = struct.pack("<IIQQ", 1, 2 << 20, BASE, 4)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_what_is_kept_is_the_table_as_it_lies_in_memory(tmp_path: Path) -> None:
    place = tmp_path / BOOT
    kept = flight.keep(clean(), BOOT, str(tmp_path))
    assert kept == (str(place / "snapshot.json"), str(place / TABLE), str(place / "snapshot.json"))
    assert (place / TABLE).read_bytes() == HEADER + BITMAP
    assert load((place / "snapshot.json").read_text()) == clean()
    assert names(place) == ["snapshot.json", TABLE]
    # An older table stays where no newer one can be read.
    without = replace(clean(), table=replace(clean().table, state="not-captured", reason="no BPF", bitmap=None))
    kept = flight.keep(without, BOOT, str(tmp_path))
    assert kept == (str(place / "snapshot.json"), None, f"{place / TABLE}@0x7fb73018")
    assert (place / TABLE).read_bytes() == HEADER + BITMAP
    assert load((place / "snapshot.json").read_text()) == without
    assert flight.keep(without, BOOT.replace("0f", "1f"), str(tmp_path)).option is None


def test_the_last_boots_are_kept_and_nothing_else_is_touched(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "snapshot.json").write_text("mine")
    boots = [f"{number:08x}-0000-4000-8000-000000000000" for number in range(6)]
    for number, boot in enumerate(boots):
        flight.keep(clean(), boot, str(tmp_path))
        os.utime(tmp_path / boot / "snapshot.json", (number, number))
    (tmp_path / boots[5] / f".{TABLE}.0a1b2c3d").write_text("half")
    flight.keep(clean(), BOOT, str(tmp_path), boots=2)
    assert names(tmp_path) == sorted([boots[5], BOOT, "notes"])
    assert (tmp_path / "notes" / "snapshot.json").read_text() == "mine"
    (tmp_path / boots[5] / "theirs").write_text("x")
    flight.keep(clean(), BOOT, str(tmp_path), boots=1)
    assert names(tmp_path) == sorted([boots[5], BOOT, "notes"])
    assert names(tmp_path / boots[5]) == ["theirs"], "a file that is not ours stays"


@pytest.mark.parametrize("which", ["directory", "above", "boot", "earlier boot", "owner", "boot's owner", "mode"])
def test_nobody_else_leads_it_away(which: str, tmp_path: Path, monkeypatch: Patch) -> None:
    """A link that another user made, and a directory that another user can change, is refused and not emptied."""
    victim, top = tmp_path / "victim", tmp_path / "top"
    for directory in (victim, victim / "kept", victim / BOOT, top):
        directory.mkdir(mode=0o700)
        (directory / "table-0x1.bin").write_text("precious")
    earlier = BOOT.replace("0f", "1f")
    link = {"directory": tmp_path / "link", "above": tmp_path / "link", "earlier boot": top / earlier}.get(which)
    given = {"owner": top, "boot's owner": top / BOOT}.get(which, link or top / BOOT)
    if which in ("directory", "above", "boot", "earlier boot"):
        given.symlink_to(victim)
    given.mkdir(exist_ok=True)
    before = sorted(path for path in tmp_path.rglob("*.bin"))
    directory = {"directory": given, "above": given / "kept"}.get(which, top)
    if which == "mode":
        top.chmod(0o777)
    else:
        give_away(given, monkeypatch)
    if which == "earlier boot":
        flight.keep(clean(), BOOT, str(top), boots=1)
    else:
        with pytest.raises(OSError, match=r"link of user|Not a directory|others than this user") as caught:
            flight.keep(clean(), BOOT, str(directory))
        assert caught.value.filename in (str(directory), BOOT)
    assert [path for path in before if not path.exists()] == []
    assert [path for path in victim.rglob("*") if "snapshot" in path.name] == []


@pytest.mark.parametrize("umask", [0, 0o777])
def test_modes_whatever_the_umask(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        flight.keep(clean(), BOOT, str(tmp_path / "a" / "b"))
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "a").rglob("*")}
    assert modes == {"b": 0o700, BOOT: 0o700, "snapshot.json": 0o600, TABLE: 0o600}


KEEP = """
import itertools, sys
from drgn_unaccepted.record.keep import keep
from tests.samples_over_time import series
for snapshot in itertools.islice(itertools.cycle(series(20)), int(sys.argv[3])):
    keep(snapshot, sys.argv[2], sys.argv[1])
    print("kept", flush=True)
"""


def started(code: str, *arguments: object) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def test_a_kill_leaves_whole_files_and_the_next_run_deletes_the_rest(tmp_path: Path) -> None:
    chance = random.Random(7)
    possible = {HEADER + (each.table.bitmap or b"") for each in series(20)}
    place = tmp_path / BOOT
    for _ in range(5):
        with started(KEEP, tmp_path, BOOT, 1 << 30) as process:
            assert process.stdout is not None and process.stdout.readline() == "kept\n"
            time.sleep(chance.random() / 10)
            process.kill()
        left = [name for name in names(place) if name not in ("snapshot.json", TABLE)]
        assert len(left) <= 1 and all(name.startswith(".") for name in left)
        assert (place / TABLE).read_bytes() in possible
        assert load((place / "snapshot.json").read_text()).table.address == 0x7FB73018
    (place / f"{TABLE}.new").write_text("half of a file of an earlier version")
    flight.keep(clean(), BOOT, str(tmp_path))
    assert names(place) == ["snapshot.json", TABLE]


def test_two_runs_at_once_do_not_meet(tmp_path: Path) -> None:
    for process in [started(KEEP, tmp_path, BOOT, 20) for _ in range(3)]:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    assert names(tmp_path / BOOT) == ["snapshot.json", TABLE]


def test_the_boot_id_is_the_kernels(tmp_path: Path) -> None:
    (tmp_path / "boot_id").write_text(f"{BOOT}\n")
    assert flight.boot_id(str(tmp_path / "boot_id")) == BOOT
    for text in ("", "../../etc", BOOT + "/..", BOOT.upper()):
        (tmp_path / "boot_id").write_text(text)
        with pytest.raises(OSError, match="not a boot id"):
            flight.boot_id(str(tmp_path / "boot_id"))


def run_keep(directory: Path, flags: ProgramFlags, path: Optional[str] = None) -> int:
    args = argparse.Namespace(directory=str(directory), boots=3, crash_kernel=False, output=None)
    prog: Any = SimpleNamespace(flags=flags)
    return command.COMMAND.run(args, lambda: Opened(prog, "live", path, "btf", None, None))


@pytest.mark.parametrize("flags", (ProgramFlags(0), ProgramFlags.IS_LIVE), ids=("a dump", "another machine's"))
def test_only_this_machines_kernel_is_kept(flags: ProgramFlags, tmp_path: Path, monkeypatch: Patch) -> None:
    """Another kernel would be filed under this machine's boot, over what was kept of it."""
    monkeypatch.setattr(command, "boot_id", lambda: BOOT)
    flight.keep(clean(), BOOT, str(tmp_path))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    with pytest.raises(CommandError, match="vmcore is not its running kernel"):
        run_keep(tmp_path, flags, "vmcore")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


def test_what_is_printed_of_what_was_kept(tmp_path: Path, capsys: Capsys, monkeypatch: Patch) -> None:
    """Without the table it says why, also where one that was read earlier in this boot is there still."""
    lost = replace(clean(), table=Table("not-captured", "bpf: needs CAP_BPF", clean().table.address))
    monkeypatch.setattr(command, "boot_id", lambda: BOOT)
    said = []
    for snapshot in (lost, clean(), lost):
        monkeypatch.setattr(command, "capture", lambda *_, snapshot=snapshot: snapshot)
        assert run_keep(tmp_path, ProgramFlags.IS_LIVE | ProgramFlags.IS_LOCAL) == 0
        said.append(capsys.readouterr().out.splitlines()[1:])
    why = "without the table: not-captured: bpf: needs CAP_BPF"
    assert said[0] == [why]
    assert len(said[1]) == 1 and said[1][0].endswith("/snapshot.json")
    assert said[2][0] == why and said[2][1].endswith(f"@{clean().table.address:#x} (read earlier)")


# The loop

RECORD = """
import signal, sys
from argparse import Namespace
from dataclasses import replace
from drgn_unaccepted.commands import record
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
record.sampler = lambda opened: take
record.COMMAND.run(Namespace(output=sys.argv[1], interval=float(sys.argv[2]), count=None), lambda: None)
"""


def test_a_recorder_that_is_killed_loses_no_whole_line(tmp_path: Path) -> None:
    chance = random.Random(4)
    for attempt in range(3):
        path = tmp_path / f"r{attempt}"
        with started(RECORD, path, 0, "") as process:
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
    with started(RECORD, path, 3600, "") as process:
        assert process.stdout is not None and process.stdout.readline() == "1\n"
        wait_for(lambda: path.read_bytes().count(b"\n") == 2, path.read_bytes)
        process.send_signal(number)
        assert (process.stdout.read(), process.wait(120)) == (f"{path}: 1 samples\n", 0)
    recording = Recording(str(path))
    assert len(list(recording)) == 1 and recording.dropped is None


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_a_signal_that_is_ignored_stays_ignored(number: signal.Signals, tmp_path: Path) -> None:
    """nohup(1) starts a program so, and a shell its background jobs."""
    with started(RECORD, tmp_path / "r", 0.01, number.name) as process:
        assert process.stdout is not None and process.stdout.readline()
        process.send_signal(number)
        assert all(process.stdout.readline().strip().isdecimal() for _ in range(20))
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read().splitlines()[-1].endswith(" samples") and process.wait(120) == 0


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
def test_samples_from_start_to_start(cost: float, interval: float, starts: Any, waits: Any, monkeypatch: Patch) -> None:
    clock = Clock(cost)
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    got = list(samples(clock.take, interval, 4, clock))
    assert [sample[:3] for sample in got] == [(number, start, cost) for number, start in enumerate(starts)]
    assert clock.waits == waits, "and none after the last"
    clock.set()
    assert list(samples(clock.take, interval, None, clock)) == []
