# SPDX-License-Identifier: LGPL-2.1-or-later
"""``check`` for other tools: the monitoring plugin's lines, and JUnit XML read by another parser."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any, Optional

import pytest

from drgn_unaccepted.views.monitoring import junit, nagios
from tests.fleet.tools import check_document
from tests.fleet.tools import finding as found


def answer(**changes: Any) -> Any:
    return check_document(**{"covered_bytes": 64 << 30, **changes})


#: Ends a line, begins performance data, commands a terminal, is no XML.
HOSTILE = 'zone <a href="x">&amp;|b=1\nUNACCEPTED OK\x00\x1b[2J\ud800\ufffe ]]>'
SAFE = 'zone <a href="x">&amp;|b=1\\nUNACCEPTED OK\\x00\\x1b[2J\\ud800\\ufffe ]]>'

FINDINGS = [
    found("header-version", "pass"),
    found("orphan-bits", "info", "4 MiB on no list"),
    found("guard-unit-accepted", "warning", HOSTILE),
    {**found("table-reserved", "critical", "2 pages"), "ranges": [[0x1000, 0x2000], [0x4000, 0x5000]]},
    found("table-expected", "skip", "e820: gone"),
]


UNREAD = {"source": "none", "covered_bytes": None, "unaccepted_bytes": None}


@pytest.mark.parametrize(
    ("changes", "text", "performance"),
    (
        ({}, "12 GiB of 64 GiB unaccepted (source bitmap)", "12884901888B;;;0;68719476736"),
        (
            {"source": "page-lists", "exact": False, "covered_bytes": None},
            "12 GiB unaccepted (source page-lists, not exact)",
            "12884901888B;;;0;",
        ),
        ({"unaccepted_bytes": 0}, "0 of 64 GiB unaccepted (source bitmap)", "0B;;;0;68719476736"),
        # Unknown is U and never 0.
        ({"table": {"state": "absent"}, **UNREAD}, "no table of unaccepted memory", "U;;;0;"),
        ({"table": {"state": "not-captured"}, **UNREAD}, "unaccepted memory is not known", "U;;;0;"),
    ),
)
def test_the_first_line(changes: dict[str, Any], text: str, performance: str) -> None:
    assert list(nagios(answer(**changes))) == [f"UNACCEPTED OK - {text} | unaccepted={performance}"]
    status = next(iter(nagios(answer(status="critical", **changes))))
    assert status.startswith("UNACCEPTED CRITICAL - ")


def test_what_failed_is_on_the_first_line_and_explained_below() -> None:
    """Rules with the same lack are one line, after all others: NRPE passes on 1 to 64 KiB."""
    lines = list(nagios(answer(status="critical", findings=[found("table-aligned", "skip", "e820: gone"), *FINDINGS])))
    assert lines[0].startswith("UNACCEPTED CRITICAL - 12 GiB of 64 GiB unaccepted (source bitmap), ")
    assert ", 2 rules failed: guard-unit-accepted, table-reserved | " in lines[0]
    assert lines[1:] == [
        "[CRITICAL] table-reserved: 2 pages",
        f"[WARNING] guard-unit-accepted: {SAFE.replace('|', '/')}",
        "[INFO] orphan-bits: 4 MiB on no list",
        "[SKIP] table-aligned, table-expected: e820: gone",
    ]


def parse(document: Any) -> tuple[ElementTree.Element, dict[Optional[str], list[ElementTree.Element]]]:
    """The root, and the elements inside each test case."""
    text = "\n".join(junit(document))
    assert text.startswith('<?xml version="1.0" encoding="utf-8"?>\n')
    root = ElementTree.fromstring(text.encode())
    return root, {case.get("name"): list(case) for case in root.iter("testcase")}


def test_each_finding_is_a_test_case() -> None:
    root, by_name = parse(answer(status="critical", findings=FINDINGS))
    for element in (root, *root.iter("testsuite")):
        counts = {name: element.get(name) for name in ("tests", "failures", "errors", "skipped")}
        assert counts == {"tests": "6", "failures": "2", "errors": "0", "skipped": "1"}
    assert list(by_name) == ["answer", *(finding["rule"] for finding in FINDINGS)]
    found = {
        rule: [(one.tag, one.get("type"), one.get("message")) for one in inside] for rule, inside in by_name.items()
    }
    assert found == {
        "answer": [],
        "header-version": [],
        "orphan-bits": [("system-out", None, None)],
        "guard-unit-accepted": [("failure", "warning", SAFE)],
        "table-reserved": [("failure", "critical", "2 pages")],
        "table-expected": [("skipped", None, "e820: gone")],
    }
    assert by_name["orphan-bits"][0].text == "4 MiB on no list"
    assert (by_name["table-reserved"][0].text or "").split() == ["0x1000-0x2000", "0x4000-0x5000"]


def test_source_and_totals_are_properties_and_an_unknown_answer_is_an_error() -> None:
    root, by_name = parse(answer(status="unknown", source="page-lists", exact=False, covered_bytes=None))
    assert {one.get("name"): one.get("value") for one in root.iter("property")} == {
        "source": "page-lists",
        "exact": "false",
        "covered_bytes": "unknown",
        "unaccepted_bytes": "12884901888",
    }
    assert [one.tag for one in by_name["answer"]] == ["error"] and root.get("errors") == "1"
