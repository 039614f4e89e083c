# SPDX-License-Identifier: LGPL-2.1-or-later
"""The Ansible role, run by a real ansible-core on local hosts that stand for guests."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from drgn_unaccepted.cli import main
from drgn_unaccepted.fleet.merge import merge
from tests.fleet.ansible import Hosts, play, recap
from tests.fleet.tools import FILL, INTEGRATIONS, PLANTED, SAMPLES, plant

pytestmark = pytest.mark.lab

EDGES = ["-c", str(SAMPLES / "6.12-edges" / "vmcore")]


def test_the_fleet_s_worst_is_on_top_and_fails_its_host_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(FILL, tmp_path / "planted.json")
    hosts: Hosts = {
        "guest-a": ["-c", str(SAMPLES / "6.12-numa" / "vmcore")],
        "guest-b": ["--snapshot", str(tmp_path / "planted.json")],
        "guest-c": ["-c", str(SAMPLES / "7.3-fill-kdump" / "vmcore")],
        "guest-d": ["-c", str(tmp_path / "nothing")],
        "guest-e": None,
    }
    done = play(tmp_path, hosts)
    assert done.returncode != 0
    counts = recap(done)
    assert [host for host, count in counts.items() if count["failed"]] == ["guest-b", "guest-d"]
    assert counts["guest-e"]["unreachable"] == 1
    # The check changes nothing, and says so.
    assert all(count["changed"] == 0 for count in counts.values())
    table = [line.strip().strip('",') for line in done.stdout.splitlines() if "guest-" in line and "  " in line.strip()]
    rows = [line.split() for line in table if line.split()[0] in ("critical", "warning", "no", "ok", "unknown")]
    assert [row[:2] for row in rows[:3]] == [["critical", "guest-b"], ["warning", "guest-a"], ["warning", "guest-c"]]
    assert PLANTED in next(line for line in table if line.startswith("critical"))
    assert {row[2] for row in rows[3:]} == {"guest-d", "guest-e"}
    assert PLANTED in done.stdout.partition("TASK [drgn_unaccepted : Fail on what is wrong]")[2]
    # merge reads what was collected; hosts that gave no answer are in it.
    assert sorted(path.stem for path in (tmp_path / "results").iterdir()) == sorted(hosts)
    assert main(["merge", str(tmp_path / "results")]) == 0
    merged = capsys.readouterr().out
    assert merged.startswith(f"CRITICAL {PLANTED}: 1 of 3 hosts that could tell: guest-b ")
    assert "\n5 targets of 5 hosts: 1 critical, 2 warning, 2 failed\n" in merged
    assert "no answer: 2 targets, no-answer" in merged.splitlines()


def test_yesterday_s_answer_is_not_taken_for_today_s(tmp_path: Path) -> None:
    """All are well. Then one host cannot be reached, and another has lost its dump. Then warnings fail a host."""
    hosts: Hosts = dict.fromkeys(("guest-a", "guest-b", "guest-c"), EDGES)
    assert play(tmp_path, hosts).returncode == 0
    summary = merge([str(path) for path in (tmp_path / "results").iterdir()])
    assert (summary["hosts"], summary["answered_hosts"]) == (3, 3)
    ill: Hosts = {**hosts, "guest-b": ["-c", str(tmp_path / "nothing")], "guest-c": None}
    strict = play(tmp_path, ill, unaccepted_fail_on=["warning", "critical", "unknown"])
    assert strict.returncode != 0 and recap(strict)["guest-a"]["failed"] == 1
    summary = merge([str(path) for path in (tmp_path / "results").iterdir()])
    assert (summary["hosts"], summary["answered_hosts"]) == (3, 1)
    (failed,) = summary["failed"]
    assert failed["kind"] == "no-answer"
    assert {example["host"] for example in failed["examples"]} == {"guest-b", "guest-c"}


def test_the_units_that_the_role_installs(tmp_path: Path) -> None:
    """Apart from command and directory they are those that systemd-analyze has verified. The role is often copied by
    itself, to ~/.ansible/roles.
    """
    shutil.copytree(INTEGRATIONS / "ansible", tmp_path / "ansible")
    units, textfiles = tmp_path / "units", str(tmp_path / "textfiles")
    units.mkdir()
    places = {"unaccepted_units": str(units), "unaccepted_textfiles": textfiles}
    for changed in (True, False):
        done = play(tmp_path, {"guest-a": EDGES}, tmp_path / "ansible", unaccepted_timer=True, **places)
        assert done.returncode == 0, done.stdout + done.stderr
        assert (recap(done)["guest-a"]["changed"] > 0) is changed
    service, timer = (f"drgn-unaccepted-check.{kind}" for kind in ("service", "timer"))
    ours = (INTEGRATIONS / "systemd" / service).read_text()
    same = ours.replace("/usr/bin/drgn-unaccepted ", f"{sys.executable} -m drgn_unaccepted ")
    assert (units / service).read_text() == same.replace("/var/lib/prometheus/node-exporter", textfiles)
    assert (units / timer).read_text() == (INTEGRATIONS / "systemd" / timer).read_text()
