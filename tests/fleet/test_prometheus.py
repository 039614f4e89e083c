# SPDX-License-Identifier: LGPL-2.1-or-later
"""The metrics, the alert rules and the dashboard, checked by Prometheus' own tools."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from drgn_unaccepted.views.monitoring import prometheus
from tests.fleet.tools import INTEGRATIONS, check_document, finding, run, tool

RULES = INTEGRATIONS / "prometheus" / "unaccepted.rules.yml"
DASHBOARD = json.loads((INTEGRATIONS / "grafana" / "unaccepted.json").read_text())

FINDINGS = [
    finding(rule, status)
    for rule, status in {
        "header-version": "pass",
        "table-captured": "info",
        "guard-unit-accepted": "warning",
        "table-reserved": "critical",
        "static-key-matches-lists": "skip",
    }.items()
]


def metrics(**changes: Any) -> list[str]:
    document: Any = check_document(**changes)
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
    table = {**check_document()["table"], "state": "not-captured", "version": None, "unit_size": None}
    unknown = dict.fromkeys(("covered_bytes", "unaccepted_bytes", "platform"))
    assert samples(table=table, source="none", exact=False, status="unknown", **unknown) == [
        'efi_unaccepted_table_info{state="not-captured",source="none",exact="false",release="6.12.117"} 1',
        "efi_unaccepted_overall_status 3",
        "efi_unaccepted_last_run_timestamp_seconds 1793534400.25",
    ]


HOSTILE = {**check_document()["target"], "release": '6.12"} 1\nefi_unaccepted_overall_status 0\\\x1b['}


def test_promtool_finds_nothing_to_say() -> None:
    """But it does of metrics that are wrong. A name from a dump stays one label."""
    command = [tool("promtool", "prometheus"), "check", "metrics"]
    for changes in ({"findings": FINDINGS}, {"unaccepted_bytes": None, "platform": None}, {"target": HOSTILE}):
        lines = metrics(**changes)
        assert all(character.isprintable() for line in lines for character in line)
        assert sum(line.startswith("efi_unaccepted_overall_status ") for line in lines) == 1
        done = run(command, stdin="\n".join(lines) + "\n")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert run(command, stdin="efi_unaccepted_memory_kilobytes{ 1\n").returncode != 0


EXPRESSIONS = [
    *(target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]),
    *(annotation["expr"] for annotation in DASHBOARD["annotations"]["list"]),
]


@pytest.mark.long
def test_the_alerts_fire_when_they_should_and_all_queries_are_promql(tmp_path: Path) -> None:
    promtool = tool("promtool", "prometheus")
    dashboard = tmp_path / "rules.yml"
    rules = [{"record": f"panel:{number}", "expr": expression} for number, expression in enumerate(EXPRESSIONS)]
    # YAML is a superset of JSON.
    dashboard.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    tests = Path(__file__).parent / "unaccepted.rules.test.yml"
    for argv in (("check", "rules", RULES), ("check", "rules", dashboard), ("test", "rules", tests)):
        done = run([promtool, *argv])
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_and_the_dashboard() -> None:
    """They use metrics that exist. Panels neither overlap nor share an ID."""
    ours = {line.split("{")[0].split()[0] for line in samples(findings=FINDINGS)}
    used = set(re.findall(r"\befi_unaccepted_\w+", RULES.read_text() + " ".join(EXPRESSIONS)))
    assert "efi_unaccepted_check_status" in used and used <= ours
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for grid in (panel["gridPos"] for panel in panels)
        for x in range(grid["x"], grid["x"] + grid["w"])
        for y in range(grid["y"], grid["y"] + grid["h"])
    ]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) == 23
