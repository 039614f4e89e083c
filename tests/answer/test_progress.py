# SPDX-License-Identifier: LGPL-2.1-or-later
"""How fast memory is accepted: rates, their sources, and nodes as sums of zones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Optional

from drgn_unaccepted.commands.progress import Progress
from drgn_unaccepted.snapshot import Sample
from drgn_unaccepted.views.watch import by_node
from tests.checks.build import BITMAP, clean


def at(elapsed: float, bitmap: Optional[bytes], nr_unaccepted: int, number: int = 0) -> Sample:
    snapshot = clean()
    table = replace(snapshot.table, bitmap=bitmap, bitmap_bytes=4 if bitmap is None else len(bitmap))
    if bitmap is None:
        table = replace(table, state="not-captured", reason="no")
    assert snapshot.zones is not None
    *others, normal = snapshot.zones
    zones = (*others, replace(normal, unaccepted_pages=nr_unaccepted, managed_pages=16384))
    return Sample(number, elapsed, 0.01, replace(snapshot, table=table, zones=zones))


def test_a_rate_is_what_was_accepted_over_the_last_ten_seconds() -> None:
    progress = Progress("watch")
    full, half, none = b"\xff\xff\xff\xff", b"\x00\x00\xff\xff", bytes(4)
    unit = 2 << 20
    first = progress.document(at(0, full, 16384))
    assert first["command"] == "watch" and first["source"] == "bitmap"
    assert first["unaccepted_bytes"] == 32 * unit
    assert first["rate_bytes_per_second"] is None and first["rate_seconds"] is None and first["seconds_left"] is None
    second = progress.document(at(4, half, 8192, 1))
    assert second["rate_bytes_per_second"] == 16 * unit / 4 and second["rate_seconds"] == 4
    assert second["seconds_left"] == 4.0
    assert second["zones"][-1]["rate_bytes_per_second"] == 8192 * 4096 / 4
    assert second["zones"][0]["rate_bytes_per_second"] == 0
    third = progress.document(at(12, half, 8192, 2))
    assert third["rate_bytes_per_second"] == 16 * unit / 12, "ten seconds back there was the first"
    fourth = progress.document(at(14, half, 8192, 3))
    assert fourth["rate_bytes_per_second"] == 0 and fourth["rate_seconds"] == 10, "against the second"
    assert fourth["seconds_left"] is None
    fifth = progress.document(at(22, none, 0, 4))
    assert fifth["rate_bytes_per_second"] == 16 * unit / 10 and fifth["seconds_left"] == 0


def test_a_rate_over_two_sources_is_unknown() -> None:
    progress = Progress("replay")
    progress.document(at(0, BITMAP, 9216))
    answer = progress.document(at(1, None, 9216, 1))
    assert answer["source"] == "page-lists" and answer["exact"] is False
    assert answer["rate_bytes_per_second"] is None and answer["rate_seconds"] == 1
    assert answer["zones"][-1]["rate_bytes_per_second"] == 0, "counters do not change with the source"


def test_the_source_can_be_chosen() -> None:
    answer = Progress("replay", "counters").document(at(0, BITMAP, 9216))
    assert answer["source"] == "counters"


def test_what_is_missing_is_null() -> None:
    sample = at(0, None, 0)
    bare = replace(
        sample.snapshot,
        zones=None,
        counters=None,
        accepting=None,
        missing={"zones": "z", "accepting": "a", "counters": "c"},
    )
    answer = Progress("watch").document(sample._replace(snapshot=bare))
    assert answer["source"] == "none" and answer["unaccepted_bytes"] is None
    assert answer["zones"] is None and answer["managed_bytes"] is None and answer["accepting"] is None
    assert answer["missing"] == {"zones": "z", "accepting": "a"}


def test_nodes_are_the_sums_of_their_zones() -> None:
    def zone(node: int, managed: int, unaccepted: Optional[int], rate: Optional[float]) -> dict[str, Any]:
        return {
            "node": node,
            "name": "Z",
            "managed_bytes": managed,
            "free_bytes": 1,
            "unaccepted_bytes": unaccepted,
            "listed_chunks": 2,
            "rate_bytes_per_second": rate,
        }

    got = by_node([zone(0, 10, 4, 1.0), zone(1, 7, None, None), zone(0, 20, 5, 2.0)])
    assert [(n["node"], n["managed_bytes"], n["unaccepted_bytes"], n["rate_bytes_per_second"]) for n in got] == [
        (0, 30, 9, 3.0),
        (1, 7, None, None),
    ]
    assert got[0]["listed_chunks"] == 4 and got[0]["name"] == "all"
