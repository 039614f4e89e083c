# SPDX-License-Identifier: LGPL-2.1-or-later
"""A real node_exporter and a real Prometheus on loopback: what a guest's check leaves is scraped, the alert fires."""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from tests.fleet.tools import INTEGRATIONS, PLANTED, SAMPLES, TOP, free_port, plant, run, service, tool, wait_for

CONFIG = """\
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: ["{rules}"]
scrape_configs:
  - job_name: node
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


def get(url: str) -> Any:
    """The ``data`` of an answer; None while there is none."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.load(answer)["data"]
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return None


def check(option: str, path: Path, to: Path) -> int:
    argv = [sys.executable, "-m", "drgn_unaccepted", option, path, "check", "--format", "prometheus", "-o", to]
    return run(argv, cwd=TOP).returncode


def test_a_planted_fault_is_scraped_and_fires(tmp_path: Path) -> None:
    exporter, prometheus = (
        tool("prometheus-node-exporter", "prometheus-node-exporter"),
        tool("prometheus", "prometheus"),
    )
    textfiles, data = tmp_path / "textfiles", tmp_path / "data"
    textfiles.mkdir()
    metrics = textfiles / "drgn-unaccepted.prom"
    plant(SAMPLES / "6.12-fill" / "vmcore", tmp_path / "planted.json")
    assert check("--snapshot", tmp_path / "planted.json", metrics) == 2
    # Another user's node_exporter has to be able to read it.
    assert metrics.stat().st_mode & 0o777 == 0o644
    port, api = free_port(), free_port()
    config = tmp_path / "prometheus.yml"
    config.write_text(CONFIG.format(rules=INTEGRATIONS / "prometheus" / "unaccepted.rules.yml", port=port))
    export = [
        exporter,
        "--collector.disable-defaults",
        "--collector.textfile",
        f"--collector.textfile.directory={textfiles}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    serve = [
        prometheus,
        f"--config.file={config}",
        f"--storage.tsdb.path={data}",
        f"--web.listen-address=127.0.0.1:{api}",
    ]
    environment = {**os.environ, "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}
    base = f"http://127.0.0.1:{api}/api/v1"

    def firing() -> dict[str, str]:
        alerts = (get(f"{base}/alerts") or {"alerts": []})["alerts"]
        return {a["labels"]["check"]: a["labels"]["alertname"] for a in alerts if a["state"] == "firing"}

    def values(query: str) -> list[str]:
        found = get(f"{base}/query?query={urllib.parse.quote(query)}")
        return [result["value"][1] for result in found["result"]] if found else []

    log = tmp_path / "prometheus.log"
    exporting = service(export, tmp_path / "exporter.log", env=environment)
    with exporting, service(serve, log, env=environment):
        assert wait_for(firing, log) == {PLANTED: "UnacceptedCheckCritical"}
        assert values("node_textfile_scrape_error") == ["0"]
        truth = json.loads((SAMPLES / "6.12-fill" / "truth.json").read_text())
        assert values("efi_unaccepted_memory_bytes") == [str(len(truth["unaccepted_units"]) << 21)]
        # The same guest without the fault: the next file takes the place of the last, and the alert ends.
        assert check("-c", SAMPLES / "6.12-fill" / "vmcore", metrics) == 1
        wait_for(lambda: not firing(), log)
        assert values(f'efi_unaccepted_check_status{{check="{PLANTED}"}}') == ["0"]
