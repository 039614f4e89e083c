# SPDX-License-Identifier: LGPL-2.1-or-later
"""Real node_exporters, one for each guest, and a real Prometheus that scrapes them, all on loopback."""

from __future__ import annotations

import json
import os
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
        """Alerts by guest and check; ``pending``: those that fire if they stay."""
        alerts = self._get("alerts").get("alerts", ())
        labels = [alert["labels"] for alert in alerts if alert["state"] == state]
        return {(label["guest"], label.get("check", "")): label["alertname"] for label in labels}

    def values(self, query: str) -> dict[str, str]:
        """The result of an instant query, by guest."""
        found = self._get(f"query?query={urllib.parse.quote(query)}").get("result", ())
        return {r["metric"]["guest"]: r["value"][1] for r in found}

    def _get(self, what: str) -> dict[str, Any]:
        try:
            with urllib.request.urlopen(f"{self._base}/{what}", timeout=60) as answer:
                data: dict[str, Any] = json.load(answer)["data"]
                return data
        except OSError:
            return {}


@contextmanager
def monitoring(textfiles: Mapping[str, Path], work: Path, meminfo: str) -> Iterator[Monitoring]:
    """
    :param textfiles: the directory of each guest's text files
    :param work: for data and logs
    :param meminfo: ``/proc/meminfo`` of all guests
    """
    exporter = tool("prometheus-node-exporter", "prometheus-node-exporter")
    prometheus, log = tool("prometheus", "prometheus"), work / "prometheus.log"
    environment = {**os.environ, "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}
    ports, api = {guest: free_port() for guest in textfiles}, free_port()
    targets = [{"targets": [f"127.0.0.1:{port}"], "labels": {"guest": guest}} for guest, port in ports.items()]
    proc, config = work / "proc", work / "prometheus.yml"
    proc.mkdir()
    (proc / "meminfo").write_text(meminfo)
    rules = INTEGRATIONS / "prometheus" / "unaccepted.rules.yml"
    config.write_text(CONFIG.format(rules=rules, targets=", ".join(map(json.dumps, targets))))
    with ExitStack() as stack:
        for guest, directory in textfiles.items():
            options = ["--collector.disable-defaults", "--collector.textfile", "--collector.meminfo"]
            options += [f"--path.procfs={proc}", f"--collector.textfile.directory={directory}"]
            argv = [exporter, *options, f"--web.listen-address=127.0.0.1:{ports[guest]}"]
            stack.enter_context(service(argv, work / f"exporter-{guest}.log", env=environment))
        options = [f"--config.file={config}", f"--storage.tsdb.path={work / 'prometheus'}"]
        argv = [prometheus, *options, f"--web.listen-address=127.0.0.1:{api}"]
        stack.enter_context(service(argv, log, env=environment))
        yield Monitoring(f"http://127.0.0.1:{api}/api/v1", log)
