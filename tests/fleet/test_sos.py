# SPDX-License-Identifier: LGPL-2.1-or-later
"""The sos plugin, run by a real sos (Debian's, with Debian's Python)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fleet.tools import FILL, INTEGRATIONS, PLANTED, PROGRAM, TOP, plant, run, tool

#: sos takes its PATH from its policy, and its plugins from where they are installed.
SOS = """\
import sys
import sos.policies.debian as debian
import sos.report.plugins as plugins

work, ours = sys.argv[1:]
debian.DebianPolicy.PATH = f"{work}/bin:{debian.DebianPolicy.PATH}"
plugins.__path__.append(ours)
from sos import SoS
SoS(["report", "--batch", "--build", "-o", "drgn_unaccepted", "--tmp-dir", f"{work}/out"]).execute()
"""


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="sos runs as root only")
def test_what_sos_collects(tmp_path: Path) -> None:
    python = Path("/usr/bin/python3")
    tool("sos", "sosreport")
    if run([python, "-c", "import sos.policies.debian"]).returncode:
        pytest.skip("sos is not here: apt-get install sosreport")
    plant(FILL, tmp_path / "planted.json")
    (tmp_path / "bin").mkdir()
    (tmp_path / "out").mkdir()
    command = tmp_path / "bin" / "drgn-unaccepted"
    command.write_text(f'#!/bin/sh\ncd {TOP} && exec {" ".join(PROGRAM)} --snapshot {tmp_path}/planted.json "$@"\n')
    command.chmod(0o755)
    done = run([python, "-c", SOS, tmp_path, INTEGRATIONS / "sos"], cwd=tmp_path)
    collected = {path.name: path for path in (tmp_path / "out").rglob("sos_commands/drgn_unaccepted/*")}
    assert {"drgn-unaccepted_summary", "drgn-unaccepted_--format_json_check"} <= set(collected), done.stdout
    assert PLANTED in collected["drgn-unaccepted_check"].read_text()
    assert not list((tmp_path / "out").rglob("vmcore"))
