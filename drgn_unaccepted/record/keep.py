# SPDX-License-Identifier: LGPL-2.1-or-later
"""The flight recorder: saves the state of this boot where a crash does not reach it.

A kdump omits ACPI memory, and so the table. Bits only ever clear: memory that the saved table shows as accepted is
accepted in a later dump of the same boot. A set bit only says "not accepted before".

    DIRECTORY/BOOT_ID/snapshot.json         the whole snapshot, for --snapshot, and for --table on a dump of that boot
    DIRECTORY/BOOT_ID/table-0xADDRESS.bin   the table's bytes, for --table FILE@0xADDRESS and for other tools

The last few boots are kept, because the timer runs again before anybody examines the dump.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Optional

from drgn_unaccepted.files import write_atomically
from drgn_unaccepted.snapshot import Snapshot
from drgn_unaccepted.snapshot_file import write

#: Default directory, which the systemd unit uses.
DIRECTORY = "/var/lib/drgn-unaccepted"

#: Default number of boots to keep, this one included.
BOOTS = 3

_BOOT_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_OURS = re.compile(r"snapshot\.json|table-0x[0-9a-f]+\.bin")
# Left by a run that was killed; versions before 2026-12 wrote NAME.new.
_LEFT = re.compile(rf"({_OURS.pattern})\.new|\.({_OURS.pattern})\.\w{{8}}")


class Kept(NamedTuple):
    """The files written."""

    snapshot: str
    #: The table's file; None if the table could not be read this time.
    table: Optional[str]
    #: Argument of ``--table`` for a dump of this boot; None if no table of it was ever kept.
    option: Optional[str]


def boot_id(path: str = "/proc/sys/kernel/random/boot_id") -> str:
    """The ID of the running boot.

    :raises OSError: it cannot be read, or is none
    """
    text = Path(path).read_text().strip()
    if not _BOOT_ID.fullmatch(text):
        raise OSError(0, "not a boot id", path)
    return text


def keep(snapshot: Snapshot, boot: str, directory: str = DIRECTORY, boots: int = BOOTS) -> Kept:
    """Write the snapshot and its table, if it has one; delete all but the last ``boots`` boots.

    :raises OSError: something cannot be written
    :raises SnapshotFileError: the snapshot could not be read again
    """
    place = Path(directory) / boot
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = str(place / "snapshot.json")
    data = snapshot.table.to_bytes()
    with _locked(directory):
        _delete(place, _LEFT)
        if data is not None:
            table = place / f"table-{snapshot.table.address:#x}.bin"
            write_atomically(str(table), data)
        write(snapshot, path)
        _forget(Path(directory), boot, boots)
    if data is not None:
        # The snapshot has the table too, and the boot ID.
        return Kept(path, str(table), path)
    earlier = sorted(place.glob("table-0x*.bin"))
    return Kept(path, None, f"{earlier[0]}@{earlier[0].stem.partition('-')[2]}" if len(earlier) == 1 else None)


@contextmanager
def _locked(directory: str) -> Iterator[None]:
    """Keep other runs out, for example the timer's."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _forget(directory: Path, boot: str, boots: int) -> None:
    others = [path for path in directory.iterdir() if _BOOT_ID.fullmatch(path.name) and path.name != boot]
    # Boots without snapshot.json, whose first run was killed, are deleted first.
    others.sort(key=lambda path: max((file.stat().st_mtime for file in path.glob("snapshot.json")), default=0.0))
    for path in others[: max(0, len(others) + 1 - boots)]:
        _delete(path, _LEFT)
        _delete(path, _OURS)
        if not any(path.iterdir()):
            path.rmdir()


def _delete(directory: Path, names: re.Pattern[str]) -> None:
    for file in directory.iterdir():
        if names.fullmatch(file.name):
            file.unlink()
