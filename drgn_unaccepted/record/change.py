# SPDX-License-Identifier: LGPL-2.1-or-later
"""The difference between two snapshots of one kernel, as JSON.

A dataclass that changed is an object of its changed fields. A list of dataclasses of unchanged length is an object by
index. A bitmap is the runs of bits that were cleared, and of those that were set, which no released kernel does. A list
of chunks is the slices of the previous list that were kept (earlier versions wrote more than one), and the chunks that
were appended. Everything else, and a difference with too many runs, is written whole, as in a snapshot file.
"""

from __future__ import annotations

import dataclasses
import reprlib
from array import array
from collections.abc import Iterable
from typing import Any, Optional

from drgn_unaccepted.codec import COLUMNS, Context, Hint, decode, encode, hints
from drgn_unaccepted.errors import SnapshotFileError
from drgn_unaccepted.limits import LISTED_CHUNKS, RECORDED_RUNS
from drgn_unaccepted.model import bitmap as bits
from drgn_unaccepted.snapshot import ListedChunks, Snapshot
from drgn_unaccepted.snapshot_file import check_consistency

_BLOCK = 64 << 10


def change(old: Snapshot, new: Snapshot) -> dict[str, Any]:
    """The difference between ``old`` and ``new``; empty if they are equal."""
    return _fields(old, new)


def apply(old: Snapshot, changed: Any, context: Optional[Context] = None) -> Snapshot:
    """The snapshot that :func:`change` compared with ``old``.

    :raises SnapshotFileError: ``changed`` does not fit ``old``
    """
    if not isinstance(changed, dict):
        raise SnapshotFileError("change: an object is wanted")
    new: Snapshot = _apply_fields(old, changed, "change", context or Context())
    check_consistency(new)
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


def _apply(old: Any, value: Any, expected: Hint, where: str, context: Context) -> Any:
    kind = expected.kind
    if isinstance(value, dict):
        if kind is ListedChunks and "kept" in value:
            return _apply_list_change(old, value, where, context)
        if kind is bytes:
            return _apply_bits_change(old, value, where)
        if dataclasses.is_dataclass(old) and type(old) is kind and not isinstance(old, ListedChunks):
            return _apply_fields(old, value, where, context)
        if kind is tuple:
            return _apply_items(old, value, expected, where, context)
    return decode(value, expected, where, context)


def _apply_fields(old: Any, value: dict[str, Any], where: str, context: Context) -> Any:
    kind: Any = type(old)
    known = hints(kind)
    context.unknown(kind.__name__, value.keys() - known.keys())
    changed = {
        name: _apply(getattr(old, name), value[name], expected, f"{where}.{name}", context)
        for name, expected in known.items()
        if name in value
    }
    return dataclasses.replace(old, **changed)


def _apply_items(old: Any, value: dict[str, Any], expected: Hint, where: str, context: Context) -> tuple[Any, ...]:
    if not isinstance(old, tuple):
        raise SnapshotFileError(f"{where}: items of a list that was not there before")
    assert expected.item is not None
    items = list(old)
    for key, item in value.items():
        if not key.isdecimal() or len(key) > 9 or int(key) >= len(items):
            raise SnapshotFileError(f"{where}: no item {reprlib.repr(key)} before")
        items[int(key)] = _apply(items[int(key)], item, expected.item, f"{where}.{key}", context)
    return tuple(items)


# The bitmap


def _bits_change(old: bytes, new: bytes) -> Optional[dict[str, list[int]]]:
    """Runs of bits as first, end, first, end, ...; None if there are too many."""
    changed: dict[str, list[int]] = {"cleared": [], "set": []}
    for start in range(0, len(old), _BLOCK):
        before, after = old[start : start + _BLOCK], new[start : start + _BLOCK]
        if before == after:
            continue
        was, now = int.from_bytes(before, "little"), int.from_bytes(after, "little")
        for runs, differing in ((changed["cleared"], was & ~now), (changed["set"], now & ~was)):
            for first, end in bits.runs(differing.to_bytes(len(before), "little")):
                if runs and runs[-1] == 8 * start + first:
                    runs[-1] = 8 * start + end
                elif len(runs) == 2 * RECORDED_RUNS:
                    return None
                else:
                    runs += 8 * start + first, 8 * start + end
    return {name: runs for name, runs in changed.items() if runs}


