# SPDX-License-Identifier: LGPL-2.1-or-later
"""The page of ``report`` as a file: one piece, small, and all that comes from the target is data."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import random
import re
import zlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drgn_unaccepted import limits
from drgn_unaccepted.answer.judgement import judge
from drgn_unaccepted.commands.report import pack, report
from drgn_unaccepted.errors import CommandError
from drgn_unaccepted.model.ranges import Range, merge, total
from drgn_unaccepted.snapshot import Snapshot
from drgn_unaccepted.views.report import report_page
from tests.views import guests
from tests.views.guests import BASE, TIB, UNIT

#: Findings are not the subject here, and take time.
NO_CHECKS: Any = {"status": "ok", "findings": []}


def page(snapshot: Snapshot) -> str:
    return report_page(report(snapshot, judge(snapshot), NO_CHECKS))


class Parsed(html.parser.HTMLParser):
    """Elements with their attributes, and the text of each script and style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {"script": [], "style": []}
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag in self.texts:
            self.texts[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside in self.texts:
            self.texts[self._inside][-1] += data


def unpack(packed: Any) -> list[Range]:
    """The ranges again, read as the format is described."""
    numbers, value, shift = [], 0, 0
    for byte in zlib.decompress(base64.b64decode(packed["data"])):
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            numbers.append(value * packed["grain"])
            value = shift = 0
    assert len(numbers) == 2 * packed["count"]
    ranges, at = [], 0
    for gap, length in zip(numbers[::2], numbers[1::2]):
        ranges.append(Range(at + gap, at + gap + length))
        at += gap + length
    return ranges


@given(st.lists(st.tuples(st.integers(0, 1 << 52), st.integers(1, 1 << 40)), max_size=20))
def test_packed_ranges_come_out_again(pairs: list[tuple[int, int]]) -> None:
    ranges = merge((start, start + length) for start, length in pairs)
    assert unpack(pack(ranges)) == ranges


def test_ranges_of_whole_chunks_take_little() -> None:
    ranges = [Range(start, start + 4 * UNIT) for start in range(0, 1 << 37, 8 * UNIT)]
    assert len(pack(ranges)["data"]) < 1000 and unpack(pack(ranges)) == ranges


def test_the_page_is_one_piece_and_its_policy_allows_this_script_and_style_only() -> None:
    parsed = Parsed(page(guests.small()))
    for tag, attributes in parsed.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base", "img")
        assert "src" not in attributes
        assert not (attributes.get("href") or "#").lstrip("#").startswith(("http", "//", "javascript"))
        assert not any(name.startswith("on") or name == "style" for name in attributes), "the policy refuses these"
    (_, script), (style,) = parsed.texts["script"], parsed.texts["style"]
    assert "url(" not in style and "@import" not in style
    policy = next(a["content"] for tag, a in parsed.elements if a.get("http-equiv") == "Content-Security-Policy")
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (script, style)]
    assert policy == "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'".format(*hashes)


def test_hostile_names_are_data() -> None:
    text = page(guests.hostile())
    parsed = Parsed(text)
    assert len(parsed.texts["script"]) == 2
    assert sum(tag == "img" for tag, _ in parsed.elements) == 0
    data = json.loads(parsed.texts["script"][0])
    assert data["target"]["release"] == guests.HOSTILE
    assert data["zones"][0]["name"] == guests.HOSTILE
    # Neither can the name end the element, nor is a placeholder in it filled in.
    assert not re.search(r"[<>\u2028]", parsed.texts["script"][0])
    assert text.count("window.pwned = 1") == parsed.texts["script"][0].count("window.pwned = 1") > 0
    assert "\x1b" not in text


def test_the_data_of_the_page_is_whole() -> None:
    snapshot = guests.small()
    data = report(snapshot, judge(snapshot), NO_CHECKS)
    assert unpack(data["listed"]) == merge((chunk, chunk + 2 * UNIT) for chunk in guests.LISTED)
    assert unpack(data["filled"])[-1] == Range(0x100000000, 0x160000000)
    runs = {group["reason"]: group["runs"] for group in data["states"]}
    assert unpack(runs["its bit is 1"])[0] == Range(BASE + 9 * UNIT, BASE + 10 * UNIT)
    assert total(unpack(runs["its bit is 1"])) == 228 * UNIT
    assert unpack(data["layers"]["outside"])[-1] == Range(0x140000000, 0x160000000)


@pytest.mark.parametrize("guest", (guests.small, guests.lists, guests.large_units))
def test_every_address_is_in_one_group_of_states(guest: Any) -> None:
    data = report(guest(), judge(guest()), NO_CHECKS)
    found = sorted(range_ for group in data["states"] for range_ in unpack(group["runs"]))
    assert found[0].start == 0 and found[-1].end == limits.PHYSICAL_END
    assert all(before.end == after.start for before, after in zip(found, found[1:]))
    assert {"unaccepted", "no-ram"} <= {group["state"] for group in data["states"]}


@pytest.mark.long
def test_ten_tib_make_a_small_page() -> None:
    assert len(page(guests.huge())) < 300_000
    random_bits = random.Random(10).randbytes(TIB // UNIT // 8)
    assert len(page(replace(guests.only_bitmap(guests.huge()), table=guests.table(random_bits)))) < 500_000


@pytest.mark.parametrize(
    ("limit", "value", "why"),
    (
        ("REPORT_PIECES", 10, "memory changes its state over 10 times"),
        ("REPORT_BYTES", 1000, "over the limit of 1000"),
    ),
)
def test_too_scattered_a_bitmap_and_too_large_a_page_are_refused(
    limit: str, value: int, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, limit, value)
    with pytest.raises(CommandError, match=why):
        page(guests.small())


def test_findings_and_their_reasons_are_inside() -> None:
    snapshot = guests.small()
    fault = {"rule": "padding-bits-clear", "status": "critical", "message": "m", "ranges": [[0, 4096]], "needs": []}
    passed = {"rule": "table-captured", "status": "pass", "message": "m", "ranges": [], "needs": []}
    data = report(snapshot, judge(snapshot), {"status": "critical", "findings": [fault, passed]})
    assert data["checks"]["findings"] == [fault, passed]
    assert set(data["checks"]["explain"]) == {"padding-bits-clear"}
    assert any(text.startswith("What to do: ") for text in data["checks"]["explain"]["padding-bits-clear"])
