# SPDX-License-Identifier: LGPL-2.1-or-later
"""``check`` as JUnit XML: a test case for each rule."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from drgn_unaccepted.answer.documents import CheckAnswer
from drgn_unaccepted.words import safe, span

SUITE = "drgn-unaccepted"
_FAILED = ("warning", "critical")


def junit(answer: CheckAnswer) -> Iterator[str]:
    """The lines of an XML document.

    Warnings and critical findings are failures of that type, skipped rules are skipped, and other findings are in
    ``system-out``. Source and totals are properties. The test case ``answer`` is an error if the status is unknown.
    """
    findings, unknown = answer["findings"], answer["status"] == "unknown"
    counts = {
        "name": SUITE,
        "tests": str(len(findings) + 1),
        "failures": str(sum(finding["status"] in _FAILED for finding in findings)),
        "errors": str(int(unknown)),
        "skipped": str(sum(finding["status"] == "skip" for finding in findings)),
    }
    suites = Element("testsuites", counts)
    suite = SubElement(suites, "testsuite", counts)
    properties = SubElement(suite, "properties")
    for name in ("source", "exact", "covered_bytes", "unaccepted_bytes"):
        text = "unknown" if answer[name] is None else str(answer[name]).lower()
        SubElement(properties, "property", {"name": name, "value": text})
    whole = SubElement(suite, "testcase", {"classname": SUITE, "name": "answer"})
    if unknown:
        SubElement(whole, "error", {"message": "neither the table nor the page lists could be read"})
    for finding in findings:
        case = SubElement(suite, "testcase", {"classname": SUITE, "name": finding["rule"]})
        # XML cannot contain control characters at all. Names in the text may come from a dump.
        message, status = safe(finding["message"]), finding["status"]
        if status == "skip":
            SubElement(case, "skipped", {"message": message})
        elif status in _FAILED:
            failure = SubElement(case, "failure", {"message": message, "type": status})
            failure.text = "\n".join(span(*range_) for range_ in finding["ranges"])
        elif status == "info":
            SubElement(case, "system-out").text = message
    indent(suites)
    yield '<?xml version="1.0" encoding="utf-8"?>'
    yield from tostring(suites, encoding="unicode").split("\n")
