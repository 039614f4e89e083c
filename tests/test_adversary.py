# SPDX-License-Identifier: LGPL-2.1-or-later
"""Situations in which a wrong answer would be the easy one: "accepted", or an unaccepted 0, of what is not known.

Each begins with a real capture, of which one thing is taken away or contradicted.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Optional

import pytest

from drgn_unaccepted import snapshot_file
from drgn_unaccepted.kernel.capture import capture
from drgn_unaccepted.snapshot import ALL_MEMORY, ALL_PARTS, AcceptingList, PageRun, Snapshot, Table, Wanted
from drgn_unaccepted.targets.vmcore import open_vmcore
from tests.asking import SAMPLES, UNIT, Capsys, run, truth
from tests.checks import changes as c
from tests.checks.build import Change, both, listed

MIB, CHUNK, PAGE = 1 << 20, 4 << 20, 4096

Ask = Callable[..., tuple[int, Any, str]]


@cache
def sample(name: str) -> Snapshot:
    return capture(open_vmcore(str(SAMPLES / name / "vmcore")), Wanted(ALL_PARTS, ALL_MEMORY))


@pytest.fixture
def ask(tmp_path: Path, capsys: Capsys) -> Ask:
    """Runs the program on a snapshot: exit status, the JSON document or the text, and what went to stderr."""

    def asked(snapshot: Snapshot, *argv: str, form: str = "json") -> tuple[int, Any, str]:
        file = tmp_path / "snapshot.json"
        snapshot_file.write(snapshot, str(file))
        status, out, err = run(capsys, "--snapshot", file, *argv, "--format", form)
        return status, json.loads(out) if out and form == "json" else out, err

    return asked


def resolve(ask: Ask, snapshot: Snapshot, *addresses: object, source: str = "auto") -> Any:
    words = [hex(each) if isinstance(each, int) else str(each) for each in addresses]
    return ask(snapshot, "--source", source, "resolve", *words)[1]["addresses"]


#: Lists and counters are left: the bits at boot are not known.
without_map = c.without("efi_map", "not in this dump")
#: The heads of all lists lead to themselves.
without_lists = c.zones(listed=listed(()))


def counted(pages: int) -> Change:
    """Another NR_UNACCEPTED, in the zone that lists memory and altogether."""
    return both(c.zone(unaccepted_pages=pages), c.part("counters", unaccepted_pages=pages))


def changed(name: str, *changes: Change) -> Snapshot:
    return both(*changes)(sample(name))


def listed_chunk(snapshot: Snapshot) -> int:
    """A chunk amid listed ones."""
    chunks = {pfn * PAGE for zone in snapshot.zones if zone.listed for pfn in zone.listed.pfns}
    return next(chunk for chunk in sorted(chunks) if {chunk - CHUNK, chunk + CHUNK} <= chunks)


def bytes_listed(snapshot: Snapshot) -> int:
    return sum(len(zone.listed.pfns) for zone in snapshot.zones if zone.listed) * CHUNK


def test_no_zones_are_no_empty_lists(ask: Ask) -> None:
    """node_data read as zeros: there is no node, no zone, no list, and nothing that says that nothing is listed."""
    snapshot = changed("6.12-fill-kdump", without_map, c.put(zones=()))
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
    status, text, err = ask(snapshot, "resolve", "5G", form="text")
    assert status == 3 and text.startswith("0x140000000   unknown          (5G)\n")
    assert "no addresses" in err and "no zone is populated" in err and "the table is not in this dump" in err
    text = ask(snapshot, "summary", form="text")[1]
    assert "a listed chunk" not in text and "NR_UNACCEPTED counts chunks" in text


@pytest.mark.parametrize("form", ("text", "json", "nagios", "prometheus", "junit"))
def test_a_check_that_knows_nothing_says_why_on_stderr(ask: Ask, form: str) -> None:
    snapshot = changed("6.12-fill-kdump", c.put(zones=()), c.without("platform"))
    for source in ("auto", "counters"):
        status, text, err = ask(snapshot, "--source", source, "check", form=form)
        assert status == 3 and text
        assert len(err.splitlines()) == 1 and "the table is not in this dump" in err


@pytest.mark.parametrize("system_state", ["booting", "scheduling"])
@pytest.mark.parametrize("source", ["page-lists", "counters"])
def test_lists_of_a_kernel_that_boots_are_not_all(ask: Ask, source: str, system_state: str) -> None:
    """Until page_alloc_init_late() memory with bits set is on no list yet: what is listed is no bound from above."""
    snapshot = changed("6.12-fill-kdump", c.part("kernel", system_state=system_state), counted(0), without_lists)
    _, answer, _ = ask(snapshot, "--source", source, "summary")
    assert (answer["source"], answer["exact"], answer["unaccepted_bytes"]) == (source, False, None)
    assert f"system_state is {system_state}" in answer["source_reason"]
    text = ask(snapshot, "--source", source, "summary", form="text")[1]
    assert text.splitlines()[0].split(maxsplit=1)[1].startswith("unknown")
    assert f"system_state is {system_state}" in text
    if source == "page-lists":
        assert "at least 0 unaccepted" in ask(snapshot, "--source", source, "map", form="text")[1]
    line = ask(snapshot, "check", form="nagios")[1].splitlines()[0]
    assert "unaccepted memory is not known" in line and "| unaccepted=U;" in line
    # Without the bitmap a rule that cannot tell makes the status unknown.
    status, answer, _ = ask(c.without("platform")(snapshot), "check", "--rule", "zone-counter-matches-list")
    assert (status, answer["status"]) == (3, "unknown")


@pytest.mark.parametrize("system_state", ["booting", None])
def test_a_reference_proves_nothing_before_the_page_was_freed_once(ask: Ask, system_state: Optional[str]) -> None:
    """memmap_init() gives every page one reference, and memory is accepted when that is first dropped."""
    snapshot = changed("6.12-fill-kdump", c.part("kernel", system_state=system_state))
    chunk = listed_chunk(snapshot)
    first = chunk // PAGE
    runs = [run for run in snapshot.pages.runs if run.end_pfn <= first or run.start_pfn >= first + 1024]
    runs.append(PageRun(first, first + 1024, "in-use"))
    snapshot = both(counted(0), without_lists, c.part("pages", runs=tuple(runs)))(snapshot)
    assert resolve(ask, snapshot, chunk, source="page-lists")[0]["state"] == "unknown"


@pytest.mark.parametrize("source", ["auto", "page-lists"])
def test_lists_that_lost_what_the_counters_count(ask: Ask, source: str) -> None:
    """Every list leads back to its head at once, and NR_UNACCEPTED counts 292 MiB."""
    snapshot = changed("6.12-fill-kdump", without_map, without_lists)
    status, answer, err = ask(snapshot, "--source", source, "summary")
    assert "lists 0 chunks, and NR_UNACCEPTED counts 73" in answer["source_reason"]
    expected = (0, "counters", 292 * MIB) if source == "auto" else (3, "none", None)
    assert (status, answer["source"], answer["unaccepted_bytes"]) == expected
    assert source == "auto" or "NR_UNACCEPTED" in err


@pytest.mark.parametrize("pages", [-512, 1 << 60])
def test_a_count_that_cannot_be(ask: Ask, pages: int) -> None:
    snapshot = changed("6.12-fill-kdump", without_map, counted(pages), c.without("zones"))
    status, answer, err = ask(snapshot, "summary")
    assert (status, answer["source"]) == (3, "none")
    assert answer["unaccepted_bytes"] is answer["nr_unaccepted_bytes"] is None
    assert f"NR_UNACCEPTED is {pages} pages" in err


def test_no_table_but_lists(ask: Ask) -> None:
    """efi.unaccepted was overwritten, or looked up in the wrong place: what is listed waits to be accepted."""
    snapshot = changed("6.12-fill-kdump", c.absent_table)
    status, answer, _ = ask(snapshot, "summary")
    assert (status, answer["source"], answer["unaccepted_bytes"]) == (0, "page-lists", bytes_listed(snapshot))
    assert "nothing for the kernel to accept" not in ask(snapshot, "summary", form="text")[1]
    assert resolve(ask, snapshot, listed_chunk(snapshot))[0]["state"] == "unaccepted"
    # Pages in use prove nothing: the kernel takes all memory as accepted, and uses it.
    with_table = ask(sample("6.12-fill-kdump"), "--source", "page-lists", "ranges")[1]["ranges"]
    used = next(part["start"] for part in with_table if part["state"] == "accepted")
    _, answer, _ = ask(snapshot, "--source", "page-lists", "ranges")
    assert answer["source"] == "page-lists" and not any(part["state"] == "accepted" for part in answer["ranges"])
    assert "pages in use prove nothing" in resolve(ask, snapshot, used, source="page-lists")[0]["reason"]


def test_the_unit_of_an_invalid_header_rounds_nothing(ask: Ask) -> None:
    """A unit_size of 2 GiB out of a damaged header would make 2 GiB accepted with every page in use."""
    damaged = c.put(table=Table("invalid", "phys_base: no multiple", 0x7F000000, 1, 1 << 31, 0x1000, 3))
    _, before, _ = ask(sample("6.12-fill-kdump"), "ranges")
    _, after, _ = ask(changed("6.12-fill-kdump", damaged), "ranges")
    assert after["ranges"] == before["ranges"] != []
    assert after["possible_guards"] == before["possible_guards"]


def test_a_damaged_list_says_of_no_address_that_it_is_not_listed(ask: Ask) -> None:
    """The walk ended after two chunks: all others may be listed too, and their number is not known."""
    chunk = listed_chunk(sample("6.12-fill"))
    cut = replace(listed((chunk // PAGE,)), problems=("entry 1: NULL",))
    snapshot = changed("6.12-fill", c.zone(listed=cut))
    assert [entry["listed"] for entry in resolve(ask, snapshot, chunk, chunk + CHUNK)] == [True, None]
    assert ask(snapshot, "summary")[1]["listed_chunks"] is None
    assert "1 chunk of" not in ask(snapshot, "summary", form="text")[1]


def test_a_damaged_accepting_list_says_of_no_address_that_it_is_not_in_flight(ask: Ask) -> None:
    problems = ("entry 0: 0xdead000 is not in this target",)
    snapshot = changed("6.12-fill", c.put(accepting=AcceptingList((), problems)))
    assert resolve(ask, snapshot, listed_chunk(snapshot))[0]["in_flight"] is None
    assert ask(snapshot, "summary")[1]["in_flight"] is None
    assert "empty" not in ask(snapshot, "accepting", form="text")[1]
    snapshot = sample("6.12-panic")
    assert snapshot.accepting is not None and snapshot.accepting.entries
    chunk = listed_chunk(snapshot)
    assert resolve(ask, snapshot, chunk)[0]["in_flight"] is False
    assert resolve(ask, c.part("accepting", problems=problems)(snapshot), chunk)[0]["in_flight"] is None


def test_without_the_table_an_accept_in_flight_still_has_its_place(ask: Ask) -> None:
    """Unit 0 is where the loader's type 15 memory begins."""
    snapshot = changed("6.12-panic", c.not_captured)
    (entry,) = snapshot.accepting.entries
    ((base, _),) = truth("6.12-panic")["type15"]
    start, end = base + entry.start_unit * UNIT, base + entry.end_unit * UNIT
    found = resolve(ask, snapshot, start, end - 1, start - 1, end)
    assert [each["in_flight"] for each in found] == [True, True, False, False]
    status, answer, err = ask(snapshot, "resolve", hex(start))
    assert (status, answer["addresses"][0]["state"]) == (3, "unknown")
    assert "an accept of it is in flight" in err
    assert [each["in_flight"] for each in resolve(ask, without_map(snapshot), start, end)] == [None, None]


