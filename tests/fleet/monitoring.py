# SPDX-License-Identifier: LGPL-2.1-or-later
"""Real node_exporters, one for each guest, and a real Prometheus that scrapes them, all on loopback."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.fleet.tools import INTEGRATIONS, free_port, service, tool

CONFIG = """\
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: ["{rules}"]
scrape_configs:
  - job_name: node
    static_configs: [{targets}]
"""


class Monitoring:
    def __init__(self, base: str, log: Path) -> None:
        self._base = base
        self.log = log

    def firing(self, state: str = "firing") -> dict[tuple[str, str], str]:
        """Alerts by guest and check; ``pending``: what will fire if it stays."""
        found = self._get("alerts")
        alerts = [] if found is None else found["alerts"]
        labels = [alert["labels"] for alert in alerts if alert["state"] == state]
        return {(label["guest"], label.get("check", "")): label["alertname"] for label in labels}

    def values(self, query: str) -> dict[str, str]:
        """Of an instant query, by guest."""
        found = self._get(f"query?query={urllib.parse.quote(query)}")
        return {} if found is None else {r["metric"]["guest"]: r["value"][1] for r in found["result"]}

    def _get(self, what: str) -> Any:
        try:
            with urllib.request.urlopen(f"{self._base}/{what}", timeout=5) as answer:
                return json.load(answer)["data"]
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return None


@contextmanager
def monitoring(textfiles: Mapping[str, Path], work: Path, meminfo: str = "") -> Iterator[Monitoring]:
    """
    :param textfiles: the directory of each guest's text files
    :param work: for data and logs
    :param meminfo: ``/proc/meminfo`` of all guests
    """
    exporter, prometheus = (
        tool("prometheus-node-exporter", "prometheus-node-exporter"),
        tool("prometheus", "prometheus"),
    )
    environment = {**os.environ, "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}
    ports = {guest: free_port() for guest in textfiles}
    api = free_port()
    targets = [{"targets": [f"127.0.0.1:{port}"], "labels": {"guest": guest}} for guest, port in ports.items()]
    proc = work / "proc"
    proc.mkdir()
    (proc / "meminfo").write_text(meminfo)
    config = work / "prometheus.yml"
    rules = INTEGRATIONS / "prometheus" / "unaccepted.rules.yml"
    config.write_text(CONFIG.format(rules=rules, targets=", ".join(map(json.dumps, targets))))
    with ExitStack() as stack:
        for guest, directory in textfiles.items():
            argv = [
                exporter,
                "--collector.disable-defaults",
                "--collector.textfile",
                *(["--collector.meminfo", f"--path.procfs={proc}"] if meminfo else []),
                f"--collector.textfile.directory={directory}",
                f"--web.listen-address=127.0.0.1:{ports[guest]}",
            ]
            stack.enter_context(service(argv, work / f"exporter-{guest}.log", env=environment))
        argv = [
            prometheus,
            f"--config.file={config}",
            f"--storage.tsdb.path={work / 'prometheus'}",
            f"--web.listen-address=127.0.0.1:{api}",
        ]
        log = work / "prometheus.log"
        stack.enter_context(service(argv, log, env=environment))
        yield Monitoring(f"http://127.0.0.1:{api}/api/v1", log)
