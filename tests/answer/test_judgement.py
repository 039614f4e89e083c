# SPDX-License-Identifier: LGPL-2.1-or-later
"""The judgement on captures of real guests, with evidence planted, damaged or gone, against their own account."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import drgn
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drgn_unaccepted.answer.best_source import judge
from drgn_unaccepted.answer.judgement import Judgement
from drgn_unaccepted.commands.resolve import resolve
from drgn_unaccepted.kernel.capture import samples
from drgn_unaccepted.model.addresses import Query
from drgn_unaccepted.model.efi import EfiDescriptor
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.run import look
from drgn_unaccepted.snapshot import ALL_MEMORY, ALL_PARTS, PAGE_SIZE, STATE, Counters, KexecSegment, Snapshot, Wanted
from drgn_unaccepted.targets.opened import Opened
from drgn_unaccepted.targets.vmcore import open_vmcore
from tests.checks import changes as c
from tests.checks.build import Change, both, clean, live
from tests.fuzz import case
from tests.fuzz.case import Case
from tests.fuzz.run import command, document, hold_document
from tests.targets.elf_dump import SAMPLES

UNIT, CHUNK = 2 << 20, 4 << 20
RAM, KDUMPS = ("6.12-fill", "7.3-fill"), ("6.12-fill-kdump", "7.3-fill-kdump")
FILLED = (*RAM, *KDUMPS)


def truth(sample: str) -> set[int]:
    return {*case.truth(sample)["unaccepted_units"]}


def opened(sample: str) -> Opened:
    return open_vmcore(str(SAMPLES / sample / "vmcore"))


def put(target: Opened, address: int, data: bytes) -> None:
    """Have this in its virtual memory."""
    target.prog.add_memory_segment(address, len(data), lambda _, count, at, __: data[at : at + count], False)


@cache
def snapshot_of(sample: str) -> Snapshot:
    """All evidence, the pages too."""
    return next(samples(opened(sample), Wanted(ALL_PARTS, ALL_MEMORY, bitmap=False)))


def units(judgement: Judgement) -> dict[str, set[int]]:
    """Units by state."""
    found: dict[str, set[int]] = {}
    for piece in judgement.pieces(0, 6 << 30):
        found.setdefault(piece.state, set()).update(range(piece.start // UNIT, -(-piece.end // UNIT)))
    return found


def never_wrong(judgement: Judgement, sample: str) -> None:
    """No unit that the guest calls unaccepted is accepted, by kernel_predicate of resolve either; the bounds hold."""
    least, most = judgement.bounds
    assert (least or 0) <= len(truth(sample)) * UNIT <= (1 << 52 if most is None else most)
    assert not units(judgement).get("accepted", set()) & truth(sample), judgement.reason
    asked = [Query(unit * UNIT + page, None) for unit in sorted(truth(sample)) for page in (0, UNIT - PAGE_SIZE)]
    said = json.loads(json.dumps(resolve(judgement.snapshot, judgement, asked)))["addresses"]
    assert len(said) == len(asked)
    assert [hex(e["address"]) for e in said if e["kernel_predicate"] is False or e["state"] == "no-ram"] == []


@pytest.mark.parametrize("sample", KDUMPS)
def test_a_kdump_is_exact(sample: str) -> None:
    """The EFI map is in the log; lists, pages and per-CPU lists tell the rest, unit for unit."""
    answer = document("-c", SAMPLES / sample / "vmcore", "ranges")
    hold_document(Case(sample, "nothing"), "ranges", answer)
    assert (answer["source"], answer["exact"]) == ("reconstructed", True)
    assert answer["ranges"][0]["start"] == answer["table"]["phys_base"] or answer["ranges"][0]["start"] == 4 << 30
    for before, after in zip(answer["ranges"], answer["ranges"][1:]):
        assert before["end"] == after["start"] and before["reason"]
    assert answer["initially_unaccepted_bytes"] > answer["unaccepted_bytes"] == answer["unaccepted_bytes_max"]


def test_a_summary_that_is_not_exact_has_both_bounds() -> None:
    """No struct page of accepted memory is in this sample, so that the listed chunks alone are decided."""
    asked = ["-c", SAMPLES / "6.12-numa" / "vmcore", "summary", "--source", "reconstructed"]
    answer, (_, text, _) = document(*asked), command(*asked)
    hold_document(Case("6.12-numa", "nothing"), "summary", answer)
    least, most = answer["unaccepted_bytes_min"], answer["unaccepted_bytes_max"]
    assert not answer["exact"] and least < most and f"{least >> 20} MiB to {most >> 20} MiB of" in text


@pytest.mark.parametrize("sample", KDUMPS)
def test_without_the_map_there_are_bounds(sample: str) -> None:
    judgement = judge(c.without("efi_map")(snapshot_of(sample)))
    assert (judgement.name, judgement.exact, None in judgement.bounds) == ("page-lists", False, False)
    assert "no EFI memory map" in str(judgement.reason)
    counted = judgement.evidence.nr_unaccepted_bytes
    assert judge(c.without("counters")(snapshot_of(sample))).evidence.nr_unaccepted_bytes == counted, "by the zones"
    never_wrong(judgement, sample)


@pytest.mark.parametrize("kernel", ("6.12", "7.3"))
def test_a_table_saved_earlier_in_the_boot_takes_the_place_of_the_map(kernel: str) -> None:
    """All bits set, as right after boot: lists and pages say which still are."""
    table, sample = snapshot_of(f"{kernel}-fill").table, f"{kernel}-fill-kdump"
    ones = b"\xff" * len(table.bitmap)
    for same_boot in (True, False):
        saved = replace(table, bitmap=ones, read_through="file", reason="saved", same_boot=same_boot)
        judgement = judge(both(c.without("efi_map"), c.put(table=saved))(snapshot_of(sample)))
        never_wrong(judgement, sample)
        assert judgement.name == ("reconstructed" if same_boot else "bitmap") and (same_boot or not judgement.exact)
        if same_boot:
            assert units(judgement)["unaccepted"] <= truth(sample) | units(judgement).get("unknown", set())


@pytest.mark.parametrize("sample", KDUMPS)
def test_memory_that_the_firmware_had_accepted(sample: str) -> None:
    judgement, names = judge(snapshot_of(sample)), {1: "Loader Code", 7: "Conventional", 9: "ACPI Reclaim"}
    pieces = [
        (names[d.type], judgement.at(d.start)) for d in snapshot_of(sample).efi_map.descriptors if d.type in names
    ]
    assert {name for name, _ in pieces} == {*names.values()}
    for name, piece in pieces:
        assert (piece.state, piece.reason) == ("accepted", f"never unaccepted: EFI {name}")


def pfns_of(snapshot: Snapshot) -> list[int]:
    return [*c.the_zone(snapshot).listed.pfns]


def with_chunk(snapshot: Snapshot, address: int) -> Snapshot:
    """A chunk more on the list of Normal, counted too."""
    return c.listing(*pfns_of(snapshot), address // PAGE_SIZE)(snapshot)


@pytest.mark.parametrize("sample", KDUMPS)
def test_a_chunk_that_is_listed_for_its_guard_alone(sample: str) -> None:
    snapshot = snapshot_of(sample)
    end = max(d.end for d in snapshot.efi_map.descriptors if d.type == 15)
    more = (EfiDescriptor(7, end, end + CHUNK, 0), EfiDescriptor(15, end + CHUNK, end + 16 * CHUNK, 0))
    judgement = judge(with_chunk(c.descriptors(*more)(snapshot), end))
    assert {judgement.at(end).state, judgement.at(end + UNIT).state} == {"accepted"}
    assert judgement.at(end).reason == "never unaccepted: EFI Conventional"


@pytest.mark.parametrize("sample", FILLED)
def test_a_hole_is_no_memory_nor_is_an_address_with_a_c_bit(sample: str) -> None:
    holes = [judge(snapshot_of(sample)).at(address) for address in (0xA0000, 0x40000000, 1 << 45)]
    assert {(piece.state, piece.reason) for piece in holes} == {("no-ram", "no RAM here")}
    address, bits = min(truth(sample)) * UNIT + 8 * UNIT, (51, 47, 46)
    asked = (hex(address | 1 << bit) for bit in bits)
    for bit, entry in zip(bits, document("-c", SAMPLES / sample / "vmcore", "resolve", *asked)["addresses"]):
        assert (entry["state"], f"without bit {bit}" in entry["hint"]) == ("no-ram", True)
        assert hex(address) in entry["hint"] and "unaccepted" in entry["hint"]


def with_bits(change: Callable[[bytes], bytes]) -> Change:
    return lambda snapshot: c.table(bitmap=change(snapshot.table.bitmap))(snapshot)


DAMAGE: dict[str, Change] = {
    "every second unit lost": with_bits(lambda b: bytes(byte & 0x55 for byte in b)),
    "every second chunk lost": with_bits(lambda b: bytes(byte & 0x33 for byte in b)),
    "24 bits lost": with_bits(lambda b: b[:45] + bytes(3) + b[48:]),
    "all zeros": with_bits(lambda b: bytes(len(b))),
    "random": with_bits(lambda b: random.Random(1).randbytes(len(b))),
    "shifted": with_bits(lambda b: b[8:] + b[:8]),
    "all ones": with_bits(lambda b: b"\xff" * len(b)),
    "units of 1 GiB": c.table(unit_size=1 << 30),
    "a byte of ones": with_bits(lambda b: b[:32] + b"\xff" + b[33:]),
    "not on 8 bytes": lambda s: c.table(address=s.table.address + 4)(s),
    "type 15 below it": c.descriptors(EfiDescriptor(15, 3 << 30, (3 << 30) + (64 << 20), 0)),
    "no table": c.absent_table,
    "a unit too low": lambda s: c.table(phys_base=s.table.phys_base - UNIT)(s),
    "64 MiB too low": lambda s: c.table(phys_base=s.table.phys_base - (64 << 20))(s),
    "64 MiB too high": lambda s: c.table(phys_base=s.table.phys_base + (64 << 20))(s),
}


@pytest.mark.parametrize("sample", RAM)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_table_is_doubted(sample: str, damage: str) -> None:
    """By whatever question: no answer is exact by the bits, and none calls unaccepted memory accepted."""
    snapshot = DAMAGE[damage](snapshot_of(sample))
    for source in ("auto", "bitmap", "reconstructed", "page-lists"):
        judgement = judge(snapshot, source)
        assert judgement.doubt is not None and not judgement.by_bits
        never_wrong(judgement, sample)
    assert not judge(snapshot, "bitmap").exact


def test_a_listed_unit_lacks_its_bit_only_as_the_guard_of_the_unit_before() -> None:
    """Here the last unit of type 15 lost its bit to the one before."""
    shorter = c.descriptors(EfiDescriptor(15, 0x101800000, 0x103A00000, 0xF), first=4)
    last = both(shorter, c.without("pages"), c.listing(0x103800), c.bits(0, 32, 0))
    for ends, doubted in ((28, 29), False), ((27, 28), True), ((0, 0), False):
        assert ("at 0x103800000" in str(judge(clean(last, c.bits(*ends, 1))).doubt)) is doubted, ends
        assert judge(live(clean(last, c.bits(*ends, 1)))).doubt is None, ends  # its lists change while they are read


LOST, MORE = ("every second unit lost", "24 bits lost"), ("all ones", "a byte of ones")
GONE = (("zones", LOST), ("zones counters", LOST), ("zones counters efi_map", ["no table"]))


@pytest.mark.parametrize("sample", RAM)
@pytest.mark.parametrize(("gone", "damages"), [*GONE, ("e820 efi_map kernel_memory pages", MORE)])
def test_a_damaged_table_beside_parts_that_cannot_be_read(sample: str, gone: str, damages: tuple[str, ...]) -> None:
    """The counter alone does not tell units of a chunk apart; of zones it is known how much of them is memory.
    A crash kernel's image, which lies elsewhere, explains no chunk that lacks its bits.
    """
    lost = [c.without(part, "could not find physical memory segment: 0x443e63fffb520") for part in gone.split()]
    loaded = c.put(kexec_segments=(KexecSegment("kexec_crash_image", 256 << 20, 448 << 20),))
    for damage in damages:
        judgement = judge(both(loaded, DAMAGE[damage], *lost)(snapshot_of(sample)))
        assert (judgement.doubt is not None or damage == "no table") and not judgement.exact
        never_wrong(judgement, sample)


@pytest.mark.parametrize("sample", RAM)
def test_reserved_memory_has_bits_and_is_on_no_list(sample: str) -> None:
    """memblock_reserve() without an accept: the page allocator never got those chunks, and nobody touched them.

    A chunk that a CPU took off its list to accept it is free. What cannot be looked at proves no bit.
    """
    snapshot = snapshot_of(sample)
    pfns = pfns_of(snapshot)
    end = max(pfns) * PAGE_SIZE + CHUNK
    for state, number, doubted in (("reserved", 12, 0), ("free", 12, 1), ("free", 1, 0), ("uninitialised", 1, 1)):
        taken = c.pages(end - number * CHUNK, end, state)
        judgement = judge(both(taken, c.listing(*pfns[:-number]))(snapshot))
        assert judgement.exact is not bool(doubted), (state, number)
        never_wrong(judgement, sample)


@pytest.mark.parametrize("sample", RAM)
def test_set_bits_that_are_too_many_to_look_at_are_not_accepted(sample: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even if a page of them is in use."""
    monkeypatch.setattr("drgn_unaccepted.limits.CHECKED_RANGES", 3)
    geometry = snapshot_of(sample).table.geometry
    used = c.pages(geometry.phys_base, geometry.unit(56).start, "in-use")
    snapshot = both(with_bits(lambda b: b"\x01" * 7 + bytes(len(b) - 7)), used)(snapshot_of(sample))
    for source in ("auto", "bitmap", "reconstructed"):
        judgement = judge(snapshot, source)
        assert judgement.doubt is not None, "far more is counted"
        assert {judgement.at(geometry.unit(n).start).state for n in range(0, 56, 8)} == {"unaccepted"}