def test_a_column_that_is_not_known_says_why_and_one_without_a_holder_says_so(ask: Ask) -> None:
    """The kdump of 7.3 lacks the slab page of e820_table. The firmware's table and the EFI map are taken away, but for
    what a runtime map has.
    """
    whole, missing = sample("7.3-fill"), {**sample("7.3-fill-kdump").missing, "e820.firmware": "not in this dump"}
    services = c.part("efi_map", complete=False, note="for services only", descriptors=())
    kdump = changed("7.3-fill-kdump", services, c.part("e820", firmware=None), c.put(missing=missing))
    words = ("resolve", hex(listed_chunk(kdump)), "0xfffffffffffff")
    _, answer, _ = ask(kdump, *words)
    assert all(found["efi"] is None and found["e820"] is None for found in answer["addresses"])
    assert set(answer["missing"]) == {"unit", "kernel_predicate", "efi", "e820"}
    assert "incomplete: for services only" in answer["missing"]["efi"]
    assert answer["missing"]["e820"] == kdump.missing["e820.current"]
    lines = ask(kdump, *words, form="text")[1].splitlines()
    assert [line.split()[1] for line in lines if line.startswith(("EFI", "e820"))] == ["unknown:"] * 4
    _, answer, _ = ask(whole, "resolve", words[2])
    assert (answer["missing"], answer["addresses"][0]["efi"]) == ({}, None)
    text = ask(whole, "resolve", words[2], form="text")[1]
    assert "unknown" not in text and "EFI               in no descriptor" in text
    bare = {"zones": "node_data: not in this dump", "accepting": "no accepting_list"}
    _, answer, _ = ask(replace(whole, zones=None, accepting=None, missing=bare), "resolve", words[2])
    assert answer["missing"] == {"zone": bare["zones"], "listed": bare["zones"], "in_flight": bare["accepting"]}


