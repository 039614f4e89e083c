# SPDX-License-Identifier: LGPL-2.1-or-later
"""The difference between two snapshots of one kernel, as JSON: what changed, and no more.

A dataclass that changed is an object of its changed fields, a tuple of dataclasses with as many items as before an
object by index. The bitmap is the runs of bits that were cleared; bits are set again in no released kernel, and would
be listed too. A list of unaccepted chunks is what was kept of the one before, and what was added behind. All else is
written whole, in the form of a snapshot file.
"""

from __future__ import annotations

import dataclasses
import reprlib
import typing
from array import array
from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import Any, Optional, Union

from drgn_unaccepted.limits import LISTED_CHUNKS, RECORDED_RUNS
from drgn_unaccepted.model import bitmap as bits
from drgn_unaccepted.snapshot import ListedChunks, Snapshot
from drgn_unaccepted.snapshot_file import Budget, SnapshotFileError, check_outline, decode, encode

_COLUMNS = ("pfns", "flags", "refcounts", "page_types")

_BLOCK = 64 << 10

_NEAR = 1024


def change(old: Snapshot, new: Snapshot) -> dict[str, Any]:
    """What turns ``old`` into ``new``; empty where they are equal."""
    changed: dict[str, Any] = _fields(old, new)
    return changed


def apply(old: Snapshot, changed: Any) -> Snapshot:
    """The snapshot that :func:`change` was made from.

    :raises SnapshotFileError: this is no change of such a snapshot
    """
    if not isinstance(changed, dict):
        raise SnapshotFileError("change: an object is wanted")
    new = _apply(old, changed, Snapshot, "change", Budget())
    assert isinstance(new, Snapshot)
    check_outline(new)
    return new


def _change(old: Any, new: Any) -> Any:
    """``old`` and ``new`` differ."""
    if isinstance(old, ListedChunks) and isinstance(new, ListedChunks):
        return _list_change(old, new) or encode(new)
    if isinstance(old, bytes) and isinstance(new, bytes) and len(old) == len(new):
        return _bits_change(old, new) or encode(new)
    if dataclasses.is_dataclass(new) and type(old) is type(new):
        return _fields(old, new)
    if _dataclasses(old) and _dataclasses(new) and len(old) == len(new):
        return {str(i): _change(*pair) for i, pair in enumerate(zip(old, new)) if pair[0] != pair[1]}
    return encode(new)


