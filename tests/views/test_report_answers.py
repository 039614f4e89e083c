# SPDX-License-Identifier: LGPL-2.1-or-later
"""The page answers ``resolve`` for any address by itself. Its answers are compared with the program's."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

from drgn_unaccepted.answer.judgement import judge
from drgn_unaccepted.commands.resolve import resolve
from drgn_unaccepted.kernel.capture import capture
from drgn_unaccepted.kernel.target import open_vmcore
from drgn_unaccepted.model.addresses import Query
from drgn_unaccepted.snapshot import ALL_MEMORY, ALL_PARTS, Accept, AcceptingList, Snapshot, Table, Wanted
from tests.views import guests
from tests.views.guests import UNIT
from tests.views.pages import NEEDS_BROWSER

pytestmark = NEEDS_BROWSER

SAMPLES = sorted((Path(__file__).parent.parent.parent / "vmcore-samples").glob("*/vmcore"))

IN_FLIGHT = AcceptingList((Accept(0xFFFFC90000003D80, 4, 6, None),))

OVERLAPPING = AcceptingList(tuple(Accept(0, start, end, None) for start, end in ((3, 9), (4, 6), (9, 10), (7, 7))))

DOUBTED = replace(guests.table(guests.BITMAP), reason="the bitmap is all zero, which is not to be believed")

ABSENT = Table("absent", "efi.unaccepted is ~0: no table was found at boot")


def answers(driver: Any, addresses: list[int]) -> list[dict[str, Any]]:
    got: list[dict[str, Any]] = json.loads(
        driver.execute_script(
            "return JSON.stringify(arguments[0].map((address) => unaccepted.guest.resolve(address)))", addresses
        )
    )
    return got


def interesting(snapshot: Snapshot) -> list[int]:
    """Addresses at all edges, one before and after them, and some between."""
    edges = {0, (1 << 52) - 1}
    geometry, bitmap = snapshot.table.geometry, snapshot.table.bitmap
    if geometry is not None and bitmap is not None:
        changed = (i for i in range(1, len(bitmap)) if bitmap[i - 1] != bitmap[i])
        edges |= {geometry.phys_base, geometry.end, *(geometry.phys_base + 8 * UNIT * i for i in islice(changed, 200))}
    entries = [*(snapshot.efi_map.descriptors if snapshot.efi_map else ())]
    edges |= {edge for one in entries for edge in (one.start, one.end)}
    edges |= {edge for one in (snapshot.e820 and snapshot.e820.current) or () for edge in (one.start, one.end)}
    for zone in snapshot.zones or ():
        edges |= {zone.start_pfn << 12, (zone.start_pfn + zone.spanned_pages) << 12}
        edges |= {pfn << 12 for pfn in (zone.listed.pfns[:50] if zone.listed else ())}
    chance = random.Random(6)
    top = max(edge for edge in edges if edge < 1 << 51)
    edges |= {chance.randrange(top) for _ in range(300)}
    near = {edge + off for edge in edges for off in (-1, 0, 1, 4095, 4096, -4096, UNIT - 1, -UNIT, UNIT)}
    return sorted(address for address in near if 0 <= address < 1 << 52)


def assert_same_answers(show: Callable[..., Any], snapshot: Snapshot) -> None:
    addresses = interesting(snapshot)
    expected = resolve(snapshot, judge(snapshot), [Query(address, None) for address in addresses])
    for got, wanted in zip(answers(show(snapshot), addresses), expected["addresses"] or ()):
        assert got == {key: value for key, value in wanted.items() if key not in ("asked", "hint")}


def saved(same_boot: Optional[bool]) -> Snapshot:
    return replace(guests.lists(), table=guests.table(guests.BITMAP, read_through="file", same_boot=same_boot))


def cut(snapshot: Snapshot) -> Snapshot:
    """The walk of each list ended early."""
    assert snapshot.zones is not None
    zones = (replace(one, listed=replace(one.listed, problems=("a cycle",))) for one in snapshot.zones if one.listed)
    return replace(snapshot, zones=tuple(zones))


GUESTS = {
    "bitmap": guests.small(),
    "page-lists": guests.lists(),
    "uneven": guests.uneven(),
    "10 TiB": guests.huge(),
    "saved table": saved(True),
    "saved table, perhaps of another boot": saved(None),
    "accepts overlap": replace(guests.small(), accepting=OVERLAPPING),
    "absent": replace(guests.small(), table=ABSENT),
    "absent, no EFI map": replace(guests.small(), table=ABSENT, efi_map=None, missing={"efi_map": "broken"}),
    "accepts damaged": replace(guests.small(), accepting=AcceptingList((), ("damaged",))),
    "an accept and damage": replace(guests.small(), accepting=replace(IN_FLIGHT, problems=("damaged",))),
    "list damaged": cut(guests.small()),
    "no zones": replace(guests.small(), zones=()),
    "doubted": replace(guests.small(), table=DOUBTED),
    "bits lost under listed chunks": replace(guests.small(), table=guests.table(bytes(len(guests.BITMAP)))),
    "doubted, lists damaged": replace(cut(guests.small()), table=DOUBTED),
}


@pytest.mark.parametrize("name", GUESTS)
def test_the_page_answers_as_resolve_does(show: Callable[..., Any], name: str) -> None:
    assert_same_answers(show, GUESTS[name])


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.parent.name)
def test_the_page_answers_as_resolve_does_for_real_guests(show: Callable[..., Any], path: Path) -> None:
    snapshot = capture(open_vmcore(str(path), (), "auto", None), Wanted(ALL_PARTS, ALL_MEMORY))
    assert_same_answers(show, snapshot)
