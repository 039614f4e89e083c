# SPDX-License-Identifier: LGPL-2.1-or-later
"""An unpacked sos report as a target: its log, and what the files of /proc said."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Callable, Optional, TypeVar

from drgn_unaccepted import limits
from drgn_unaccepted import snapshot as snap
from drgn_unaccepted.errors import CommandError, one_line
from drgn_unaccepted.log.boots import BootLog, read_boots
from drgn_unaccepted.log.target import snapshot_of
from drgn_unaccepted.model import e820
from drgn_unaccepted.model.e820 import E820Entry
from drgn_unaccepted.words import size

T = TypeVar("T")

#: e820 types by the names of e820_type_to_string().
_TYPES = {
    **{"System RAM": 1, "Reserved": 2, "ACPI Tables": 3, "ACPI Non-volatile Storage": 4, "Unusable memory": 5},
    **{"Persistent Memory": 7, "Persistent Memory (legacy)": 12, "Soft Reserved": 0xEFFFFFFF},
}
_ZONE = re.compile(r"^Node (\d{1,3}), zone +(\S{1,64})\n((?: .*\n)*)", re.MULTILINE)
_BUDDY = re.compile(r"^Node (\d{1,3}), zone +(\S{1,64})((?: +\d{1,15}){1,20}) *$", re.MULTILINE)
#: Names with a colon are those of a pageset, and start_pfn.
_COUNT = re.compile(r"^ +(?:pages )?(\w{1,40}:?) +(\d{1,15})$", re.MULTILINE)


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
