# SPDX-License-Identifier: LGPL-2.1-or-later
"""A real node_exporter and a real Prometheus on loopback: what a guest's check leaves is scraped, the alert fires."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.fleet.monitoring import monitoring
from tests.fleet.tools import PLANTED, SAMPLES, TOP, plant, run, wait_for


def check(option: str, path: Path, to: Path) -> int:
    argv = [sys.executable, "-m", "drgn_unaccepted", option, path, "check", "--format", "prometheus", "-o", to]
    return run(argv, cwd=TOP).returncode


def test_a_planted_fault_is_scraped_and_fires(tmp_path: Path) -> None:
    textfiles = tmp_path / "textfiles"
    textfiles.mkdir()
    metrics = textfiles / "drgn-unaccepted.prom"
    plant(SAMPLES / "6.12-fill" / "vmcore", tmp_path / "planted.json")
    assert check("--snapshot", tmp_path / "planted.json", metrics) == 2
    # Another user's node_exporter has to be able to read it.
    assert metrics.stat().st_mode & 0o777 == 0o644
    with monitoring({"guest": textfiles}, tmp_path) as prometheus:
        assert wait_for(prometheus.firing, prometheus.log) == {("guest", PLANTED): "UnacceptedCheckCritical"}
        assert prometheus.values("node_textfile_scrape_error") == {"guest": "0"}
        truth = json.loads((SAMPLES / "6.12-fill" / "truth.json").read_text())
        assert prometheus.values("efi_unaccepted_memory_bytes") == {"guest": str(len(truth["unaccepted_units"]) << 21)}
        # The same guest without the fault: the next file takes the place of the last, and the alert ends.
        assert check("-c", SAMPLES / "6.12-fill" / "vmcore", metrics) == 1
        wait_for(lambda: not prometheus.firing(), prometheus.log)
        assert prometheus.values(f'efi_unaccepted_check_status{{check="{PLANTED}"}}') == {"guest": "0"}


def test_a_file_that_cannot_be_parsed_and_one_that_was_never_there(tmp_path: Path) -> None:
    """With what the real node_exporter then has: nothing, neither of the check nor the time of its file."""
    textfiles = {guest: tmp_path / guest for guest in ("well", "broken", "never")}
    for guest, directory in textfiles.items():
        directory.mkdir()
        (directory / "other.prom").write_text("other 1\n")
        if guest != "never":
            assert check("-c", SAMPLES / "6.12-fill" / "vmcore", directory / "drgn-unaccepted.prom") == 1
    meminfo = "MemTotal:        2013612 kB\nUnaccepted:       294912 kB\n"
    query = "efi_unaccepted_overall_status"

    def missing() -> set[str]:
        pending = prometheus.firing("pending").items()
        return {guest for (guest, _), name in pending if name == "UnacceptedCheckMissing"}

    with monitoring(textfiles, tmp_path, meminfo) as prometheus:
        wait_for(lambda: set(prometheus.values(query)) == {"well", "broken"} and missing(), prometheus.log)
        assert missing() == {"never"}
        (textfiles["broken"] / "drgn-unaccepted.prom").write_text(f"{query}{{ 1\n")
        wait_for(lambda: set(prometheus.values(query)) == {"well"} and len(missing()) > 1, prometheus.log)
        assert missing() == {"never", "broken"}
        assert prometheus.values("node_textfile_scrape_error") == {"well": "0", "broken": "1", "never": "0"}
