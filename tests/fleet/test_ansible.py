# SPDX-License-Identifier: LGPL-2.1-or-later
"""The Ansible role, run by a real ansible-core on local hosts that stand for guests."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Union

import pytest

from drgn_unaccepted.cli import main
from drgn_unaccepted.snapshot_file import write
from tests.checks import changes
from tests.checks.build import clean
from tests.fleet import tools

pytestmark = pytest.mark.lab

ROLE = tools.INTEGRATIONS / "ansible"


def warns(tmp_path: Path) -> list[str]:
    """A guest whose check warns."""
    write(clean(changes.pages(0x1019FF000, 0x101A00000, "in-use")), str(tmp_path / "warns"))
    return ["--snapshot", str(tmp_path / "warns")]


#: What is no answer of check.
LIES: tuple[Any, ...] = (
    *({"status": status} for status in ("bogus", None, ["ok"])),
    *({"findings": findings} for findings in ("x", {"rule": "x"}, [[]], [tools.finding("x", "bogus")])),
    {"findings": [{**tools.finding("x", "info"), "message": {}}]},
    *({"schema": "other"}, {"command": "ranges"}, {"unaccepted_bytes": "1"}, {"source": None}, {"target": "x"}),
    [],
)


def play(
    tmp_path: Path, hosts: Mapping[str, Union[list[str], str, None]], place: Path = ROLE, **variables: Any
) -> tuple[str, dict[str, dict[str, int]]]:
    """Run the playbook; what it prints, and its counts for each host.

    :param hosts: the options of each host's target; a file with its answer; None: it cannot be reached
    """
    # A port that nobody listens on.
    nowhere = {"ansible_host": "127.0.0.1", "ansible_port": 1}
    here = {host: {"ansible_connection": "local", "unaccepted_target": target} for host, target in hosts.items()}
    for host, target in hosts.items():
        if isinstance(target, str):
            here[host].update(unaccepted_command=["sh", "-c", f"cat {target}"], unaccepted_target=[])
    common = {
        "ansible_python_interpreter": sys.executable,
        **({} if "unaccepted_install" in variables else {"unaccepted_command": list(tools.PROGRAM)}),
        "unaccepted_become": False,
        "unaccepted_results": str(tmp_path / "results"),
        **variables,
    }
    inventory = {host: nowhere if hosts[host] is None else of_host for host, of_host in here.items()}
    # YAML is a superset of JSON.
    (tmp_path / "inventory.yml").write_text(json.dumps({"all": {"hosts": inventory, "vars": common}}))
    homes = {name: str(tmp_path / name) for name in ("ANSIBLE_HOME", "ANSIBLE_LOCAL_TEMP", "ANSIBLE_REMOTE_TEMP")}
    settings = {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_RETRY_FILES_ENABLED": "0", "LC_ALL": "C.UTF-8"}
    environment = {**os.environ, "PYTHONPATH": str(tools.TOP), **homes, **settings, **variables.pop("environment", {})}
    argv = [tools.ansible_playbook(), "-i", tmp_path / "inventory.yml", place / "playbook.yml"]
    done: subprocess.CompletedProcess[str] = tools.run(argv, env=environment, cwd=tmp_path)
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
    tools.plant(tools.FILL, tmp_path / "planted.json")
    template = f"{{{{ lookup('pipe', 'touch {tmp_path}/ran') }}}}"
    lies: dict[str, Union[list[str], str, None]] = {}
    sound = {"status": "critical", "findings": [tools.finding(template, "critical", template)]}
    for number, change in enumerate((*LIES, sound)):
        path = tmp_path / f"lie-{number}"
        path.write_text(json.dumps(tools.check_document(**change) if change else change))
        lies[f"guest-x{number:02}"] = str(path)
    (tmp_path / "results").mkdir()
    for host in ("guest-d", "guest-e"):
        (tmp_path / "results" / f"{host}.json").write_text(json.dumps(tools.check_document()))
    printed, counts = play(
        tmp_path,
        {
            "guest-a": warns(tmp_path),
            "guest-b": ["--snapshot", str(tmp_path / "planted.json")],
            "guest-c": ["-c", str(tools.SAMPLES / "7.3-fill-kdump" / "vmcore")],
            "guest-d": ["-c", str(tmp_path / "nothing")],
            "guest-e": None,
            **lies,
        },
    )
    assert [host for host, count in counts.items() if count["failed"]] == ["guest-b", "guest-d", *lies]
    assert counts["guest-e"]["unreachable"] == 1
    # The check changes nothing, and says so.
    assert all(count["changed"] == 0 for count in counts.values())
    table = [line.strip().strip('",') for line in printed.splitlines() if "guest-" in line and "  " in line.strip()]
    rows = [line.split() for line in table if line.split()[0] in ("critical", "warning", "no", "ok", "unknown")]
    liars = list(lies)
    assert [row[:2] for row in rows[:3]] == [["critical", "guest-b"], ["critical", liars[-1]], ["warning", "guest-a"]]
    assert tools.PLANTED in next(line for line in table if line.startswith("critical"))
    assert {row[2] for row in rows[3:-1]} == {"guest-d", "guest-e", *liars[:-1]}
    assert rows[-1][:2] == ["ok", "guest-c"] and not (tmp_path / "ran").exists()
    assert tools.PLANTED in printed.partition("TASK [drgn_unaccepted : Fail on what is wrong]")[2]
    # merge reads what was collected.
    assert main(["merge", str(tmp_path / "results")]) == 0
    merged = capsys.readouterr().out
    failed = 2 + len(LIES)
    assert f"CRITICAL {tools.PLANTED}: 1 of 4 hosts that could tell: guest-b " in merged
    assert f"\n{4 + failed} targets of {4 + failed} hosts: 2 critical, 1 warning, 1 ok, {failed} failed\n" in merged
    assert f"no answer: {failed} targets, no-answer" in merged.splitlines()


@pytest.mark.parametrize("kind", ["whl", "pyz"])
def test_the_role_installs_files_with_their_checksums_and_nothing_else(kind: str, tmp_path: Path) -> None:
    """No index is asked; a name, a file without checksum, and one with another checksum are refused."""
    packages = tools.make_packages(tmp_path / "dist")
    lock = (tools.TOP / "scripts" / "packages" / "contents.txt").read_text()
    cached = Path("~/.cache/drgn-unaccepted-packages").expanduser().glob("*-py3-none-any.whl")
    paths = [*packages.glob(f"*.{kind}"), *(cached if kind == "whl" else ())]
    files = [{"file": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()} for path in paths]
    files[1:] = [file for file in files[1:] if file["sha256"] in lock]
    # A snapshot needs no drgn.
    write(clean(), str(tmp_path / "snapshot"))
    target = {"guest-a": ["--snapshot", str(tmp_path / "snapshot")]}
    install = {"unaccepted_install": True, "unaccepted_venv": str(tmp_path / "venv")}
    bad: list[Any] = [[{**files[0], "sha256": "0" * 64}]]
    bad += [[], "drgn-unaccepted", [{**files[0], "file": "drgn-unaccepted"}]] if kind == "whl" else []
    for refused in bad:
        _, counts = play(tmp_path, target, unaccepted_files=refused, **install)
        assert counts["guest-a"]["failed"] == 1 and not (tmp_path / "venv" / "bin").exists()
    network = {"PIP_INDEX_URL": "http://127.0.0.1:1/", "PIP_RETRIES": "0"}
    printed, counts = play(tmp_path, target, unaccepted_files=files, **install, environment=network)
    assert counts["guest-a"]["failed"] == 0, printed
    assert (tmp_path / "venv" / "bin" / "drgn-unaccepted").exists() == (kind == "whl")


def test_the_units_that_the_role_installs(tmp_path: Path) -> None:
    """Apart from command and directory they are those that systemd-analyze has verified. The role is often copied by
    itself, to ~/.ansible/roles. The second time nothing changes, and warnings are to fail a host.
    """
    shutil.copytree(ROLE, tmp_path / "ansible")
    units, textfiles = tmp_path / "units", str(tmp_path / "textfiles")
    units.mkdir()
    timer = {"unaccepted_timer": True, "unaccepted_units": str(units), "unaccepted_textfiles": textfiles}
    for first, more in ((True, {}), (False, {"unaccepted_fail_on": ["warning"]})):
        _, counts = play(tmp_path, {"guest-a": warns(tmp_path)}, tmp_path / "ansible", **timer, **more)
        assert (counts["guest-a"]["changed"] > 0, counts["guest-a"]["failed"] == 0) == (first, first)
    for kind in ("service", "timer"):
        ours = (tools.INTEGRATIONS / "systemd" / f"drgn-unaccepted-check.{kind}").read_text()
        same = ours.replace("/usr/bin/drgn-unaccepted ", f"{sys.executable} -m drgn_unaccepted ")
        same = same.replace("/var/lib/prometheus/node-exporter", textfiles)
        assert (units / f"drgn-unaccepted-check.{kind}").read_text() == same
