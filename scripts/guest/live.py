# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run a command in a lab guest on the host's file system, and pass its output and exit status through."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import BinaryIO

from . import capture, kernel
from .qemu import Guest
from .scenarios import PANIC, READY, SCENARIOS, Scenario
from .shell import LabError, say

HOST = "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"
# Verbs that belong to the capture of a scenario, not to the state of its guest.
CAPTURE_VERBS = frozenset({"kdump", "account", "idle"})
# Kernel options for systemd as PID 1 on the host's file system: it must not mount or set up anything.
BOOTED = (
    *("systemd.unit=lab.target", "fstab=no", "systemd.show_status=no"),
    *("systemd.condition-first-boot=no", "systemd.condition-needs-update=no"),
)
LAYER = "local,path={},mount_tag=layer,security_model=none,readonly=on,multidevs=remap"


def main(options: argparse.Namespace) -> int:
    """Boot the scenario, run the command and return its exit status. `options.share` is /share in the guest."""
    scenario = _live(SCENARIOS[options.scenario], options)
    built = kernel.get(kernel.SYSTEMD if options.booted else options.kernel)
    layer = ["-virtfs", LAYER.format(Path(options.layer).resolve())] if options.layer else []
    with tempfile.TemporaryDirectory(prefix="lab-share-") as temporary:
        work = Path(options.share or temporary).resolve()
        for stale in ("live.status", "live.out", "live.err"):
            (work / stale).unlink(missing_ok=True)
        (work / "ask").mkdir(exist_ok=True)
        (work / "live").write_text(f"cd {shlex.quote(str(Path.cwd()))}\n{shlex.join(options.words)}\n")
        with capture.boot(built, scenario, work, ["-virtfs", HOST, *layer]) as guest:
            guest.wait_for_words("lab: live\n", scenario.seconds, never=PANIC)
            status = _serve(guest, work, options.timeout)
            if options.crash:
                capture.kdump(guest, scenario, work)
        capture.tidy(work)
    return status


def _live(scenario: Scenario, options: argparse.Namespace) -> Scenario:
    if scenario.ready != READY:
        raise LabError(f"{scenario.name}: this guest dies or is stopped early and cannot run a command")
    verbs = scenario.do.split(",")
    if "kexec" in verbs:
        raise LabError(f"{scenario.name}: live does not support kexec")
    if options.crash and not (options.booted and scenario.kdump):
        raise LabError(f"{scenario.name}: --crash needs --booted and a scenario with kdump")
    left = CAPTURE_VERBS - {"kdump"} if options.crash else CAPTURE_VERBS
    do = ",".join([verb for verb in verbs if verb not in left] + ["booted" if options.booted else "live"])
    booted, layer = BOOTED if options.booted else (), ["lab.layer=yes"] if options.layer else []
    line = (*scenario.options, *booted, *layer, *options.append.split())
    return dataclasses.replace(scenario, do=do, options=line)


def _serve(guest: Guest, work: Path, timeout: float) -> int:
    """Pass the output through and serve the guest's requests until the command ends. Return its exit status."""
    deadline = time.monotonic() + timeout
    shown = {"live.out": 0, "live.err": 0}
    streams: dict[str, BinaryIO] = {"live.out": sys.stdout.buffer, "live.err": sys.stderr.buffer}
    while True:
        ended = (work / "live.status").exists()
        for name, stream in streams.items():
            shown[name] += _pass_on(work / name, shown[name], stream)
        if ended:
            return int((work / "live.status").read_text())
        _answer(guest, work)
        if not guest.running:
            raise LabError(f"the guest ended before the command\n{guest.console()[-2000:]}")
        if time.monotonic() > deadline:
            raise LabError(f"the command did not end within {timeout:.0f} s")
        time.sleep(0.1)


def _pass_on(path: Path, start: int, stream: BinaryIO) -> int:
    if not path.exists():
        return 0
    with path.open("rb") as source:
        source.seek(start)
        data = source.read()
    stream.write(data)
    stream.flush()
    return len(data)


def _answer(guest: Guest, work: Path) -> None:
    """Serve `ask/dump.NAME`: stop the guest, dump it and resume it."""
    for request in sorted((work / "ask").glob("dump.*")):
        done = request.with_name(request.name + ".done")
        if request.suffix == ".done" or done.exists():
            continue
        guest.stop()
        guest.dump(work / f"{request.name}.elf")
        guest.resume()
        say(f"dumped the guest: {request.name}.elf")
        done.touch()
