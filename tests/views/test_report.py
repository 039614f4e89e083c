# SPDX-License-Identifier: LGPL-2.1-or-later
"""The page of ``report`` as a file: readable without its script, one piece, bounded; what the target says is text."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import random
import re
import zlib
from array import array
from bisect import bisect_right
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any, Optional
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drgn_unaccepted import limits
from drgn_unaccepted.answer.best_source import judge
from drgn_unaccepted.answer.judgement import Judgement
from drgn_unaccepted.commands.report import report
from drgn_unaccepted.commands.resolve import resolve
from drgn_unaccepted.kernel.capture import capture
from drgn_unaccepted.model.addresses import Query
from drgn_unaccepted.model.efi import EfiDescriptor
from drgn_unaccepted.model.ranges import Range, merge
from drgn_unaccepted.snapshot import ALL_MEMORY, ALL_PARTS, Accept, AcceptingList, EfiMap, Snapshot, Table, Wanted
from drgn_unaccepted.targets.vmcore import open_vmcore
from drgn_unaccepted.views.report import PageDocument, lookup, report_page, steps
from tests.asking import Capsys, Patch, answered
from tests.views import guests
from tests.views.guests import MIB, TIB, UNIT

#: Findings are not the subject here, and take time.
NO_CHECKS: Any = {"status": "ok", "findings": []}

SAMPLES = sorted((Path(__file__).parent.parent.parent / "vmcore-samples").glob("*/vmcore"))

IN_FLIGHT = AcceptingList((Accept(0xFFFFC90000003D80, 4, 6, None),))

OVERLAPPING = AcceptingList(tuple(Accept(0, start, end, None) for start, end in ((3, 9), (4, 6), (9, 10), (7, 7))))

DOUBTED = replace(guests.table(guests.BITMAP), reason="the bitmap is all zero, which is not to be believed")

ABSENT = Table("absent", "efi.unaccepted is ~0: no table was found at boot")


def made_of(snapshot: Snapshot, checks: Any = NO_CHECKS) -> PageDocument:
    with patch("drgn_unaccepted.commands.report.check", lambda *_: checks):
        return report(snapshot, judge(snapshot))


def page(snapshot: Snapshot, checks: Any = NO_CHECKS) -> str:
    return report_page(made_of(snapshot, checks))


class Parsed(html.parser.HTMLParser):
    """Elements with their attributes, the text of each script and style, and the words and rows that a reader sees."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {"script": [], "style": []}
        self.seen: list[str] = []
        self.rows: dict[str, list[list[str]]] = {}
        self._section = self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag in self.texts:
            self.texts[tag].append("")
        elif tag == "section":
            self._section = dict(attrs)["id"] or ""
        elif tag == "tr":
            self.rows.setdefault(self._section, []).append([])

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside in self.texts:
            self.texts[self._inside][-1] += data
            return
        self.seen.append(data)
        if self._inside in ("td", "th"):
            self.rows[self._section][-1].append(data)

    @property
    def words(self) -> str:
        return " ".join("".join(self.seen).split())


def unpack(steps: list[int]) -> list[Range]:
    """The ranges again, read as the format is described."""
    edges = [steps[0] * number for number in accumulate(steps[1:])]
    return [Range(start, end) for start, end in zip(edges[::2], edges[1::2])]


@given(st.lists(st.tuples(st.integers(0, 1 << 52), st.integers(1, 1 << 40)), max_size=20))
def test_packed_ranges_come_out_again(pairs: list[tuple[int, int]]) -> None:
    ranges = merge((start, start + length) for start, length in pairs)
    assert unpack(steps(ranges)) == ranges


def test_the_page_is_one_piece_and_its_policy_allows_this_script_and_style_only() -> None:
    parsed = Parsed(page(guests.small()))
    for tag, attributes in parsed.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base", "img", "image", "use", "foreignobject")
        assert not {"src", "href", "xlink:href", "style"} & set(attributes)
        assert not any(name.startswith("on") for name in attributes), "the policy refuses these"
        assert all("url(" not in (value or "") or (value or "").startswith("url(#") for value in attributes.values())
    (_, script), (style,) = parsed.texts["script"], parsed.texts["style"]
    assert "url(" not in style and "@import" not in style
    policy = next(a["content"] for tag, a in parsed.elements if a.get("http-equiv") == "Content-Security-Policy")
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (script, style)]
    assert policy == "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'".format(*hashes)