def _dataclasses(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and all(dataclasses.is_dataclass(item) for item in value)


def _fields(old: Any, new: Any) -> dict[str, Any]:
    pairs = ((field.name, getattr(old, field.name), getattr(new, field.name)) for field in dataclasses.fields(new))
    return {name: _change(before, after) for name, before, after in pairs if before is not after and before != after}


def _apply(old: Any, value: Any, kind: Any, where: str, budget: Budget) -> Any:
    if typing.get_origin(kind) is Union:
        if value is None:
            return None
        kind = typing.get_args(kind)[0]
    if isinstance(value, dict):
        if kind is ListedChunks:
            if "kept" in value:
                return _apply_list_change(old, value, where, budget)
            return decode(value, kind, where, budget)
        if kind is bytes:
            return _apply_bits_change(old, value, where)
        if dataclasses.is_dataclass(kind) and type(old) is kind:
            return _apply_fields(old, value, where, budget)
        if typing.get_origin(kind) is tuple:
            return _apply_items(old, value, typing.get_args(kind)[0], where, budget)
    return decode(value, kind, where, budget)


def _apply_fields(old: Any, value: dict[str, Any], where: str, budget: Budget) -> Any:
    kind: Any = type(old)
    hints = _hints(kind)
    unknown = sorted(value.keys() - hints.keys())
    if unknown:
        raise SnapshotFileError(f"{where}: unknown {reprlib.repr(unknown[0])}")
    changed = {
        name: _apply(getattr(old, name), item, hints[name], f"{where}.{name}", budget) for name, item in value.items()
    }
    return dataclasses.replace(old, **changed)


def _apply_items(old: Any, value: dict[str, Any], kind: Any, where: str, budget: Budget) -> tuple[Any, ...]:
    if not isinstance(old, tuple):
        raise SnapshotFileError(f"{where}: items of a list that was not there before")
    items = list(old)
    for key, item in value.items():
        if not key.isdecimal() or len(key) > 9 or int(key) >= len(items):
            raise SnapshotFileError(f"{where}: no item {reprlib.repr(key)} before")
        items[int(key)] = _apply(items[int(key)], item, kind, f"{where}.{key}", budget)
    return tuple(items)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    # array.array takes no type argument before Python 3.12; the columns of ListedChunks are not looked at here.
    return {} if kind is ListedChunks else typing.get_type_hints(kind)


# The bitmap


def _bits_change(old: bytes, new: bytes) -> Optional[dict[str, list[int]]]:
    """Runs of bits as first, end, first, end, ...; None where the whole bitmap is shorter."""
    cleared, set_ = bytearray(len(old)), bytearray(len(old))
    for start in range(0, len(old), _BLOCK):
        before, after = old[start : start + _BLOCK], new[start : start + _BLOCK]
        if before == after:
            continue
        was, now = int.from_bytes(before, "little"), int.from_bytes(after, "little")
        cleared[start : start + _BLOCK] = (was & ~now).to_bytes(len(before), "little")
        set_[start : start + _BLOCK] = (now & ~was).to_bytes(len(before), "little")
    changed = {}
    for name, bitmap in (("cleared", cleared), ("set", set_)):
        runs: list[int] = []
        for run in bits.runs(bitmap):
            if len(runs) == 2 * RECORDED_RUNS:
                return None
            runs += run
        if runs:
            changed[name] = runs
    return changed


def _apply_bits_change(old: Any, value: dict[str, Any], where: str) -> bytes:
    if not isinstance(old, bytes):
        raise SnapshotFileError(f"{where}: bits of a bitmap that was not there before")
    if value.keys() - {"cleared", "set"}:
        raise SnapshotFileError(f"{where}: unknown {reprlib.repr(min(value.keys() - {'cleared', 'set'}))}")
    cleared = _mask(value.get("cleared", []), len(old), f"{where}.cleared")
    set_ = _mask(value.get("set", []), len(old), f"{where}.set")
    bitmap = int.from_bytes(old, "little")
    if bitmap & cleared != cleared or bitmap & set_:
        raise SnapshotFileError(f"{where}: clears bits that are not set, or sets bits that are")
    return (bitmap & ~cleared | set_).to_bytes(len(old), "little")


def _mask(value: Any, length: int, where: str) -> int:
    runs = _pairs(value, 8 * length, RECORDED_RUNS, where)
    return int.from_bytes(bits.from_runs(runs, length), "little")


# zone->unaccepted_pages


def _list_change(old: ListedChunks, new: ListedChunks) -> Optional[dict[str, Any]]:
    """Slices of the old list that were kept, and what follows them; None where the whole list is shorter."""
    kept = _kept(old.pfns, new.pfns)
    if kept is None:
        return None
    length = sum(end - start for start, end in kept)
    if any(_slices(getattr(old, name), kept) != getattr(new, name)[:length] for name in _COLUMNS):
        return None
    changed: dict[str, Any] = {"kept": list(chain.from_iterable(kept))}
    if length < len(new.pfns):
        rest = {name: getattr(new, name)[length:] for name in _COLUMNS}
        changed["added"] = encode(ListedChunks(**rest))
    if new.problems:
        changed["problems"] = list(new.problems)
    return changed


def _kept(old: array[int], new: array[int]) -> Optional[list[tuple[int, int]]]:
    """Ascending slices of ``old`` that ``new`` begins with; None where they are too many."""
    places: dict[int, int] = {}
    kept: list[tuple[int, int]] = []
    at = behind = 0
    while at < len(new):
        start = _near(old, behind, new[at])
        if start is None:
            # Costs more than all else; most samples lose some chunks at the list's head only.
            places = places or {pfn: i for i, pfn in enumerate(old)}
            start = places.get(new[at], -1)
        if start < behind:
            break
        if len(kept) == RECORDED_RUNS:
            return None
        same = _common(old, start, new, at)
        behind = start + same
        kept.append((start, behind))
        at += same
    return kept


def _near(column: array[int], start: int, value: int) -> Optional[int]:
    """Where ``value`` is among the next elements."""
    try:
        return start + column[start : start + _NEAR].index(value)
    except ValueError:
        return None


def _common(old: array[int], start: int, new: array[int], at: int) -> int:
    """How many elements are equal from ``old[start]`` and ``new[at]`` on."""
    same, step = 0, 1
    most = min(len(old) - start, len(new) - at)
    while step:
        end = min(same + step, most)
        if old[start + same : start + end] == new[at + same : at + end] and end > same:
            same, step = end, 2 * step
        else:
            step //= 2
        if same == most:
            break
    return same


def _slices(column: array[int], slices: Sequence[tuple[int, int]]) -> array[int]:
    taken = array(column.typecode)
    for start, end in slices:
        taken.extend(column[start:end])
    return taken


def _apply_list_change(old: Any, value: dict[str, Any], where: str, budget: Budget) -> ListedChunks:
    if not isinstance(old, ListedChunks):
        raise SnapshotFileError(f"{where}: part of a list that was not there before")
    if value.keys() - {"kept", "added", "problems"}:
        unknown = min(value.keys() - {"kept", "added", "problems"})
        raise SnapshotFileError(f"{where}: unknown {reprlib.repr(unknown)}")
    kept = _pairs(value["kept"], len(old.pfns), RECORDED_RUNS, f"{where}.kept")
    columns = {name: _slices(getattr(old, name), kept) for name in _COLUMNS}
    if "added" in value:
        added = decode(value["added"], ListedChunks, f"{where}.added", budget)
        for name, column in columns.items():
            column.extend(getattr(added, name))
    if len(columns["pfns"]) > LISTED_CHUNKS:
        raise SnapshotFileError(f"{where}: more than {LISTED_CHUNKS} chunks")
    problems = decode(value.get("problems", []), tuple[str, ...], f"{where}.problems")
    return ListedChunks(**columns, problems=problems)


def _pairs(value: Any, most: int, count: int, where: str) -> list[tuple[int, int]]:
    """``first, end, first, end, ...``, ascending and at most ``most``."""
    if not isinstance(value, list) or len(value) % 2 or len(value) > 2 * count:
        raise SnapshotFileError(f"{where}: at most {count} pairs are wanted")
    last = 0
    for number in value:
        if type(number) is not int or not last <= number <= most:
            raise SnapshotFileError(f"{where}: numbers from 0 to {most} are wanted, ascending")
        last = number
    return list(zip(value[::2], value[1::2]))
