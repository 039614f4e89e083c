# SPDX-License-Identifier: LGPL-2.1-or-later
"""``check`` for other programs: metrics, a monitoring plugin's lines, JUnit XML. Texts in it may come from a dump."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Optional, Union
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from drgn_unaccepted import exit_status
from drgn_unaccepted.answer.documents import CheckAnswer
from drgn_unaccepted.words import count, safe, size, span

_NUMBERS = {"pass": 0, "info": 0, "warning": 1, "critical": 2, "skip": 3}  #: The status of a rule as a number.
_FAILED = ("warning", "critical")


def prometheus(answer: CheckAnswer) -> Iterator[str]:
    """Metrics for the textfile collector of node_exporter.

    The text is the Prometheus exposition format 0.0.4, written so that it is OpenMetrics 1.0 too: base units, no
    timestamps, ``# EOF`` at the end. What is unknown has no sample: a 0 would be an answer.
    ``node_memory_Unaccepted_bytes``, which node_exporter reads from ``/proc/meminfo``, is not repeated here; the alert
    rules compare the two.
    """
    table, platform, covered = answer["table"], answer["platform"], answer["covered_bytes"]
    info = _labels(
        state=table["state"],
        version=None if table["version"] is None else str(table["version"]),
        source=answer["source"],
        exact="true" if answer["exact"] else "false",
        platform=None if platform is None else platform["kind"],
        release=answer["target"]["release"],
    )
    taken_at = datetime.fromisoformat(answer["target"]["taken_at"]).timestamp()
    worst = exit_status.OF_CHECK[answer["status"]]
    found = {_labels(check=one["rule"]): _NUMBERS[one["status"]] for one in answer["findings"]}
    about = "State of the table of unaccepted memory, the source of the figures and whether it is exact."
    metrics: tuple[tuple[str, Mapping[str, Union[int, float, None]], str], ...] = (
        ("memory_bytes", {"": answer["unaccepted_bytes"]}, "Memory that the guest has not accepted yet."),
        ("coverage_bytes", {"": covered}, "Address space that the bitmap of unaccepted memory has bits for."),
        ("unit_bytes", {"": table["unit_size"]}, "Memory that one bit stands for."),
        ("table_info", {info: 1}, about),
        ("overall_status", {"": worst}, "Worst finding of all checks: 0 ok, 1 warning, 2 critical, 3 unknown."),
        ("check_status", found, "Finding of one check: 0 passed, 1 warning, 2 critical, 3 could not be told."),
        ("last_run_timestamp_seconds", {"": taken_at}, "When the target was read."),
    )
    for name, samples, help_ in metrics:
        known = {labels: value for labels, value in samples.items() if value is not None}
        if known:
            yield f"# HELP efi_unaccepted_{name} {help_}"
            yield f"# TYPE efi_unaccepted_{name} gauge"
            yield from (f"efi_unaccepted_{name}{labels} {value}" for labels, value in known.items())
    yield "# EOF"


def _labels(**labels: Optional[str]) -> str:
    """A label without a value is the same as none."""
    given = {name: safe(value).replace("\\", "\\\\").replace('"', '\\"') for name, value in labels.items() if value}
    return "{" + ",".join(f'{name}="{value}"' for name, value in given.items()) + "}"


def nagios(answer: CheckAnswer) -> Iterator[str]:
    """One line with performance data, one for each finding that is not a pass, and one for all rules of one lack.

    The first line follows the Monitoring Plugins guidelines:
    ``SERVICE STATUS - text | 'label'=value[unit];warn;crit;min;max``. The exit status goes with it: 0 OK, 1 WARNING,
    2 CRITICAL, 3 UNKNOWN.
    """
    unaccepted, covered, findings = answer["unaccepted_bytes"], answer["covered_bytes"], answer["findings"]
    of = "" if covered is None else f" of {size(covered)}"
    text = f"{size(unaccepted)}{of} unaccepted (source {answer['source']}{'' if answer['exact'] else ', not exact'})"
    if unaccepted is None:
        absent = answer["table"]["state"] == "absent"
        text = "no table of unaccepted memory" if absent else "unaccepted memory is not known"
    failed = [found["rule"] for found in findings if found["status"] in _FAILED]
    text += f", {count(len(failed), 'rule')} failed: {', '.join(failed)}" if failed else ""
    data = f"{'U' if unaccepted is None else f'{unaccepted}B'};;;0;{'' if covered is None else covered}"
    yield f"UNACCEPTED {answer['status'].upper()} - {text} | unaccepted={data}"
    # Runners cut the text off after some KiB (NRPE: 1 to 64), so the worst comes first.
    lines: dict[tuple[str, str], list[str]] = {}
    for status in ("critical", "warning", "info", "skip"):
        for found in findings:
            if found["status"] == status:
                # "|" begins performance data.
                message = safe(found["message"]).replace("|", "/")
                lines.setdefault((status.upper(), message), []).append(found["rule"])
    for (status, message), rules in lines.items():
        yield f"[{status}] {', '.join(rules)}: {message}"


def junit(answer: CheckAnswer) -> Iterator[str]:
    """JUnit XML: a test case for each rule.

    Warnings and critical findings are failures of that type, skipped rules are skipped, and other findings are in
    ``system-out``. Source and totals are properties. The test case ``answer`` is an error if the status is unknown.
    """
    findings, unknown, suite_name = answer["findings"], answer["status"] == "unknown", "drgn-unaccepted"
    counts = {
        "name": suite_name,
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
        SubElement(properties, "property", name=name, value=text)
    whole = SubElement(suite, "testcase", classname=suite_name, name="answer")
    if unknown:
        SubElement(whole, "error", message="neither the table nor the page lists could be read")
    for finding in findings:
        case = SubElement(suite, "testcase", classname=suite_name, name=finding["rule"])
        # XML cannot contain control characters at all.
        message, status = safe(finding["message"]), finding["status"]
        if status == "skip":
            SubElement(case, "skipped", message=message)
        elif status in _FAILED:
            failure = SubElement(case, "failure", message=message, type=status)
            failure.text = "\n".join(span(*range_) for range_ in finding["ranges"])
        elif status == "info":
            SubElement(case, "system-out").text = message
    indent(suites)
    yield '<?xml version="1.0" encoding="utf-8"?>'
    yield from tostring(suites, encoding="unicode").split("\n")
