# SPDX-License-Identifier: LGPL-2.1-or-later
"""The Ansible role, run by a real ansible-core on local hosts that stand for guests."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any, Optional

import pytest

from drgn_unaccepted.cli import main
from drgn_unaccepted.fleet.merge import merge
from tests.fleet.ansible import play, recap
from tests.fleet.tools import INTEGRATIONS, PLANTED, SAMPLES, plant

pytestmark = pytest.mark.lab


def test_the_fleet_s_worst_is_on_top_and_fails_its_host_alone(tmp_path: Path, capsys: Any) -> None:
    plant(SAMPLES / "6.12-fill" / "vmcore", tmp_path / "planted.json")
    hosts: dict[str, Optional[list[str]]] = {
        "guest-a": ["-c", str(SAMPLES / "6.12-numa" / "vmcore")],
        "guest-b": ["--snapshot", str(tmp_path / "planted.json")],
        "guest-c": ["-c", str(SAMPLES / "7.3-fill-kdump" / "vmcore")],
        "guest-d": ["-c", str(tmp_path / "nothing")],
        "guest-e": None,
    }
    done = play(tmp_path, hosts)
    assert done.returncode != 0
    counts = recap(done)
    assert {host: count["failed"] for host, count in counts.items()} == {
        "guest-a": 0,
        "guest-b": 1,
        "guest-c": 0,
        "guest-d": 1,
        "guest-e": 0,
    }
    assert counts["guest-e"]["unreachable"] == 1
    # The check changes nothing, and says so.
    assert all(count["changed"] == 0 for count in counts.values())
    table = [line.strip().strip('",') for line in done.stdout.splitlines() if "guest-" in line and "  " in line.strip()]
    rows = [line.split() for line in table if line.split()[0] in ("critical", "warning", "no", "ok", "unknown")]
    assert [row[:2] for row in rows[:3]] == [["critical", "guest-b"], ["warning", "guest-a"], ["warning", "guest-c"]]
    assert PLANTED in table[table.index(next(line for line in table if line.startswith("critical")))]
    assert {row[2] for row in rows[3:]} == {"guest-d", "guest-e"}
    assert PLANTED in done.stdout.partition("TASK [drgn_unaccepted : Fail on what is wrong]")[2]
    # What was collected is what merge reads; who gave no answer is in it.
    assert sorted(path.stem for path in (tmp_path / "results").iterdir()) == sorted(hosts)
    assert main(["merge", str(tmp_path / "results")]) == 0
    merged = capsys.readouterr().out
    assert merged.startswith(f"CRITICAL {PLANTED}: 1 of 3 hosts that could tell: guest-b ")
    assert "\n5 targets of 5 hosts: 1 critical, 2 warning, 2 failed\n" in merged
    assert {"no answer: 2 targets, no-answer"} < set(merged.splitlines())


def test_yesterday_s_answer_is_not_taken_for_today_s(tmp_path: Path) -> None:
    """A host that answered the first time cannot be reached the second time, another has no dump any more."""
    sample = ["-c", str(SAMPLES / "6.12-edges" / "vmcore")]
    hosts: dict[str, Optional[list[str]]] = dict.fromkeys(("guest-a", "guest-b", "guest-c"), sample)
    assert play(tmp_path, hosts).returncode == 0
    summary = merge([str(path) for path in (tmp_path / "results").iterdir()])
    assert (summary["hosts"], summary["answered_hosts"]) == (3, 3)
    assert play(tmp_path, {**hosts, "guest-b": ["-c", str(tmp_path / "nothing")], "guest-c": None}).returncode != 0
    summary = merge([str(path) for path in (tmp_path / "results").iterdir()])
    assert (summary["hosts"], summary["answered_hosts"]) == (3, 1)
    (failed,) = summary["failed"]
    assert failed["kind"] == "no-answer"
    assert {example["host"] for example in failed["examples"]} == {"guest-b", "guest-c"}


def test_a_fleet_that_is_well(tmp_path: Path) -> None:
    hosts: dict[str, Optional[list[str]]] = {"guest-a": ["-c", str(SAMPLES / "6.12-edges" / "vmcore")]}
    done = play(tmp_path, hosts)
    assert done.returncode == 0, done.stdout + done.stderr
    strict = play(tmp_path, hosts, unaccepted_fail_on=["warning", "critical", "unknown"])
    assert strict.returncode != 0


def test_the_role_has_the_units_that_systemd_analyze_has_seen() -> None:
    """It is often copied by itself, to ~/.ansible/roles, and in the Debian package the units are elsewhere."""
    files = INTEGRATIONS / "ansible" / "roles" / "drgn_unaccepted" / "files"
    names = sorted(path.name for path in files.iterdir())
    assert names == ["drgn-unaccepted-check.service", "drgn-unaccepted-check.timer"]
    for name in names:
        assert (files / name).read_bytes() == (INTEGRATIONS / "systemd" / name).read_bytes()


def test_the_role_by_itself(tmp_path: Path) -> None:
    """Without what lies around it here."""
    shutil.copytree(INTEGRATIONS / "ansible", tmp_path / "ansible")
    units = tmp_path / "units"
    units.mkdir()
    hosts: dict[str, Optional[list[str]]] = {"guest-a": ["-c", str(SAMPLES / "6.12-edges" / "vmcore")]}
    places = {"unaccepted_units": str(units), "unaccepted_textfiles": str(tmp_path / "textfiles")}
    done = play(tmp_path, hosts, tmp_path / "ansible", unaccepted_timer=True, **places)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(units.iterdir())) == 2


def test_the_units_that_the_role_installs(tmp_path: Path) -> None:
    units = tmp_path / "units"
    units.mkdir()
    hosts: dict[str, Optional[list[str]]] = {"guest-a": ["-c", str(SAMPLES / "6.12-edges" / "vmcore")]}
    textfiles = str(tmp_path / "textfiles")
    done = play(tmp_path, hosts, unaccepted_timer=True, unaccepted_units=str(units), unaccepted_textfiles=textfiles)
    assert done.returncode == 0, done.stdout + done.stderr
    service = (units / "drgn-unaccepted-check.service").read_text()
    assert f"ExecStart={sys.executable} -m drgn_unaccepted check --format prometheus -o {textfiles}/" in service
    assert f"ReadWritePaths=-{textfiles}\n" in service
    # Apart from command and directory it is the unit that systemd-analyze has seen.
    ours = (INTEGRATIONS / "systemd" / "drgn-unaccepted-check.service").read_text()
    same = ours.replace("/usr/bin/drgn-unaccepted ", f"{sys.executable} -m drgn_unaccepted ")
    assert service == same.replace("/var/lib/prometheus/node-exporter", textfiles)
    # A second time changes nothing.
    again = play(tmp_path, hosts, unaccepted_timer=True, unaccepted_units=str(units), unaccepted_textfiles=textfiles)
    assert recap(again)["guest-a"]["changed"] == 0
