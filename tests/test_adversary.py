# SPDX-License-Identifier: LGPL-2.1-or-later
"""Situations in which a wrong answer would be the easy one: "accepted", or an unaccepted 0, of what is not known.

Each begins with a real capture, of which one thing is taken away or contradicted.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Optional

import pytest

from drgn_unaccepted import snapshot_file
from drgn_unaccepted.kernel.capture import capture
from drgn_unaccepted.kernel.target import open_vmcore
from drgn_unaccepted.snapshot import (
    ALL_MEMORY,
    ALL_PARTS,
    AcceptingList,
    ListedChunks,
    PageRun,
    Snapshot,
    Table,
    Wanted,
)
from tests.asking import Capsys, run
from tests.checks import changes as c

SAMPLES = Path(__file__).parent.parent / "vmcore-samples"
MIB = 1 << 20
CHUNK = 4 * MIB
PAGE = 4096

NO_CHUNKS = ListedChunks(array("Q"), array("Q"), array("i"), array("I"))

Ask = Callable[..., tuple[int, Any, str]]


@cache
def sample(name: str) -> Snapshot:
    return capture(open_vmcore(str(SAMPLES / name / "vmcore")), Wanted(ALL_PARTS, ALL_MEMORY))


@pytest.fixture
def ask(tmp_path: Path, capsys: Capsys) -> Ask:
    """Runs the program on a snapshot: exit status, the JSON document or the text, and what went to stderr."""

    def asked(snapshot: Snapshot, *argv: str, text: Optional[str] = None) -> tuple[int, Any, str]:
        file = tmp_path / "snapshot.json"
        snapshot_file.write(snapshot, str(file))
        status, out, err = run(capsys, "--snapshot", file, *argv, "--format", text or "json")
        return status, out if text else json.loads(out) if out else None, err

    return asked


#: Lists and counters are left: the bits at boot are not known.
without_map = c.without("efi_map", "not in this dump")


def truth(name: str) -> Any:
    return json.loads((SAMPLES / name / "truth.json").read_text())


def without_lists(snapshot: Snapshot) -> Snapshot:
    """The heads of all lists lead to themselves."""
    return replace(snapshot, zones=tuple(replace(zone, listed=NO_CHUNKS) for zone in snapshot.zones))


def counted(snapshot: Snapshot, pages: int) -> Snapshot:
    """With another NR_UNACCEPTED, in all zones and altogether."""
    zones = tuple(replace(zone, unaccepted_pages=pages if zone.name == "Normal" else 0) for zone in snapshot.zones)
    return replace(snapshot, zones=zones, counters=replace(snapshot.counters, unaccepted_pages=pages))


def listed_chunk(snapshot: Snapshot) -> int:
    """A chunk amid listed ones."""
    chunks = {pfn * PAGE for zone in snapshot.zones if zone.listed for pfn in zone.listed.pfns}
    return next(chunk for chunk in sorted(chunks) if {chunk - CHUNK, chunk + CHUNK} <= chunks)


def bytes_listed(snapshot: Snapshot) -> int:
    return sum(len(zone.listed.pfns) for zone in snapshot.zones if zone.listed) * CHUNK


def test_no_zones_are_no_empty_lists(ask: Ask) -> None:
    """node_data read as zeros: there is no node, no zone, no list, and nothing that says that nothing is listed."""
    snapshot = replace(without_map(sample("6.12-fill-kdump")), zones=())
    status, answer, _ = ask(snapshot, "summary")
    assert (status, answer["source"]) == (0, "counters")
    assert answer["unaccepted_bytes"] == answer["nr_unaccepted_bytes"] > 0
    assert "no zone is populated" in answer["source_reason"]
    status, answer, err = ask(snapshot, "--source", "page-lists", "summary")
    assert (status, answer["source"], answer["unaccepted_bytes"]) == (3, "none", None)
    assert "no zone is populated" in err
    status, answer, err = ask(snapshot, "zones")
    assert (status, answer["zones"]) == (3, None)
    assert "no zone is populated" in answer["missing"] and answer["missing"] in err
    status, text, err = ask(snapshot, "resolve", "5G", text="text")
    assert status == 3 and text.startswith("0x140000000   unknown          (5G)\n")
    assert "no addresses" in err and "no zone is populated" in err and "the table is not in this dump" in err
    _, text, _ = ask(snapshot, "summary", text="text")
    assert "a listed chunk" not in text and "NR_UNACCEPTED counts chunks" in text


@pytest.mark.parametrize("form", ("text", "json", "nagios", "prometheus", "junit"))
def test_a_check_that_knows_nothing_says_why_on_stderr(ask: Ask, form: str) -> None:
    snapshot = c.without("platform")(replace(sample("6.12-fill-kdump"), zones=()))
    for source in ("auto", "counters"):
        status, text, err = ask(snapshot, "--source", source, "check", text=form)
        assert status == 3 and text
        assert len(err.splitlines()) == 1 and "the table is not in this dump" in err


@pytest.mark.parametrize("system_state", ["booting", "scheduling"])
@pytest.mark.parametrize("source", ["page-lists", "counters"])
def test_lists_of_a_kernel_that_boots_are_not_all(ask: Ask, source: str, system_state: str) -> None:
    """Until page_alloc_init_late() memory with bits set is on no list yet: what is listed is no bound from above."""
    snapshot = counted(without_lists(c.part("kernel", system_state=system_state)(sample("6.12-fill-kdump"))), 0)
    _, answer, _ = ask(snapshot, "--source", source, "summary")
    assert (answer["source"], answer["exact"], answer["unaccepted_bytes"]) == (source, False, None)
    assert f"system_state is {system_state}" in answer["source_reason"]
    _, text, _ = ask(snapshot, "--source", source, "summary", text="text")
    assert text.splitlines()[0].split(maxsplit=1)[1].startswith("unknown")
    assert f"system_state is {system_state}" in text
    if source == "page-lists":
        assert "at least 0 unaccepted" in ask(snapshot, "--source", source, "map", text="text")[1]
    _, line, _ = ask(snapshot, "check", text="nagios")
    assert "unaccepted memory is not known" in line.splitlines()[0]
    assert "| unaccepted=U;" in line.splitlines()[0]


@pytest.mark.parametrize("system_state", ["booting", None])
def test_a_reference_proves_nothing_before_the_page_was_freed_once(ask: Ask, system_state: Optional[str]) -> None:
    """memmap_init() gives every page one reference, and memory is accepted when that is first dropped."""
    snapshot = sample("6.12-fill-kdump")
    chunk = listed_chunk(snapshot)
    first = chunk // PAGE
    runs = [run for run in snapshot.pages.runs if run.end_pfn <= first or run.start_pfn >= first + 1024]
    runs.append(PageRun(first, first + 1024, "in-use"))
    snapshot = without_lists(c.part("kernel", system_state=system_state)(snapshot))
    snapshot = c.part("pages", runs=tuple(runs))(snapshot)
    _, answer, _ = ask(counted(snapshot, 0), "--source", "page-lists", "resolve", hex(chunk))
    assert answer["addresses"][0]["state"] == "unknown"


@pytest.mark.parametrize("source", ["auto", "page-lists"])
def test_lists_that_lost_what_the_counters_count(ask: Ask, source: str) -> None:
    """Every list leads back to its head at once, and NR_UNACCEPTED counts 292 MiB."""
    snapshot = without_lists(without_map(sample("6.12-fill-kdump")))
    status, answer, err = ask(snapshot, "--source", source, "summary")
    assert "lists 0 chunks, and NR_UNACCEPTED counts 73" in answer["source_reason"]
    if source == "auto":
        assert (status, answer["source"]) == (0, "counters")
        assert answer["unaccepted_bytes"] == 292 * MIB
    else:
        assert (status, answer["source"], answer["unaccepted_bytes"]) == (3, "none", None)
        assert "NR_UNACCEPTED" in err


def test_a_count_that_cannot_be(ask: Ask) -> None:
    for pages in (-512, 1 << 60):
        snapshot = c.without("zones")(without_map(sample("6.12-fill-kdump")))
        snapshot = c.part("counters", unaccepted_pages=pages)(snapshot)
        status, answer, err = ask(snapshot, "summary")
        assert (status, answer["source"]) == (3, "none")
        assert answer["unaccepted_bytes"] is answer["nr_unaccepted_bytes"] is None
        assert f"NR_UNACCEPTED is {pages} pages" in err


def test_no_table_but_lists(ask: Ask) -> None:
    """efi.unaccepted was overwritten, or looked up in the wrong place: what is listed waits to be accepted."""
    snapshot = sample("6.12-fill-kdump")
    expected = bytes_listed(snapshot)
    snapshot = replace(snapshot, table=Table("absent", "efi.unaccepted is ~0: no table was found at boot"))
    status, answer, _ = ask(snapshot, "summary")
    assert (status, answer["source"], answer["unaccepted_bytes"]) == (0, "page-lists", expected)
    assert "nothing for the kernel to accept" not in ask(snapshot, "summary", text="text")[1]
    chunk = listed_chunk(snapshot)
    status, answer, _ = ask(snapshot, "resolve", hex(chunk))
    assert (status, answer["addresses"][0]["state"]) == (0, "unaccepted")


def test_the_unit_of_an_invalid_header_rounds_nothing(ask: Ask) -> None:
    """A unit_size of 2 GiB out of a damaged header would make 2 GiB accepted with every page in use."""
    snapshot = sample("6.12-fill-kdump")
    _, before, _ = ask(snapshot, "ranges")
    damaged = Table("invalid", "phys_base: no multiple", 0x7F000000, 1, 1 << 31, 0x1000, 3)
    _, after, _ = ask(replace(snapshot, table=damaged), "ranges")
    assert after["ranges"] == before["ranges"] != []
    assert after["possible_guards"] == before["possible_guards"]


def test_a_damaged_list_says_of_no_address_that_it_is_not_listed(ask: Ask) -> None:
    """The walk ended after two chunks: all others may be listed too, and their number is not known."""
    snapshot = sample("6.12-fill")
    chunk = listed_chunk(snapshot)
    zero = array("Q", [0]), array("i", [0]), array("I", [0])
    cut = ListedChunks(array("Q", [chunk // PAGE]), *zero, ("entry 1: NULL",))
    zones = tuple(replace(zone, listed=cut) if zone.name == "Normal" else zone for zone in snapshot.zones)
    snapshot = replace(snapshot, zones=zones)
    _, answer, _ = ask(snapshot, "resolve", hex(chunk), hex(chunk + CHUNK))
    assert [entry["listed"] for entry in answer["addresses"]] == [True, None]
    assert ask(snapshot, "summary")[1]["listed_chunks"] is None
    assert "1 chunk of" not in ask(snapshot, "summary", text="text")[1]


def test_a_damaged_accepting_list_says_of_no_address_that_it_is_not_in_flight(ask: Ask) -> None:
    snapshot = replace(sample("6.12-fill"), accepting=AcceptingList((), ("entry 0: 0xdead000 is not in this target",)))
    chunk = hex(listed_chunk(snapshot))
    assert ask(snapshot, "resolve", chunk)[1]["addresses"][0]["in_flight"] is None
    assert ask(snapshot, "summary")[1]["in_flight"] is None
    assert "empty" not in ask(snapshot, "accepting", text="text")[1]
    snapshot = sample("6.12-panic")
    assert snapshot.accepting is not None and snapshot.accepting.entries
    chunk = hex(listed_chunk(snapshot))
    assert ask(snapshot, "resolve", chunk)[1]["addresses"][0]["in_flight"] is False
    cut = replace(snapshot.accepting, problems=("entry 1: 0xdead000 is not in this target",))
    assert ask(replace(snapshot, accepting=cut), "resolve", chunk)[1]["addresses"][0]["in_flight"] is None


def test_without_the_table_an_accept_in_flight_still_has_its_place(ask: Ask) -> None:
    """Unit 0 is where the loader's type 15 memory begins."""
    snapshot = sample("6.12-panic")
    (entry,) = snapshot.accepting.entries
    ((base, _),) = truth("6.12-panic")["type15"]
    start, end = base + entry.start_unit * 2 * MIB, base + entry.end_unit * 2 * MIB
    bare = replace(snapshot, table=Table("not-captured", "not in this dump", snapshot.table.address))
    _, answer, err = ask(bare, "resolve", hex(start), hex(end - 1), hex(start - 1), hex(end))
    assert [found["in_flight"] for found in answer["addresses"]] == [True, True, False, False]
    status, answer, err = ask(bare, "resolve", hex(start))
    assert (status, answer["addresses"][0]["state"]) == (3, "unknown")
    assert "an accept of it is in flight" in err
    _, answer, _ = ask(without_map(bare), "resolve", hex(start), hex(end))
    assert [found["in_flight"] for found in answer["addresses"]] == [None, None]


