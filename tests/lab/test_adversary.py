# SPDX-License-Identifier: LGPL-2.1-or-later
"""Dumps of real guests in which a part is wrong, missing or not finished: unknown memory is not called accepted."""

from __future__ import annotations

import contextlib
from typing import Any
from unittest import mock

import drgn
import pytest

from drgn_unaccepted import helpers
from drgn_unaccepted.answer.best_source import judge
from drgn_unaccepted.answer.head import head
from drgn_unaccepted.checks import run_checks
from drgn_unaccepted.commands.resolve import resolve
from drgn_unaccepted.kernel.capture import capture
from drgn_unaccepted.kernel.table import read_table
from drgn_unaccepted.model.addresses import Query
from drgn_unaccepted.model.header import HEADER
from drgn_unaccepted.snapshot import ALL_MEMORY, ALL_PARTS, PAGE_SIZE, STATE, Snapshot, Wanted
from drgn_unaccepted.targets.errors import Unavailable
from drgn_unaccepted.targets.symbol_files import read_symbol_file
from drgn_unaccepted.targets.vmcore import open_vmcore
from tests.lab.asking import NEEDS_CAPTURES, ids
from tests.lab.captures import MIB, UNIT, Capture, find
from tests.lab.test_planted import Target, open_target

pytestmark = NEEDS_CAPTURES

EVERYTHING = Wanted(ALL_PARTS, ALL_MEMORY)


def total(snapshot: Snapshot, source: str = "auto") -> dict[str, Any]:
    return head(snapshot, judge(snapshot, source), "summary")


def zero_bitmap(target: Target) -> None:
    address, _, _, bitmap = target.capture.table()
    target.write(address + HEADER.size, bytes(len(bitmap)), physical=True)


@pytest.mark.parametrize("capture_", find("fill"), ids=ids)
def test_helpers_do_not_call_zeros_accepted(capture_: Capture) -> None:
    target = open_target(capture_)
    pfn = target.unaccepted() >> 12
    assert helpers.pfn_is_unaccepted_memory(target.prog, pfn)
    target = open_target(capture_)
    zero_bitmap(target)
    assert helpers.efi_unaccepted_table(target.prog).is_doubted
    assert helpers.pfn_is_unaccepted_memory(target.prog, pfn)
    found = helpers.for_each_unaccepted_range(target.prog)
    assert {n for start, end in found for n in range(start // UNIT, end // UNIT)} == capture_.unaccepted_units()


@pytest.mark.parametrize("capture_", find("big"), ids=ids)
@pytest.mark.parametrize("lists", [True, False], ids=["lists", "no lists"])
def test_one_page_of_the_bitmap_that_reads_as_zeros(capture_: Capture, lists: bool) -> None:
    """A bitmap of several pages, of which makedumpfile left out the second, which is not the header's."""
    target = open_target(capture_)
    table, base, unit, bitmap = capture_.table()
    page = table // PAGE_SIZE * PAGE_SIZE + PAGE_SIZE
    target.write(page, bytes(PAGE_SIZE), physical=True)
    # The first unit whose bit is in it, and which is not accepted.
    gone = range(8 * (page - table - 24), 8 * len(bitmap))
    lost = next(bit for bit in gone if bitmap[bit >> 3] >> (bit & 7) & 1)
    if not lists:
        nodes = target.prog["node_data"]
        target.write(nodes.address_, bytes(drgn.sizeof(nodes)))
    assert helpers.efi_unaccepted_table(target.prog).is_doubted
    with contextlib.nullcontext() if lists else pytest.raises(Unavailable):
        assert helpers.pfn_is_unaccepted_memory(target.prog, (base + lost * unit) >> 12)
    for parts in (STATE, ALL_PARTS):
        snapshot = capture(target.opened, Wanted(parts, ALL_MEMORY))
        answer = total(snapshot)
        assert answer["source"] == "reconstructed" if lists else not answer["exact"]
        entry = resolve(snapshot, judge(snapshot), [Query(base + lost * unit, None)])["addresses"][0]
        assert (entry["state"], entry["kernel_predicate"]) == ("unaccepted" if lists else "unknown", None)
    report = {finding.rule: finding for finding in run_checks(snapshot).findings}
    assert report["table-captured"].status == "warning"
    assert not [f for f in report.values() if f.status == "pass" and any(n.startswith("bitmap") for n in f.needs)]


@pytest.mark.parametrize("capture_", find("fill"), ids=ids)
def test_a_bitmap_that_ends_early_is_doubted(capture_: Capture) -> None:
    """size says 2 bytes: what lies beyond is outside the bitmap, which the kernel takes as accepted, and listed."""
    target = open_target(capture_)
    target.header(size=2)
    answer = total(capture(target.opened, EVERYTHING))
    assert (answer["source"], answer["unaccepted_bytes"]) == ("page-lists", capture_.nr_unaccepted())
    assert "is outside the bitmap" in answer["source_reason"]


@pytest.mark.parametrize("capture_", find("early"), ids=ids)
def test_early_lists_are_not_all(capture_: Capture) -> None:
    """Nothing is listed and counted yet, while the bitmap has hundreds of megabytes."""
    snapshot = capture(open_vmcore(str(capture_.dump), [read_symbol_file(capture_.vmlinux, "auto")]), EVERYTHING)
    bitmap = total(snapshot, "bitmap")
    assert bitmap["exact"] and bitmap["unaccepted_bytes"] > 256 * MIB
    for source in ("page-lists", "counters"):
        answer = total(snapshot, source)
        assert (answer["unaccepted_bytes"], answer["exact"]) == (None, False), source
        assert "system_state is booting" in answer["source_reason"]


@pytest.mark.parametrize("capture_", find("fill"), ids=ids)
def test_another_reader_has_its_turn_where_the_bitmap_ends_the_first(capture_: Capture) -> None:
    """A header that is readable physically and a bitmap that is not: BPF may still have both."""
    address, base, unit, bitmap = capture_.table()
    header = HEADER.pack(1, unit, base, len(bitmap))

    def short(at: int, size: int) -> bytes:
        if at + size > address + HEADER.size:
            raise Unavailable("page not in this target")
        return header

    def whole(at: int, size: int) -> bytes:
        return (header + bitmap)[at - address : at - address + size]

    prog = open_target(capture_).prog
    table = read_table(prog, [("physical", short), ("bpf", whole)])
    assert (table.state, table.read_through, table.bitmap) == ("present", "bpf", bitmap)
    table = read_table(prog, [("physical", short), ("bpf", short)])
    assert (table.state, table.unit_size, table.bitmap) == ("not-captured", unit, None)
    assert table.reason is not None and "header read, bitmap not" in table.reason


@pytest.mark.parametrize("capture_", find("fill"), ids=ids)
def test_a_zero_means_no_feature_only_if_struct_zone_says_so(capture_: Capture) -> None:
    """efi.unaccepted is 0 in a kernel without the feature, and in a page of zeros of one that has it."""
    target = open_target(capture_)
    target.patch(target.prog["efi"].unaccepted, 0)
    assert capture(target.opened, EVERYTHING).table.state == "not-captured"

    prog = mock.MagicMock()
    prog.__getitem__.side_effect = target.prog.__getitem__
    prog.type.side_effect = LookupError("could not find 'struct zone'")
    table = read_table(prog, [])
    assert table.state == "not-captured"
    assert table.reason is not None and "struct zone" in table.reason
