# SPDX-License-Identifier: LGPL-2.1-or-later
"""``merge``: the records of all shards and hosts as one, without doubles, and what stands out in them.

The files are read twice, a line at a time: first for which record of each target counts, then for what they say. Memory
goes by the number of targets and hosts, some hundred bytes each, not by the size of the records.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Callable, NamedTuple, Optional

from drgn_unaccepted import limits
from drgn_unaccepted.answer.document import SCHEMA, Document
from drgn_unaccepted.errors import CommandError
from drgn_unaccepted.fleet.records import Header, Problem, Record, read
from drgn_unaccepted.fleet.summary import Summary


class _Best(NamedTuple):
    """Which record of the same content counts: an answer before a failure, then the later one."""

    answers: bool
    finished_at: str
    number: int
    place: bytes

    @property
    def when(self) -> tuple[str, int]:
        return self.finished_at, self.number


class Merged:
    """Which records count, and what is wrong with the files."""

    def __init__(self, files: Sequence[str]) -> None:
        """Read the files for the first time.

        :raises CommandError: a file cannot be read, or none holds a record
        """
        self._files = files
        self.problems: list[Problem] = []
        self.problem_count = 0
        best: dict[bytes, _Best] = {}
        whole = _Wholeness()
        total = 0
        for item in read(files):
            if isinstance(item, Problem):
                self.problem_count += 1
                if len(self.problems) < limits.FLEET_NAMED:
                    self.problems.append(item)
                continue
            whole.add(item)
            if isinstance(item, Header):
                continue
            total += 1
            # Of many targets in the same second: one string.
            finished_at = sys.intern(str(item.document.get("finished_at", "")))
            mine = _Best(item.failure is None, finished_at, item.number, item.place)
            if item.id not in best and len(best) == limits.FLEET_TARGETS:
                raise CommandError(f"more than {limits.FLEET_TARGETS} targets")
            best[item.id] = max(best.get(item.id, mine), mine)
        if not total:
            raise CommandError(
                "no record in these files"
                + (f": {self.problems[0].where}: {self.problems[0].reason}" if self.problems else "")
            )
        self.incomplete = whole.lacks()
        self.doubles = total - len(best)
        # What a place held is replaced by what it holds, be that an answer or not.
        latest: dict[bytes, _Best] = {}
        for kept in best.values():
            latest[kept.place] = max(latest.get(kept.place, kept), kept, key=lambda one: one.when)
        self.replaced = len(best) - len(latest)
        #: Numbers of the records that count; None: all do, and there is nothing to look up.
        self._counts = {kept.number for kept in latest.values()} if len(latest) < total else None

    def __iter__(self) -> Iterator[Record]:
        """The records that count, read again."""
        for item in read(self._files):
            if isinstance(item, Record) and (self._counts is None or item.number in self._counts):
                yield item


class _Wholeness:
    """Whether each shard is there and has as many targets as it was to have."""

    def __init__(self) -> None:
        self._file: Optional[str] = None
        self._wanted: Optional[int] = None
        self._before = 0
        self._ids: set[bytes] = set()
        self._shards: dict[int, set[int]] = {}
        self._lacks: list[str] = []

    def add(self, item: Any) -> None:
        if item.file != self._file:
            self._close()
            self._file = item.file
        if isinstance(item, Header):
            self._wanted = item.targets
            if item.done is not None:
                # Records before this header may be of dumps that were written anew since.
                self._before, self._ids = item.done, set()
            self._shards.setdefault(item.count, set()).add(item.index)
        elif self._wanted is not None:
            self._ids.add(item.id)

    def _close(self) -> None:
        if self._wanted is not None and self._before + len(self._ids) < self._wanted:
            self._lacks.append(f"{self._file}: {self._before + len(self._ids)} of {self._wanted} targets")
        self._wanted, self._before, self._ids = None, 0, set()

    def lacks(self) -> list[str]:
        self._close()
        self._file = None
        for count, seen in sorted(self._shards.items()):
            # A damaged count can be 2^63.
            missing = list(islice((index for index in range(count) if index not in seen), limits.FLEET_NAMED))
            if missing:
                names = ", ".join(map(str, missing))
                unnamed = count - len(seen) - len(missing)
                more = f" and {unnamed} more" if unnamed else ""
                self._lacks.append(f"no file of shard {names}{more} of {count}")
        return self._lacks


def merge(files: Sequence[str], see: Callable[[Record], None] = lambda record: None) -> Document:
    """The summary of all records.

    :param see: is shown each record that counts, once
    :raises CommandError: a file cannot be read, or none holds a record
    """
    merged = Merged(files)
    summary = Summary()
    for record in merged:
        summary.add(record)
        see(record)
    return {
        "schema": SCHEMA,
        "command": "merge",
        **summary.document(),
        "doubles": merged.doubles,
        "replaced": merged.replaced,
        "incomplete": merged.incomplete,
        "problems": [problem._asdict() for problem in merged.problems],
        "problem_count": merged.problem_count,
    }
