# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage every physical range that the program reads, and compare all answers with what the guest said of itself.

Whatever is damaged: no unaccepted memory is called accepted, an answer that says exact is the truth, and bounds hold.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, Callable
from unittest import mock

import drgn

from drgn_unaccepted import helpers
from drgn_unaccepted.answer.best_source import SOURCES
from drgn_unaccepted.kernel.capture import samples
from drgn_unaccepted.model.ranges import Range, merge, subtract
from drgn_unaccepted.run import look
from drgn_unaccepted.snapshot import ALL_MEMORY, ALL_PARTS, STATE, Snapshot, Wanted
from drgn_unaccepted.targets import vmcore
from drgn_unaccepted.targets.errors import TargetError, Unavailable
from tests.fuzz import run
from tests.fuzz.case import NAMES, NASTY, U64, Case, clean, sample

PAGE = 4096


# What to damage


@cache
def ranges_read(name: str) -> dict[str, list[Range]]:
    """Physical ranges that a capture of the undamaged sample reads, by the part that needs them."""
    image = clean(name, "elf")
    found: dict[str, list[Range]] = {}
    group = "opening"
    set_core_dump = vmcore._set_core_dump

    def read(address: int, count: int, offset: int, physical: bool) -> bytes:
        found.setdefault(group, []).append(Range(address, address + count))
        at = image.offset(address)
        assert at is not None
        return image.data[at : at + count]

    def recorded(*args: Any) -> drgn.Program:
        prog = set_core_dump(*args)
        for start, end, _ in image.loads:
            prog.add_memory_segment(start, end - start, read, True)
        return prog

    with tempfile.TemporaryDirectory() as directory, mock.patch.object(vmcore, "_set_core_dump", recorded):
        path = Path(directory) / "dump"
        path.write_bytes(image.data)
        opened = vmcore.open_vmcore(str(path))
        for group in ("table", *sorted(ALL_PARTS)):
            parts = {"table": frozenset[str](), "pages": STATE | {"pages"}}.get(group, frozenset(("kernel", group)))
            next(samples(opened, Wanted(parts, ALL_MEMORY if group == "pages" else (), bitmap=False)))
    # Page tables, types and symbols are read for every part.
    groups = {"opening": merge(found.pop("opening")), "table": merge(found.pop("table"))}
    groups["table"] = subtract(groups["table"], groups["opening"])
    groups["kernel"] = subtract(merge(found.pop("kernel")), merge(chain(*groups.values())))
    shared = merge(chain(*groups.values()))
    groups.update((group, subtract(merge(ranges), shared)) for group, ranges in found.items())
    return {group: ranges for group, ranges in groups.items() if ranges}


