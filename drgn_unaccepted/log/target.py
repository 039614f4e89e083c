# SPDX-License-Identifier: LGPL-2.1-or-later
"""A kernel log, or an unpacked sos report, as a target: a snapshot with most parts missing, each with the reason."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO, Callable, Optional, TypeVar

from drgn_unaccepted import limits
from drgn_unaccepted import snapshot as snap
from drgn_unaccepted.errors import CommandError, concerning, one_line
from drgn_unaccepted.files import open_input
from drgn_unaccepted.log.boots import BootLog, e820_lacks, efi_map, is_telling, read_boots
from drgn_unaccepted.model import e820
from drgn_unaccepted.model.e820 import E820Entry
from drgn_unaccepted.model.efi import UNACCEPTED
from drgn_unaccepted.words import size

T = TypeVar("T")

#: What no log has, by part of the snapshot.
_LACKS = {
    **{"kernel": "types", "zones": "zones", "counters": "counters", "accepting": "accepting_list"},
    **{"kernel_memory": "list of the kernel's memory", "pages": "struct pages", "kexec_segments": "kexec images"},
    "reclaiming": "tasks",
}

#: e820 types by the names of e820_type_to_string().
_TYPES = {
    **{"System RAM": 1, "Reserved": 2, "ACPI Tables": 3, "ACPI Non-volatile Storage": 4, "Unusable memory": 5},
    **{"Persistent Memory": 7, "Persistent Memory (legacy)": 12, "Soft Reserved": 0xEFFFFFFF},
}
_ZONE = re.compile(r"^Node (\d{1,3}), zone +(\S{1,64})\n((?: .*\n)*)", re.MULTILINE)
_BUDDY = re.compile(r"^Node (\d{1,3}), zone +(\S{1,64})((?: +\d{1,15}){1,20}) *$", re.MULTILINE)
#: Names with a colon are those of a pageset, and start_pfn.
_COUNT = re.compile(r"^ +(?:pages )?(\w{1,40}:?) +(\d{1,15})$", re.MULTILINE)


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


def sos_snapshot(path: str) -> snap.Snapshot:
    """What the files of a report prove. CommandError: there is none of them."""
    root, reasons = Path(os.path.realpath(path)), {"zones.listed": "an sos report has no lists of unaccepted memory"}

    def part(name: str, parse: Callable[..., T], *files: str) -> Optional[T]:
        try:
            return parse(*(_text(root, file) for file in files))
        except (OSError, ValueError, LookupError) as error:
            why = "not as the kernel prints it" if isinstance(error, LookupError) else one_line(error)
            reasons[name] = f"{' or '.join(files)}: {why}"
            return None

    release = part("release", lambda text: text.split()[2], "sos_commands/kernel/uname_-a")
    # /var/log/dmesg can be of an earlier boot.
    log = part("panic", lambda text: _boot(text, release), "sos_commands/kernel/dmesg") or BootLog()
    current = part("e820.current", lambda text: _iomem(text, log), "proc/iomem")
    counters = part("counters", _meminfo, "proc/meminfo")
    kernel, zones = part("zones", _zones, "proc/zoneinfo", "proc/buddyinfo") or (None, None)
    if "panic" in reasons and not (current or counters or zones):
        what = "no report of sos" if root.is_dir() else "no directory: unpack the report first"
        raise CommandError(f"{path}: {what}: {reasons['panic']}")
    found = snapshot_of("sos", path, log, current, kernel=kernel, zones=zones, counters=counters)
    if "panic" in reasons:
        lost = reasons["panic"]
        reasons |= {"efi_map": lost, "platform": lost, "e820" if current is None else "e820.firmware": lost}
        found = replace(found, panic=None, table=snap.Table("not-captured", lost))
    line = part("command line", str.strip, "proc/cmdline")
    return replace(
        found,
        target=replace(found.target, release=release or log.release),
        image=replace(found.image, command_line=found.image.command_line or line),
        missing={**found.missing, **reasons},
        torn=("zones: the files of an sos report were read one after the other, while the kernel ran",),
    )


def _text(root: Path, name: str) -> str:
    """A file of the report. No link leads out of it. OSError: it is not there, or not readable."""
    path = Path(os.path.realpath(root / name))
    if root not in path.parents or not path.is_file():
        raise OSError(errno.ENOENT, "not in this report")
    with path.open("rb") as file:
        data = file.read(limits.SOS_FILE_BYTES + 1)
    if len(data) > limits.SOS_FILE_BYTES:
        raise OSError(errno.EFBIG, f"more than {size(limits.SOS_FILE_BYTES)}")
    return data.decode(errors="replace")


def _boot(text: str, release: Optional[str]) -> BootLog:
    """The last boot in the log, which is of the kernel that uname names."""
    log = read_boots(text.split("\n"))[-1]
    if release is not None and log.release not in (None, release):
        raise ValueError(f"it is of {log.release}, and uname says {release}")
    return log


def _iomem(text: str, log: BootLog) -> tuple[E820Entry, ...]:
    """``e820_table``; System RAM above the RAM of the boot was added later."""
    found = re.findall(r"(?m)^ *([0-9a-f]{1,16})-([0-9a-f]{1,16}) : (.{1,60})$", text)
    entries = [E820Entry(int(low, 16), int(last, 16) + 1, _TYPES[name]) for low, last, name in found if name in _TYPES]
    if not any(entry.end > 1 for entry in entries):
        raise ValueError("no addresses: it was not read as root")
    if len(entries) > limits.E820_ENTRIES:
        raise ValueError(f"more than {limits.E820_ENTRIES} entries")
    end = log.ram_end or limits.PHYSICAL_END
    return tuple(entry for entry in entries if entry.start < (end if entry.type == e820.RAM else entry.end))


def _meminfo(text: str) -> snap.Counters:
    pages = {name: int(kib) * 1024 // snap.PAGE_SIZE for name, kib in re.findall(r"(?m)^(\w+): +(\d{1,15}) kB$", text)}
    return snap.Counters(pages["MemFree"], pages.get("Unaccepted"), None)


def _zones(zoneinfo: str, buddyinfo: str) -> tuple[snap.KernelBuild, tuple[snap.Zone, ...]]:
    """The populated zones, and what they tell of the kernel, which runs user space."""
    buddy = {(node, name): [*map(int, blocks.split())] for node, name, blocks in _BUDDY.findall(buddyinfo)}
    zones = []
    for node, name, text in _ZONE.findall(zoneinfo):
        count = {key: int(value) for key, value in _COUNT.findall(text)}
        if not count["present"]:
            continue
        # min_wmark_pages() and its like add the boost.
        boost, promo = min(count.get("boost", 0), count["min"]), count.get("promo")
        low, high = count["low"] - boost, count["high"] - boost
        zones.append(
            snap.Zone(
                *(int(node), name, count["start_pfn:"], count["spanned"], count["present"], count["managed"]),
                free_pages=count["free"],
                unaccepted_pages=count.get("nr_unaccepted"),
                buddy_pages=sum(blocks << order for order, blocks in enumerate(buddy[node, name])),
                watermarks=snap.Watermarks(
                    count["min"] - boost, low, high, None if promo is None else promo - boost, boost
                ),
                locked=None,
                listed=None,
            )
        )
    if not 0 < len(zones) <= limits.NODES * limits.ZONES:
        raise LookupError
    has_counter, orders = zones[0].unaccepted_pages is not None, max(map(len, buddy.values()))
    return snap.KernelBuild(has_counter, None, 1 << orders - 1, None, False, None, None, "running"), tuple(zones)
