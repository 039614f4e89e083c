# SPDX-License-Identifier: LGPL-2.1-or-later
"""How fast memory is accepted: rates, their sources, and nodes as sums of zones."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from typing import Any, Optional

import pytest

from drgn_unaccepted.answer.history import Sample
from drgn_unaccepted.answer.judgement import judge
from drgn_unaccepted.commands import accepting
from drgn_unaccepted.commands.progress import progress
from drgn_unaccepted.views.watch import by_node
from tests.checks import changes
from tests.checks.build import BITMAP, clean

UNIT = 2 << 20


def at(elapsed: float, bitmap: Optional[bytes], nr_unaccepted: int) -> Sample:
    """A running guest: its EFI memory map is not mapped, and its lists change while they are read."""
    snapshot = clean()
    snapshot = replace(snapshot, target=replace(snapshot.target, kind="live"), efi_map=None, missing={"efi_map": "no"})
    table = replace(snapshot.table, bitmap=bitmap)
    if bitmap is None:
        table = replace(table, state="not-captured", reason="no")
    assert snapshot.zones is not None
    *others, normal = snapshot.zones
    zones = (*others, replace(normal, unaccepted_pages=nr_unaccepted, managed_pages=16384))
    return Sample(0, elapsed, 0.01, replace(snapshot, table=table, zones=zones))


def test_a_rate_is_what_was_accepted_over_the_last_ten_seconds() -> None:
    full, half, none = b"\xff\xff\xff\xff", b"\x00\x00\xff\xff", bytes(4)
    samples = (at(0, full, 16384), at(4, half, 8192), at(12, half, 8192), at(14, half, 8192), at(22, none, 0))
    answers = list(progress(samples, "watch", "auto"))
    assert [(a["rate_bytes_per_second"], a["rate_seconds"], a["seconds_left"]) for a in answers] == [
        (None, None, None),
        (16 * UNIT / 4, 4, 4.0),
        (16 * UNIT / 12, 12, 12.0),  # ten seconds back there was the first
        (0, 10, None),  # against the second
        (16 * UNIT / 10, 10, 0),
    ]
    assert answers[0]["command"] == "watch" and answers[0]["source"] == "bitmap"
    assert answers[0]["unaccepted_bytes"] == 32 * UNIT
    zones = answers[1]["zones"]
    assert zones is not None and [z["rate_bytes_per_second"] for z in zones] == [0, 8192 * 4096 / 4]


def test_a_rate_over_two_sources_is_unknown() -> None:
    _, answer = progress((at(0, BITMAP, 9216), at(1, None, 9216)), "replay", "auto")
    assert answer["source"] == "page-lists" and answer["exact"] is False
    assert answer["rate_bytes_per_second"] is None and answer["rate_seconds"] == 1
    assert answer["zones"][-1]["rate_bytes_per_second"] == 0, "counters do not change with the source"
    assert next(progress([at(0, BITMAP, 9216)], "replay", "counters"))["source"] == "counters"


def test_what_is_missing_is_null() -> None:
    sample = at(0, None, 0)
    missing = {"zones": "z", "accepting": "a", "counters": "c"}
    bare = replace(sample.snapshot, zones=None, counters=None, accepting=None, missing=missing)
    (answer,) = progress([sample._replace(snapshot=bare)], "watch", "auto")
    assert answer["source"] == "none"
    assert [answer[key] for key in ("unaccepted_bytes", "zones", "managed_bytes", "accepting")] == [None] * 4
    assert answer["missing"] == {"zones": "z", "accepting": "a"}


def test_nodes_are_the_sums_of_their_zones() -> None:
    names = ("node", "managed_bytes", "unaccepted_bytes", "rate_bytes_per_second")
    rest = {"name": "Z", "free_bytes": 1, "listed_chunks": 2}
    zones: list[Any] = [
        {**dict(zip(names, values)), **rest} for values in ((0, 10, 4, 1.0), (1, 7, None, None), (0, 20, 5, 2.0))
    ]
    got = by_node(zones)
    assert [tuple(node[name] for name in names) for node in got] == [(0, 30, 9, 3.0), (1, 7, None, None)]
    assert got[0]["listed_chunks"] == 4 and got[0]["name"] == "all"


@pytest.mark.parametrize(
    ("kind", "entry", "dead"), [("vmcore", (0, 0), 1), ("live", (0, 0), 0), ("vmcore", (32, 32), 0)]
)
def test_an_accept_whose_stack_was_rewound_says_so(kind: str, entry: tuple[int, int], dead: int) -> None:
    """One of memory above the bitmap, of 32 units, has no units either."""
    snapshot = changes.accepting(entry)(clean())
    snapshot = replace(snapshot, target=replace(snapshot.target, kind=kind))
    lines = "\n".join(accepting.COMMAND.text(accepting.accepting(snapshot, judge(snapshot)), Namespace()))
    assert lines.count("stack is dead") == dead
