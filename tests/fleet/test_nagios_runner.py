# SPDX-License-Identifier: LGPL-2.1-or-later
"""The check as a plugin of Nagios or Icinga, run by a real wrapper from Debian's monitoring-plugins."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.fleet.tools import FILL, PLANTED, PROGRAM, TOP, plant, run

NEGATE = Path("/usr/lib/nagios/plugins/negate")

#: One line that a runner reads, with performance data as in the Monitoring Plugins guidelines.
LINE = re.compile(r"UNACCEPTED (OK|WARNING|CRITICAL|UNKNOWN) - [^|]+ \| unaccepted=(\d+B|U);;;0;\d*")


def negate(*argv: object) -> subprocess.CompletedProcess[str]:
    """Runs the plugin and passes on its output; its own exit status says what it made of the plugin's."""
    if not NEGATE.exists():
        pytest.skip("negate is not here: apt-get install monitoring-plugins-basic")
    states = ["-t", "600", "-o", "OK", "-w", "WARNING", "-c", "CRITICAL", "-u", "UNKNOWN"]
    return run([NEGATE, *states, *PROGRAM, *argv], cwd=TOP)


def test_every_status(tmp_path: Path) -> None:
    """No verdict is unknown, and never critical."""
    plant(FILL, tmp_path / "planted.json")
    well = negate("-c", FILL, "check", "--format", "nagios")
    ill = negate("--snapshot", tmp_path / "planted.json", "check", "--format", "nagios")
    assert (well.returncode, ill.returncode) == (1, 2)
    for done, status in ((well, "WARNING"), (ill, "CRITICAL")):
        found = LINE.match(done.stdout.splitlines()[0])
        assert found and found[1] == status, done.stdout
    assert PLANTED in ill.stdout.splitlines()[0]
    assert negate("check", "--no-such").returncode == 3
    assert negate("-c", "/nonexistent", "check", "--format", "nagios").returncode == 3
