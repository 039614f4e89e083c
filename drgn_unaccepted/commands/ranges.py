# SPDX-License-Identifier: LGPL-2.1-or-later
"""``ranges``: which memory is unaccepted and which is accepted, by physical address."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional, Union

from drgn_unaccepted.answer.documents import RangesAnswer
from drgn_unaccepted.answer.ranges import ranges
from drgn_unaccepted.answer.source import Source
from drgn_unaccepted.commands import lines
from drgn_unaccepted.commands.base import STATE, Arguments, Question
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import ALL_MEMORY, Snapshot
from drgn_unaccepted.words import size


class Ranges(Question[RangesAnswer]):
    parts = STATE | {"efi_map"}

    def where(self, args: Arguments) -> tuple[Range, ...]:
        return ALL_MEMORY

    def answer(self, snapshot: Snapshot, source: Source, args: Arguments) -> RangesAnswer:
        return ranges(snapshot, source)

    def lack(self, answer: RangesAnswer) -> Optional[str]:
        return lines.no_addresses(answer) if answer["ranges"] is None else None

    def text(self, answer: RangesAnswer, args: Arguments) -> Iterator[str]:
        yield from lines.preface(answer)
        if not answer["ranges"]:
            return
        headers = ["start", "end", "size", "state"]
        guards = {start for start, _ in answer["possible_guards"]}
        rows: list[list[Union[str, int]]] = []
        for entry in answer["ranges"]:
            start, end = entry["start"], entry["end"]
            rows.append([f"{start:#x}", f"{end:#x}", size(end - start), entry["state"]])
            if guards:
                rows[-1].append("its first and last unit may be accepted already" if start in guards else "")
        yield from lines.table(rows, [*headers, "note"] if guards else headers)


COMMAND = Ranges()
