# SPDX-License-Identifier: LGPL-2.1-or-later
"""The units, verified by systemd-analyze; and that the program does nothing that they forbid."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest

from drgn_unaccepted.cli import main
from tests.fleet.tools import FILL, INTEGRATIONS, PROGRAM, TOP, run, tool

UNITS = INTEGRATIONS / "systemd"


def test_systemd_finds_nothing_to_say(tmp_path: Path) -> None:
    """But it does of a unit that is wrong."""
    analyze = tool("systemd-analyze", "systemd")
    # The command exists once the package is installed.
    command = tmp_path / "drgn-unaccepted"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    units = [tmp_path / unit.name for unit in sorted(UNITS.iterdir())]
    for unit in units:
        text = (UNITS / unit.name).read_text()
        unit.write_text(re.sub("^ExecStart=(/usr/bin/)?drgn-unaccepted", f"ExecStart={command}", text, flags=re.M))
    done = run([analyze, "verify", "--man=no", *units])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    bad = tmp_path / "bad.service"
    bad.write_text("[Service]\nType=oneshot\nExecStart=/bin/true\nProtectEverything=yes\n")
    assert "ProtectEverything" in run([analyze, "verify", "--man=no", bad]).stderr


@pytest.mark.parametrize(("name", "most"), [("drgn-unaccepted-check", 1.6), ("drgn-unaccepted-crash", 1.2)])
def test_the_exposure_is_low(name: str, most: float) -> None:
    """On systemd's scale from 0 to 10; what remains are root, /proc/kcore and the BPF read."""
    analyze = tool("systemd-analyze", "systemd")
    done = run([analyze, "security", "--offline=true", "--no-pager", UNITS / f"{name}.service"])
    if "Unknown" in done.stderr or "unrecognized option" in done.stderr:
        pytest.skip("systemd-analyze before 250 has no --offline")
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) <= most


def system_calls(analyze: str, unit: Path) -> set[str]:
    """What ``SystemCallFilter=`` allows, with systemd's groups expanded."""
    groups: dict[str, list[str]] = {}
    for line in run([analyze, "syscall-filter", "--no-pager"]).stdout.splitlines():
        if line.startswith("@"):
            group = groups.setdefault(line.strip(), [])
        elif line.startswith("    ") and not line.strip().startswith("#"):
            group.append(line.strip())

    def expand(word: str) -> set[str]:
        return set().union(*(expand(inner) for inner in groups[word])) if word.startswith("@") else {word}

    allowed: set[str] = set()
    for words in re.findall("^SystemCallFilter=(.*)$", unit.read_text(), re.M):
        named = set().union(*(expand(word) for word in words.lstrip("~").split()))
        allowed = allowed - named if words.startswith("~") else allowed | named
    return allowed


@pytest.mark.long
@pytest.mark.parametrize("unit", ["check", "crash"])
def test_the_program_s_system_calls_are_allowed(unit: str, tmp_path: Path) -> None:
    analyze, strace = tool("systemd-analyze", "systemd"), tool("strace", "strace")
    (tmp_path / "vmcore").write_bytes(FILL.read_bytes())
    argv = {
        "check": ["-c", FILL, "check", "--format", "prometheus", "-o", tmp_path / "x.prom"],
        "crash": ["scan", "--beside", "--jobs", "1", "--quiet", tmp_path],
    }[unit]
    log = tmp_path / "strace"
    done = run([strace, "-f", "-qq", "-o", log, *PROGRAM, *argv], cwd=TOP)
    if not log.exists() or "Operation not permitted" in done.stderr:
        pytest.skip(f"strace may not trace here: {done.stderr.strip()}")
    called = set(re.findall(r"^\d+ +(\w+)\(", log.read_text(errors="replace"), re.M))
    assert {"openat", "execve"} <= called
    allowed = system_calls(analyze, UNITS / f"drgn-unaccepted-{unit}.service")
    assert called - allowed == set()
    assert ("bpf" in allowed) is (unit == "check")


def test_no_memory_is_both_written_and_run() -> None:
    """MemoryDenyWriteExecute=: ctypes and libffi are the usual offenders. Here the kernel refuses it, too."""
    code = (
        "import ctypes, sys\n"
        "if ctypes.CDLL(None, use_errno=True).prctl(65, 1, 0, 0, 0): sys.exit(77)\n"
        "from drgn_unaccepted.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    done = run([sys.executable, "-c", code, "-c", FILL, "check"], cwd=TOP, env=os.environ)
    if done.returncode == 77:
        pytest.skip("kernel before Linux 6.3, which has no PR_SET_MDWE")
    assert done.returncode in (0, 1), done.stderr


def test_a_dump_that_is_copied_while_the_service_looks(tmp_path: Path) -> None:
    """The service's command leaves nothing in an empty directory, then a record of what is there, then of all."""
    (line,) = re.findall("^ExecStart=(.*)$", (UNITS / "drgn-unaccepted-crash.service").read_text(), re.M)
    command = line.replace("/var/crash", str(tmp_path)).split()[1:]
    dump = tmp_path / "202611221200" / "dump.202611221200"
    answer = dump.with_name("dump.202611221200.unaccepted.json")
    dump.parent.mkdir()
    assert main(command) == 0
    growing = dump.with_name("dump-incomplete")
    growing.write_bytes(FILL.read_bytes()[:100_000])
    assert main(command) == 0 and not answer.exists()
    growing.rename(dump)
    assert main(command) == 0
    assert "cut short" in json.loads(answer.read_text())["error"]["reason"]
    dump.write_bytes(FILL.read_bytes())
    assert main(command) == 0
    record = json.loads(answer.read_text())
    assert record["error"] is None and record["unaccepted_bytes"] == 288 << 20


def test_dumps_are_looked_at_again_and_hold_up_no_boot() -> None:
    """A path unit sees neither that a dump in a directory grew nor that it is done; a boot waits for its services."""
    timer = (UNITS / "drgn-unaccepted-crash.timer").read_text()
    assert re.search("^OnBootSec=", timer, re.M) and re.search("^OnUnitActiveSec=", timer, re.M)
    assert "WantedBy=timers.target\n" in timer
    assert "WantedBy" not in (UNITS / "drgn-unaccepted-crash.service").read_text()


def test_the_check_s_alarm_for_staleness_fits_its_timer() -> None:
    timer = (UNITS / "drgn-unaccepted-check.timer").read_text()
    rules = (INTEGRATIONS / "prometheus" / "unaccepted.rules.yml").read_text()
    assert "OnUnitActiveSec=1h" in timer and "RandomizedDelaySec=10min" in timer
    assert "efi_unaccepted_last_run_timestamp_seconds > 3 * 3600" in rules
