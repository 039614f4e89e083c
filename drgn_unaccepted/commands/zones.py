# SPDX-License-Identifier: LGPL-2.1-or-later
"""``zones``: ``zone->unaccepted_pages``, counters and watermarks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional

from drgn_unaccepted.answer.documents import ZoneDocument, ZonesAnswer
from drgn_unaccepted.answer.parts import zones
from drgn_unaccepted.commands import Arguments, Question
from drgn_unaccepted.views import lines
from drgn_unaccepted.views.tabular import columns
from drgn_unaccepted.words import count, safe, size, wrap


class Zones(Question[ZonesAnswer]):
    has_long_list = True

    def lack(self, answer: ZonesAnswer) -> Optional[str]:
        return None if answer["zones"] is not None else f"zones: {answer['missing']}"

    def text(self, answer: ZonesAnswer, args: Arguments) -> Iterator[str]:
        yield from lines.preface(answer)
        found = answer["zones"] or []
        # JSON has the promotion watermark too.
        names = ("managed", "free", "unaccepted", "min", "low", "high")
        yield from columns([(_name(z), *map(size, _sizes(z))) for z in found], ("zone", *names), args.all)
        sums = [size(None if None in column else sum(column)) for column in zip(*map(_sizes, found))]
        yield f"total: {', '.join(f'{nbytes} {name}' for name, nbytes in zip(names[:3], sums))}"
        rows = []
        for zone in found:
            if zone["watermarks"]["boost"]:
                yield f"{_name(zone)}: watermarks boosted by {size(zone['watermarks']['boost'])}"
            if zone["listed_chunks"] is None:
                yield f"{_name(zone)}: unaccepted_pages unknown"
            for problem in zone["list_problems"]:
                yield from wrap(f"{_name(zone)}: unaccepted_pages: {safe(problem)}")
            rows += [(_name(zone), f"{low:#x}", f"{high:#x}", size(high - low)) for low, high in zone["listed"] or ()]
        if rows:
            chunks = sum(zone["listed_chunks"] or 0 for zone in found)
            yield ""
            yield f"on zone->unaccepted_pages: {count(chunks, 'chunk')} of {size(answer['chunk_bytes'])}"
            yield from columns(rows, ("zone", "start", "end", "size"), args.all, 6)


def _name(zone: ZoneDocument) -> str:
    return f"{zone['node']} {safe(zone['name'])}"


def _sizes(zone: ZoneDocument) -> list[Optional[int]]:
    amounts, marks = (zone["managed_bytes"], zone["free_bytes"], zone["unaccepted_bytes"]), zone["watermarks"]
    return [*amounts, marks["min"], marks["low"], marks["high"]]


COMMAND = Zones(zones)