def test_a_column_that_is_not_known_says_why_and_one_without_a_holder_says_so(ask: Ask) -> None:
    """The kdump of 7.3 lacks the slab page of e820_table. The firmware's table and the EFI map are taken away, but for
    what a runtime map has.
    """
    kdump, whole = sample("7.3-fill-kdump"), sample("7.3-fill")
    efi_map = replace(kdump.efi_map, complete=False, note="for services only", descriptors=())
    lost = {**kdump.missing, "e820.firmware": "not in this dump"}
    kdump = replace(kdump, efi_map=efi_map, e820=replace(kdump.e820, firmware=None), missing=lost)
    nobody = "0xfffffffffffff"
    _, answer, _ = ask(kdump, "resolve", hex(listed_chunk(kdump)), nobody)
    assert all(found["efi"] is None and found["e820"] is None for found in answer["addresses"])
    assert set(answer["missing"]) == {"unit", "kernel_predicate", "efi", "e820"}
    assert "incomplete: for services only" in answer["missing"]["efi"]
    assert answer["missing"]["e820"] == kdump.missing["e820.current"]
    _, text, _ = ask(kdump, "resolve", hex(listed_chunk(kdump)), nobody, text="text")
    assert [line.split()[1] for line in text.splitlines() if line.startswith(("EFI", "e820"))] == ["unknown:"] * 4
    _, answer, _ = ask(whole, "resolve", nobody)
    assert (answer["missing"], answer["addresses"][0]["efi"]) == ({}, None)
    _, text, _ = ask(whole, "resolve", nobody, text="text")
    assert "unknown" not in text and "EFI               in no descriptor" in text
    bare = {"zones": "node_data: not in this dump", "accepting": "no accepting_list"}
    _, answer, _ = ask(replace(whole, zones=None, accepting=None, missing=bare), "resolve", nobody)
    assert answer["missing"] == {"zone": bare["zones"], "listed": bare["zones"], "in_flight": bare["accepting"]}


