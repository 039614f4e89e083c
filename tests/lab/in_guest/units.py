# SPDX-License-Identifier: LGPL-2.1-or-later
"""The units under a booted systemd, as an administrator would use them; what came of it stands in /share.

/share/units.json has what systemd and the journal said, /share/kept.NAME what lay in the flight recorder's directory,
/share/accepted.NAME what the guest itself had noted of its accepts by then.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.lab.in_guest.guest import FILL, LAB, SHARE, dump, mount_tmpfs, nr_unaccepted
from tests.waiting import wait_for

KEPT = Path("/var/lib/drgn-unaccepted")
TEXTFILES = Path("/var/lib/prometheus/node-exporter")
CRASH = Path("/var/crash")
KEEP, CHECK, DUMPS = (f"drgn-unaccepted-{name}" for name in ("keep", "check", "crash"))

#: What the command of a unit is allowed, by itself: in a file that the unit may write.
PROBE = """\
[Service]
ExecStartPre=/bin/sh -c 'cat /proc/self/status >{file}; for place in /etc /usr /root /var /tmp; do touch $$place/probe \
2>/dev/null && echo "written: $$place" >>{file}; done; true'
"""

found: dict[str, Any] = {}


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def show(unit: str) -> dict[str, str]:
    names = "ActiveState,Result,ExecMainStatus,InvocationID,ExecMainStartTimestampMonotonic,ConditionResult,NRestarts"
    return dict(line.split("=", 1) for line in run("systemctl", "show", unit, "-p", names).splitlines())


def report(service: str) -> dict[str, Any]:
    """What became of the run that was last."""
    wait_for(lambda: show(service)["ActiveState"] in ("inactive", "failed"), lambda: f"{service} does not end")
    told: dict[str, Any] = show(service)
    run("journalctl", "--sync")
    entries = run("journalctl", "-o", "json", f"_SYSTEMD_INVOCATION_ID={told['InvocationID']}").splitlines()
    told["said"] = [json.loads(line)["MESSAGE"] for line in entries]
    return told


def start(service: str) -> dict[str, Any]:
    before = show(service)["InvocationID"]
    # A failure is an answer here.
    subprocess.run(["systemctl", "reset-failed", service], capture_output=True)
    subprocess.run(["systemctl", "start", service], capture_output=True)
    told = report(service)
    if told["InvocationID"] == before:
        raise RuntimeError(f"{service} did not start")
    return told


def next_run(service: str, before: str) -> dict[str, Any]:
    """The run after the one of this invocation; somebody else starts it."""
    wait_for(lambda: show(service)["InvocationID"] not in ("", before), lambda: f"nobody starts {service}")
    return report(service)


def note(name: str) -> None:
    shutil.copy(LAB / "accepted", SHARE / f"accepted.{name}")
    if KEPT.exists():
        shutil.copytree(KEPT, SHARE / f"kept.{name}")


def drop_in(unit: str, text: str) -> None:
    place = Path("/etc/systemd/system") / f"{unit}.d"
    place.mkdir(parents=True, exist_ok=True)
    (place / "test.conf").write_text(text)
    run("systemctl", "daemon-reload")


def no_drop_in(unit: str) -> None:
    shutil.rmtree(Path("/etc/systemd/system") / f"{unit}.d")
    run("systemctl", "daemon-reload")


def flight_recorder() -> None:
    note("before")
    run("systemctl", "enable", "--now", f"{KEEP}.timer")
    found["keep"] = next_run(f"{KEEP}.service", "")
    note("first")
    dump("first")
    again = next_run(f"{KEEP}.service", found["keep"]["InvocationID"])
    found["keep again"] = again
    starts = [int(told["ExecMainStartTimestampMonotonic"]) for told in (found["keep"], again)]
    found["keep apart"] = (starts[1] - starts[0]) / 1e6
    note("again")
    run("systemctl", "stop", f"{KEEP}.timer")
    drop_in(f"{KEEP}.service", PROBE.format(file=KEPT / "probe"))
    found["keep probed"] = start(f"{KEEP}.service")
    found["keep probe"] = (KEPT / "probe").read_text()


def without_means() -> None:
    for name, capability in (("no CAP_BPF", "CAP_BPF"), ("no CAP_SYS_RAWIO", "CAP_SYS_RAWIO")):
        drop_in(f"{KEEP}.service", f"[Service]\nCapabilityBoundingSet=~{capability}\n")
        found[name] = start(f"{KEEP}.service")
        found[f"{name}, files"] = sorted(str(path.relative_to(KEPT)) for path in KEPT.rglob("*") if path.is_file())
    no_drop_in(f"{KEEP}.service")


def check() -> None:
    # As where node_exporter is not installed.
    if TEXTFILES.exists():
        shutil.rmtree(TEXTFILES)
    found["check without directory"] = start(f"{CHECK}.service")
    TEXTFILES.mkdir(parents=True)
    found["nr before check"] = nr_unaccepted()
    drop_in(f"{CHECK}.timer", "[Timer]\nOnBootSec=1s\nRandomizedDelaySec=0\n")
    run("systemctl", "enable", "--now", f"{CHECK}.timer")
    found["check"] = next_run(f"{CHECK}.service", found["check without directory"]["InvocationID"])
    found["nr after check"] = nr_unaccepted()
    found["metrics"] = (TEXTFILES / "drgn-unaccepted.prom").read_text()
    found["metrics mode"] = oct((TEXTFILES / "drgn-unaccepted.prom").stat().st_mode & 0o7777)
    drop_in(f"{CHECK}.service", PROBE.format(file=TEXTFILES / "probe"))
    found["check probed"] = start(f"{CHECK}.service")
    found["check probe"] = (TEXTFILES / "probe").read_text()
    no_drop_in(f"{CHECK}.service")


def crash_dumps(sample: Path) -> None:
    run("systemctl", "enable", "--now", f"{DUMPS}.path")
    before = show(f"{DUMPS}.service")["InvocationID"]
    # As kdump-tools lays it down, at one moment.
    new = CRASH.with_name("crash.new") / "202611221900"
    new.mkdir(parents=True)
    shutil.copy(sample, new / "vmcore")
    CRASH.mkdir(exist_ok=True)
    new.rename(CRASH / new.name)
    found["crash"] = next_run(f"{DUMPS}.service", before)
    found["crash files"] = sorted(str(path.relative_to(CRASH)) for path in CRASH.rglob("*"))
    for path in CRASH.glob("*/*.json"):
        shutil.copy(path, SHARE / "beside.json")
    # One that is copied there while the system runs: its directory, then its beginning, then the rest and its name.
    drop_in(f"{DUMPS}.timer", "[Timer]\nOnUnitActiveSec=10s\nAccuracySec=1s\n")
    run("systemctl", "enable", "--now", f"{DUMPS}.timer")
    dump = CRASH / "202611222000" / "dump.202611222000"
    dump.parent.mkdir()
    found["crash empty"] = next_run(f"{DUMPS}.service", found["crash"]["InvocationID"])
    part, whole = dump.with_name("dump-incomplete"), sample.read_bytes()
    part.write_bytes(whole[: len(whole) // 2])
    found["crash half"] = answer(part)
    with part.open("ab") as file:
        file.write(whole[len(whole) // 2 :])
    part.rename(dump)
    found["crash whole"] = answer(dump)
    no_drop_in(f"{DUMPS}.timer")


def answer(dump: Path) -> Any:
    beside = dump.with_name(f"{dump.name}.unaccepted.json")
    wait_for(beside.exists, lambda: beside)
    return json.loads(beside.read_text())


def fill(much: int) -> None:
    """Allocate until so many bytes more are accepted: at first there is accepted memory that is free."""
    mount_tmpfs(FILL)
    start = nr_unaccepted()
    with (FILL / "filled").open("wb") as file:
        while nr_unaccepted() > start - much:
            os.posix_fallocate(file.fileno(), file.tell(), 8 << 20)
            file.seek(8 << 20, os.SEEK_CUR)


def end() -> None:
    """More is accepted since the flight recorder ran; then the guest dies, and its crash kernel saves a dump."""
    run("systemctl", "stop", f"{CHECK}.timer", f"{DUMPS}.path", f"{DUMPS}.timer")
    found["keep last"] = start(f"{KEEP}.service")
    note("last")
    fill(100 << 20)
    found["boot_id"] = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    Path("/sys/kernel/security/lockdown").write_text("confidentiality")
    found["lockdown"] = start(f"{KEEP}.service")
    note("lockdown")
    found["warnings"] = run("journalctl", "-b", "-p", "warning", "-o", "cat", "--no-pager").splitlines()
    dump("last")


try:
    flight_recorder()
    without_means()
    check()
    crash_dumps(Path(sys.argv[1]))
    end()
finally:
    (SHARE / "units.json").write_text(json.dumps(found, indent=1))