def test_without_a_table_there_is_no_bitmap_to_be_outside_of(ask: Ask, tmp_path: Path) -> None:
    """And with one, what is above it is. Both are told by lines of addresses, too."""
    uncounted = c.part("counters", unaccepted_pages=None, unaccepted_diff=None)
    absent = both(c.absent_table, c.zones(listed=None, unaccepted_pages=None), uncounted)
    (tmp_path / "addresses").write_text("5G\n")
    for change, words in ((c.put(), "5G      no-ram  (outside the bitmap)"), (absent, "5G      no-ram  (no table)")):
        text = ask(changed("6.12-fill", change), "resolve", "-f", str(tmp_path / "addresses"), form="text")[1]
        assert text.splitlines()[-1].endswith(words)


def test_nagios_has_no_zero_for_a_little(ask: Ask) -> None:
    """40 MiB are not 0.0 GiB."""
    snapshot = changed("6.12-fill-kdump", without_map, c.without("pages"))
    whole = c.the_zone(snapshot).listed
    ten = {name: getattr(whole, name)[:10] for name in ("pfns", "flags", "refcounts", "page_types")}
    line = ask(both(c.chunks(**ten), counted(10 * 1024))(snapshot), "check", form="nagios")[1].splitlines()[0]
    assert " 40 MiB unaccepted (source page-lists, not exact)" in line and "unaccepted=41943040B;" in line