def test_without_a_table_there_is_no_bitmap_to_be_outside_of(ask: Ask, tmp_path: Path) -> None:
    """And with one, what is above it is. Both are told by lines of addresses, too."""
    whole = sample("6.12-fill")
    without = tuple(replace(zone, listed=None, unaccepted_pages=None) for zone in whole.zones)
    counters = replace(whole.counters, unaccepted_pages=None, unaccepted_diff=None)
    absent = replace(whole, table=Table("absent", "none"), zones=without, counters=counters)
    (tmp_path / "addresses").write_text("5G\n")
    for snapshot, words in ((whole, "5G      no-ram  (outside the bitmap)"), (absent, "5G      no-ram  (no table)")):
        _, text, _ = ask(snapshot, "resolve", "-f", str(tmp_path / "addresses"), text="text")
        assert text.splitlines()[-1].endswith(words)


def test_nagios_has_no_zero_for_a_little(ask: Ask) -> None:
    """40 MiB are not 0.0 GiB."""
    snapshot = c.without("pages")(without_map(sample("6.12-fill-kdump")))
    whole = next(zone.listed for zone in snapshot.zones if zone.listed and zone.listed.pfns)
    lists = ListedChunks(whole.pfns[:10], whole.flags[:10], whole.refcounts[:10], whole.page_types[:10])
    zones = tuple(replace(z, listed=lists) if z.name == "Normal" else z for z in snapshot.zones)
    _, line, _ = ask(counted(replace(snapshot, zones=zones), 10 * 1024), "check", text="nagios")
    assert " 40 MiB unaccepted (source page-lists, not exact)" in line.splitlines()[0]
    assert "unaccepted=41943040B;" in line.splitlines()[0]


