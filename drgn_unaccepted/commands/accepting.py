# SPDX-License-Identifier: LGPL-2.1-or-later
"""``accepting``: the accepts in flight, with task and CPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional

from drgn_unaccepted.answer.documents import AcceptingAnswer
from drgn_unaccepted.answer.parts import accepting, where, who
from drgn_unaccepted.commands import Arguments, Question
from drgn_unaccepted.words import count, safe, wrap


class Accepting(Question[AcceptingAnswer]):
    def lack(self, answer: AcceptingAnswer) -> Optional[str]:
        return None if answer["accepting"] is not None else f"accepting_list: {answer['missing']}"

    def text(self, answer: AcceptingAnswer, args: Arguments) -> Iterator[str]:
        for problem in answer["problems"]:
            yield from wrap(f"accepting_list: {safe(problem)}")
        entries = answer["accepting"]
        if not entries:
            # Of a damaged list nobody knows what else is on it.
            yield from [] if answer["problems"] else ["accepting_list: empty, no accept is in flight"]
            return
        note = {
            "EFI memory map": " (addresses from the lowest type 15 of the EFI memory map)",
            None: " (addresses unknown: phys_base is in the table, which was not captured)",
        }.get(answer["phys_base_from"], "")
        yield from wrap(f"accepting_list: {count(len(entries), 'accept')} in flight{note}")
        units = 8 * (answer["table"]["bitmap_bytes"] or 0)
        for entry in entries:
            is_dead = answer["target"]["kind"] == "vmcore" and entry["start_unit"] >= entry["end_unit"] < units
            note = "; its stack is dead: an oops rewound it, or it is in use again" if is_dead else ""
            yield from wrap(f"{where(entry)}: {who(entry)}{note}")


COMMAND = Accepting(accepting)
