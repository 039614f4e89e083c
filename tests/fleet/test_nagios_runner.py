# SPDX-License-Identifier: LGPL-2.1-or-later
"""The check as a plugin of Nagios or Icinga, through a real wrapper of Debian's monitoring-plugins."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fleet.tools import PLANTED, SAMPLES, TOP, plant, run

NEGATE = Path("/usr/lib/nagios/plugins/negate")

#: One line that a runner reads, with performance data as the Monitoring Plugins guidelines have it.
LINE = re.compile(r"UNACCEPTED (OK|WARNING|CRITICAL|UNKNOWN) - [^|]+ \| unaccepted=(\d+B|U);;;0;\d*")


def negate(*argv: object) -> subprocess.CompletedProcess[str]:
    """Runs the plugin and passes on what it says; its own exit status says what it made of the plugin's."""
    if not NEGATE.exists():
        pytest.skip("negate is not here: apt-get install monitoring-plugins-basic")
    states = ["-t", "60", "-o", "OK", "-w", "WARNING", "-c", "CRITICAL", "-u", "UNKNOWN"]
    plugin = [sys.executable, "-m", "drgn_unaccepted", *argv]
    return run([NEGATE, *states, *plugin], cwd=TOP)


def test_warning_and_critical(tmp_path: Path) -> None:
    plant(SAMPLES / "6.12-fill" / "vmcore", tmp_path / "planted.json")
    well = negate("-c", SAMPLES / "6.12-fill" / "vmcore", "check", "--format", "nagios")
    ill = negate("--snapshot", tmp_path / "planted.json", "check", "--format", "nagios")
    assert (well.returncode, ill.returncode) == (1, 2)
    for done, status in ((well, "WARNING"), (ill, "CRITICAL")):
        found = LINE.match(done.stdout.splitlines()[0])
        assert found and found[1] == status, done.stdout
    assert PLANTED in ill.stdout.splitlines()[0]


@pytest.mark.parametrize("argv", [["check", "--no-such"], ["-c", "/nonexistent", "check", "--format", "nagios"]])
def test_what_cannot_be_told_is_unknown_and_never_critical(argv: list[str]) -> None:
    assert negate(*argv).returncode == 3