@pytest.mark.parametrize("efi", [True, False], ids=["EFI map", "no EFI map"])
@pytest.mark.parametrize("same_boot", [True, False], ids=["this boot", "some boot"])
def test_a_saved_bitmap_of_zeros_is_no_bound_where_chunks_are_listed(ask: Ask, same_boot: bool, efi: bool) -> None:
    """Saved in another boot, in which everything had been accepted, or a damaged file."""
    snapshot = sample("6.12-fill") if efi else without_map(sample("6.12-fill"))
    snapshot = replace(snapshot, table=saved_table(snapshot, bytes(len(snapshot.table.bitmap)), same_boot))
    chunk = listed_chunk(snapshot)
    status, answer, _ = ask(snapshot, "resolve", f"{chunk:#x}+4M")
    assert {entry["state"] for entry in answer["addresses"]} == {"unaccepted"}
    assert {entry["kernel_predicate"] for entry in answer["addresses"]} == {None}
    status, answer, _ = ask(snapshot, "summary")
    unaccepted = len(truth("6.12-fill")["unaccepted_units"]) * 2 * MIB
    assert (status, answer["unaccepted_bytes"]) == (0, unaccepted if efi else bytes_listed(snapshot))
    assert efi or not answer["exact"]
    assert " 0" not in ask(snapshot, "check", text="nagios")[1].partition("unaccepted (")[0]


