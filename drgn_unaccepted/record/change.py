# SPDX-License-Identifier: LGPL-2.1-or-later
"""The difference between two snapshots of one kernel, as JSON.

A dataclass that changed is an object of its changed fields. A list of dataclasses of unchanged length is an object by
index. A bitmap is the runs of bits that were cleared. A list of chunks is the part of the previous list that was kept,
and the chunks that were appended. Everything else is written whole, as in a snapshot file. Earlier versions also wrote
runs of bits that were set, and several kept parts.
"""

from __future__ import annotations

import dataclasses
import reprlib
from array import array
from collections.abc import Mapping
from itertools import chain, islice
from typing import Any, Optional

from drgn_unaccepted.codec import COLUMNS, Context, Hint, decode, encode, hint, hints
from drgn_unaccepted.consistency import check_consistency
from drgn_unaccepted.errors import SnapshotFileError
from drgn_unaccepted.limits import RECORDED_RUNS
from drgn_unaccepted.model import bitmap as bits
from drgn_unaccepted.snapshot import ListedChunks, Snapshot


def change(old: Snapshot, new: Snapshot) -> dict[str, Any]:
    """The difference between ``old`` and ``new``; empty if they are equal.

    :raises SnapshotFileError: it could not be read again
    """
    return _fields(old, new, Snapshot, "change")


def apply(old: Snapshot, changed: Any, context: Context) -> Snapshot:
    """The snapshot that :func:`change` compared with ``old``.

    :raises SnapshotFileError: ``changed`` does not fit ``old``
    """
    new: Snapshot = _apply(old, changed, hint(Snapshot), "change", context)
    check_consistency(new)
    return new


def _change(old: Any, new: Any, expected: Hint, where: str) -> Any:
    """``old`` and ``new`` differ."""
    small, kind, item = None, expected.kind, expected.item
    if old is None or new is None:
        pass
    elif kind is ListedChunks:
        small = _list_change(old, new)
    elif kind is bytes:
        small = _bits_change(old, new)
    elif expected.json is dict and kind is not Mapping:
        small = _fields(old, new, kind, where)
    elif item is not None and item.json is dict and len(old) == len(new):
        pairs = enumerate(zip(old, new))
        small = {str(n): _change(*pair, item, f"{where}.{n}") for n, pair in pairs if pair[0] != pair[1]}
    return encode(new, expected, where) if small is None else small


def _fields(old: Any, new: Any, kind: Any, where: str) -> dict[str, Any]:
    pairs = ((name, expected, getattr(old, name), getattr(new, name)) for name, expected in hints(kind).items())
    return {name: _change(a, b, expected, f"{where}.{name}") for name, expected, a, b in pairs if a != b}


def _apply(old: Any, value: Any, expected: Hint, where: str, context: Context) -> Any:
    kind, item = expected.kind, expected.item
    if old is None or not isinstance(value, dict) or kind is Mapping:
        return decode(value, expected, where, context)
    if kind is bytes:
        return _apply_bits_change(old, value, where)
    if kind is ListedChunks and "kept" in value:
        return _apply_list_change(old, value, where, context)
    if item is not None:
        items = list(old)
        for key, each in value.items():
            if not key.isdecimal() or len(key) > 9 or int(key) >= len(items):
                raise SnapshotFileError(f"{where}: no item {reprlib.repr(key)} before")
            items[int(key)] = _apply(items[int(key)], each, item, f"{where}.{key}", context)
        return tuple(items)
    if expected.json is dict and kind is not ListedChunks:
        known = hints(kind)
        context.unknown(kind.__name__, value.keys() - known.keys())
        names = known.keys() & value.keys()
        changed = {n: _apply(getattr(old, n), value[n], known[n], f"{where}.{n}", context) for n in sorted(names)}
        return dataclasses.replace(old, **changed)
    return decode(value, expected, where, context)


def _bits_change(old: bytes, new: bytes) -> Optional[dict[str, list[int]]]:
    """Runs of bits as first, end, first, end, ...; None if there are too many, or if bits were set."""
    was, now = int.from_bytes(old, "little"), int.from_bytes(new, "little")
    if len(old) != len(new) or now & ~was:
        return None
    runs = list(islice(bits.runs((was & ~now).to_bytes(len(old), "little")), RECORDED_RUNS + 1))
    return {"cleared": list(chain.from_iterable(runs))} if len(runs) <= RECORDED_RUNS else None


def _apply_bits_change(old: bytes, value: dict[str, Any], where: str) -> bytes:
    _check_keys(value, {"cleared", "set"}, where)
    bitmap = int.from_bytes(old, "little")
    cleared, set_ = (
        int.from_bytes(bits.from_runs(_pairs(value.get(name, []), 8 * len(old), f"{where}.{name}"), len(old)), "little")
        for name in ("cleared", "set")
    )
    if bitmap & cleared != cleared or bitmap & set_:
        raise SnapshotFileError(f"{where}: clears bits that are not set, or sets bits that are")
    return (bitmap & ~cleared | set_).to_bytes(len(old), "little")


def _list_change(old: ListedChunks, new: ListedChunks) -> Optional[dict[str, Any]]:
    """None if anything but the head was removed: the kernel takes chunks there, and adds them at the tail."""
    start = old.pfns.index(new.pfns[0]) if new.pfns and new.pfns[0] in old.pfns else len(old.pfns)
    kept = len(old.pfns) - start
    if any(getattr(old, name)[start:] != getattr(new, name)[:kept] for name in COLUMNS):
        return None
    changed: dict[str, Any] = {"kept": [start, len(old.pfns)], "problems": list(new.problems)}
    if kept < len(new.pfns):
        added = ListedChunks(**{name: getattr(new, name)[kept:] for name in COLUMNS})
        changed["added"] = encode(added, hint(ListedChunks), "added")
    return changed


def _apply_list_change(old: ListedChunks, value: dict[str, Any], where: str, context: Context) -> ListedChunks:
    _check_keys(value, {"kept", "added", "problems"}, where)
    added = decode(value.get("added"), hint(Optional[ListedChunks]), f"{where}.added", context)
    columns = {name: array(code) for name, code in COLUMNS.items()}
    for name, column in columns.items():
        for start, end in _pairs(value["kept"], len(old.pfns), f"{where}.kept"):
            column.extend(getattr(old, name)[start:end])
        column.extend(getattr(added, name, ()))
    problems = decode(value.get("problems", []), hint(tuple[str, ...]), f"{where}.problems")
    return ListedChunks(**columns, problems=problems)


def _check_keys(value: dict[str, Any], known: set[str], where: str) -> None:
    """Refuse an unknown kind of difference: without it, the snapshot would be wrong."""
    if value.keys() - known:
        raise SnapshotFileError(f"{where}: unknown {reprlib.repr(min(value.keys() - known))}")


def _pairs(value: Any, most: int, where: str) -> list[tuple[int, int]]:
    """``first, end, first, end, ...``, ascending and at most ``most``."""
    numbers = decode(value, hint(tuple[int, ...]), where)
    if len(numbers) % 2 or len(numbers) > 2 * RECORDED_RUNS:
        raise SnapshotFileError(f"{where}: at most {RECORDED_RUNS} pairs are wanted")
    if [0, *numbers, most] != sorted([0, *numbers, most]):
        raise SnapshotFileError(f"{where}: numbers from 0 to {most} are wanted, ascending")
    return list(zip(numbers[::2], numbers[1::2]))