@pytest.mark.parametrize("sample", KDUMPS)
def test_a_page_of_a_fixed_cma_area_proves_nothing(sample: str) -> None:
    """It is given to the buddy allocator without an accept; without the command line any page may be one."""
    snapshot = snapshot_of(sample)
    pieces = judge(snapshot).pieces(4 << 30, 5 << 30)
    start = next(piece.start for piece in pieces if piece.reason == "its pages are in use or in a free list")
    for fixed in ((Range(start, start + UNIT),), None):
        judgement = judge(c.part("kernel", fixed_cma=fixed)(snapshot))
        assert judgement.at(start).state == "unknown" and not judgement.exact
    assert fixed is None and judgement.at(start + UNIT).state == "unknown"


@pytest.mark.parametrize("sample", RAM)
def test_ram_that_a_damaged_e820_table_lost_was_not_trimmed(sample: str) -> None:
    """Found by the oracle: one bit of an address, beside struct pages that are lost."""
    snapshot = snapshot_of(sample)
    *low, high = snapshot.e820.current
    assert high.start == 4 << 30
    blind = both(*map(c.without, ("efi_map", "zones", "counters", "pages", "kernel_memory")))
    for current in (low[:1], [entry for entry in low if entry.type > 2]):
        bare = c.part("e820", current=current, firmware=None, kexec=None, boot_params=None)
        judgement = judge(both(blind, bare)(snapshot))
        assert judgement.name == "none" and units(judgement)["unaccepted"] == truth(sample)
        assert "no-ram" not in units(judgement), "no e820 table at hand shows what the firmware gave"
        never_wrong(judgement, sample)
    for flipped in (1 << 63, 1 << 40):
        wrong = high._replace(start=high.start | flipped, end=high.end | flipped)
        damaged = both(c.part("e820", current=(*low, wrong)), c.without("pages"))
        judgement = judge(damaged(snapshot), "reconstructed")
        never_wrong(judgement, sample)
        assert units(judgement)["unaccepted"] <= truth(sample)