def test_summary_of_a_bitmap_that_is_not_exact_says_why(ask: Ask) -> None:
    snapshot = sample("6.12-fill")
    table = replace(snapshot.table, bitmap=bytes(len(snapshot.table.bitmap)), reason="the bits are all 0: overwritten")
    assert table.reason in ask(replace(snapshot, table=table), "summary", text="text")[1]
    _, answer, _ = ask(replace(snapshot, table=table), "summary")
    assert table.reason in answer["source_reason"]
    assert not answer["exact"]


def test_a_doubted_bitmap_proves_nothing_accepted(ask: Ask) -> None:
    """Zeros under listed chunks, even where the bitmap is asked for by name: a 0 says nothing, a 1 does."""
    snapshot = sample("6.12-fill")
    table = snapshot.table
    bitmap = bytes(len(table.bitmap) - 1) + table.bitmap[-1:]
    snapshot = replace(snapshot, table=replace(table, bitmap=bitmap, reason="zeros where 73 chunks are listed"))
    chunk = listed_chunk(snapshot)
    for source in ("auto", "bitmap", "page-lists"):
        _, answer, _ = ask(snapshot, "--source", source, "resolve", hex(chunk), hex(table.phys_base))
        for entry in answer["addresses"]:
            assert entry["kernel_predicate"] is None, source
            assert entry["unit"]["bit"] is None
        assert answer["missing"] == {"kernel_predicate": "zeros where 73 chunks are listed"}
        _, text, _ = ask(snapshot, "--source", source, "resolve", hex(chunk), hex(table.phys_base), text="text")
        assert "its bit reads as 0, which is not believed" in " ".join(text.split()), source
        assert answer["addresses"][0]["state"] == ("unknown" if source == "bitmap" else "unaccepted")
    _, answer, _ = ask(snapshot, "--source", "bitmap", "ranges")
    assert {entry["state"] for entry in answer["ranges"]} <= {"unknown", "unaccepted"}
    _, answer, _ = ask(snapshot, "--source", "bitmap", "summary")
    assert (answer["source"], answer["exact"], answer["unaccepted_bytes"]) == ("bitmap", False, None)
    assert ask(snapshot, "--source", "bitmap", "map")[1]["totals"]["unknown_bytes"] > 0


def test_a_zone_that_reads_as_zeros_is_missing_in_the_lists(ask: Ask) -> None:
    """present_pages is 0, so that the zone with all unaccepted memory counts as never populated."""
    snapshot = sample("6.12-fill-kdump")
    snapshot = replace(snapshot, zones=tuple(zone for zone in snapshot.zones if zone.name != "Normal"))
    _, answer, _ = ask(snapshot, "summary")
    assert (answer["source"], answer["exact"], answer["unaccepted_bytes"]) == ("reconstructed", False, None)
    status, answer, _ = ask(without_map(snapshot), "summary")
    assert (status, answer["source"], answer["unaccepted_bytes"]) == (0, "counters", 292 * MIB)
    assert "all zones list 0 chunks, and vm_zone_stat[NR_UNACCEPTED] counts 73" in answer["source_reason"]