def test_hostile_names_are_text() -> None:
    snapshot = replace(guests.hostile(), panic=guests.HOSTILE)
    fault = {"rule": "unit-size-valid", "status": "critical", "message": guests.HOSTILE, "ranges": [], "needs": []}
    text = page(snapshot, {"status": "critical", "findings": [fault, {**fault, "status": "skip"}]})
    parsed = Parsed(text)
    assert len(parsed.texts["script"]) == 2 and not {"img", "b"} & {tag for tag, _ in parsed.elements}
    assert re.fullmatch("[A-Za-z0-9+/=]+", parsed.texts["script"][0])
    name = "</script><script>window.pwned = 1</script><img src=x onerror=pwned()>"
    # Title, target, kernel, panic, task in the panic's box, torn, missing, findings, map, accepts, zones, EFI.
    assert parsed.words.count(name) >= 14 and "{{data}}" in parsed.words
    assert "<script>window" not in text and "\x1b" not in text


def test_no_page_tells_where_the_kernel_is() -> None:
    """Whoever the page is passed on to would know what KASLR hides. Physical addresses stay, however large."""
    where = "list head 0xffff888100000040, 0XFF11000155a00008, ffffffff81000000: not at 0x1f773018"
    fault = {"rule": "list-entries-sane", "status": "critical", "message": where, "ranges": [], "needs": []}
    zones = tuple(replace(one, listed=replace(one.listed, problems=(where,))) for one in guests.small().zones or ())
    efi = EfiMap("boot-map", True, where, (EfiDescriptor(7, 0, 0xFFFFFFFFFFFFF000, 0xF),))
    damaged = replace(guests.lists(), panic=where, zones=zones, accepting=AcceptingList((), (where,)), torn=(where,))
    damaged = replace(damaged, efi_map=efi, table=replace(guests.NOT_CAPTURED, reason=where), missing={"pages": where})
    made = made_of(damaged, {"status": "critical", "findings": [fault, {**fault, "status": "skip"}]})
    made["states"] = {("unknown", None, where): array("Q", (0, 1 << 52))}
    said = Parsed(report_page(made)).words + zlib.decompress(base64.b64decode(lookup(made))).decode()
    assert said.count("0x1f773018") > 8 and "0xfffffffffffff000" in said
    assert not re.search(r"ffff8881|ff110001|ffffffff81", said, re.I)


FAULTS: Any = [
    {"rule": "table-captured", "status": "pass", "message": "fine", "ranges": [], "needs": []},
    {"rule": "table-aligned", "status": "skip", "message": "no table", "ranges": [], "needs": []},
    {"rule": "table-reserved", "status": "skip", "message": "no table", "ranges": [], "needs": []},
    {"rule": "orphan-bits", "status": "info", "message": "the least", "ranges": [], "needs": []},
    {"rule": "padding-bits-clear", "status": "critical", "message": "the worst", "ranges": [[0, 4096]], "needs": []},
]


def test_all_of_it_can_be_read_without_the_script() -> None:
    parsed = Parsed(page(guests.small(), {"status": "critical", "findings": FAULTS}))
    words = parsed.words
    first = (
        "Unaccepted memory: 456 MiB of 896 MiB that were unaccepted at boot",
        "critical",
        "1 critical, 1 info; 1 rule passed, 2 could not run",
    )
    later = ("padding-bits-clear", "the worst", "Next: ", "orphan-bits", "the least", "Map of physical memory")
    places = [words.index(part) for part in (*first, *later)]
    assert places == sorted(places)
    assert "no table: table-aligned, table-reserved" in words, "skipped rules are folded by cause"
    assert "Something should not be so" not in words and "\\xa0" not in words
    assert ["0x120000000", "0x138000000", "384 MiB"] in parsed.rows["ranges"]
    assert ["0x100800000", "0x100c00000", "4", "6", "812", "dd", "1"] in parsed.rows["accepting"]
    assert parsed.rows["zones"][3][:6] == ["0", "Normal", "0x100000000", "0x140000000", "1 GiB", "512 MiB"]
    assert ["0x1f000000", "0x20000000", "16 MiB", "Runtime Data (6)", "0x800000000000000f"] in parsed.rows["efi"]
    assert ["0x100000000", "0x160000000", "1536 MiB", "RAM (1)", "e820_table"] in parsed.rows["e820"]
    assert sum("data-start" in attributes for _, attributes in parsed.elements) == 3, "rows of the map"
    # Lists that can be filtered open on what matters.
    opened = {a["name"]: a["value"] for _, a in parsed.elements if "checked" in a}
    assert opened == {"EFI": "t0", "e820": "t0"} and "Unaccepted (2)" in words
    efi = EfiMap("boot-map", True, None, guests.EFI[:4])
    assert 'value="all" checked' in page(replace(guests.small(), efi_map=efi)), "no unaccepted memory at boot"


