# SPDX-License-Identifier: LGPL-2.1-or-later
"""``check`` as JUnit XML: a test case for each rule."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree

from drgn_unaccepted.answer.documents import CheckAnswer, FindingDocument
from drgn_unaccepted.words import safe, span

SUITE = "drgn-unaccepted"

#: Test case for the answer as a whole: an error where neither the table nor the lists could be read.
ANSWER = "answer"

_FAILED = ("warning", "critical")


def junit(answer: CheckAnswer) -> Iterator[str]:
    """The lines of an XML document.

    Warnings and critical findings are failures of that type, skipped rules are skipped, and other findings are in
    ``system-out``. Source and totals are properties.
    """
    findings = answer["findings"]
    unknown = answer["status"] == "unknown"
    counts = {
        "name": SUITE,
        "tests": str(len(findings) + 1),
        "failures": str(sum(finding["status"] in _FAILED for finding in findings)),
        "errors": str(int(unknown)),
        "skipped": str(sum(finding["status"] == "skip" for finding in findings)),
    }
    suites = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(suites, "testsuite", counts)
    properties = ElementTree.SubElement(suite, "properties")
    values = {
        "source": answer["source"],
        "exact": answer["exact"],
        "covered_bytes": answer["covered_bytes"],
        "unaccepted_bytes": answer["unaccepted_bytes"],
    }
    for name, value in values.items():
        text = "unknown" if value is None else str(value).lower()
        ElementTree.SubElement(properties, "property", {"name": name, "value": text})
    whole = _case(suite, ANSWER)
    if unknown:
        ElementTree.SubElement(whole, "error", {"message": "neither the table nor the page lists could be read"})
    for finding in findings:
        _finding(suite, finding)
    ElementTree.indent(suites)
    yield '<?xml version="1.0" encoding="utf-8"?>'
    yield from ElementTree.tostring(suites, encoding="unicode").split("\n")


def _case(suite: ElementTree.Element, name: str) -> ElementTree.Element:
    return ElementTree.SubElement(suite, "testcase", {"classname": SUITE, "name": name})


def _finding(suite: ElementTree.Element, finding: FindingDocument) -> None:
    case = _case(suite, finding["rule"])
    # XML cannot contain control characters at all. Names in the text may come from a dump.
    message, status = safe(finding["message"]), finding["status"]
    if status == "skip":
        ElementTree.SubElement(case, "skipped", {"message": message})
    elif status in _FAILED:
        failure = ElementTree.SubElement(case, "failure", {"message": message, "type": status})
        failure.text = "\n".join(span(*range_) for range_ in finding["ranges"])
    elif status == "info":
        ElementTree.SubElement(case, "system-out").text = message
