# SPDX-License-Identifier: LGPL-2.1-or-later
"""Metrics, alert rules and dashboard, checked by Prometheus' own tools and scraped by real ones on loopback."""

from __future__ import annotations

import json
import os
import re
import urllib.parse
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from drgn_unaccepted.cli import main
from drgn_unaccepted.views.monitoring import prometheus
from tests.fleet import tools
from tests.waiting import wait_for

RULES = tools.INTEGRATIONS / "prometheus" / "unaccepted.rules.yml"
DASHBOARD = json.loads((tools.INTEGRATIONS / "grafana" / "unaccepted.json").read_text())

NAMES = "header-version table-captured guard-unit-accepted table-reserved static-key-matches-lists".split()
FINDINGS = list(map(tools.finding, NAMES, ("pass", "info", "warning", "critical", "skip")))


def metrics(**changes: Any) -> list[str]:
    document: Any = tools.check_document(**changes)
    return list(prometheus(document))


def samples(**changes: Any) -> list[str]:
    return [line for line in metrics(**changes) if not line.startswith("#")]


def test_every_sample() -> None:
    assert samples(status="critical", findings=FINDINGS) == [
        "efi_unaccepted_memory_bytes 12884901888",
        "efi_unaccepted_coverage_bytes 68115496960",
        "efi_unaccepted_unit_bytes 2097152",
        'efi_unaccepted_table_info{state="present",version="1",source="bitmap",exact="true",platform="tdx",'
        'release="6.12.117"} 1',
        "efi_unaccepted_overall_status 2",
        'efi_unaccepted_check_status{check="header-version"} 0',
        'efi_unaccepted_check_status{check="table-captured"} 0',
        'efi_unaccepted_check_status{check="guard-unit-accepted"} 1',
        'efi_unaccepted_check_status{check="table-reserved"} 2',
        'efi_unaccepted_check_status{check="static-key-matches-lists"} 3',
        "efi_unaccepted_last_run_timestamp_seconds 1793534400.25",
    ]
    assert samples(unaccepted_bytes=0)[0] == "efi_unaccepted_memory_bytes 0"
    # What is not known has no sample, and never a zero.
    table = {**tools.check_document()["table"], "state": "not-captured", "version": None, "unit_size": None}
    unknown = dict.fromkeys(("covered_bytes", "unaccepted_bytes", "platform"))
    assert samples(table=table, source="none", exact=False, status="unknown", **unknown) == [
        'efi_unaccepted_table_info{state="not-captured",source="none",exact="false",release="6.12.117"} 1',
        "efi_unaccepted_overall_status 3",
        "efi_unaccepted_last_run_timestamp_seconds 1793534400.25",
    ]


HOSTILE = {**tools.check_document()["target"], "release": '6.12"} 1\nefi_unaccepted_overall_status 0\\\x1b['}


def test_promtool_finds_nothing_to_say() -> None:
    """But it does of metrics that are wrong. A name from a dump stays one label."""
    command = [tools.tool("promtool", "prometheus"), "check", "metrics"]
    for changes in ({"findings": FINDINGS}, {"unaccepted_bytes": None, "platform": None}, {"target": HOSTILE}):
        lines = metrics(**changes)
        assert all(character.isprintable() for line in lines for character in line)
        assert sum(line.startswith("efi_unaccepted_overall_status ") for line in lines) == 1
        done = tools.run(command, stdin="\n".join(lines) + "\n")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert tools.run(command, stdin="efi_unaccepted_memory_kilobytes{ 1\n").returncode != 0


EXPRESSIONS = [
    *(target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]),
    *(annotation["expr"] for annotation in DASHBOARD["annotations"]["list"]),
]


