# SPDX-License-Identifier: LGPL-2.1-or-later
"""The flight recorder: the last state of this boot, kept where a crash does not reach it.

A kdump has no table, because it holds no ACPI memory. What was kept is of the same boot and a little older. Bits only
ever clear, so it still proves the one half: memory that was accepted then is accepted in the dump. A bit that was set
then says no more than "not accepted before"; the dump's page lists say what became of it.

    DIRECTORY/BOOT_ID/snapshot.json         all that was read, for --snapshot, and for --table on a dump of that boot
    DIRECTORY/BOOT_ID/table-0xADDRESS.bin   the table's bytes, for --table FILE@0xADDRESS and for other tools

A file is replaced by a rename. Whatever ends this program leaves at most one NAME.new, which the next run replaces.
A table of another boot proves nothing: each boot has a directory, and the last few are kept, since a timer runs again
before anybody looks at the dump.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Optional

from drgn_unaccepted import limits
from drgn_unaccepted.snapshot import Snapshot
from drgn_unaccepted.snapshot_file import dump

#: Where the systemd unit keeps them.
DIRECTORY = "/var/lib/drgn-unaccepted"

#: How many boots are kept, this one included.
BOOTS = 3

_BOOT_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_OURS = re.compile(r"(snapshot\.json|table-0x[0-9a-f]+\.bin)(\.new)?")


class Kept(NamedTuple):
    """What was written."""

    snapshot: str
    #: The table's file; None where the table could not be read this time.
    table: Optional[str]
    #: What ``--table`` takes for a dump of this boot; None where no table of it was ever kept.
    option: Optional[str]


def boot_id(path: str = "/proc/sys/kernel/random/boot_id") -> str:
    """The kernel's name for this boot.

    :raises OSError: it cannot be read, or is none
    """
    with Path(path).open() as file:
        text = file.read(limits.RECORDING_HEADER_BYTES).strip()
    if not _BOOT_ID.fullmatch(text):
        raise OSError(0, "not a boot id", path)
    return text


def keep(snapshot: Snapshot, boot: str, directory: str = DIRECTORY, boots: int = BOOTS) -> Kept:
    """Write the snapshot and its table; forget all but the last ``boots`` boots.

    A snapshot without a table leaves the table that was kept before: an older one still holds.

    :param boot: of :func:`boot_id`
    :raises OSError: something cannot be written
    """
    place = Path(directory) / boot
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    table = None
    data = snapshot.table.to_bytes()
    with _alone(directory):
        if data is not None:
            table = place / f"table-{snapshot.table.address:#x}.bin"
            _replace(table, data)
        _replace(place / "snapshot.json", f"{dump(snapshot)}\n".encode())
        _forget(Path(directory), boot, boots)
    return Kept(str(place / "snapshot.json"), None if table is None else str(table), _option(place, table))


@contextmanager
def _alone(directory: str) -> Iterator[None]:
    """No other run writes at the same time: the timer's, and one by hand."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _option(place: Path, table: Optional[Path]) -> Optional[str]:
    if table is not None:
        # The snapshot has it too, and the boot that it is of.
        return str(place / "snapshot.json")
    tables = sorted(place.glob("table-0x*.bin"))
    return f"{tables[0]}@{tables[0].stem.partition('-')[2]}" if len(tables) == 1 else None


def _replace(path: Path, data: bytes) -> None:
    new = path.with_name(path.name + ".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        # On a full disk it takes what room there is.
        new.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from None
    new.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _forget(directory: Path, boot: str, boots: int) -> None:
    others = [path for path in directory.iterdir() if _BOOT_ID.fullmatch(path.name) and path.name != boot]
    # Only a boot that was kept whole has a date; what is left of a first run that was killed goes first.
    others.sort(key=_kept_at, reverse=True)
    for path in others[max(0, boots - 1) :]:
        for file in path.iterdir():
            if _OURS.fullmatch(file.name):
                file.unlink()
        if not any(path.iterdir()):
            path.rmdir()


def _kept_at(place: Path) -> float:
    try:
        return (place / "snapshot.json").stat().st_mtime
    except FileNotFoundError:
        return 0.0
