# SPDX-License-Identifier: LGPL-2.1-or-later
"""The monitoring plugin's output, against the Monitoring Plugins guidelines."""

from __future__ import annotations

import re
from typing import Any

import pytest

from drgn_unaccepted.views.nagios import nagios

GIB = 1 << 30


def answer(**changes: Any) -> dict[str, Any]:
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


def test_the_first_line() -> None:
    assert list(nagios(answer())) == [
        "UNACCEPTED OK - 12.0 GiB of 64.0 GiB unaccepted (source bitmap) | unaccepted=12884901888B;;;0;68719476736"
    ]


def test_a_part_of_a_gibibyte() -> None:
    (line,) = nagios(answer(unaccepted_bytes=2142 << 20, covered_bytes=3040 << 20))
    assert line.startswith("UNACCEPTED OK - 2.1 GiB of 3.0 GiB unaccepted ")


def test_page_lists_are_not_exact_and_cover_nothing_known() -> None:
    (line,) = nagios(answer(source="page-lists", exact=False, covered_bytes=None))
    assert line == ("UNACCEPTED OK - 12.0 GiB unaccepted (source page-lists, not exact) | unaccepted=12884901888B;;;0;")


@pytest.mark.parametrize(
    ("state", "text"),
    [("absent", "no table of unaccepted memory"), ("not-captured", "unaccepted memory is not known")],
)
def test_unknown_is_u_and_never_0(state: str, text: str) -> None:
    document = answer(table={"state": state}, source="none", exact=False, covered_bytes=None, unaccepted_bytes=None)
    assert list(nagios(document)) == [f"UNACCEPTED OK - {text} | unaccepted=U;;;0;"]


def test_nothing_unaccepted_is_0() -> None:
    (line,) = nagios(answer(unaccepted_bytes=0))
    assert line.endswith("| unaccepted=0B;;;0;68719476736")


def test_what_failed_is_on_the_first_line_and_explained_below() -> None:
    document = answer(
        status="critical",
        findings=[
            found("header-version", "pass"),
            found("orphan-bits", "info", "4 MiB on no list"),
            found("guard-unit-accepted", "warning", "1 page"),
            found("table-reserved", "critical", "2 pages"),
            found("table-expected", "skip", "e820: gone"),
        ],
    )
    lines = list(nagios(document))
    assert lines[0].startswith("UNACCEPTED CRITICAL - 12.0 GiB of 64.0 GiB unaccepted (source bitmap), ")
    assert ", 2 rules failed: guard-unit-accepted, table-reserved | " in lines[0]
    assert lines[1:] == [
        "[CRITICAL] table-reserved: 2 pages",
        "[WARNING] guard-unit-accepted: 1 page",
        "[INFO] orphan-bits: 4 MiB on no list",
        "[SKIP] table-expected: e820: gone",
    ]


def test_rules_that_lacked_the_same_are_one_line_after_all_others() -> None:
    """Of a kdump some fifteen lack the table; NRPE passes on 1 to 64 KiB, and the warning has to be in it."""
    document = answer(
        status="warning",
        findings=[
            found("header-version", "skip", "the table was not captured"),
            found("table-expected", "skip", "e820: gone"),
            found("orphan-bits", "skip", "the table was not captured"),
            found("platform-can-accept", "warning", "no platform"),
        ],
    )
    assert list(nagios(document))[1:] == [
        "[WARNING] platform-can-accept: no platform",
        "[SKIP] header-version, orphan-bits: the table was not captured",
        "[SKIP] table-expected: e820: gone",
    ]


def test_text_out_of_a_dump_neither_ends_a_line_nor_begins_performance_data() -> None:
    document = answer(findings=[found("list-entries-sane", "info", "zone a|b=1\nUNACCEPTED OK\x1b[2J\x00")])
    lines = list(nagios(document))
    assert len(lines) == 2
    assert "|" not in lines[1]
    assert all(character.isprintable() for line in lines for character in line)


@pytest.mark.parametrize("status", ["ok", "warning", "critical", "unknown"])
def test_performance_data_can_be_parsed(status: str) -> None:
    line = next(iter(nagios(answer(status=status))))
    text, _, performance = line.partition(" | ")
    assert text.startswith(f"UNACCEPTED {status.upper()} - ")
    assert re.fullmatch(r"\w+=\d+B;[^;]*;[^;]*;0;\d+", performance)