@pytest.mark.long
def test_the_alerts_fire_when_they_should_and_all_queries_are_promql(tmp_path: Path) -> None:
    promtool = tools.tool("promtool", "prometheus")
    dashboard = tmp_path / "rules.yml"
    rules = [{"record": f"panel:{number}", "expr": expression} for number, expression in enumerate(EXPRESSIONS)]
    # YAML is a superset of JSON.
    dashboard.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    tests = Path(__file__).parent / "unaccepted.rules.test.yml"
    for argv in (("check", "rules", RULES), ("check", "rules", dashboard), ("test", "rules", tests)):
        done = tools.run([promtool, *argv])
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_and_the_dashboard_use_metrics_that_exist() -> None:
    ours = {line.split("{")[0].split()[0] for line in samples(findings=FINDINGS)}
    used = set(re.findall(r"\befi_unaccepted_\w+", RULES.read_text() + " ".join(EXPRESSIONS)))
    assert "efi_unaccepted_check_status" in used and used <= ours


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
        exporter = tools.tool("prometheus-node-exporter", "prometheus-node-exporter")
        prometheus, self._log = tools.tool("prometheus", "prometheus"), work / "prometheus.log"
        environment = {**os.environ, "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}
        (work / "proc").mkdir()
        (work / "proc" / "meminfo").write_text("MemTotal:        2013612 kB\nUnaccepted:       294912 kB\n")
        targets = []
        for guest in guests:
            address = f"127.0.0.1:{tools.free_port()}"
            targets.append(json.dumps({"targets": [address], "labels": {"guest": guest}}))
            options = ["--collector.disable-defaults", "--collector.textfile", "--collector.meminfo"]
            options += [f"--path.procfs={work / 'proc'}", f"--collector.textfile.directory={work / guest}"]
            argv = [exporter, *options, f"--web.listen-address={address}"]
            stack.enter_context(tools.service(argv, work / f"exporter-{guest}.log", env=environment))
        config, api = work / "prometheus.yml", f"127.0.0.1:{tools.free_port()}"
        config.write_text(CONFIG.format(rules=RULES, targets=", ".join(targets)))
        options = [f"--config.file={config}", f"--storage.tsdb.path={work / 'prometheus'}"]
        argv = [prometheus, *options, f"--web.listen-address={api}"]
        stack.enter_context(tools.service(argv, self._log, env=environment))
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
        """Until these guests' alerts fire, and those of the missing will if their checks stay missing."""
        queries = (FIRING, STATUS, "ALERTS{alertstate='pending', alertname='UnacceptedCheckMissing'}")
        wanted = [alerts, scraped, missing]
        wait_for(lambda: [set(self.values(query)) for query in queries] == wanted, self._log.read_text)


@pytest.mark.long
def test_guests_are_scraped_and_alerts_fire(tmp_path: Path) -> None:
    """One guest with a planted fault, one whose file will be broken, one whose check never ran."""

    def check(option: str, path: Path, to: Path) -> int:
        return main([option, str(path), "check", "--format", "prometheus", "-o", str(to)])

    guests = ("planted", "broken", "never")
    for guest in guests:
        (tmp_path / guest).mkdir()
        (tmp_path / guest / "other.prom").write_text("other 1\n")
    planted, broken = (tmp_path / guest / "drgn-unaccepted.prom" for guest in guests[:2])
    tools.plant(tools.FILL, tmp_path / "planted.json")
    assert check("--snapshot", tmp_path / "planted.json", planted) == 2
    assert check("-c", tools.FILL, broken) == 0
    # Another user's node_exporter has to be able to read it.
    assert planted.stat().st_mode & 0o777 == 0o644
    with ExitStack() as stack:
        prometheus = Prometheus(guests, tmp_path, stack)
        prometheus.wait({"planted"}, {"planted", "broken"}, {"never"})
        rule = f"alertname='UnacceptedCheckCritical', check='{tools.PLANTED}'"
        assert prometheus.values(f"ALERTS{{alertstate='firing', {rule}}}") == {"planted": "1"}
        truth = json.loads((tools.FILL.parent / "truth.json").read_text())
        size = str(len(truth["unaccepted_units"]) << 21)
        # With the fault nothing confirms the table, and what is unknown has no sample.
        assert prometheus.values("efi_unaccepted_memory_bytes") == {"broken": size}
        # The same guest without the fault: the alert ends.
        assert check("-c", tools.FILL, planted) == 0
        # node_exporter then has nothing from the file, not even its time.
        broken.write_text(f"{STATUS}{{ 1\n")
        prometheus.wait(set(), {"planted"}, {"never", "broken"})
        assert prometheus.values(f'efi_unaccepted_check_status{{check="{tools.PLANTED}"}}')["planted"] == "0"
        assert prometheus.values("node_textfile_scrape_error") == {"planted": "0", "broken": "1", "never": "0"}