def saved(same_boot: bool, bitmap: Callable[[bytes], bytes] = bytes) -> Change:
    """The table from a file, perhaps with another bitmap."""
    said = "saved in this boot" if same_boot else "whether it was saved in this boot is not known: it does not say"
    table = c.table(read_through="file", reason=said, same_boot=same_boot)
    return lambda snapshot: c.table(bitmap=bitmap(snapshot.table.bitmap))(table(snapshot))


EFI = pytest.mark.parametrize("efi", [c.put(), without_map], ids=["EFI map", "no EFI map"])


@EFI
@pytest.mark.parametrize("same_boot", [True, False], ids=["this boot", "some boot"])
def test_a_saved_bitmap_of_zeros_is_no_bound_where_chunks_are_listed(ask: Ask, same_boot: bool, efi: Change) -> None:
    """Saved in another boot, in which everything had been accepted, or a damaged file."""
    snapshot = changed("6.12-fill", efi, saved(same_boot, lambda bits: bytes(len(bits))))
    found = resolve(ask, snapshot, f"{listed_chunk(snapshot):#x}+4M")
    assert {(each["state"], each["kernel_predicate"]) for each in found} == {("unaccepted", None)}
    status, answer, _ = ask(snapshot, "summary")
    unaccepted = len(truth("6.12-fill")["unaccepted_units"]) * UNIT
    assert status == 0
    assert answer["unaccepted_bytes"] == (bytes_listed(snapshot) if efi is without_map else unaccepted)
    assert efi is not without_map or not answer["exact"]
    assert " 0" not in ask(snapshot, "check", form="nagios")[1].partition("unaccepted (")[0]


