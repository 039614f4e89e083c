# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run the program under every restriction that a guest may have, and note what it says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.lab.in_guest.guest import SHARE

PROGRAM = [sys.executable, "-B", "-m", "drgn_unaccepted"]
ROOT = Path(__file__).parents[3]

#: As in the systemd unit.
KEPT = "-all,+sys_rawio,+bpf,+perfmon"


def run(*command: str) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    return {"status": done.returncode, "out": done.stdout, "err": done.stderr}


def without(*capabilities: str) -> list[str]:
    dropped = ",".join(f"-{name}" for name in capabilities)
    return ["setpriv", f"--bounding-set={dropped}", f"--inh-caps={dropped}"]


def sysctl(name: str, value: str) -> str:
    path = Path("/proc/sys/kernel") / name
    if not path.exists():
        return "absent"
    path.write_text(value)
    return path.read_text().strip()


def lockdown(mode: str) -> None:
    Path("/sys/kernel/security/lockdown").write_text(mode)


RANGES = [*PROGRAM, "ranges", "--format", "json"]
found: dict[str, Any] = {"root": run(*RANGES)}
found["nobody"] = run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *RANGES)
found["no CAP_SYS_RAWIO"] = run(*without("sys_rawio"), *RANGES)
found["no CAP_BPF"] = run(*without("sys_admin", "bpf"), *RANGES)
found["no CAP_PERFMON"] = run(*without("sys_admin", "perfmon"), *RANGES)
unit = ["setpriv", f"--bounding-set={KEPT}", "--inh-caps=-all", "--no-new-privs"]
found["unit"] = run(*unit, *RANGES)
found["unit keep"] = run(*unit, *PROGRAM, "keep", "--directory", "/run/kept")
trace = ["strace", "-f", "-qq", "-o", str(SHARE / "strace")]
found["traced"] = run(*trace, *PROGRAM, "keep", "--directory", "/run/kept")
found["traced check"] = run(*trace[:-1], str(SHARE / "strace.check"), *PROGRAM, "check")
found["watch"] = run(*PROGRAM, "watch", "--interval", "0.1", "--count", "3")
found["watch json"] = run(*PROGRAM, "watch", "--interval", "0.1", "--count", "3", "--format", "json")
found["record"] = run(*PROGRAM, "record", "-o", "/run/recording", "--interval", "0.1", "--count", "4")
found["record again"] = run(*PROGRAM, "record", "-o", "/run/recording")
found["replay"] = run(*PROGRAM, "replay", "/run/recording", "--format", "json")
found["sysctls"] = {
    name: sysctl(name, value)
    for name, value in (("kptr_restrict", "2"), ("perf_event_paranoid", "4"), ("unprivileged_bpf_disabled", "2"))
}
found["strict"] = run(*RANGES)
found["strict, no CAP_SYSLOG"] = run(*without("syslog"), *RANGES)
found["strict unit"] = run(*unit, *RANGES)
found["drgn"] = run(
    *("env", "DRGN_DISABLE_PLUGINS=", "DRGN_PLUGINS=unaccepted=drgn_unaccepted.plugin"),
    *(str(Path(sys.executable).with_name("drgn")), "-q", "-k", "--no-default-symbols", "-e"),
    "from drgn.commands import run_command; run_command(prog, 'unaccepted ranges --format json')",
)
found["dmesg"] = run("dmesg")
lockdown("integrity")
found["lockdown=integrity"] = run(*RANGES)
lockdown("confidentiality")
found["lockdown=confidentiality"] = run(*RANGES)
(SHARE / "ways.json").write_text(json.dumps(found, indent=1))
