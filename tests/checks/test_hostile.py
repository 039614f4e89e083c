# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whatever a snapshot holds, a rule answers or is skipped: it never raises."""

from __future__ import annotations

import dataclasses
from array import array
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drgn_unaccepted.checks import Report, confirm, run_checks
from drgn_unaccepted.model.header import Header, judge_header
from drgn_unaccepted.snapshot import ListedChunks, Snapshot, Table, Target

# fmt: off
NUMBERS = st.sampled_from([
    0, 1, 2, 3, 7, 24, 512, 1024, 4095, 4096, 1 << 21, (1 << 21) + 8, 3 << 21, 1 << 32, (1 << 32) + 4096, 1 << 40,
    (1 << 52) - 1, 1 << 52, 1 << 60, (1 << 64) - 1, 1 << 64, 1 << 80, -1, -4096,
])
WORDS = st.sampled_from([
    "present", "absent", "not-captured", "unsupported", "invalid", "", "tdx", "snp", "none", "a|b\n\x1b[2J", "running",
    "booting", "in-use", "buddy", "reserved", "free", "unaccepted", "6.5.3", "7.0", "live", "file", "vmcore", "zones",
])
# fmt: on
#: Fields whose interesting values are few.
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "E820Entry.type": st.sampled_from([1, 2, 3, 128, 77]),
    "EfiDescriptor.type": st.sampled_from([0, 7, 15]),
    "Table.version": st.sampled_from([None, 1, 2]),
    "KernelBuild.zone_id_shift": st.sampled_from([None, 0, 1, 60, 64, 1000]),
}
TYPES: dict[Any, st.SearchStrategy[Any]] = {
    int: NUMBERS,
    str: WORDS,
    bool: st.booleans(),
    bytes: st.binary(max_size=8),
    type(None): st.none(),
}


def column(typecode: str) -> st.SearchStrategy[Any]:
    bits = 8 * array(typecode).itemsize
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if typecode.islower() else (0, (1 << bits) - 1)
    fitting = NUMBERS.filter(lambda number: low <= number <= high)
    return st.lists(fitting, max_size=4).map(lambda values: array(typecode, values))


TYPES[ListedChunks] = st.builds(ListedChunks, *map(column, "QQiI"), problems=st.lists(WORDS, max_size=4).map(tuple))


def anything(hint: Any) -> st.SearchStrategy[Any]:
    """Any value of a field's type, with new fields of the snapshot included."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in TYPES:
        return TYPES[hint]
    if origin is Union:
        return st.one_of(*map(anything, arguments))
    if origin is tuple:
        return st.lists(anything(arguments[0]), max_size=4).map(tuple)
    if origin is not None:
        return st.dictionaries(WORDS, WORDS, max_size=2)
    fields = {
        name: FIELDS[key] if (key := f"{hint.__name__}.{name}") in FIELDS else anything(type_)
        for name, type_ in get_type_hints(hint).items()
    }
    return st.builds(hint, **fields)


SNAPSHOTS = anything(Snapshot)


def sane_table(bitmap: bytes, unit_size: int, base: int) -> Table:
    return Table("present", None, 0x7FB73018, 1, unit_size, base * unit_size, len(bitmap), bitmap, "physical")


SANE_TABLES = st.builds(
    sane_table, st.binary(min_size=1, max_size=8), st.sampled_from([4096, 1 << 21, 1 << 27]), st.integers(0, 4096)
)


def assert_sound(report: Report) -> None:
    assert report.status in ("ok", "warning", "critical", "unknown")
    assert len(report.findings) >= 32
    for finding in report.findings:
        assert finding.status in ("pass", "info", "warning", "critical", "skip")
        assert finding.message
        assert all(start < end for start, end in finding.ranges)
        assert list(finding.ranges) == sorted(finding.ranges)


@pytest.mark.parametrize("examples", [60, pytest.param(500, marks=pytest.mark.long)])
def test_no_rule_raises_on_anything(examples: int) -> None:
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(SNAPSHOTS, SNAPSHOTS, st.none() | SANE_TABLES)
    def test(snapshot: Snapshot, other: Snapshot, table: Table | None) -> None:
        if table is not None:
            snapshot = dataclasses.replace(snapshot, table=table)
        report = run_checks(snapshot)
        assert_sound(report)
        assert_sound(confirm(run_checks(other), report))

    test()


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([1, 1, 1, 2, 0]), NUMBERS, NUMBERS, NUMBERS, NUMBERS)
def test_a_header_that_the_reader_refuses_is_a_finding(
    version: int, unit_size: int, phys_base: int, bitmap_bytes: int, address: int
) -> None:
    """If a header is refused, a rule fails; if it is taken, no rule of the header blames it."""
    numbers = (unit_size, phys_base, bitmap_bytes, address)
    if min(numbers) < 0 or max(numbers) >= 1 << 64:
        return
    state, reason = judge_header(Header(version, unit_size, phys_base, bitmap_bytes), address)
    table = Table(state, reason, address, version, unit_size, phys_base, bitmap_bytes)
    snapshot = Snapshot(Target("vmcore", None, None, None, "none", ""), table)
    report = run_checks(snapshot, only=["header-version", "unit-size-valid", "bitmap-geometry"])
    failed = any(finding.status == "critical" for finding in report.findings)
    assert state == "not-captured" or failed == (state != "present")