def _apply_bits_change(old: Any, value: dict[str, Any], where: str) -> bytes:
    if not isinstance(old, bytes):
        raise SnapshotFileError(f"{where}: bits of a bitmap that was not there before")
    _check_keys(value, ("cleared", "set"), where)
    cleared = _mask(value.get("cleared", []), len(old), f"{where}.cleared")
    set_ = _mask(value.get("set", []), len(old), f"{where}.set")
    bitmap = int.from_bytes(old, "little")
    if bitmap & cleared != cleared or bitmap & set_:
        raise SnapshotFileError(f"{where}: clears bits that are not set, or sets bits that are")
    return (bitmap & ~cleared | set_).to_bytes(len(old), "little")


def _mask(value: Any, length: int, where: str) -> int:
    return int.from_bytes(bits.from_runs(_pairs(value, 8 * length, where), length), "little")


# zone->unaccepted_pages


def _list_change(old: ListedChunks, new: ListedChunks) -> Optional[dict[str, Any]]:
    """The slice of the old list that was kept, and the rest; None if anything but the head was removed.

    The kernel takes chunks from the head of the list and adds them at its tail.
    """
    start = old.pfns.index(new.pfns[0]) if new.pfns and new.pfns[0] in old.pfns else len(old.pfns)
    kept = len(old.pfns) - start
    if any(getattr(old, name)[start:] != getattr(new, name)[:kept] for name in COLUMNS):
        return None
    changed: dict[str, Any] = {"kept": [start, len(old.pfns)]}
    if kept < len(new.pfns):
        changed["added"] = encode(ListedChunks(**{name: getattr(new, name)[kept:] for name in COLUMNS}))
    if new.problems:
        changed["problems"] = list(new.problems)
    return changed


def _apply_list_change(old: Any, value: dict[str, Any], where: str, context: Context) -> ListedChunks:
    if not isinstance(old, ListedChunks):
        raise SnapshotFileError(f"{where}: part of a list that was not there before")
    _check_keys(value, ("kept", "added", "problems"), where)
    kept = _pairs(value["kept"], len(old.pfns), f"{where}.kept")
    columns = {name: array(code) for name, code in COLUMNS.items()}
    for name, column in columns.items():
        for start, end in kept:
            column.extend(getattr(old, name)[start:end])
    if "added" in value:
        added = decode(value["added"], ListedChunks, f"{where}.added", context)
        for name, column in columns.items():
            column.extend(getattr(added, name))
    if len(columns["pfns"]) > LISTED_CHUNKS:
        raise SnapshotFileError(f"{where}: more than {LISTED_CHUNKS} chunks")
    return ListedChunks(**columns, problems=decode(value.get("problems", []), tuple[str, ...], f"{where}.problems"))


def _check_keys(value: dict[str, Any], known: Iterable[str], where: str) -> None:
    """Refuse an unknown kind of difference: without it, the snapshot would be wrong."""
    unknown = value.keys() - set(known)
    if unknown:
        raise SnapshotFileError(f"{where}: unknown {reprlib.repr(min(unknown))}")


def _pairs(value: Any, most: int, where: str) -> list[tuple[int, int]]:
    """``first, end, first, end, ...``, ascending and at most ``most``."""
    if not isinstance(value, list) or len(value) % 2 or len(value) > 2 * RECORDED_RUNS:
        raise SnapshotFileError(f"{where}: at most {RECORDED_RUNS} pairs are wanted")
    last = 0
    for number in value:
        if type(number) is not int or not last <= number <= most:
            raise SnapshotFileError(f"{where}: numbers from 0 to {most} are wanted, ascending")
        last = number
    return list(zip(value[::2], value[1::2]))
