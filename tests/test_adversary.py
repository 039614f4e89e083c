# SPDX-License-Identifier: LGPL-2.1-or-later
"""Situations in which a wrong answer would be the easy one: "accepted", or an unaccepted 0, of what is not known.

Each begins with a real capture, of which one thing is taken away or contradicted.
"""

from __future__ import annotations

import json
import re
from array import array
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Optional

import pytest

from drgn_unaccepted import snapshot_file
from drgn_unaccepted.cli import main
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
from tests.samples_over_time import listed

SAMPLES = Path(__file__).parent.parent / "vmcore-samples"
MIB = 1 << 20
CHUNK = 4 * MIB
PAGE = 4096

NO_CHUNKS = ListedChunks(array("Q"), array("Q"), array("i"), array("I"))

SAVED_HERE = "saved in this boot, 1-2-3"


@cache
def sample(name: str) -> Snapshot:
    return capture(open_vmcore(str(SAMPLES / name / "vmcore")), Wanted(ALL_PARTS, ALL_MEMORY))


class Ask:
    """Runs the program on a snapshot: exit status, the JSON document or the text, and what went to stderr."""

    def __init__(self, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._file, self._capsys = file, capsys

    def __call__(self, snapshot: Snapshot, *argv: str, text: Optional[str] = None) -> tuple[int, Any, str]:
        snapshot_file.write(snapshot, str(self._file))
        status = main(["--snapshot", str(self._file), *argv, "--format", text or "json"])
        out, err = self._capsys.readouterr()
        return status, out if text else json.loads(out) if out else None, err

    def document(self, snapshot: Snapshot, *argv: str) -> Any:
        return self(snapshot, *argv)[1]

    def text(self, snapshot: Snapshot, *argv: str, form: str = "text") -> str:
        return str(self(snapshot, *argv, text=form)[1])

    def entries(self, snapshot: Snapshot, *words: object) -> Any:
        """What ``resolve`` says of each address; options stand before them."""
        return self.document(snapshot, "resolve", *(hex(w) if isinstance(w, int) else str(w) for w in words))[
            "addresses"
        ]


@pytest.fixture
def ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Ask:
    return Ask(tmp_path / "snapshot.json", capsys)


def lacking(snapshot: Snapshot, **reasons: str) -> Snapshot:
    """Without these parts, for these reasons."""
    return replace(snapshot, **dict.fromkeys(reasons), missing={**snapshot.missing, **reasons})


def with_lists(snapshot: Snapshot, listed: ListedChunks = NO_CHUNKS) -> Snapshot:
    """With these lists; by default the heads of all lists lead to themselves."""
    zones = (replace(zone, listed=listed if zone.name == "Normal" else NO_CHUNKS) for zone in snapshot.zones)
    return replace(snapshot, zones=tuple(zones))


def with_table(snapshot: Snapshot, **fields: Any) -> Snapshot:
    return replace(snapshot, table=replace(snapshot.table, **fields))


def saved(snapshot: Snapshot, bitmap: Optional[bytes] = None, same_boot: bool = True) -> Snapshot:
    """With a bitmap from a file."""
    said = SAVED_HERE if same_boot else "whether it was saved in this boot is not known: it does not say"
    bitmap = snapshot.table.bitmap if bitmap is None else bitmap
    return with_table(snapshot, bitmap=bitmap, read_through="file", reason=said, same_boot=same_boot)


def pfns_listed(snapshot: Snapshot) -> list[int]:
    return [pfn for zone in snapshot.zones if zone.listed for pfn in zone.listed.pfns]


def counted(snapshot: Snapshot, pages: int) -> Snapshot:
    """With another NR_UNACCEPTED, in all zones and altogether."""
    zones = tuple(replace(zone, unaccepted_pages=pages if zone.name == "Normal" else 0) for zone in snapshot.zones)
    return replace(snapshot, zones=zones, counters=replace(snapshot.counters, unaccepted_pages=pages))


def in_state(snapshot: Snapshot, system_state: Optional[str]) -> Snapshot:
    return replace(snapshot, kernel=replace(snapshot.kernel, system_state=system_state))


def booting(system_state: str = "booting") -> Snapshot:
    """Until page_alloc_init_late() memory with bits set is on no list yet: what is listed is no bound from above."""
    return counted(with_lists(in_state(sample("6.12-fill-kdump"), system_state)), 0)


def listed_chunk(snapshot: Snapshot) -> int:
    """A chunk amid listed ones."""
    chunks = {pfn * PAGE for pfn in pfns_listed(snapshot)}
    return next(chunk for chunk in sorted(chunks) if {chunk - CHUNK, chunk + CHUNK} <= chunks)


def bytes_listed(snapshot: Snapshot) -> int:
    return len(pfns_listed(snapshot)) * CHUNK


def test_no_zones_are_no_empty_lists(ask: Ask) -> None:
    """node_data read as zeros: there is no node, no zone, no list, and nothing that says that nothing is listed."""
    snapshot = replace(sample("6.12-fill-kdump"), zones=())
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
    assert (status, text) == (3, "")
    assert "no addresses" in err and "no zone is populated" in err and "table not-captured" in err
    text = ask.text(snapshot, "summary")
    assert "a listed chunk" not in text and "NR_UNACCEPTED counts chunks" in text


@pytest.mark.parametrize("form", ("text", "json", "nagios", "prometheus", "junit"))
def test_a_check_that_knows_nothing_says_why_on_stderr(ask: Ask, form: str) -> None:
    snapshot = replace(lacking(sample("6.12-fill-kdump"), platform="not in this target"), zones=())
    for source in ("auto", "counters"):
        status, text, err = ask(snapshot, "--source", source, "check", text=form)
        assert status == 3 and text
        assert len(err.splitlines()) == 1 and "not-captured" in err


@pytest.mark.parametrize("system_state", ["booting", "scheduling"])
@pytest.mark.parametrize("source", ["page-lists", "counters"])
def test_lists_of_a_kernel_that_boots_are_not_all(ask: Ask, source: str, system_state: str) -> None:
    snapshot = booting(system_state)
    answer = ask.document(snapshot, "--source", source, "summary")
    assert (answer["source"], answer["exact"], answer["unaccepted_bytes"]) == (source, False, None)
    assert f"system_state is {system_state}" in answer["source_reason"]
    text = ask.text(snapshot, "--source", source, "summary")
    assert text.splitlines()[0].split(maxsplit=1)[1].startswith("unknown")
    assert f"system_state is {system_state}" in text
    if source == "page-lists":
        assert "at least 0 bytes unaccepted" in ask.text(snapshot, "--source", source, "map")
    line = ask.text(snapshot, "check", form="nagios").splitlines()[0]
    assert "unaccepted memory is not known" in line and "| unaccepted=U;" in line


def test_check_of_a_kernel_that_boots_is_unknown_without_the_bitmap(ask: Ask) -> None:
    snapshot = lacking(booting(), platform="not in this target")
    status, answer, _ = ask(snapshot, "check", "--rule", "zone-counter-matches-list")
    assert (status, answer["status"]) == (3, "unknown")


@pytest.mark.parametrize("system_state", ["booting", None])
def test_a_reference_proves_nothing_before_the_page_was_freed_once(ask: Ask, system_state: Optional[str]) -> None:
    """memmap_init() gives every page one reference, and memory is accepted when that is first dropped."""
    snapshot = sample("6.12-fill-kdump")
    chunk = listed_chunk(snapshot)
    first = chunk // PAGE
    runs = [run for run in snapshot.pages.runs if run.end_pfn <= first or run.start_pfn >= first + 1024]
    runs.append(PageRun(first, first + 1024, "in-use"))
    snapshot = replace(with_lists(in_state(snapshot, system_state)), pages=replace(snapshot.pages, runs=tuple(runs)))
    assert ask.entries(counted(snapshot, 0), "--source", "page-lists", chunk)[0]["state"] == "unknown"


@pytest.mark.parametrize("lost", ["entries", "zone"])
def test_lists_that_lost_what_the_counters_count(ask: Ask, lost: str) -> None:
    """Every list leads back to its head at once, or the zone reads as zeros, and NR_UNACCEPTED counts 292 MiB."""
    snapshot = sample("6.12-fill-kdump")
    if lost == "entries":
        snapshot = with_lists(snapshot)
    else:
        snapshot = replace(snapshot, zones=tuple(zone for zone in snapshot.zones if zone.name != "Normal"))
    status, answer, _ = ask(snapshot, "summary")
    assert (status, answer["source"], answer["unaccepted_bytes"]) == (0, "counters", 292 * MIB)
    assert re.search(r"lists? 0 chunks where (vm_zone_stat\[)?NR_UNACCEPTED\]? counts 73", answer["source_reason"])
    status, answer, err = ask(snapshot, "--source", "page-lists", "summary")
    assert (status, answer["source"], answer["unaccepted_bytes"]) == (3, "none", None)
    assert "NR_UNACCEPTED" in err


@pytest.mark.parametrize("pages", (-512, 1 << 60))
def test_a_count_that_cannot_be(ask: Ask, pages: int) -> None:
    snapshot = lacking(sample("6.12-fill-kdump"), zones="not in this target")
    snapshot = replace(snapshot, counters=replace(snapshot.counters, unaccepted_pages=pages))
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
    assert "nothing for the kernel to accept" not in ask.text(snapshot, "summary")
    assert ask.entries(snapshot, listed_chunk(snapshot))[0]["state"] == "unaccepted"


def test_pages_in_use_prove_nothing_where_the_kernel_accepts_nothing(ask: Ask) -> None:
    """efi.unaccepted is ~0: the kernel takes all memory as accepted, and uses it."""
    snapshot = sample("6.12-fill-kdump")
    used = next(part for part in ask.document(snapshot, "ranges")["ranges"] if part["state"] == "accepted")
    snapshot = replace(snapshot, table=Table("absent", "efi.unaccepted is ~0"))
    answer = ask.document(snapshot, "--source", "page-lists", "ranges")
    assert answer["source"] == "page-lists"
    assert not any(part["state"] == "accepted" for part in answer["ranges"])
    (entry,) = ask.entries(snapshot, "--source", "page-lists", used["start"])
    assert "pages in use prove nothing" in entry["reason"]


def test_the_unit_of_an_invalid_header_rounds_nothing(ask: Ask) -> None:
    """A unit_size of 2 GiB out of a damaged header would make 2 GiB accepted with every page in use."""
    snapshot = sample("6.12-fill-kdump")
    before = ask.document(snapshot, "ranges")
    damaged = Table("invalid", "phys_base: no multiple", 0x7F000000, 1, 1 << 31, 0x1000, 3)
    after = ask.document(replace(snapshot, table=damaged), "ranges")
    assert after["ranges"] == before["ranges"] != []
    assert after["possible_guards"] == before["possible_guards"]


def test_a_damaged_list_says_of_no_address_that_it_is_not_listed(ask: Ask) -> None:
    """The walk ended after two chunks: all others may be listed too, and their number is not known."""
    snapshot = sample("6.12-fill")
    chunk = listed_chunk(snapshot)
    snapshot = with_lists(snapshot, listed([chunk // PAGE], ("entry 1: NULL",)))
    assert [entry["listed"] for entry in ask.entries(snapshot, chunk, chunk + CHUNK)] == [True, None]
    assert ask.document(snapshot, "summary")["listed_chunks"] is None
    assert "1 chunk of" not in ask.text(snapshot, "summary")


def test_unknown_beside_a_damaged_list_says_that_it_is_damaged(ask: Ask) -> None:
    """With a saved table, whose set bits the lists confirm as far as they go."""
    snapshot = sample("6.12-fill")
    (entry,) = ask.entries(with_lists(saved(snapshot), listed([], ("entry 0: NULL",))), listed_chunk(snapshot))
    assert (entry["state"], entry["listed"]) == ("unknown", None)
    assert "as far as the lists could be followed" in entry["reason"]


def test_a_damaged_accepting_list_says_of_no_address_that_it_is_not_in_flight(ask: Ask) -> None:
    snapshot = replace(sample("6.12-fill"), accepting=AcceptingList((), ("entry 0: 0xdead000 is not in this target",)))
    assert ask.entries(snapshot, listed_chunk(snapshot))[0]["in_flight"] is None
    assert ask.document(snapshot, "summary")["in_flight"] is None
    snapshot = sample("6.12-panic")
    assert snapshot.accepting is not None and snapshot.accepting.entries
    assert ask.entries(snapshot, listed_chunk(snapshot))[0]["in_flight"] is False
    cut = replace(snapshot.accepting, problems=("entry 1: 0xdead000 is not in this target",))
    assert ask.entries(replace(snapshot, accepting=cut), listed_chunk(snapshot))[0]["in_flight"] is None


def test_without_the_table_an_accept_in_flight_still_has_its_place(ask: Ask) -> None:
    """Unit 0 is where the loader's type 15 memory begins."""
    snapshot = sample("6.12-panic")
    (entry,) = snapshot.accepting.entries
    ((base, _),) = json.loads((SAMPLES / "6.12-panic" / "truth.json").read_text())["type15"]
    start, end = base + entry.start_unit * 2 * MIB, base + entry.end_unit * 2 * MIB
    bare = replace(snapshot, table=Table("not-captured", "not in this dump", snapshot.table.address))
    found = ask.entries(bare, start, end - 1, start - 1, end)
    assert [entry["in_flight"] for entry in found] == [True, True, False, False]
    status, answer, err = ask(bare, "resolve", hex(start))
    assert (status, answer["addresses"][0]["state"]) == (3, "unknown")
    assert "an accept of it is in flight" in err
    found = ask.entries(lacking(bare, efi_map="not in this dump"), start, end)
    assert [entry["in_flight"] for entry in found] == [None, None]


def test_a_column_that_is_not_known_says_why_and_one_without_a_holder_says_so(ask: Ask) -> None:
    """The kdump of 7.3 lacks the slab page of e820_table. Its EFI map is taken away, but for what a runtime map has."""
    kdump, whole = sample("7.3-fill-kdump"), sample("7.3-fill")
    kdump = replace(kdump, efi_map=replace(kdump.efi_map, complete=False, note="for services only", descriptors=()))
    nobody = "0xfffffffffffff"
    words = ("resolve", hex(listed_chunk(kdump)), nobody)
    answer = ask.document(kdump, *words)
    assert all(found["efi"] is None and found["e820"] is None for found in answer["addresses"])
    assert set(answer["missing"]) == {"unit", "kernel_predicate", "efi", "e820"}
    assert "incomplete: for services only" in answer["missing"]["efi"]
    assert answer["missing"]["e820"] == kdump.missing["e820.current"]
    lines = ask.text(kdump, *words).splitlines()
    assert [line.split()[1] for line in lines if line.startswith(("efi", "e820"))] == ["unknown:"] * 4
    answer = ask.document(whole, "resolve", nobody)
    assert (answer["missing"], answer["addresses"][0]["efi"]) == ({}, None)
    text = ask.text(whole, "resolve", nobody)
    assert "unknown" not in text and "in no single descriptor" in text
    bare = {"zones": "node_data: not in this dump", "accepting": "no accepting_list"}
    answer = ask.document(replace(whole, zones=None, accepting=None, missing=bare), "resolve", nobody)
    assert answer["missing"] == {"zone": bare["zones"], "listed": bare["zones"], "in_flight": bare["accepting"]}


def test_without_a_table_there_is_no_bitmap_to_be_outside_of(ask: Ask, tmp_path: Path) -> None:
    """And with one, what is above it is. Both are told by lines of addresses, too."""
    whole = sample("6.12-fill")
    (tmp_path / "addresses").write_text("5G\n")
    for table, words in (
        (whole.table, "5G    accepted  (outside the bitmap)"),
        (Table("absent", "none"), "(no table)"),
    ):
        text = ask.text(replace(whole, table=table), "resolve", "-f", str(tmp_path / "addresses"))
        assert text.splitlines()[-1].endswith(words)


def test_nagios_has_no_zero_for_a_little(ask: Ask) -> None:
    """40 MiB are not 0.0 GiB."""
    snapshot = sample("6.12-fill-kdump")
    snapshot = with_lists(snapshot, listed(pfns_listed(snapshot)[:10]))
    line = ask.text(counted(snapshot, 10 * 1024), "check", form="nagios").splitlines()[0]
    assert " 40 MiB unaccepted (source page-lists, not exact)" in line and "unaccepted=41943040B;" in line


def test_a_saved_bitmap_of_zeros_is_no_bound_where_chunks_are_listed(ask: Ask) -> None:
    """A table saved in another boot, at the same address as ever, in which everything had been accepted."""
    snapshot = sample("6.12-fill")
    snapshot = saved(snapshot, bytes(snapshot.table.bitmap_bytes), same_boot=False)
    found = ask.entries(snapshot, f"{listed_chunk(snapshot):#x}+4M")
    assert {(entry["state"], entry["kernel_predicate"]) for entry in found} == {("unaccepted", None)}
    status, answer, _ = ask(snapshot, "summary")
    assert (status, answer["exact"], answer["unaccepted_bytes"]) == (0, False, bytes_listed(snapshot))
    assert " 0" not in ask.text(snapshot, "check", form="nagios").partition("unaccepted (")[0]


@pytest.mark.parametrize("from_file", [False, True])
def test_summary_of_a_bitmap_that_is_not_exact_says_why(ask: Ask, from_file: bool) -> None:
    snapshot = sample("6.12-fill")
    zeros = bytes(snapshot.table.bitmap_bytes)
    snapshot = saved(snapshot) if from_file else with_table(snapshot, bitmap=zeros, reason="the bits are all 0: lost")
    assert snapshot.table.reason in ask.text(snapshot, "summary")
    answer = ask.document(snapshot, "summary")
    assert snapshot.table.reason in answer["source_reason"] and not answer["exact"]


def test_a_doubted_bitmap_proves_nothing_accepted(ask: Ask) -> None:
    """Zeros under listed chunks, even where the bitmap is asked for by name: a 0 says nothing, a 1 does."""
    snapshot = sample("6.12-fill")
    bitmap = bytes(len(snapshot.table.bitmap) - 1) + snapshot.table.bitmap[-1:]
    snapshot = with_table(snapshot, bitmap=bitmap, reason="zeros where 73 chunks are listed")
    words = ("resolve", hex(listed_chunk(snapshot)), hex(snapshot.table.phys_base))
    for source in ("auto", "bitmap", "page-lists"):
        answer = ask.document(snapshot, "--source", source, *words)
        for entry in answer["addresses"]:
            assert entry["kernel_predicate"] is None, source
            assert entry["unit"]["bit"] is None
        assert answer["missing"] == {"kernel_predicate": "zeros where 73 chunks are listed"}
        text = ask.text(snapshot, "--source", source, *words)
        assert "bit not read" not in text and (source == "bitmap" or "bit reads as 0, which is not believed" in text)
        assert answer["addresses"][0]["state"] == ("unknown" if source == "bitmap" else "unaccepted")
    by_name = {name: ask.document(snapshot, "--source", "bitmap", name) for name in ("ranges", "summary", "map")}
    assert {entry["state"] for entry in by_name["ranges"]["ranges"]} <= {"unknown", "unaccepted"}
    answer = by_name["summary"]
    assert (answer["source"], answer["exact"], answer["unaccepted_bytes"]) == ("bitmap", False, None)
    assert by_name["map"]["totals"]["unknown_bytes"] > 0


def test_a_few_bits_that_a_saved_table_lacks_are_not_proof_against_the_lists(ask: Ask) -> None:
    """Too few to doubt the whole table; of these addresses nothing is known."""
    snapshot = sample("6.12-fill")
    table, chunk = snapshot.table, listed_chunk(snapshot)
    two = 3 << (chunk - table.phys_base) // (2 * MIB)
    bits = int.from_bytes(table.bitmap, "little")
    assert bits & two == two
    snapshot = saved(snapshot, (bits & ~two).to_bytes(len(table.bitmap), "little"))
    found = ask.entries(snapshot, f"{chunk - 2 * MIB:#x}+8M")
    assert [(entry["address"], entry["state"]) for entry in found] == [
        (chunk - 2 * MIB, "unaccepted"),
        (chunk, "unknown"),
        (chunk + 4 * MIB, "unaccepted"),
    ]
    assert "amid listed chunks" in found[1]["reason"]
    assert {"start": chunk, "end": chunk + CHUNK, "state": "unknown"} in ask.document(snapshot, "ranges")["ranges"]


@pytest.mark.parametrize("same_boot", [True, False])
def test_a_bit_that_is_0_in_a_table_of_another_boot(ask: Ask, same_boot: bool) -> None:
    """The last unit of the guest is unaccepted and in a listed chunk. In this boot its 0 would be that of a guard."""
    snapshot = sample("6.12-fill")
    truth = json.loads((SAMPLES / "6.12-fill" / "truth.json").read_text())
    bitmap = snapshot.table.bitmap
    last = snapshot.table.geometry.end - 2 * MIB
    assert last // (2 * MIB) == truth["unaccepted_units"][-1] and bitmap[-1] & 0x80
    snapshot = saved(snapshot, bitmap[:-1] + bytes([bitmap[-1] & 0x7F]), same_boot)
    (entry,) = ask.entries(snapshot, last)
    assert entry["state"] == ("accepted" if same_boot else "unknown")
    assert ("may have been another boot" in entry["reason"]) is not same_boot
    ranges = ask.document(snapshot, "ranges")["ranges"]
    accepted = [(part["start"], part["end"]) for part in ranges if part["state"] == "accepted"]
    assert any(start <= last < end for start, end in accepted) is same_boot
    # What pages in use prove holds in any case.
    assert sum(end - start for start, end in accepted) > 64 * MIB or not same_boot
    text = ask.text(snapshot, "summary")
    assert ("at most 286 MiB" in text) is same_boot
    assert ("286 MiB of 896 MiB covered if the saved table is of this boot" in text) is not same_boot


def test_a_saved_table_of_a_kernel_that_sets_bits_again(ask: Ask) -> None:
    snapshot = saved(lacking(sample("6.12-fill"), pages="not in this dump"))
    snapshot = replace(snapshot, kernel=replace(snapshot.kernel, unaccepts=True))
    assert snapshot.table.phys_base is not None and not snapshot.table.bitmap[0] & 1  # type: ignore[index]
    answer = ask.document(snapshot, "resolve", hex(snapshot.table.phys_base))
    assert answer["addresses"][0]["state"] == "unknown"
    for reason in (answer["addresses"][0]["reason"], answer["source_reason"]):
        assert "this kernel can set bits again" in reason


def test_pages_that_nobody_looked_at_prove_nothing_and_it_says_so(ask: Ask) -> None:
    """A snapshot of a dump with its bitmap has the pages under set bits only."""
    snapshot = sample("6.12-fill")
    address = snapshot.table.phys_base
    assert not any(start <= address < end for start, end in snapshot.pages.scanned)
    (entry,) = ask.entries(snapshot, "--source", "page-lists", address)
    assert (entry["state"], entry["reason"]) == ("unknown", "in no listed chunk; no struct page of it was looked at")


def test_no_rule_passes_on_a_bitmap_that_is_not_believed(ask: Ask) -> None:
    snapshot = sample("6.12-fill")
    zeros = with_table(snapshot, bitmap=bytes(len(snapshot.table.bitmap)), reason="zeros under listed chunks")
    before = ask.document(snapshot, "check")
    status, after, _ = ask(zeros, "check")
    rests = {"kernel-memory-accepted", "kexec-segments-accepted", "allocated-pages-accepted", "buddy-pages-accepted"}
    assert rests <= {finding["rule"] for finding in before["findings"] if finding["status"] == "pass"}
    found = {finding["rule"]: finding for finding in after["findings"]}
    assert {found[rule]["status"] for rule in rests} == {"skip"}
    assert "zeros under listed chunks" in found["kernel-memory-accepted"]["message"]
    assert (found["table-captured"]["status"], found["list-entries-without-bits"]["status"]) == ("warning", "critical")
    assert (status, after["status"]) == (2, "critical")


@pytest.mark.parametrize("command", ["header", "efi", "e820", "zones", "accepting", "summary"])
def test_every_answer_has_the_same_source(capsys: pytest.CaptureFixture[str], command: str) -> None:
    """Whatever was asked for, what an answer says of the total is what the target has."""
    path = SAMPLES / "6.12-fill-kdump" / "vmcore"
    truth = json.loads((path.parent / "truth.json").read_text())
    main(["-c", str(path), command, "--format", "json"])
    answer = json.loads(capsys.readouterr().out)
    assert (answer["source"], answer["nr_unaccepted_bytes"]) == ("page-lists", truth["nr_unaccepted_bytes"])
    assert "not asked for" not in answer["source_reason"]
