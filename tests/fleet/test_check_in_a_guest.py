# SPDX-License-Identifier: LGPL-2.1-or-later
"""The check in a running lab guest, with no more capabilities than its unit has."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.fleet.tools import INTEGRATIONS, TOP, run
from tests.lab.captures import captures

pytestmark = pytest.mark.lab

if not captures():
    pytest.skip("no captures of the guest lab: make them with scripts/lab all", allow_module_level=True)

SCRIPT = """\
sysctl -q -w kernel.kptr_restrict=1
sed -n 's/^nr_unaccepted //p' /proc/vmstat >/share/before
for caps in {all} {less}; do
    setpriv --bounding-set -all,$caps --inh-caps -all --no-new-privs \\
        {python} -m drgn_unaccepted check --format prometheus -o /share/$caps.prom
    echo $? >/share/$caps.status
done
sed -n 's/^nr_unaccepted //p' /proc/vmstat >/share/after
"""


def test_the_unit_s_capabilities_are_enough_and_needed(tmp_path: Path) -> None:
    unit = (INTEGRATIONS / "systemd" / "drgn-unaccepted-check.service").read_text()
    names = re.search(r"^CapabilityBoundingSet=(.*)$", unit, re.M)
    assert names
    caps = [name.removeprefix("CAP_").lower() for name in names[1].split()]
    every, less = ",".join(f"+{name}" for name in caps), ",".join(f"+{name}" for name in caps if name != "sys_rawio")
    assert less != every
    (tmp_path / "run.sh").write_text(SCRIPT.format(all=every, less=less, python=sys.executable))
    lab = [TOP / "scripts" / "lab", "live", "fill", "--kernel", "6.12", "--share", tmp_path]
    done = run([*lab, "--", "sh", "/share/run.sh"], cwd=TOP)
    assert (tmp_path / "after").exists(), done.stdout + done.stderr
    # A lab guest is neither TDX nor SNP, which the check warns of; without the capability nothing can be told.
    assert (tmp_path / f"{every}.status").read_text().strip() == "1", done.stdout + done.stderr
    assert (tmp_path / f"{less}.status").read_text().strip() == "3"
    metrics = (tmp_path / f"{every}.prom").read_text()
    assert 'source="bitmap",exact="true"' in metrics
    found = re.search(r"^efi_unaccepted_memory_bytes (\d+)$", metrics, re.M)
    assert found
    # The guest's own counter is never below the bitmap, and falls while the guest runs.
    before, after = (int((tmp_path / name).read_text()) * 4096 for name in ("before", "after"))
    assert after - (8 << 20) <= int(found[1]) <= before
