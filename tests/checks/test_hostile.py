# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whatever a snapshot holds, a rule answers or is skipped: it never raises."""

from __future__ import annotations

import dataclasses
from array import array

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drgn_unaccepted.checks import Report, confirm, run_checks
from drgn_unaccepted.model.e820 import E820Entry
from drgn_unaccepted.model.efi import EfiDescriptor
from drgn_unaccepted.model.header import Header, judge_header
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import (
    Accept,
    AcceptingList,
    Counters,
    E820Tables,
    EfiMap,
    KernelBuild,
    KexecSegment,
    ListedChunks,
    NamedRange,
    PageRun,
    Pages,
    Platform,
    Snapshot,
    Table,
    Target,
    Task,
    Watermarks,
    Zone,
)

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
FLAGS = st.booleans()


def maybe(strategy: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.none() | strategy


def several(strategy: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(strategy, max_size=4).map(tuple)


def column(typecode: str, bits: int, signed: bool = False) -> st.SearchStrategy[object]:
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    fitting = NUMBERS.filter(lambda number: low <= number <= high)
    return st.lists(fitting, max_size=4).map(lambda values: array(typecode, values))


TASKS = st.builds(Task, NUMBERS, WORDS, maybe(NUMBERS))
CHUNKS = st.builds(
    ListedChunks, column("Q", 64), column("Q", 64), column("i", 32, True), column("I", 32), several(WORDS)
)
ZONES = st.builds(
    Zone,
    NUMBERS,
    WORDS,
    NUMBERS,
    NUMBERS,
    NUMBERS,
    NUMBERS,
    NUMBERS,
    maybe(NUMBERS),
    NUMBERS,
    st.builds(Watermarks, NUMBERS, NUMBERS, NUMBERS, maybe(NUMBERS)),
    maybe(FLAGS),
    maybe(CHUNKS),
    maybe(NUMBERS),
    several(WORDS),
)
RANGES = st.builds(Range, NUMBERS, NUMBERS)
E820 = several(st.builds(E820Entry, NUMBERS, NUMBERS, st.sampled_from([1, 2, 3, 128, 77])))
DESCRIPTORS = several(st.builds(EfiDescriptor, st.sampled_from([0, 7, 15]), NUMBERS, NUMBERS, maybe(NUMBERS)))
SNAPSHOTS = st.builds(
    Snapshot,
    target=st.builds(Target, WORDS, maybe(WORDS), maybe(WORDS), maybe(WORDS), WORDS, WORDS),
    table=st.builds(
        Table,
        WORDS,
        maybe(WORDS),
        maybe(NUMBERS),
        maybe(st.sampled_from([1, 2])),
        maybe(NUMBERS),
        maybe(NUMBERS),
        maybe(NUMBERS),
        maybe(st.binary(max_size=8)),
        maybe(WORDS),
        maybe(several(RANGES)),
    ),
    kernel=maybe(
        st.builds(
            KernelBuild,
            maybe(FLAGS),
            maybe(NUMBERS),
            NUMBERS,
            maybe(NUMBERS),
            FLAGS,
            maybe(FLAGS),
            maybe(FLAGS),
            maybe(WORDS),
            maybe(NUMBERS),
            maybe(NUMBERS),
            maybe(st.sampled_from([0, 1, 60, 64, 1000])),
        )
    ),
    efi_map=maybe(st.builds(EfiMap, WORDS, FLAGS, maybe(WORDS), DESCRIPTORS, maybe(RANGES), FLAGS)),
    e820=maybe(st.builds(E820Tables, maybe(E820), maybe(E820), maybe(E820), maybe(E820))),
    zones=maybe(several(ZONES)),
    counters=maybe(st.builds(Counters, NUMBERS, maybe(NUMBERS), maybe(NUMBERS))),
    accepting=maybe(
        st.builds(AcceptingList, several(st.builds(Accept, NUMBERS, NUMBERS, NUMBERS, maybe(TASKS))), several(WORDS))
    ),
    platform=maybe(st.builds(Platform, maybe(WORDS), maybe(WORDS), maybe(NUMBERS), maybe(FLAGS))),
    kernel_memory=maybe(several(st.builds(NamedRange, WORDS, NUMBERS, NUMBERS))),
    pages=maybe(
        st.builds(
            Pages,
            several(st.builds(PageRun, NUMBERS, NUMBERS, WORDS)),
            several(RANGES),
            maybe(WORDS),
            several(NUMBERS),
        )
    ),
    kexec_segments=maybe(several(st.builds(KexecSegment, WORDS, NUMBERS, NUMBERS))),
    reclaiming=maybe(several(TASKS)),
    panic=maybe(WORDS),
    missing=st.dictionaries(WORDS, WORDS, max_size=2),
    torn=several(WORDS),
)


def assert_sound(report: Report) -> None:
    assert report.status in ("ok", "warning", "critical", "unknown")
    assert len(report.findings) >= 32
    for finding in report.findings:
        assert finding.status in ("pass", "info", "warning", "critical", "skip")
        assert finding.message
        assert all(start < end for start, end in finding.ranges)
        assert list(finding.ranges) == sorted(finding.ranges)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(SNAPSHOTS, SNAPSHOTS)
def test_no_rule_raises_on_anything(snapshot: Snapshot, other: Snapshot) -> None:
    report = run_checks(snapshot)
    assert_sound(report)
    assert_sound(confirm(run_checks(other), report))


def sane_tables(draw_bits: bytes, unit_size: int, base: int) -> Table:
    return Table(
        "present",
        None,
        0x7FB73018,
        1,
        unit_size,
        base * unit_size,
        len(draw_bits),
        draw_bits,
        "physical",
    )


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    SNAPSHOTS,
    st.builds(
        sane_tables, st.binary(min_size=1, max_size=8), st.sampled_from([4096, 1 << 21, 1 << 27]), st.integers(0, 4096)
    ),
)
def test_no_rule_raises_with_a_sane_table_among_anything(snapshot: Snapshot, table: Table) -> None:
    assert_sound(run_checks(dataclasses.replace(snapshot, table=table)))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([1, 1, 1, 2, 0]), NUMBERS, NUMBERS, NUMBERS, NUMBERS)
def test_a_header_that_the_reader_refuses_is_a_finding(
    version: int, unit_size: int, phys_base: int, bitmap_bytes: int, address: int
) -> None:
    """No header can be refused with all rules content, and none that is taken is blamed by the rules of the header."""
    numbers = (unit_size, phys_base, bitmap_bytes, address)
    if min(numbers) < 0 or max(numbers) >= 1 << 64:
        return
    state, reason = judge_header(Header(version, unit_size, phys_base, bitmap_bytes), address)
    table = Table(state, reason, address, version, unit_size, phys_base, bitmap_bytes)
    target = Target("vmcore", None, None, None, "none", "")
    rules = ["header-version", "unit-size-valid", "bitmap-geometry"]
    report = run_checks(Snapshot(target, table), only=rules)
    failed = {finding.rule for finding in report.findings if finding.status == "critical"}
    if state == "present":
        assert failed == set()
    elif state != "not-captured":
        assert failed