@EFI
def test_a_few_bits_that_a_saved_table_lacks_are_not_proof_against_the_lists(ask: Ask, efi: Change) -> None:
    """A chunk amid listed ones has its bits, or its guard's."""
    chunk, table = listed_chunk(sample("6.12-fill")), sample("6.12-fill").table
    cleared = [(unit - table.phys_base) // UNIT for unit in (chunk, chunk + UNIT, chunk + CHUNK)]
    assert all(table.bitmap[index >> 3] >> (index & 7) & 1 for index in cleared)
    snapshot = changed("6.12-fill", efi, saved(True), *(c.bits(index, index + 1, 0) for index in cleared))
    assert {each["state"] for each in resolve(ask, snapshot, f"{chunk - UNIT:#x}+8M")} == {"unaccepted"}
    said = ask(snapshot, "ranges")[1]["source_reason"]
    assert efi is not without_map or "listed as unaccepted have no bit in it" in said


@EFI
@pytest.mark.parametrize("same_boot", [True, False], ids=["this boot", "some boot"])
def test_a_bit_that_is_0_in_a_table_of_another_boot(ask: Ask, same_boot: bool, efi: Change) -> None:
    """The last unit of the guest is unaccepted and in a listed chunk. The EFI map says that it had its bit at boot."""
    last = sample("6.12-fill").table.geometry.end - UNIT
    assert last // UNIT == truth("6.12-fill")["unaccepted_units"][-1]
    snapshot = changed("6.12-fill", efi, saved(same_boot, lambda bits: bits[:-1] + bytes([bits[-1] ^ 0x80])))
    bare = efi is without_map
    assert resolve(ask, snapshot, last)[0]["state"] == ("unknown" if bare else "unaccepted")
    _, answer, _ = ask(snapshot, "ranges")
    assert not (bare and answer["exact"])
    assert ("may have been another boot" in answer["source_reason"]) is (bare and not same_boot)
    words = " ".join(ask(snapshot, "summary", form="text")[1].split())
    assert (", if the saved table is of this boot" in words) is (bare and not same_boot)


def test_a_saved_table_of_a_kernel_that_sets_bits_again(ask: Ask) -> None:
    unaccepts = c.part("kernel", unaccepts=True)
    snapshot = changed("6.12-fill", unaccepts, c.without("pages"), saved(True))
    assert not snapshot.table.bitmap[0] & 1
    assert resolve(ask, snapshot, snapshot.table.phys_base)[0]["state"] == "unknown"
    assert "this kernel can set bits again" in ask(snapshot, "summary")[1]["source_reason"]


def test_unknown_beside_a_damaged_list_says_that_it_is_damaged(ask: Ask) -> None:
    """With a saved table, whose set bits the lists confirm as far as they go."""
    cut = replace(listed(()), problems=("entry 0: NULL",))
    snapshot = changed("6.12-fill", saved(True), c.zones(listed=cut))
    (entry,) = resolve(ask, snapshot, listed_chunk(sample("6.12-fill")))
    assert (entry["state"], entry["listed"]) == ("unknown", None)
    assert "is damaged: entry 0: NULL" in entry["reason"]


def test_a_doubted_bitmap_proves_nothing_accepted(ask: Ask) -> None:
    """Zeros under listed chunks, even where the bitmap is asked for by name: a 0 says nothing, a 1 does."""
    size, why = len(sample("6.12-fill").table.bitmap), "zeros where 73 chunks are listed"
    snapshot = changed("6.12-fill", c.bits(0, 8 * (size - 1), 0), c.table(reason=why))
    words = ("resolve", hex(listed_chunk(snapshot)), hex(snapshot.table.phys_base))
    for source in ("auto", "bitmap", "page-lists"):
        _, answer, _ = ask(snapshot, "--source", source, *words)
        found = answer["addresses"]
        assert {(each["kernel_predicate"], each["unit"]["bit"]) for each in found} == {(None, None)}, source
        assert answer["missing"] == {"kernel_predicate": why}
        text = " ".join(ask(snapshot, "--source", source, *words, form="text")[1].split())
        assert "its bit reads as 0, which is not believed" in text, source
        assert found[0]["state"] == ("unknown" if source == "bitmap" else "unaccepted")
    _, answer, _ = ask(snapshot, "--source", "bitmap", "ranges")
    assert {entry["state"] for entry in answer["ranges"]} <= {"unknown", "unaccepted"}
    _, answer, _ = ask(snapshot, "--source", "bitmap", "summary")
    assert (answer["source"], answer["exact"], answer["unaccepted_bytes"]) == ("bitmap", False, None)
    assert ask(snapshot, "--source", "bitmap", "map")[1]["totals"]["unknown_bytes"] > 0


def test_no_rule_passes_on_a_bitmap_that_is_not_believed(ask: Ask) -> None:
    """And the summary, which is not exact, says why."""
    size = len(sample("6.12-fill").table.bitmap)
    zeros = changed("6.12-fill", c.bits(0, 8 * size, 0), c.table(reason="zeros under listed chunks"))
    _, before, _ = ask(sample("6.12-fill"), "check")
    status, after, _ = ask(zeros, "check")
    rests = {"kernel-memory-accepted", "kexec-segments-accepted", "allocated-pages-accepted", "buddy-pages-accepted"}
    assert rests <= {finding["rule"] for finding in before["findings"] if finding["status"] == "pass"}
    found = {finding["rule"]: finding for finding in after["findings"]}
    assert {found[rule]["status"] for rule in rests} == {"skip"}
    assert "zeros under listed chunks" in found["table-captured"]["message"]
    assert (found["table-captured"]["status"], found["list-entries-without-bits"]["status"]) == ("warning", "critical")
    assert (status, after["status"]) == (2, "critical")
    _, answer, _ = ask(zeros, "summary")
    assert "zeros under listed chunks" in answer["source_reason"] and not answer["exact"]
    assert "zeros under listed chunks" in ask(zeros, "summary", form="text")[1]


def test_a_zone_that_reads_as_zeros_is_missing_in_the_lists(ask: Ask) -> None:
    """present_pages is 0, so that the zone with all unaccepted memory counts as never populated."""
    snapshot = sample("6.12-fill-kdump")
    snapshot = replace(snapshot, zones=tuple(zone for zone in snapshot.zones if zone.name != "Normal"))
    _, answer, _ = ask(snapshot, "summary")
    assert (answer["source"], answer["exact"], answer["unaccepted_bytes"]) == ("reconstructed", False, None)
    status, answer, _ = ask(without_map(snapshot), "summary")
    assert (status, answer["source"], answer["unaccepted_bytes"]) == (0, "counters", 292 * MIB)
    assert "all zones list 0 chunks, and vm_zone_stat[NR_UNACCEPTED] counts 73" in answer["source_reason"]


def test_pages_that_nobody_looked_at_prove_nothing_and_it_says_so(ask: Ask) -> None:
    """A snapshot of a dump with its bitmap has the pages under set bits only."""
    snapshot = sample("6.12-fill")
    address = snapshot.table.phys_base
    assert not any(start <= address < end for start, end in snapshot.pages.scanned)
    (entry,) = resolve(ask, snapshot, address, source="page-lists")
    assert entry["state"] == "unknown"
    assert entry["reason"] == "on no list of unaccepted memory; its pages were not looked at"


@pytest.mark.parametrize("command", ["header", "efi", "e820", "zones", "accepting", "summary"])
def test_every_answer_has_the_same_source(capsys: Capsys, command: str) -> None:
    """Whatever was asked for, what an answer says of the total is what the target has."""
    answer = json.loads(run(capsys, "-c", SAMPLES / "6.12-fill-kdump" / "vmcore", command, "--format", "json")[1])
    assert answer["nr_unaccepted_bytes"] == truth("6.12-fill-kdump")["nr_unaccepted_bytes"]
    assert answer["source"] == "reconstructed" and "not asked for" not in answer["source_reason"]
