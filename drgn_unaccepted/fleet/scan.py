# SPDX-License-Identifier: LGPL-2.1-or-later
"""``scan``: check many vmcores and snapshots, some at a time, each in a process of its own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple, Optional, Union

from drgn_unaccepted.answer.document import Document
from drgn_unaccepted.fleet.journal import Beside, Journal, Output
from drgn_unaccepted.fleet.process import Bounds, Interrupted, Process
from drgn_unaccepted.fleet.progress import Progress
from drgn_unaccepted.fleet.targets import Shard, Target
from drgn_unaccepted.record.loop import Stop

#: Seconds between two looks at whether to stop.
_LOOK = 0.2


class Scan(NamedTuple):
    """How a scan is done."""

    shard: Shard
    bounds: Bounds
    jobs: int
    #: Look again at targets that an earlier run had no answer for.
    retry: bool
    quiet: bool
    #: Each record in a file beside its target.
    beside: bool = False


def scan(targets: Sequence[Target], how: Scan, output: Optional[str], stop: Stop) -> int:
    """Look at the targets of the shard that are not done yet, and write a record for each.

    :param output: a file, which an earlier run may have begun; None: standard output
    :return: how many targets of the shard have no record in the end: not 0 only after ``stop``
    :raises CommandError: the records cannot be written
    """
    mine = [target for target in targets if how.shard.has(target)]
    with _journal(mine, how, output) as journal:
        todo = [target for target in mine if not _is_done(journal.done, target, how.retry)]
        journal.begin(how.shard, len(mine), len(mine) - len(todo))
        progress = Progress(len(mine), len(mine) - len(todo), how.quiet, shard=how.shard)
        left = len(todo)
        try:
            for record in records(todo, how, stop):
                journal.add(record)
                progress.add(record)
                left -= 1
        finally:
            progress.close()
    return left


def _journal(targets: Sequence[Target], how: Scan, output: Optional[str]) -> Union[Journal, Beside, Output]:
    if how.beside:
        return Beside(targets)
    return Output() if output is None else Journal(output)


def _is_done(done: dict[str, bool], target: Target, retry: bool) -> bool:
    return target.id in done and (done[target.id] or not retry)


def records(targets: Sequence[Target], how: Scan, stop: Stop) -> Iterator[Document]:
    """The records in the order in which they come; after ``stop`` no more, and no process is left behind."""
    todo = iter(targets)
    results: queue.Queue[Union[Document, BaseException, None]] = queue.Queue(how.jobs)
    running: set[Process] = set()
    ending = False
    lock = threading.Lock()

    def next_process() -> Optional[Process]:
        with lock:
            target = None if ending else next(todo, None)
            if target is None:
                return None
            process = Process(target, how.bounds)
            running.add(process)
            return process

    def work() -> None:
        with suppress(Interrupted):
            try:
                while (process := next_process()) is not None:
                    try:
                        results.put(process.record())
                    finally:
                        with lock:
                            running.discard(process)
            except OSError as error:
                # No process or no temporary file can be made: it is the machine, and not the target.
                results.put(error)
        results.put(None)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(how.jobs, max(1, len(targets))))]
    for thread in threads:
        thread.start()
    at_work = len(threads)
    try:
        while at_work and not stop:
            with suppress(queue.Empty):
                result = results.get(timeout=_LOOK)
                if isinstance(result, BaseException):
                    raise result
                if result is None:
                    at_work -= 1
                else:
                    yield result
    finally:
        with lock:
            ending = True
            for process in running:
                process.kill()
        while any(thread.is_alive() for thread in threads):
            with suppress(queue.Empty):
                results.get(timeout=_LOOK / 10)