def test_check_of_a_kernel_that_boots_is_unknown_without_the_bitmap(ask: Ask) -> None:
    snapshot = counted(without_lists(c.part("kernel", system_state="booting")(sample("6.12-fill-kdump"))), 0)
    status, answer, _ = ask(c.without("platform")(snapshot), "check", "--rule", "zone-counter-matches-list")
    assert (status, answer["status"]) == (3, "unknown")


def test_unknown_beside_a_damaged_list_says_that_it_is_damaged(ask: Ask) -> None:
    """With a saved table, whose set bits the lists confirm as far as they go."""
    snapshot = sample("6.12-fill")
    cut = replace(NO_CHUNKS, problems=("entry 0: NULL",))
    snapshot = replace(
        snapshot,
        table=replace(snapshot.table, read_through="file", reason="saved in this boot, 1-2-3", same_boot=True),
        zones=tuple(replace(zone, listed=cut) for zone in snapshot.zones),
    )
    _, answer, _ = ask(snapshot, "resolve", hex(listed_chunk(sample("6.12-fill"))))
    (entry,) = answer["addresses"]
    assert (entry["state"], entry["listed"]) == ("unknown", None)
    assert "is damaged: entry 0: NULL" in entry["reason"]


@pytest.mark.parametrize("efi", [True, False], ids=["EFI map", "no EFI map"])
def test_a_few_bits_that_a_saved_table_lacks_are_not_proof_against_the_lists(ask: Ask, efi: bool) -> None:
    """A chunk amid listed ones has its bits, or its guard's."""
    snapshot = sample("6.12-fill") if efi else without_map(sample("6.12-fill"))
    table, chunk = snapshot.table, listed_chunk(snapshot)
    bitmap = bytearray(table.bitmap)
    for unit in (chunk, chunk + 2 * MIB, chunk + CHUNK):
        index = (unit - table.phys_base) // (2 * MIB)
        assert bitmap[index >> 3] >> (index & 7) & 1
        bitmap[index >> 3] &= ~(1 << (index & 7))
    snapshot = replace(snapshot, table=saved_table(snapshot, bytes(bitmap), True))
    _, answer, _ = ask(snapshot, "resolve", f"{chunk - 2 * MIB:#x}+8M")
    assert {entry["state"] for entry in answer["addresses"]} == {"unaccepted"}
    assert efi or "listed as unaccepted have no bit in it" in ask(snapshot, "ranges")[1]["source_reason"]


def saved_table(snapshot: Snapshot, bitmap: bytes, same_boot: bool) -> Table:
    said = "saved in this boot, 1-2-3"
    said = said if same_boot else "whether it was saved in this boot is not known: it does not say"
    return replace(snapshot.table, bitmap=bitmap, read_through="file", reason=said, same_boot=same_boot)


@pytest.mark.parametrize(
    ("same_boot", "efi", "state"),
    [(True, True, "unaccepted"), (False, True, "unaccepted"), (True, False, "unknown"), (False, False, "unknown")],
)
def test_a_bit_that_is_0_in_a_table_of_another_boot(ask: Ask, same_boot: bool, efi: bool, state: str) -> None:
    """The last unit of the guest is unaccepted and in a listed chunk. The EFI map says that it had its bit at boot."""
    snapshot = sample("6.12-fill") if efi else without_map(sample("6.12-fill"))
    bitmap = snapshot.table.bitmap
    last = snapshot.table.geometry.end - 2 * MIB
    assert last // (2 * MIB) == truth("6.12-fill")["unaccepted_units"][-1] and bitmap[-1] & 0x80
    snapshot = replace(snapshot, table=saved_table(snapshot, bitmap[:-1] + bytes([bitmap[-1] & 0x7F]), same_boot))
    assert ask(snapshot, "resolve", hex(last))[1]["addresses"][0]["state"] == state
    _, answer, _ = ask(snapshot, "ranges")
    assert efi or not answer["exact"]
    assert ("may have been another boot" in answer["source_reason"]) is not (same_boot or efi)
    _, text, _ = ask(snapshot, "summary", text="text")
    assert (", if the saved table is of this boot" in " ".join(text.split())) is not (same_boot or efi)