def test_a_guest_that_died_in_an_accept() -> None:
    words = Parsed(page(replace(guests.small(), panic="tdx: Failed to accept memory"))).words
    died = "Died in accepttdx: Failed to accept memorydd (pid 812), CPU 1, accepting 0x100800000-0x100c00000"
    assert words.index(died) < words.index("Unaccepted memory: 456 MiB")
    assert "Died" not in page(replace(guests.small(), panic="sysrq triggered crash"))


def test_a_page_about_nothing() -> None:
    nothing = Snapshot(target=guests.small().target, table=guests.NOT_CAPTURED)
    nothing = replace(nothing, missing=dict.fromkeys(ALL_PARTS - {"counters"}, "broken"))
    assert "Unaccepted memory: unknown" in Parsed(page(nothing)).words


# What the script looks up


def interesting(snapshot: Snapshot, judgement: Judgement) -> list[int]:
    """Addresses at all edges, of states and of the maps."""
    edges = {0, *(piece.start for piece in judgement.pieces(0, limits.PHYSICAL_END))}
    entries = [*(snapshot.efi_map.descriptors if snapshot.efi_map else ())]
    edges |= {edge for one in entries for edge in (one.start, one.end)}
    edges |= {edge for one in (snapshot.e820 and snapshot.e820.current) or () for edge in (one.start, one.end)}
    for zone in snapshot.zones or ():
        edges |= {zone.start_pfn << 12, (zone.start_pfn + zone.spanned_pages) << 12}
        edges |= {pfn << 12 for pfn in (zone.listed.pfns[:50] if zone.listed else ())}
    near = {edge + off for edge in edges for off in (-1, 0, UNIT - 1, UNIT)}
    return sorted(address for address in near if 0 <= address < limits.PHYSICAL_END)


def saved(same_boot: Optional[bool]) -> Snapshot:
    return replace(guests.lists(), table=guests.table(guests.BITMAP, read_through="file", same_boot=same_boot))


def cut(snapshot: Snapshot) -> Snapshot:
    """The walk of each list ended early."""
    assert snapshot.zones is not None
    zones = (replace(one, listed=replace(one.listed, problems=("a cycle",))) for one in snapshot.zones if one.listed)
    return replace(snapshot, zones=tuple(zones))


GUESTS = {
    "bitmap": guests.small,
    "page-lists": guests.lists,
    "uneven": guests.uneven,
    "large units": guests.large_units,
    "10 TiB": guests.huge,
    "saved table": lambda: saved(True),
    "saved table, perhaps of another boot": lambda: saved(None),
    "accepts overlap": lambda: replace(guests.small(), accepting=OVERLAPPING),
    "absent": lambda: replace(guests.small(), table=ABSENT),
    "absent, no EFI map": lambda: replace(guests.small(), table=ABSENT, efi_map=None, missing={"efi_map": "broken"}),
    "an accept and damage": lambda: replace(guests.small(), accepting=replace(IN_FLIGHT, problems=("damaged",))),
    "list damaged": lambda: cut(guests.small()),
    "no zones": lambda: replace(guests.small(), zones=()),
    "doubted": lambda: replace(guests.small(), table=DOUBTED),
    "bits lost under listed chunks": lambda: replace(guests.small(), table=guests.table(bytes(len(guests.BITMAP)))),
    "doubted, lists damaged": lambda: replace(cut(guests.small()), table=DOUBTED),
    **{path.parent.name: path for path in SAMPLES},
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.long] * (name == "10 TiB")) for name in GUESTS])
def test_addresses_are_looked_up_as_resolve_answers(name: str) -> None:
    made = GUESTS[name]
    if isinstance(made, Path):
        snapshot = capture(open_vmcore(str(made), (), "auto", None), Wanted(ALL_PARTS, ALL_MEMORY))
    else:
        snapshot = made()
    judgement = judge(snapshot)
    data = json.loads(zlib.decompress(base64.b64decode(lookup(made_of(snapshot)))))
    tracks = {track["name"]: track["entries"] for track in data["tracks"]}
    found = {name: [(one["words"], unpack(one["ranges"])) for one in entries] for name, entries in tracks.items()}
    # Each address has one state.
    ranges = sorted(range_ for _, ranges in found["state"] for range_ in ranges)
    assert ranges[0].start == 0 and ranges[-1].end == limits.PHYSICAL_END
    assert all(before.end == after.start for before, after in zip(ranges, ranges[1:]))

    def said(track: str, address: int) -> list[str]:
        places = ((words, ranges, bisect_right(ranges, (address, 1 << 52)) - 1) for words, ranges in found[track])
        return [words for words, ranges, place in places if place >= 0 and address < ranges[place].end]

    queries = [Query(address, None) for address in interesting(snapshot, judgement)]
    if len(queries) > 5000:
        queries = [*queries[:100], *queries[-100:]]
    for one in resolve(snapshot, judgement, queries)["addresses"] or ():
        address = one["address"]
        (state,) = said("state", address)
        assert one["state"] == state.split(": ")[0] and one["reason"].startswith(state.split(": ", 1)[1]), hex(address)
        assert bool(said("page lists", address)) == bool(one["listed"])
        assert bool(said("in flight", address)) == bool(one["in_flight"])
        if one["efi"] is not None:
            assert said("EFI", address) == [one["efi"]["name"]]
        if one["e820"] is not None and found["e820"]:
            assert said("e820", address) == [one["e820"]["name"]]
        if one["zone"] is not None:
            assert said("zone", address) == [f"node {one['node']} {one['zone']}"]