def damaged(rng: random.Random, names: tuple[str, ...] = NAMES) -> Case:
    """A case; the same random numbers make the same case."""
    name = rng.choice(names)
    groups = ranges_read(name)
    memory: list[tuple[int, str]] = []
    chosen = [rng.choice(sorted(groups)) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
    for group in chosen:
        ranges = groups[group]
        for start, end in rng.sample(ranges, min(len(ranges), rng.choice((1, 1, 1, 2, 8, 1000)))):
            memory.append(_one(rng, name, ranges, start, end))
    return Case(name, "+".join(chosen), memory=tuple(memory))


def _one(rng: random.Random, name: str, ranges: list[Range], start: int, end: int) -> tuple[int, str]:
    """Harmful values, the bytes beside it or those of another range; in a page, a range, or a part of it."""
    whole = rng.choice((True, False, False))
    # A log buffer is empty for the most part.
    at = next((at for at in rng.choices(range(start, end), k=8) if any(sample(name).read(at, 1))), start)
    if whole:
        at, size = at // PAGE * PAGE, PAGE
    else:
        at = rng.choice((start, at, at // 8 * 8))
        size = rng.choice((1, 4, 8, 64, PAGE, end - at))
    # Not beyond its page: the next one may not be in the sample.
    size = max(1, min(size, PAGE - at % PAGE))
    old = sample(name).read(at, size)
    other = rng.choice(ranges).start // PAGE * PAGE
    page, shift = sample(name).pages[at // PAGE], rng.choice((1, 8, 64, 512))
    shifted = (page[shift:] + page[:shift])[at % PAGE :][:size]
    another = (sample(name).pages[other // PAGE][at % PAGE :])[:size]
    return at, rng.choice((*fills(rng, old), shifted, another)).hex()


def fills(rng: random.Random, old: bytes) -> tuple[bytes, ...]:
    """Zeros, ones, random bytes, other numbers: one with a bit flipped, one beside it, one that nobody expects."""
    size, number = len(old), int.from_bytes(old[:8], "little")
    numbers = (
        number ^ 1 << rng.randrange(8 * min(size, 8)),
        number + rng.choice((-4096, -64, -8, -1, 1, 8, 64, 4096)),
        rng.choice(NASTY),
    )
    changed = ((other & U64).to_bytes(8, "little")[:size] + old[8:] for other in numbers)
    return (bytes(size), bytes(size), b"\xff" * size, rng.randbytes(size), *changed)


# The answers


def check(case: Case, directory: Path, by_commands: bool = False) -> run.Outcome:
    """Judge the damaged dump by every source, and ask the commands and the helpers too.

    :raises Defect: an answer is wrong
    """
    path = case.write(directory / "dump")
    try:
        opened = vmcore.open_vmcore(str(path))
    except TargetError as error:
        return run.Outcome(run.REFUSED, str(error))
    taken: dict[Wanted, Snapshot] = {}

    def once(wanted: Wanted) -> Iterator[Snapshot]:
        if wanted not in taken:
            taken[wanted] = next(samples(opened, wanted))
        yield taken[wanted]

    # As the questions look at it, and as check does.
    for source, parts in (*((source, STATE) for source in ("auto", *SOURCES)), ("auto", ALL_PARTS)):
        judgement, _ = look(once, Wanted(parts, ALL_MEMORY), source)
        pieces = ((piece.start, piece.end, piece.state) for piece in judgement.pieces(*ALL_MEMORY[0]))
        what, reason = f"{source} of {'state' if parts == STATE else 'all'}", f"{judgement.name}: {judgement.reason}"
        run.hold(case, what, pieces, judgement.exact, judgement.bounds, judgement.unaccepted_bytes, reason)
    if by_commands:
        _commands(case, path)
        _helpers(case, path)
    return run.Outcome(run.ANSWERED, judgement.name)


def _commands(case: Case, path: Path) -> None:
    for before in (("-c", path), ("--snapshot", path.with_suffix(".json"))):
        if before[0] == "--snapshot" and run.command("-c", path, "snapshot", "-o", before[1])[0] != 0:
            return
        for options in ((), ("--source", "page-lists"), ("--source", "bitmap"), ("--source", "reconstructed")):
            for name in ("ranges", "summary", "map"):
                answer = run.document(*before, name, *options)
                if answer is not None:
                    run.hold_document(case, f"{before[0]} {name} {options}", answer)
        answer = run.document(*before, "resolve", *(f"{start:#x}-{end:#x}" for start, end in run.unaccepted(case)))
        for entry in () if answer is None else answer["addresses"]:
            if entry["state"] in ("accepted", "no-ram") or entry.get("kernel_predicate") is False:
                raise run.Defect("wrong", f"{case.group}: {before[0]} resolve: {entry['state']}", str(entry))
        run.command(*before, "check", "--format", "json", fails=run.CHECK_STATUS)


def _helpers(case: Case, path: Path) -> None:
    prog = vmcore.open_vmcore(str(path)).prog
    start, end = run.unaccepted(case)[len(run.unaccepted(case)) // 2]
    questions: tuple[Callable[[], object], ...] = (
        lambda: helpers.range_contains_unaccepted_memory(prog, start, end - start),
        lambda: helpers.pfn_is_unaccepted_memory(prog, start // PAGE),
        lambda: list(helpers.for_each_unaccepted_range(prog)) == run.unaccepted(case),
    )
    for number, question in enumerate(questions):
        try:
            if not question():
                raise run.Defect("wrong", f"{case.group}: helper {number}: nothing unaccepted at {start:#x}-{end:#x}")
        except (Unavailable, TargetError):
            continue
