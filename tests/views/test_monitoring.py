# SPDX-License-Identifier: LGPL-2.1-or-later
"""``check`` for other tools: the monitoring plugin's lines, and JUnit XML read by another parser."""

from __future__ import annotations

from typing import Any
from xml.dom import minidom

import pytest

from drgn_unaccepted.views.junit import junit
from drgn_unaccepted.views.nagios import nagios

GIB = 1 << 30


def answer(**changes: Any) -> Any:
    document: dict[str, Any] = {
        "status": "ok",
        "findings": [],
        "table": {"state": "present"},
        "source": "bitmap",
        "exact": True,
        "covered_bytes": 64 * GIB,
        "unaccepted_bytes": 12 * GIB,
    }
    return {**document, **changes}


def found(rule: str, status: str, message: str = "words") -> dict[str, Any]:
    return {"rule": rule, "status": status, "message": message, "ranges": [], "needs": []}


FINDINGS = [
    found("header-version", "pass"),
    found("orphan-bits", "info", "4 MiB on no list"),
    found("guard-unit-accepted", "warning", "1 page"),
    {**found("table-reserved", "critical", "2 pages"), "ranges": [[0x1000, 0x2000], [0x4000, 0x5000]]},
    found("table-expected", "skip", "e820: gone"),
]


UNREAD = {"source": "none", "covered_bytes": None, "unaccepted_bytes": None}


@pytest.mark.parametrize(
    ("changes", "text", "performance"),
    (
        ({}, "12 GiB of 64 GiB unaccepted (source bitmap)", "12884901888B;;;0;68719476736"),
        (
            {"unaccepted_bytes": 2142 << 20, "covered_bytes": 3040 << 20},
            "2.09 GiB of 2.97 GiB unaccepted (source bitmap)",
            "2246049792B;;;0;3187671040",
        ),
        (
            {"source": "page-lists", "exact": False, "covered_bytes": None},
            "12 GiB unaccepted (source page-lists, not exact)",
            "12884901888B;;;0;",
        ),
        ({"unaccepted_bytes": 0}, "0 bytes of 64 GiB unaccepted (source bitmap)", "0B;;;0;68719476736"),
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
    lines = list(nagios(answer(status="critical", findings=FINDINGS)))
    assert lines[0].startswith("UNACCEPTED CRITICAL - 12 GiB of 64 GiB unaccepted (source bitmap), ")
    assert ", 2 rules failed: guard-unit-accepted, table-reserved | " in lines[0]
    assert lines[1:] == [
        "[CRITICAL] table-reserved: 2 pages",
        "[WARNING] guard-unit-accepted: 1 page",
        "[INFO] orphan-bits: 4 MiB on no list",
        "[SKIP] table-expected: e820: gone",
    ]


def test_rules_with_the_same_lack_are_one_line_after_all_others() -> None:
    """Some fifteen rules lack the table of a kdump. NRPE passes on 1 to 64 KiB, which must contain the warning."""
    findings = [
        found("header-version", "skip", "the table was not captured"),
        found("table-expected", "skip", "e820: gone"),
        found("orphan-bits", "skip", "the table was not captured"),
        found("platform-can-accept", "warning", "no platform"),
    ]
    assert list(nagios(answer(status="warning", findings=findings)))[1:] == [
        "[WARNING] platform-can-accept: no platform",
        "[SKIP] header-version, orphan-bits: the table was not captured",
        "[SKIP] table-expected: e820: gone",
    ]


def test_text_from_a_dump_neither_ends_a_line_nor_begins_performance_data() -> None:
    document = answer(findings=[found("list-entries-sane", "info", "zone a|b=1\nUNACCEPTED OK\x1b[2J\x00")])
    lines = list(nagios(document))
    assert len(lines) == 2 and "|" not in lines[1]
    assert all(character.isprintable() for line in lines for character in line)


def parse(document: Any) -> minidom.Element:
    text = "\n".join(junit(document))
    assert text.startswith('<?xml version="1.0" encoding="utf-8"?>\n')
    root = minidom.parseString(text.encode()).documentElement
    assert root is not None
    return root


def results(root: minidom.Element) -> dict[str, list[minidom.Element]]:
    """The elements inside each test case."""
    return {
        case.getAttribute("name"): [node for node in case.childNodes if isinstance(node, minidom.Element)]
        for case in root.getElementsByTagName("testcase")
    }


def text_of(element: minidom.Element) -> str:
    return "".join(node.data for node in element.childNodes if isinstance(node, minidom.Text))


def test_each_finding_is_a_test_case() -> None:
    root = parse(answer(status="critical", findings=FINDINGS))
    (suite,) = root.getElementsByTagName("testsuite")
    for element in (root, suite):
        counts = {name: element.getAttribute(name) for name in ("tests", "failures", "errors", "skipped")}
        assert counts == {"tests": "6", "failures": "2", "errors": "0", "skipped": "1"}
    by_name = results(root)
    assert list(by_name) == ["answer", *(finding["rule"] for finding in FINDINGS)]
    assert by_name["answer"] == by_name["header-version"] == []
    (output,) = by_name["orphan-bits"]
    assert (output.tagName, text_of(output)) == ("system-out", "4 MiB on no list")
    for rule, tag, type_, message in (
        ("guard-unit-accepted", "failure", "warning", "1 page"),
        ("table-reserved", "failure", "critical", "2 pages"),
        ("table-expected", "skipped", "", "e820: gone"),
    ):
        (result,) = by_name[rule]
        assert (result.tagName, result.getAttribute("type"), result.getAttribute("message")) == (tag, type_, message)
    assert text_of(by_name["table-reserved"][0]).split() == ["0x1000-0x2000", "0x4000-0x5000"]


def test_source_and_totals_are_properties() -> None:
    root = parse(answer(source="page-lists", exact=False, covered_bytes=None))
    assert {one.getAttribute("name"): one.getAttribute("value") for one in root.getElementsByTagName("property")} == {
        "source": "page-lists",
        "exact": "false",
        "covered_bytes": "unknown",
        "unaccepted_bytes": "12884901888",
    }


def test_an_unknown_answer_is_an_error() -> None:
    root = parse(answer(status="unknown"))
    assert [one.tagName for one in results(root)["answer"]] == ["error"]
    assert root.getAttribute("errors") == "1"


def test_text_from_a_dump_is_harmless_in_xml() -> None:
    hostile = 'zone <a href="x">&amp;\x00\x1b[2J\ud800\ufffe ]]>'
    findings = [found("list-entries-sane", "critical", hostile), found("header-version", "info", hostile)]
    (failure,) = results(parse(answer(findings=findings)))["list-entries-sane"]
    assert failure.getAttribute("message").startswith('zone <a href="x">&amp;')
    assert "\x1b" not in failure.getAttribute("message")
