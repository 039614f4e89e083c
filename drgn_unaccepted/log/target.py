# SPDX-License-Identifier: LGPL-2.1-or-later
"""A kernel log as a target: a snapshot with most parts missing, each with the reason."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any, BinaryIO, Callable, Optional

from drgn_unaccepted import limits
from drgn_unaccepted import snapshot as snap
from drgn_unaccepted.errors import CommandError, concerning
from drgn_unaccepted.files import open_input
from drgn_unaccepted.log.boots import BootLog, e820_lacks, efi_map, is_telling, read_boots
from drgn_unaccepted.model.e820 import E820Entry
from drgn_unaccepted.model.efi import UNACCEPTED
from drgn_unaccepted.words import size

#: What no log has, by part of the snapshot.
_LACKS = {
    **{"kernel": "types", "zones": "zones", "counters": "counters", "accepting": "accepting_list"},
    **{"kernel_memory": "list of the kernel's memory", "pages": "struct pages", "kexec_segments": "kexec images"},
    "reclaiming": "tasks",
}


def read_logs(path: str, every: bool) -> list[BootLog]:
    """The boots in a log file.

    :param every: read also the lines that only show that a dump is of the same boot
    :raises CommandError: it cannot be read, or is no log of a kernel
    """
    with concerning(path), open_input("/dev/stdin" if path == "-" else path) as file:
        lines = (line for line in _lines(file) if every or is_telling(line))
        boots = read_boots(line.decode(errors="replace") for line in lines)
    if not any(boot.release or boot.efi or boot.e820 or boot.panic for boot in boots):
        raise CommandError(f"{path}: no kernel log: no line says 'Linux version', 'efi:', 'BIOS-e820:' or 'panic'")
    return boots


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a log. OSError: what it is instead."""
    done, end, has_text = 0, os.fstat(file.fileno()).st_size, False
    while line := file.readline(limits.LOG_LINE_BYTES):
        done += len(line)
        if max(done, end) > limits.LOG_FILE_BYTES:
            most = size(limits.LOG_FILE_BYTES)
            raise OSError(0, f"more than {most}, the limit for a log: export one boot (journalctl -k -b)")
        has_text = has_text or line.count(0) < len(line)
        if not has_text and done > limits.LOG_NUL_BYTES:
            raise OSError(0, f"no kernel log: more than {size(limits.LOG_NUL_BYTES)} of NULs at its beginning")
        yield line


def log_snapshot(path: str, warn: Callable[[str], None]) -> snap.Snapshot:
    """What a log proves. Of several boots it is the last that is not of a crash kernel. CommandError: none is there."""
    boots = read_logs(path, every=False)
    log = next((boot for boot in reversed(boots) if not boot.is_crash_kernel), boots[-1])
    if len(boots) > 1:
        warn(f"{path}: the log has {len(boots)} boots, and this is number {boots.index(log) + 1}")
    return snapshot_of("log", path, log)


def snapshot_of(
    kind: str, path: str, log: BootLog, current: Optional[tuple[E820Entry, ...]] = None, **found: Any
) -> snap.Snapshot:
    """What the log of a boot proves, beside parts of other origin, one of them ``e820_table``."""
    what = "a kernel log" if kind == "log" else "an sos report"
    missing = {part: f"{what} has no {lack}" for part, lack in _LACKS.items() if found.get(part) is None}
    logged, platform = efi_map(log, None), _platform(log)
    if platform is None:
        missing["platform"] = "the log does not tell the platform"
    if isinstance(logged, str):
        missing["efi_map"] = logged
    whole = None if isinstance(logged, str) else logged
    lost = e820_lacks(log, whole.descriptors if whole else ())
    firmware = tuple(log.e820) if lost is None else None
    lost = lost or "the log has the firmware's table"
    tables = snap.E820Tables(current, None, firmware, None)
    missing |= {f"e820.{name}": lost for name, table in vars(tables).items() if table is None}
    if not (current or firmware):
        missing["e820"] = lost
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    return snap.Snapshot(
        target=snap.Target(kind, path, log.release, None, "none", now),
        table=_table(what, log, whole),
        efi_map=whole,
        e820=tables if current or firmware else None,
        platform=platform,
        panic=log.panic,
        panic_task=log.panic_task,
        image=snap.Image(
            (log.release or "")[:64] or None, (log.command_line or "")[: limits.COMMAND_LINE_BYTES] or None
        ),
        missing=missing,
        **found,
    )


def _table(what: str, log: BootLog, efi_map: Optional[snap.EfiMap]) -> snap.Table:
    if log.table_address is not None:
        return snap.Table("not-captured", f"{what} has no memory", log.table_address)
    named = any("ACPI" in line and "=0x" in line for line in log.efi)
    if named and efi_map is not None and efi_map.is_whole and not efi_map.memory(UNACCEPTED):
        return snap.Table("absent", "the kernel's log names no table, and its EFI memory map has no type 15")
    return snap.Table("not-captured", "the log names no table (no efi: line with Unaccepted=)")


def _platform(log: BootLog) -> Optional[snap.Platform]:
    """By the encryption features and ``accept_memory=``; lazy is the default of a kernel with a table."""
    words, kind, vendor, lazy = log.encryption, None, None, None
    if words is not None:
        kind = "tdx" if "TDX" in words else "snp" if "SEV-SNP" in words else "none"
        vendor = "INTEL" if kind == "tdx" else "AMD" if "AMD" in words else None
    if log.command_line is not None and log.table_address is not None:
        given = [word for word in log.command_line.split() if word.startswith("accept_memory=")]
        lazy = given[-1:] != ["accept_memory=eager"]
    return None if kind is None and lazy is None else snap.Platform(kind, vendor, None, lazy)