def test_a_saved_table_of_a_kernel_that_sets_bits_again(ask: Ask) -> None:
    snapshot = sample("6.12-fill")
    snapshot = c.without("pages")(c.part("kernel", unaccepts=True)(snapshot))
    snapshot = replace(snapshot, table=saved_table(snapshot, snapshot.table.bitmap, True))
    assert snapshot.table.phys_base is not None and not snapshot.table.bitmap[0] & 1  # type: ignore[index]
    _, answer, _ = ask(snapshot, "resolve", hex(snapshot.table.phys_base))
    assert answer["addresses"][0]["state"] == "unknown"
    assert "this kernel can set bits again" in answer["source_reason"]


def test_pages_that_nobody_looked_at_prove_nothing_and_it_says_so(ask: Ask) -> None:
    """A snapshot of a dump with its bitmap has the pages under set bits only."""
    snapshot = sample("6.12-fill")
    address = snapshot.table.phys_base
    assert not any(start <= address < end for start, end in snapshot.pages.scanned)
    _, answer, _ = ask(snapshot, "--source", "page-lists", "resolve", hex(address))
    (entry,) = answer["addresses"]
    reason = "on no list of unaccepted memory; its pages were not looked at"
    assert (entry["state"], entry["reason"]) == ("unknown", reason)


def test_pages_in_use_prove_nothing_where_the_kernel_accepts_nothing(ask: Ask) -> None:
    """efi.unaccepted is ~0: the kernel takes all memory as accepted, and uses it."""
    snapshot = sample("6.12-fill-kdump")
    lists = ask(snapshot, "--source", "page-lists", "ranges")[1]
    assert any(part["state"] == "accepted" for part in lists["ranges"])
    snapshot = replace(snapshot, table=Table("absent", "efi.unaccepted is ~0"))
    _, answer, _ = ask(snapshot, "--source", "page-lists", "ranges")
    assert answer["source"] == "page-lists"
    assert not any(part["state"] == "accepted" for part in answer["ranges"])
    (used,) = [part for part in lists["ranges"] if part["state"] == "accepted"][:1]
    _, answer, _ = ask(snapshot, "--source", "page-lists", "resolve", hex(used["start"]))
    assert "pages in use prove nothing" in answer["addresses"][0]["reason"]


def test_no_rule_passes_on_a_bitmap_that_is_not_believed(ask: Ask) -> None:
    snapshot = sample("6.12-fill")
    zeros = replace(snapshot.table, bitmap=bytes(len(snapshot.table.bitmap)), reason="zeros under listed chunks")
    _, before, _ = ask(snapshot, "check")
    status, after, _ = ask(replace(snapshot, table=zeros), "check")
    rests = {"kernel-memory-accepted", "kexec-segments-accepted", "allocated-pages-accepted", "buddy-pages-accepted"}
    assert rests <= {finding["rule"] for finding in before["findings"] if finding["status"] == "pass"}
    found = {finding["rule"]: finding for finding in after["findings"]}
    assert {found[rule]["status"] for rule in rests} == {"skip"}
    assert "zeros under listed chunks" in found["table-captured"]["message"]
    assert (found["table-captured"]["status"], found["list-entries-without-bits"]["status"]) == ("warning", "critical")
    assert (status, after["status"]) == (2, "critical")


@pytest.mark.parametrize("command", ["header", "efi", "e820", "zones", "accepting", "summary"])
def test_every_answer_has_the_same_source(capsys: Capsys, command: str) -> None:
    """Whatever was asked for, what an answer says of the total is what the target has."""
    path = SAMPLES / "6.12-fill-kdump" / "vmcore"
    nr_unaccepted = truth("6.12-fill-kdump")["nr_unaccepted_bytes"]
    answer = json.loads(run(capsys, "-c", path, command, "--format", "json")[1])
    assert (answer["source"], answer["nr_unaccepted_bytes"]) == ("reconstructed", nr_unaccepted)
    assert "not asked for" not in answer["source_reason"]