@pytest.mark.parametrize("sample", KDUMPS)
def test_an_accept_in_flight_is_not_done(sample: str) -> None:
    """Neither is that of its guard, whatever was known of both."""
    snapshot = snapshot_of(sample)
    base = snapshot.unit_base()[0][0] // UNIT
    known = units(judge(snapshot))["accepted"]
    unit = next(n for n in sorted(known) if n >= base and n + 1 in known)
    judgement = judge(c.accepting((unit - base, unit - base + 1))(snapshot))
    for number in (unit, unit + 1):
        piece = judgement.at(number * UNIT)
        assert piece.state == "unknown" and "in flight" in piece.reason
    assert not judgement.exact


@pytest.mark.parametrize("sample", RAM)
def test_another_page_of_acpi_memory_is_not_the_table(sample: str) -> None:
    target = opened(sample)
    table = target.prog["efi"].unaccepted
    put(target, table.address_, (table.value_() - 0x3000).to_bytes(8, "little"))
    judgement, _ = look(lambda wanted: samples(target, wanted), Wanted(STATE, ALL_MEMORY))
    assert judgement.name != "bitmap"
    never_wrong(judgement, sample)


@pytest.mark.parametrize("sample", KDUMPS)
@pytest.mark.parametrize("what", ("empty", "empty, and nothing counted", "cut in two"))
def test_damaged_lists_prove_nothing(sample: str, what: str) -> None:
    """Chunks that are missing on the lists are not accepted, whatever the pages beside them say."""
    pfns = pfns_of(snapshot_of(sample))
    kept = pfns[: 50 if what == "cut in two" else 0]
    counted = 0 if "nothing" in what else (len(pfns) - len(kept)) * CHUNK // PAGE_SIZE
    snapshot = both(c.counted(counted), c.listing(*kept))(snapshot_of(sample))
    for source in ("auto", "reconstructed", "page-lists"):
        judgement = judge(snapshot, source)
        assert not judgement.exact
        never_wrong(judgement, sample)