# Bounds


def test_maps_beyond_all_memory_and_zones_that_overlap_are_cut_and_merged() -> None:
    zones = (guests.zone(0, "Normal", 0, 1 << 60), guests.zone(0, "Normal", UNIT, 2 * UNIT))
    vast = replace(guests.small(), e820=guests.e820((0, 1 << 65), (1 << 64, 1 << 65)), zones=zones)
    data = json.loads(zlib.decompress(base64.b64decode(lookup(made_of(vast)))))
    for track in data["tracks"]:
        for entry in track["entries"]:
            ranges = unpack(entry["ranges"])
            assert ranges == merge(ranges) and ranges[-1].end <= limits.PHYSICAL_END
    assert "0x20000000000000000" in page(vast)


@pytest.mark.long
def test_pages_are_small_however_large_and_scattered_the_memory_is() -> None:
    assert len(page(guests.huge())) < 200_000
    scattered = random.Random(10).randbytes(TIB // UNIT // 8)
    assert len(page(replace(guests.only_bitmap(guests.huge()), table=guests.table(scattered)))) < 600_000
    # 4 PiB, and maps without end.
    bitmap = bytes(limits.BITMAP_BYTES - 1) + b"\xff"
    descriptors = tuple(EfiDescriptor(n, n * MIB, (n + 1) * MIB, n) for n in range(20_000))
    everything = guests.e820((0, 1 << 52))
    vast = replace(guests.small(), table=guests.table(bitmap), efi_map=EfiMap("boot-map", True, None, descriptors))
    text = page(replace(vast, e820=everything))
    assert len(text) < 1_000_000 and "500 of 20000 rows are here" in text
    assert text.count('name="EFI"') == limits.REPORT_CHOICES + 1


@pytest.mark.parametrize(("limit", "value"), (("REPORT_PIECES", 10), ("REPORT_BYTES", 100)))
def test_too_much_to_look_up_leaves_the_rest_of_the_page(limit: str, value: int, monkeypatch: Patch) -> None:
    monkeypatch.setattr(limits, limit, value)
    parsed = Parsed(page(guests.small()))
    assert parsed.texts["script"][0] == "" and "No address can be looked up on this page" in parsed.words
    assert "Unaccepted memory: 456 MiB" in parsed.words


def test_the_largest_ranges_are_listed(monkeypatch: Patch) -> None:
    monkeypatch.setattr(limits, "REPORT_ROWS", 2)
    parsed = Parsed(page(guests.small()))
    assert [row[2] for row in parsed.rows["ranges"][1:]] == ["30 MiB", "384 MiB"]
    assert "8 ranges, bitmap, exact; these are the largest 2" in parsed.words


def test_a_report_can_be_passed_on(capsys: Capsys, tmp_path: Path) -> None:
    path, other = tmp_path / "report.html", tmp_path / "other"
    said = answered(capsys, "-c", SAMPLES[0], "report", "-o", path)
    assert said.startswith(f"{path}: {path.stat().st_size} bytes; checks: ")
    other.touch()
    assert path.stat().st_mode == other.stat().st_mode, "the mode of the umask"
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
