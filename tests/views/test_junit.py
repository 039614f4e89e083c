# SPDX-License-Identifier: LGPL-2.1-or-later
"""The JUnit report, read back by another parser of XML."""

from __future__ import annotations

from typing import Any
from xml.dom import minidom

from drgn_unaccepted.views.junit import junit

from .test_nagios import answer, found


def parse(document: dict[str, Any]) -> minidom.Element:
    text = "\n".join(junit(document))
    assert text.startswith('<?xml version="1.0" encoding="utf-8"?>\n')
    root = minidom.parseString(text.encode()).documentElement
    assert root is not None
    return root


def cases(root: minidom.Element) -> dict[str, minidom.Element]:
    return {case.getAttribute("name"): case for case in root.getElementsByTagName("testcase")}


def text_of(element: minidom.Element) -> str:
    return "".join(node.data for node in element.childNodes if isinstance(node, minidom.Text))


def children(case: minidom.Element) -> list[minidom.Element]:
    return [node for node in case.childNodes if isinstance(node, minidom.Element)]


def test_each_finding_is_a_case() -> None:
    findings = [
        found("header-version", "pass"),
        found("orphan-bits", "info", "4 MiB on no list"),
        found("guard-unit-accepted", "warning", "1 page"),
        {**found("table-reserved", "critical", "2 pages"), "ranges": [[0x1000, 0x2000], [0x4000, 0x5000]]},
        found("table-expected", "skip", "e820: gone"),
    ]
    root = parse(answer(status="critical", findings=findings))
    assert root.tagName == "testsuites"
    (suite,) = root.getElementsByTagName("testsuite")
    for element in (root, suite):
        counts = {name: element.getAttribute(name) for name in ("tests", "failures", "errors", "skipped")}
        assert counts == {"tests": "6", "failures": "2", "errors": "0", "skipped": "1"}
    by_name = cases(root)
    assert list(by_name) == ["answer", *(finding["rule"] for finding in findings)]
    assert children(by_name["answer"]) == []
    assert children(by_name["header-version"]) == []
    (output,) = children(by_name["orphan-bits"])
    assert (output.tagName, text_of(output)) == ("system-out", "4 MiB on no list")
    (warning,) = children(by_name["guard-unit-accepted"])
    assert (warning.tagName, warning.getAttribute("type")) == ("failure", "warning")
    assert warning.getAttribute("message") == "1 page"
    (critical,) = children(by_name["table-reserved"])
    assert (critical.tagName, critical.getAttribute("type")) == ("failure", "critical")
    assert text_of(critical).split() == ["0x1000-0x2000", "0x4000-0x5000"]
    (skipped,) = children(by_name["table-expected"])
    assert (skipped.tagName, skipped.getAttribute("message")) == ("skipped", "e820: gone")


def test_source_and_totals_are_properties() -> None:
    root = parse(answer(source="page-lists", exact=False, covered_bytes=None))
    properties = {
        element.getAttribute("name"): element.getAttribute("value") for element in root.getElementsByTagName("property")
    }
    assert properties == {
        "source": "page-lists",
        "exact": "false",
        "covered_bytes": "unknown",
        "unaccepted_bytes": "12884901888",
    }


def test_an_unknown_answer_is_an_error() -> None:
    root = parse(answer(status="unknown"))
    (error,) = children(cases(root)["answer"])
    assert error.tagName == "error"
    assert root.getAttribute("errors") == "1"


def test_text_out_of_a_dump_is_harmless() -> None:
    hostile = 'zone <a href="x">&amp;\x00\x1b[2J\ud800\ufffe ]]>'
    root = parse(
        answer(findings=[found("list-entries-sane", "critical", hostile), found("header-version", "info", hostile)])
    )
    (failure,) = children(cases(root)["list-entries-sane"])
    assert failure.getAttribute("message").startswith('zone <a href="x">&amp;')
    assert "\x1b" not in failure.getAttribute("message")
