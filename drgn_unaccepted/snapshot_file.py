# SPDX-License-Identifier: LGPL-2.1-or-later
"""Snapshot files: versioned JSON, whose layout follows the fields of :class:`~drgn_unaccepted.snapshot.Snapshot`.

``schema/snapshot.json`` is its JSON Schema.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Callable, Optional, Union

from drgn_unaccepted import limits
from drgn_unaccepted.codec import Context, check_size, decode, encode, hint, parse_json
from drgn_unaccepted.consistency import check_consistency
from drgn_unaccepted.errors import SnapshotFileError
from drgn_unaccepted.files import open_input, write_atomically
from drgn_unaccepted.snapshot import Snapshot

SCHEMA = "drgn-unaccepted-snapshot/1"


def dump(snapshot: Snapshot) -> str:
    """The snapshot as JSON text.

    :raises SnapshotFileError: it could not be read again: too large, or values that no kernel has
    """
    try:
        check_consistency(snapshot)
        text = json.dumps({"schema": SCHEMA, "snapshot": encode(snapshot, hint(Snapshot), "snapshot")})
        check_size(text.encode())
    except SnapshotFileError as error:
        raise SnapshotFileError(f"a file with this snapshot could not be read again: {error}") from None
    return text


def write(snapshot: Snapshot, path: str) -> None:
    """Write a snapshot file atomically.

    :raises OSError: it cannot be written
    :raises SnapshotFileError: it could not be read again
    """
    write_atomically(path, dump(snapshot) + "\n")


def read(path: str, warn: Optional[Callable[[str], None]] = None) -> Snapshot:
    """The snapshot in a file.

    :param warn: is called with a line for each field that this version does not know
    :raises SnapshotFileError: another version, or not a snapshot
    :raises OSError: the file cannot be read
    """
    data = bytearray()
    with open_input(path) as file:
        # read() allocates what it is asked for, however small the file is.
        while len(data) <= limits.SNAPSHOT_FILE_BYTES and (piece := file.read(1 << 20)):
            data += piece
    snapshot = load(data, warn)
    return dataclasses.replace(snapshot, target=dataclasses.replace(snapshot.target, snapshot_path=path))


def load(data: Union[str, bytearray], warn: Optional[Callable[[str], None]] = None) -> Snapshot:
    """The snapshot in JSON; see :func:`read`. A bytearray is emptied."""
    document = parse_json(bytearray(data.encode()) if isinstance(data, str) else data, SCHEMA)
    context = Context()
    context.unknown("file", document.keys() - {"schema", "snapshot"})
    snapshot: Snapshot = decode(document.pop("snapshot", None), hint(Snapshot), "snapshot", context)
    check_consistency(snapshot)
    if warn is not None:
        for warning in context.warnings:
            warn(warning)
    return snapshot
