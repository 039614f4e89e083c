# SPDX-License-Identifier: LGPL-2.1-or-later
"""``zones``: ``zone->unaccepted_pages``, counters and watermarks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional

from drgn_unaccepted.answer.allocator import zones
from drgn_unaccepted.answer.documents import ZonesAnswer
from drgn_unaccepted.answer.source import Source
from drgn_unaccepted.commands import lines
from drgn_unaccepted.commands.base import Arguments, Question
from drgn_unaccepted.snapshot import Snapshot
from drgn_unaccepted.words import safe, size, span


class Zones(Question[ZonesAnswer]):
    def answer(self, snapshot: Snapshot, source: Source, args: Arguments) -> ZonesAnswer:
        return zones(snapshot, source)

    def lack(self, answer: ZonesAnswer) -> Optional[str]:
        return None if answer["zones"] is not None else f"zones: {answer['missing']}"

    def text(self, answer: ZonesAnswer, args: Arguments) -> Iterator[str]:
        yield from lines.preface(answer)
        found = answer["zones"] or []
        yield from lines.table(
            (
                (
                    z["node"],
                    safe(z["name"]),
                    size(z["managed_bytes"]),
                    size(z["free_bytes"]),
                    size(z["unaccepted_bytes"]),
                    "unknown" if z["listed_chunks"] is None else z["listed_chunks"],
                    size(z["watermarks"]["min"]),
                    size(z["watermarks"]["high"]),
                    size(z["watermarks"]["promo"]),
                    size(z["watermarks"]["boost"]),
                )
                for z in found
            ),
            ("node", "zone", "managed", "free", "NR_UNACCEPTED", "chunks", "min", "high", "promo", "boost"),
        )
        for zone in found:
            where = f"node {zone['node']} {safe(zone['name'])}"
            for start, end in zone["listed"] or ():
                yield f"{where}: listed {span(start, end)}, {size(end - start)}"
            for problem in zone["list_problems"]:
                yield f"{where}: unaccepted_pages: {safe(problem)}"


COMMAND = Zones()
