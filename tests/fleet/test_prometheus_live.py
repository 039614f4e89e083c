# SPDX-License-Identifier: LGPL-2.1-or-later
"""Real node_exporters and a real Prometheus on loopback: they scrape what checks write, and the alerts fire."""

from __future__ import annotations

import json
import os
import urllib.parse
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import pytest

from drgn_unaccepted.cli import main
from tests.fleet.tools import FILL, INTEGRATIONS, PLANTED, free_port, plant, service, tool
from tests.waiting import wait_for

pytestmark = pytest.mark.long

CONFIG = """\
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: ["{rules}"]
scrape_configs:
  - job_name: node
    static_configs: [{targets}]
"""
STATUS, FIRING = "efi_unaccepted_overall_status", "ALERTS{alertstate='firing'}"


class Prometheus:
    """With a node_exporter for each guest, whose text files are in a directory with the guest's name."""

    def __init__(self, guests: tuple[str, ...], work: Path, stack: ExitStack) -> None:
        exporter = tool("prometheus-node-exporter", "prometheus-node-exporter")
        prometheus, self._log = tool("prometheus", "prometheus"), work / "prometheus.log"
        environment = {**os.environ, "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}
        (work / "proc").mkdir()
        (work / "proc" / "meminfo").write_text("MemTotal:        2013612 kB\nUnaccepted:       294912 kB\n")
        targets = []
        for guest in guests:
            address = f"127.0.0.1:{free_port()}"
            targets.append(json.dumps({"targets": [address], "labels": {"guest": guest}}))
            options = ["--collector.disable-defaults", "--collector.textfile", "--collector.meminfo"]
            options += [f"--path.procfs={work / 'proc'}", f"--collector.textfile.directory={work / guest}"]
            argv = [exporter, *options, f"--web.listen-address={address}"]
            stack.enter_context(service(argv, work / f"exporter-{guest}.log", env=environment))
        config, api = work / "prometheus.yml", f"127.0.0.1:{free_port()}"
        rules = INTEGRATIONS / "prometheus" / "unaccepted.rules.yml"
        config.write_text(CONFIG.format(rules=rules, targets=", ".join(targets)))
        options = [f"--config.file={config}", f"--storage.tsdb.path={work / 'prometheus'}"]
        argv = [prometheus, *options, f"--web.listen-address={api}"]
        stack.enter_context(service(argv, self._log, env=environment))
        self._base = f"http://{api}/api/v1"

    def values(self, query: str) -> dict[str, str]:
        """The result of an instant query, by guest."""
        try:
            with urllib.request.urlopen(f"{self._base}/query?query={urllib.parse.quote(query)}", timeout=60) as answer:
                found = json.load(answer)["data"]["result"]
        except OSError:
            return {}
        return {one["metric"]["guest"]: one["value"][1] for one in found}

    def wait(self, alerts: set[str], scraped: set[str], missing: set[str]) -> None:
        """
        :param alerts: guests whose alert fires
        :param missing: those whose alert for a missing check will fire if it stays
        """
        queries = (FIRING, STATUS, "ALERTS{alertstate='pending', alertname='UnacceptedCheckMissing'}")
        wanted = [alerts, scraped, missing]
        wait_for(lambda: [set(self.values(query)) for query in queries] == wanted, self._log.read_text)


def test_guests_are_scraped_and_alerts_fire(tmp_path: Path) -> None:
    """One guest with a planted fault, one whose file will be broken, one whose check never ran."""

    def check(option: str, path: Path, to: Path) -> int:
        return main([option, str(path), "check", "--format", "prometheus", "-o", str(to)])

    guests = ("planted", "broken", "never")
    for guest in guests:
        (tmp_path / guest).mkdir()
        (tmp_path / guest / "other.prom").write_text("other 1\n")
    planted, broken = (tmp_path / guest / "drgn-unaccepted.prom" for guest in guests[:2])
    plant(FILL, tmp_path / "planted.json")
    assert check("--snapshot", tmp_path / "planted.json", planted) == 2
    assert check("-c", FILL, broken) == 0
    # Another user's node_exporter has to be able to read it.
    assert planted.stat().st_mode & 0o777 == 0o644
    with ExitStack() as stack:
        prometheus = Prometheus(guests, tmp_path, stack)
        prometheus.wait({"planted"}, {"planted", "broken"}, {"never"})
        rule = f"alertname='UnacceptedCheckCritical', check='{PLANTED}'"
        assert prometheus.values(f"ALERTS{{alertstate='firing', {rule}}}") == {"planted": "1"}
        truth = json.loads((FILL.parent / "truth.json").read_text())
        size = str(len(truth["unaccepted_units"]) << 21)
        # With the fault nothing confirms the table, and what is unknown has no sample.
        assert prometheus.values("efi_unaccepted_memory_bytes") == {"broken": size}
        # The same guest without the fault: the alert ends.
        assert check("-c", FILL, planted) == 0
        # node_exporter then has nothing from the file, not even its time.
        broken.write_text(f"{STATUS}{{ 1\n")
        prometheus.wait(set(), {"planted"}, {"never", "broken"})
        assert prometheus.values(f'efi_unaccepted_check_status{{check="{PLANTED}"}}')["planted"] == "0"
        assert prometheus.values("node_textfile_scrape_error") == {"planted": "0", "broken": "1", "never": "0"}