@pytest.mark.parametrize("sample", KDUMPS)
@pytest.mark.parametrize("fill", ("random", "zeros", "ones", "another page"))
def test_damaged_struct_pages_prove_nothing(sample: str, fill: str) -> None:
    target = opened(sample)
    base, size = target.prog["vmemmap_base"].value_(), drgn.sizeof(target.prog.type("struct page"))
    noise = random.Random(2)
    for unit in (2048 + 64, *sorted(n for n in truth(sample) if n % 2 == 0)[::3]):
        start = (base + unit * UNIT // PAGE_SIZE * size) // PAGE_SIZE * PAGE_SIZE
        if unit == 2048 + 64:
            another = target.prog.read(start, PAGE_SIZE)
            continue
        data = {"zeros": bytes(PAGE_SIZE), "ones": b"\xff" * PAGE_SIZE, "another page": another}.get(fill)
        put(target, start, noise.randbytes(PAGE_SIZE) if data is None else data)
    never_wrong(look(lambda wanted: samples(target, wanted), Wanted(STATE, ALL_MEMORY))[0], sample)


@pytest.mark.parametrize("sample", FILLED)
def test_memory_above_all_that_the_firmware_reported(sample: str) -> None:
    """Hot-added: the kernel takes it as accepted, and nobody accepted it."""
    more = c.zone(spanned_pages=(64 << 30) // PAGE_SIZE - (4 << 30) // PAGE_SIZE)
    piece = judge(more(snapshot_of(sample))).at(32 << 30)
    assert piece.state == "unknown" and "hot-added" in piece.reason


@pytest.mark.parametrize("sample", RAM)
def test_type_15_without_a_table_is_lost_and_not_accepted(sample: str) -> None:
    """A kernel without the feature: no list, no counter, and e820 without that memory."""
    nothing = both(c.zones(listed=None, unaccepted_pages=None), c.absent_table, c.put(counters=Counters(1, None, None)))
    judgement = judge(nothing(snapshot_of(sample)))
    assert judgement.at(min(truth(sample)) * UNIT).state == "unaccepted"
    conventional = next(d for d in judgement.snapshot.efi_map.descriptors if d.type == 7)
    assert judgement.at(conventional.start).state == "accepted"


PARTS = ("efi_map", "e820", "zones", "counters", "accepting", "kernel_memory", "pages", "kernel")
accepted_of = cache(lambda sample: units(judge(snapshot_of(sample))).get("accepted", set()))


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(FILLED),
    st.sets(st.sampled_from(PARTS)),
    st.sampled_from(("auto", "bitmap", "reconstructed", "page-lists")),
)
def test_evidence_taken_away_never_makes_memory_accepted(sample: str, gone: set[str], source: str) -> None:
    """And what stays unaccepted with less evidence is not accepted with more."""
    whole = snapshot_of(sample)
    judgement = judge(both(*map(c.without, gone | ({"zones"} if "kernel" in gone else set())))(whole), source)
    never_wrong(judgement, sample)
    # Bare lists say unaccepted of guards, too; whatever decides those is a proof.
    if judgement.name != "page-lists":
        assert not units(judgement).get("unaccepted", set()) & accepted_of(sample)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(FILLED), st.data())
def test_a_planted_fact_that_says_unaccepted_is_never_answered_with_accepted(sample: str, data: Any) -> None:
    """A bit of the table, or a listed chunk of type 15: whatever else says accepted."""
    snapshot = snapshot_of(sample)
    chunk = data.draw(st.integers(0, 223)) * CHUNK + (4 << 30)
    if snapshot.table.bitmap is not None and data.draw(st.booleans()):
        index = (chunk - (snapshot.table.phys_base or 0)) // UNIT
        snapshot = c.bits(index, index + 1, 1)(snapshot)
        planted = Range(chunk, chunk + UNIT)
    else:
        snapshot = with_chunk(snapshot, chunk)
        planted = Range(chunk + UNIT, chunk + CHUNK)
    for source in ("auto", "bitmap", "reconstructed"):
        judgement = judge(snapshot, source)
        init = judgement.evidence.initial
        if isinstance(init, str) or not any(s <= planted.start and planted.end <= e for s, e in init.unaccepted):
            continue
        if judgement.name in ("bitmap", "reconstructed") and not (judgement.by_bits and planted.start != chunk):
            assert all(piece.state != "accepted" for piece in judgement.pieces(*planted)), judgement.reason
