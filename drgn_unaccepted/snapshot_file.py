# SPDX-License-Identifier: LGPL-2.1-or-later
"""Snapshots as files: JSON, versioned, written whole or not at all.

The layout follows the fields of :class:`~drgn_unaccepted.snapshot.Snapshot`: a dataclass is an object, a named tuple a
list, bytes and columns are compressed and in base64. A file is read as untrusted input.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import os
import sys
import tempfile
import typing
import zlib
from array import array
from collections.abc import Mapping as AbstractMapping
from functools import cache
from pathlib import Path
from typing import Any, Union

from drgn_unaccepted import limits
from drgn_unaccepted.snapshot import ListedChunks, Snapshot

SCHEMA = "drgn-unaccepted-snapshot/1"

#: ``array.array`` type codes of the columns of :class:`~drgn_unaccepted.snapshot.ListedChunks`, little endian.
_COLUMNS = {"pfns": "Q", "flags": "Q", "refcounts": "i", "page_types": "I"}

_PIECE_BYTES = 1 << 20


class SnapshotFileError(Exception):
    """The file is no snapshot that can be read; the text says why in one line."""


def dump(snapshot: Snapshot) -> str:
    """The snapshot as JSON text."""
    return json.dumps({"schema": SCHEMA, "snapshot": encode(snapshot)})


def load(text: str) -> Snapshot:
    """The snapshot out of JSON text.

    :raises SnapshotFileError: another version, or not a snapshot
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SnapshotFileError(f"not JSON: {error}") from None
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != SCHEMA:
        raise SnapshotFileError(f"schema is {schema!r}, and {SCHEMA!r} is what this program reads")
    snapshot = decode(document.get("snapshot"), Snapshot, "snapshot")
    assert isinstance(snapshot, Snapshot)
    return snapshot


def write(snapshot: Snapshot, path: str) -> None:
    """Write to a temporary file beside ``path`` and rename, so that the file is whole or not there.

    :raises OSError: it cannot be written; nothing is left behind
    """
    write_atomically(path, dump(snapshot) + "\n")


def write_atomically(path: str, text: str, mode: int = 0o600) -> None:
    """``text`` under ``path``, by a rename; an existing file stays until then.

    :param mode: permissions of the new file; a snapshot is kernel memory and for its owner alone

    :raises OSError: it cannot be written; nothing is left behind
    """
    where = Path(path)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{where.name}.", dir=where.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(descriptor, mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read(path: str) -> Snapshot:
    """The snapshot in a file.

    :raises SnapshotFileError: it is none that can be read
    :raises OSError: the file cannot be read
    """
    data = bytearray()
    with Path(path).open("rb") as file:
        # What a read asks for is allocated, whatever the file has.
        while len(data) <= limits.SNAPSHOT_FILE_BYTES and (piece := file.read(_PIECE_BYTES)):
            data += piece
    if len(data) > limits.SNAPSHOT_FILE_BYTES:
        raise SnapshotFileError(f"more than {limits.SNAPSHOT_FILE_BYTES} bytes")
    try:
        snapshot = load(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise SnapshotFileError("not JSON: not UTF-8 text") from None
    return dataclasses.replace(snapshot, target=dataclasses.replace(snapshot.target, snapshot_path=path))


def encode(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, array):
        little = value
        if sys.byteorder == "big":
            little = array(value.typecode, value)
            little.byteswap()
        return pack(little.tobytes())
    if isinstance(value, bytes):
        return pack(value)
    if isinstance(value, tuple):
        return [encode(item) for item in value]
    if isinstance(value, AbstractMapping):
        return dict(value)
    return value


def decode(value: Any, kind: Any, where: str) -> Any:
    """``value`` as the annotation ``kind`` says, or an error that names ``where`` it stands."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Union:
        if value is None:
            return None
        return decode(value, arguments[0], where)
    if kind in (int, bool, str):
        # A bool is an int in Python, and no integer in JSON.
        if type(value) is not kind:
            raise SnapshotFileError(f"{where}: {kind.__name__} is wanted")
        return value
    if kind is bytes:
        return unpack(value, where)
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(value, kind, where)
    if origin is tuple:
        _expect(value, list, where)
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(decode(item, arguments[0], where) for item in value)
        raise TypeError(f"no such annotation is used: {kind}")
    if isinstance(kind, type) and issubclass(kind, tuple):
        hints = _hints(kind)
        _expect(value, list, where)
        if len(value) != len(hints):
            raise SnapshotFileError(f"{where}: {len(hints)} fields are wanted")
        return kind(*(decode(item, hint, f"{where}.{n}") for item, (n, hint) in zip(value, hints.items())))
    if origin is AbstractMapping:
        _expect(value, dict, where)
        return {str(key): decode(item, str, f"{where}.{key}") for key, item in value.items()}
    raise TypeError(f"no such annotation is used: {kind}")


def _decode_dataclass(value: Any, kind: Any, where: str) -> Any:
    _expect(value, dict, where)
    names = {f.name for f in dataclasses.fields(kind)}
    missing, extra = names - value.keys(), value.keys() - names
    if missing or extra:
        raise SnapshotFileError(
            f"{where}: " + "; ".join([f"no {n}" for n in sorted(missing)] + [f"unknown {n}" for n in sorted(extra)])
        )
    if kind is ListedChunks:
        return _decode_chunks(value, where)
    hints = _hints(kind)
    return kind(**{name: decode(value[name], hint, f"{where}.{name}") for name, hint in hints.items()})


def _decode_chunks(value: dict[str, Any], where: str) -> ListedChunks:
    columns = {}
    for name, code in _COLUMNS.items():
        column = array(code)
        data = unpack(value[name], f"{where}.{name}")
        if len(data) % column.itemsize:
            raise SnapshotFileError(f"{where}.{name}: {len(data)} bytes are no whole number of values")
        column.frombytes(data)
        if sys.byteorder == "big":
            column.byteswap()
        columns[name] = column
    if len({len(column) for column in columns.values()}) != 1:
        raise SnapshotFileError(f"{where}: columns of different lengths")
    problems = decode(value["problems"], tuple[str, ...], f"{where}.problems")
    return ListedChunks(**columns, problems=problems)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _expect(value: Any, kind: type, where: str) -> None:
    if not isinstance(value, kind):
        raise SnapshotFileError(f"{where}: {kind.__name__} is wanted")


def pack(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode("ascii")


def unpack(value: Any, where: str) -> bytes:
    _expect(value, str, where)
    try:
        inflate = zlib.decompressobj()
        data = inflate.decompress(base64.b64decode(value, validate=True), limits.BITMAP_BYTES)
    except (binascii.Error, ValueError, zlib.error) as error:
        raise SnapshotFileError(f"{where}: {error}") from None
    if inflate.unconsumed_tail or not inflate.eof:
        raise SnapshotFileError(f"{where}: damaged, or more than {limits.BITMAP_BYTES} bytes")
    return data
