# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ansible's role against this guest, from pip to the timer: argument 1 is ansible-playbook, 2 a directory of wheels.

/share/role.json has what each step said.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.lab.in_guest.guest import SHARE

ROLE = Path(__file__).parents[3] / "drgn_unaccepted" / "integrations" / "ansible"
CHECK = "drgn-unaccepted-check"
METRICS = Path("/var/lib/prometheus/node-exporter/drgn-unaccepted.prom")

found: dict[str, Any] = {}


def run(name: str, *command: str, **environment: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env={**os.environ, **environment})
    found[name] = {"status": done.returncode, "out": done.stdout, "err": done.stderr}
    (SHARE / "role.json").write_text(json.dumps(found, indent=1))


def play(name: str, playbook: str, wheels: str) -> None:
    # The package first: its kind says how they are installed.
    paths = sorted(Path(wheels).glob("*.whl"), key=lambda path: not path.name.startswith("drgn_unaccepted-"))
    files = [{"file": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()} for path in paths]
    variables = {
        "ansible_python_interpreter": "/usr/bin/python3",
        "unaccepted_install": True,
        "unaccepted_files": files,
        "unaccepted_results": str(SHARE / "results"),
        "unaccepted_timer": True,
    }
    command = [playbook, "-i", "guest,", "-c", "local", str(ROLE / "playbook.yml"), "-e", json.dumps(variables)]
    run(name, *command, HOME="/run/ansible", ANSIBLE_NOCOLOR="1", LC_ALL="C.UTF-8")


METRICS.unlink(missing_ok=True)
play("first", *sys.argv[1:3])
run("enabled", "systemctl", "is-enabled", f"{CHECK}.timer")
run("active", "systemctl", "is-active", f"{CHECK}.timer")
run("next", "systemctl", "show", f"{CHECK}.timer", "-p", "NextElapseUSecMonotonic,Unit")
play("again", *sys.argv[1:3])
run("service", "systemctl", "start", f"{CHECK}.service")
run("journal", "journalctl", "-o", "cat", "-u", f"{CHECK}.service")
run("metrics", "cat", str(METRICS))
