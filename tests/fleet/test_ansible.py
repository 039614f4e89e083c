# SPDX-License-Identifier: LGPL-2.1-or-later
"""The Ansible role, run by a real ansible-core on local hosts that stand for guests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Optional

import pytest

from drgn_unaccepted.cli import main
from tests.fleet.tools import FILL, INTEGRATIONS, PLANTED, SAMPLES, TOP, ansible_playbook, check_document, plant, run

pytestmark = pytest.mark.lab

ROLE = INTEGRATIONS / "ansible"
EDGES = ["-c", str(SAMPLES / "6.12-edges" / "vmcore")]


def play(
    tmp_path: Path, hosts: dict[str, Optional[list[str]]], place: Path = ROLE, **variables: Any
) -> tuple[str, dict[str, dict[str, int]]]:
    """Run the playbook; what it prints, and its counts for each host.

    :param hosts: the options of each host's target; None: it cannot be reached
    """
    # A port that nobody listens on.
    nowhere = {"ansible_host": "127.0.0.1", "ansible_port": 1}
    here = {host: {"ansible_connection": "local", "unaccepted_target": target} for host, target in hosts.items()}
    common = {
        "ansible_python_interpreter": sys.executable,
        "unaccepted_command": [sys.executable, "-m", "drgn_unaccepted"],
        "unaccepted_become": False,
        "unaccepted_results": str(tmp_path / "results"),
        **variables,
    }
    inventory = {host: nowhere if hosts[host] is None else of_host for host, of_host in here.items()}
    # YAML is a superset of JSON.
    (tmp_path / "inventory.yml").write_text(json.dumps({"all": {"hosts": inventory, "vars": common}}))
    homes = {name: str(tmp_path / name) for name in ("ANSIBLE_HOME", "ANSIBLE_LOCAL_TEMP", "ANSIBLE_REMOTE_TEMP")}
    settings = {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_RETRY_FILES_ENABLED": "0", "LC_ALL": "C.UTF-8"}
    environment = {**os.environ, "PYTHONPATH": str(TOP), **homes, **settings}
    argv = [ansible_playbook(), "-i", tmp_path / "inventory.yml", place / "playbook.yml"]
    done: subprocess.CompletedProcess[str] = run(argv, env=environment, cwd=tmp_path)
    counts = {}
    for line in filter(str.strip, done.stdout.partition("PLAY RECAP")[2].splitlines()[1:]):
        host, _, words = line.partition(":")
        counts[host.strip()] = {key: int(value) for key, value in (word.split("=") for word in words.split())}
    assert counts.keys() == hosts.keys(), done.stdout + done.stderr
    return done.stdout, counts


def test_the_fleet_s_worst_is_on_top_and_fails_its_host_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One host has lost its dump, and one cannot be reached: their answers of yesterday are not taken for today's."""
    plant(FILL, tmp_path / "planted.json")
    (tmp_path / "results").mkdir()
    for host in ("guest-d", "guest-e"):
        (tmp_path / "results" / f"{host}.json").write_text(json.dumps(check_document()))
    printed, counts = play(
        tmp_path,
        {
            "guest-a": ["-c", str(SAMPLES / "6.12-numa" / "vmcore")],
            "guest-b": ["--snapshot", str(tmp_path / "planted.json")],
            "guest-c": ["-c", str(SAMPLES / "7.3-fill-kdump" / "vmcore")],
            "guest-d": ["-c", str(tmp_path / "nothing")],
            "guest-e": None,
        },
    )
    assert [host for host, count in counts.items() if count["failed"]] == ["guest-b", "guest-d"]
    assert counts["guest-e"]["unreachable"] == 1
    # The check changes nothing, and says so.
    assert all(count["changed"] == 0 for count in counts.values())
    table = [line.strip().strip('",') for line in printed.splitlines() if "guest-" in line and "  " in line.strip()]
    rows = [line.split() for line in table if line.split()[0] in ("critical", "warning", "no", "ok", "unknown")]
    assert [row[:2] for row in rows[:3]] == [["critical", "guest-b"], ["warning", "guest-a"], ["warning", "guest-c"]]
    assert PLANTED in next(line for line in table if line.startswith("critical"))
    assert {row[2] for row in rows[3:]} == {"guest-d", "guest-e"}
    assert PLANTED in printed.partition("TASK [drgn_unaccepted : Fail on what is wrong]")[2]
    # merge reads what was collected.
    assert main(["merge", str(tmp_path / "results")]) == 0
    merged = capsys.readouterr().out
    assert merged.startswith(f"CRITICAL {PLANTED}: 1 of 3 hosts that could tell: guest-b ")
    assert "\n5 targets of 5 hosts: 1 critical, 2 warning, 2 failed\n" in merged
    assert "no answer: 2 targets, no-answer" in merged.splitlines()


def test_the_units_that_the_role_installs(tmp_path: Path) -> None:
    """Apart from command and directory they are those that systemd-analyze has verified. The role is often copied by
    itself, to ~/.ansible/roles. The second time nothing changes, and warnings are to fail a host.
    """
    shutil.copytree(ROLE, tmp_path / "ansible")
    units, textfiles = tmp_path / "units", str(tmp_path / "textfiles")
    units.mkdir()
    timer = {"unaccepted_timer": True, "unaccepted_units": str(units), "unaccepted_textfiles": textfiles}
    for first, more in ((True, {}), (False, {"unaccepted_fail_on": ["warning"]})):
        _, counts = play(tmp_path, {"guest-a": EDGES}, tmp_path / "ansible", **timer, **more)
        assert (counts["guest-a"]["changed"] > 0, counts["guest-a"]["failed"] == 0) == (first, first)
    for kind in ("service", "timer"):
        ours = (INTEGRATIONS / "systemd" / f"drgn-unaccepted-check.{kind}").read_text()
        same = ours.replace("/usr/bin/drgn-unaccepted ", f"{sys.executable} -m drgn_unaccepted ")
        same = same.replace("/var/lib/prometheus/node-exporter", textfiles)
        assert (units / f"drgn-unaccepted-check.{kind}").read_text() == same
