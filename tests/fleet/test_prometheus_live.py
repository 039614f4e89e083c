# SPDX-License-Identifier: LGPL-2.1-or-later
"""Real node_exporters and a real Prometheus on loopback: they scrape what checks write, and the alerts fire."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from drgn_unaccepted.cli import main
from tests.fleet.monitoring import monitoring
from tests.fleet.tools import FILL, PLANTED, plant, wait_for

pytestmark = pytest.mark.long

STATUS = "efi_unaccepted_overall_status"


def check(option: str, path: Path, to: Path) -> int:
    return main([option, str(path), "check", "--format", "prometheus", "-o", str(to)])


def test_guests_are_scraped_and_alerts_fire(tmp_path: Path) -> None:
    """One guest with a planted fault, one whose file will be broken, one whose check never ran."""
    textfiles = {guest: tmp_path / guest for guest in ("planted", "broken", "never")}
    for directory in textfiles.values():
        directory.mkdir()
        (directory / "other.prom").write_text("other 1\n")
    planted, broken = (textfiles[guest] / "drgn-unaccepted.prom" for guest in ("planted", "broken"))
    plant(FILL, tmp_path / "planted.json")
    assert check("--snapshot", tmp_path / "planted.json", planted) == 2
    assert check("-c", FILL, broken) == 1
    # Another user's node_exporter has to be able to read it.
    assert planted.stat().st_mode & 0o777 == 0o644
    meminfo = "MemTotal:        2013612 kB\nUnaccepted:       294912 kB\n"
    with monitoring(textfiles, tmp_path, meminfo) as prometheus:

        def missing() -> set[str]:
            pending = prometheus.firing("pending").items()
            return {guest for (guest, _), name in pending if name == "UnacceptedCheckMissing"}

        firing = wait_for(prometheus.firing, prometheus.log)
        assert firing == {("planted", PLANTED): "UnacceptedCheckCritical"}
        wait_for(lambda: set(prometheus.values(STATUS)) == {"planted", "broken"} and missing(), prometheus.log)
        assert missing() == {"never"}
        truth = json.loads((FILL.parent / "truth.json").read_text())
        size = str(len(truth["unaccepted_units"]) << 21)
        assert prometheus.values("efi_unaccepted_memory_bytes") == {"planted": size, "broken": size}
        # The same guest without the fault: the alert ends.
        assert check("-c", FILL, planted) == 1
        wait_for(lambda: not prometheus.firing(), prometheus.log)
        assert prometheus.values(f'efi_unaccepted_check_status{{check="{PLANTED}"}}')["planted"] == "0"
        # node_exporter then has nothing from the file, not even its time.
        broken.write_text(f"{STATUS}{{ 1\n")
        wait_for(lambda: set(prometheus.values(STATUS)) == {"planted"} and len(missing()) > 1, prometheus.log)
        assert missing() == {"never", "broken"}
        assert prometheus.values("node_textfile_scrape_error") == {"planted": "0", "broken": "1", "never": "0"}
