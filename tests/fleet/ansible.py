# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run the playbook with a real ansible-core, on local hosts that stand for guests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Optional

import pytest

from tests.fleet.tools import INTEGRATIONS, TOP, run

ROLE = INTEGRATIONS / "ansible"
#: Each host with the options of its target; None: it cannot be reached.
Hosts = dict[str, Optional[list[str]]]

TOOLS = Path(os.environ.get("DRGN_UNACCEPTED_TOOLS", "~/.cache/drgn-unaccepted-tools")).expanduser()


def ansible_playbook() -> str:
    path = shutil.which("ansible-playbook", path=f"{TOOLS}/ansible/bin:{os.environ['PATH']}")
    if path is None:
        pytest.skip("ansible-core is not here: scripts/fleet-tools")
    return path


def play(tmp_path: Path, hosts: Hosts, place: Path = ROLE, **variables: Any) -> subprocess.CompletedProcess[str]:
    """Run the playbook on local hosts."""
    playbook = ansible_playbook()
    inventory = {
        "all": {
            "hosts": {
                host: {"ansible_connection": "local", "unaccepted_target": target}
                if target is not None
                # A port that nobody listens on.
                else {"ansible_host": "127.0.0.1", "ansible_port": 1}
                for host, target in hosts.items()
            },
            "vars": {
                "ansible_python_interpreter": sys.executable,
                "unaccepted_command": [sys.executable, "-m", "drgn_unaccepted"],
                "unaccepted_become": False,
                "unaccepted_results": str(tmp_path / "results"),
                **variables,
            },
        }
    }
    # YAML is a superset of JSON.
    (tmp_path / "inventory.yml").write_text(json.dumps(inventory))
    homes = {name: str(tmp_path / name) for name in ("ANSIBLE_HOME", "ANSIBLE_LOCAL_TEMP", "ANSIBLE_REMOTE_TEMP")}
    settings = {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_RETRY_FILES_ENABLED": "0", "LC_ALL": "C.UTF-8"}
    environment = {**os.environ, "PYTHONPATH": str(TOP), **homes, **settings}
    argv = [playbook, "-i", tmp_path / "inventory.yml", place / "playbook.yml"]
    return run(argv, env=environment, cwd=tmp_path)


def recap(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, int]]:
    lines = done.stdout.partition("PLAY RECAP")[2].splitlines()[1:]
    found = {}
    for line in filter(str.strip, lines):
        host, _, counts = line.partition(":")
        found[host.strip()] = {key: int(value) for key, value in (word.split("=") for word in counts.split())}
    return found
