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
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Optional

from drgn_unaccepted.files import open_directory, write_atomically
from drgn_unaccepted.snapshot import Snapshot
from drgn_unaccepted.snapshot_file import dump

DIRECTORY = "/var/lib/drgn-unaccepted"  #: Default directory, which the systemd unit uses.
BOOTS = 3  #: Default number of boots to keep, this one included.

_BOOT_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TABLE = r"table-0x[0-9a-f]+\.bin"
_OURS = re.compile(rf"snapshot\.json|{_TABLE}")
# Left by a run that was killed; versions before 2026-12 wrote NAME.new.
_LEFT = re.compile(rf"({_OURS.pattern})\.new|\.({_OURS.pattern})\.\w{{8}}")


class Kept(NamedTuple):
    snapshot: str
    table: Optional[str]  #: The table's file; None if the table could not be read this time.
    option: Optional[str]  #: Argument of ``--table`` for a dump of this boot; None if no table of it was ever kept.


def boot_id(path: str = "/proc/sys/kernel/random/boot_id") -> str:
    """The ID of the running boot. OSError: it cannot be read, or is none."""
    text = Path(path).read_text().strip()
    if not _BOOT_ID.fullmatch(text):
        raise OSError(0, "not a boot id", path)
    return text


def keep(snapshot: Snapshot, boot: str, directory: str = DIRECTORY, boots: int = BOOTS) -> Kept:
    """Write the snapshot and its table, if it has one; delete all but the last ``boots`` boots.

    :raises OSError: something cannot be written, or another user could change or lead away what is written
    :raises SnapshotFileError: the snapshot could not be read again
    """
    text, data = dump(snapshot) + "\n", snapshot.table.to_bytes()
    missing = [path for path in (Path(directory), *Path(directory).parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(0o700, exist_ok=True)
    place = Path(directory, boot)
    with open_directory(directory, private=True) as top:
        if missing:
            os.fchmod(top, 0o700)
        # Keep other runs out, for example the timer's.
        fcntl.flock(top, fcntl.LOCK_EX)
        with suppress(FileExistsError):
            os.mkdir(boot, dir_fd=top)
            os.chmod(boot, 0o700, dir_fd=top)
        with open_directory(boot, top, private=True) as inside:
            _delete(inside, _LEFT)
            table = f"table-{snapshot.table.address or 0:#x}.bin"
            if data is not None:
                write_atomically(table, data, directory=inside)
            write_atomically("snapshot.json", text, directory=inside)
            tables = [entry.name for entry in os.scandir(inside) if re.fullmatch(_TABLE, entry.name)]
        _forget(top, boot, boots)
    written = str(place / "snapshot.json")
    if data is not None:
        # The snapshot has the table too, and the boot ID.
        return Kept(written, str(place / table), written)
    earlier = f"{place / tables[0]}@{tables[0][6:-4]}" if len(tables) == 1 else None
    return Kept(written, None, earlier)


def _forget(top: int, boot: str, boots: int) -> None:
    others = []
    for entry in os.scandir(top):
        if _BOOT_ID.fullmatch(entry.name) and entry.name != boot and entry.is_dir(follow_symlinks=False):
            # Boots without snapshot.json, whose first run was killed, are deleted first.
            written = 0.0
            with suppress(OSError):
                written = os.stat(f"{entry.name}/snapshot.json", dir_fd=top, follow_symlinks=False).st_mtime
            others.append((written, entry.name))
    for _, name in sorted(others)[: max(0, len(others) + 1 - boots)]:
        with suppress(OSError), open_directory(name, top, private=True) as inside:
            _delete(inside, _LEFT, _OURS)
            os.rmdir(name, dir_fd=top)


def _delete(directory: int, *names: re.Pattern[str]) -> None:
    for entry in [*os.scandir(directory)]:
        if any(pattern.fullmatch(entry.name) for pattern in names):
            os.unlink(entry.name, dir_fd=directory)
