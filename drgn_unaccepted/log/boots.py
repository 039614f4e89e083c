# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel's log: what its records say of memory, of the guest, and of the end of the kernel.

The lines come from the ring buffer of a dump, or from a file: a console log, ``dmesg``, ``journalctl -k``,
``vmcore-dmesg.txt``. In a file they have prefixes, and it can have several boots and lack any line.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Optional, Union

from drgn_unaccepted import limits
from drgn_unaccepted.model import e820, efi
from drgn_unaccepted.model import ranges as rng
from drgn_unaccepted.model.e820 import E820Entry
from drgn_unaccepted.snapshot import EfiMap, Task

KEXEC_NOTE = "this kernel was started by kexec, which hands on runtime entries only"

_TELLING = tuple(
    b"efi: |-e820: |Linux version |ommand line: |tdx: Guest|Encryption Features|Kernel panic - |Comm: |[#"
    b"|setting system clock|messages dropped|last_pfn = |extended: ".split(b"|")
)

# Compiled when they are first used, as most runs use few of them. What stands before a record: quoting of a mail, a
# console's login prompt, the level (as a number, or by dmesg -x), the time and host of syslog, the time and task of
# printk.
_PREFIX = (
    r"[>\s]*(?:\S{1,64} login: ?)?(?:<\d{1,3}>)?(?:kern *:\w{1,8} *: ?)?"
    r"(?:(?:[A-Z][a-z]{2} [ \d]\d|\d{4}-\d\d-\d\d)[ T][\d:.,+Z-]{5,30} )?"
    r"(?:\[[^\[\]]{1,40}\] ?)*(?:[\w.-]{1,64} kernel: )?(?:\[[^\[\]]{1,40}\] ?)*"
)
_STAMP = r"\[ *(\d{1,9}\.\d{6})\]"
_ESCAPES = r"\x1b\[[\d;?=]*[A-Za-z]"
_E820 = r"(?:BIOS-e820|extended): \[mem 0x([0-9a-f]{16})-0x([0-9a-f]{16})\] +(.{1,40})"
_TABLE = r"efi: .*\bUnaccepted=0x([0-9a-f]{1,16})\b"
# efi_clean_memmap(), before the map is printed
_REMOVED = r"efi: Removing (\d{1,9}) invalid memory map entries\."
# show_regs_print_info() and dump_stack_print_info()
_TASK = r"CPU: (\d{1,6}) (?:UID: \d+ )?PID: (\d{1,9}) Comm: (.{1,64}?) (?:Kdump: loaded )?(?:Not tainted|Tainted: )"
_OOPS = r".{1,160}\[#\d{1,6}\]"
_CLOCK = r"rtc.{1,40} setting system clock to .{1,40} UTC \((\d{1,10})\)"
# e820__end_of_ram_pfn()
_LAST_PFN = r"last_pfn = 0x([0-9a-f]{1,13}) "
_PANIC = "Kernel panic - not syncing: "


@dataclass
class BootLog:
    """What the log of one boot says."""

    release: Optional[str] = None  #: None where the log lost its beginning.
    command_line: Optional[str] = None
    encryption: Optional[str] = None  #: The words after "Memory Encryption Features active: ".
    e820: list[E820Entry] = field(default_factory=list)
    efi: list[str] = field(default_factory=list)  #: Records that start with "efi: ".
    lost: Optional[str] = None  #: Why records before the end of the EFI memory map are lost.
    ram_end: int = 0  #: Where the RAM of e820 ends.
    started: Optional[float] = None  #: Seconds since 1970 at the start, by the RTC.
    panic: str = ""  #: The words after the last ``Kernel panic - not syncing: ``; empty: no panic.
    panic_task: Optional[Task] = None
    oops: bool = False  #: An oops was printed, and no task yet.
    #: The last records with their time of printk, from the first second on: no two boots share them.
    stamped: deque[str] = field(default_factory=partial(deque, maxlen=limits.LOG_SHARED))

    @property
    def table_address(self) -> Optional[int]:
        """``efi.unaccepted``."""
        found = (re.match(_TABLE, line) for line in self.efi if "Unaccepted=" in line)
        return next((int(match[1], 16) for match in found if match), None)

    @property
    def is_crash_kernel(self) -> bool:
        return "elfcorehdr=" in (self.command_line or "")


def is_telling(line: bytes) -> bool:
    """Whether a line can be about memory, the guest or the kernel's end; others need not be decoded."""
    return any(word in line for word in _TELLING)


def read_boots(lines: Iterable[str], bare: bool = False) -> list[BootLog]:
    """The boots of a log, in its order; the first may lack its beginning. ``bare``: the lines have no prefixes."""
    boots, last = deque([BootLog()], limits.LOG_BOOTS), 0.0
    for line in lines:
        text = re.sub(_ESCAPES, "", line) if "\x1b" in line else line
        prefix = None if bare else re.match(_PREFIX, text)
        start = 0 if prefix is None else prefix.end()
        record = text[start:].rstrip()
        stamp = re.search(_STAMP, text[:start]) if start else None
        time = 0 if stamp is None else float(stamp[1])
        begins = record.startswith("Linux version ") and boots[-1] != BootLog(encryption=boots[-1].encryption)
        # Of a boot that lost its beginning, the time tells. CPUs print up to some milliseconds out of order.
        if begins or (stamp is not None and time + 1 < last):
            boots.append(BootLog())
        last = time if stamp is not None or begins else last
        if stamp is not None and time >= 1:
            boots[-1].stamped.append(f"{stamp[1]} {record}")
        _read(boots[-1], record, time)
    return [boot for boot in boots if boot != BootLog()]


def _read(boot: BootLog, record: str, time: float) -> None:
    head, _, rest = record.partition(": ")
    if head == "efi":
        if len(boot.efi) < 2 * limits.EFI_DESCRIPTORS:
            boot.efi.append(record)
    elif head in ("BIOS-e820", "extended") and "[mem" in record:
        match = re.fullmatch(_E820, record)
        type_ = None if match is None else e820.parse_type(match[3])
        entry = E820Entry(int(match[1], 16), int(match[2], 16) + 1, type_) if match and type_ is not None else None
        if entry is None or entry.start >= entry.end or len(boot.e820) >= limits.E820_ENTRIES:
            boot.lost = f"the log has an e820 entry that cannot be read: {record[:60]}"
        else:
            if head == "extended" and boot.e820 and entry.start <= boot.e820[0].start:
                boot.e820.clear()  # Of more than 128 entries all are printed once more.
            boot.e820.append(entry)
    elif head in ("Command line", "Kernel command line"):
        boot.command_line = boot.command_line or rest
    elif record.startswith("Linux version "):
        boot.release = record.split(" ")[2]
    elif head == "Memory Encryption Features active" or record.startswith("tdx: Guest"):
        boot.encryption = boot.encryption or (rest if head != "tdx" else "Intel TDX")
    elif "messages dropped" in record and not any(efi.RUNTIME_MAP in line for line in boot.efi):
        boot.lost = "the console dropped messages"
    elif "system clock" in record and (match := re.match(_CLOCK, record)):
        boot.started = boot.started or int(match[1]) - time
    elif head.startswith("last_pfn") and (match := re.match(_LAST_PFN, record)):
        boot.ram_end = max(boot.ram_end, int(match[1], 16) << 12)
    else:
        _read_end(boot, record)


def _read_end(boot: BootLog, record: str) -> None:
    """The end of the kernel. panic() prints its task after its words, oops_end() has printed it before them."""
    if record.startswith(_PANIC):
        boot.panic, boot.oops = record[len(_PANIC) :], False
        boot.panic_task = boot.panic_task if boot.panic.startswith("Fatal exception") else None
    elif "[#" in record and re.match(_OOPS, record):
        boot.panic_task, boot.oops = None, True
    elif boot.panic_task is None and (boot.panic or boot.oops) and (match := re.match(_TASK, record)):
        boot.panic_task, boot.oops = Task(int(match[2]), match[3], int(match[1])), False


def efi_map(log: BootLog, expected: Optional[int], by_kexec: bool = False) -> Union[EfiMap, str]:
    """The EFI memory map that ``efi=debug`` prints, or why there is none.

    :param expected: entries of the map, by ``boot_params``; None: nothing but the log tells whether it has all
    :param by_kexec: whether kexec started the kernel
    """
    descriptors, reason = efi.parse_log_lines(log.efi)
    if not descriptors:
        return str(reason)
    removed = sum(int(match[1]) for line in log.efi if "Removing" in line and (match := re.match(_REMOVED, line)))
    lacks = [] if reason is None else [reason]
    if expected is not None and len(descriptors) != expected - removed:
        lacks.append(f"the log has {len(descriptors)} of {expected - removed} entries")
    elif expected is None and not lacks:
        lacks += filter(None, [_lacks(log, descriptors)])
    if by_kexec or not (lacks or any(entry.type == efi.CONVENTIONAL for entry in descriptors)):
        lacks.append(KEXEC_NOTE)
    notes = [*lacks, *([f"{removed} invalid entries of the firmware's map are not in it"] if removed else [])]
    return EfiMap("kernel-log", not lacks, "; ".join(notes) or None, tuple(descriptors))


def e820_lacks(log: BootLog, descriptors: Sequence[efi.EfiDescriptor]) -> Optional[str]:
    """Why the log has not the whole e820 table; None: it has. The EFI stub made all RAM of the map RAM of it."""
    if log.lost is not None or not log.e820:
        return log.lost or "the log has no BIOS-e820 lines"
    if log.release is None or log.command_line is None:
        return "the log lacks the beginning of the boot"
    if max((entry.end for entry in log.e820 if entry.type == e820.RAM), default=0) < max(log.ram_end, 1):
        return "the log lacks e820 lines"
    ram = rng.merge((d.start, d.end) for d in descriptors if d.type in efi.RAM_TYPES and d.start < d.end)
    lost = rng.subtract(ram, rng.merge((start, end) for start, end, _ in log.e820))
    return f"the log lacks e820 lines: of RAM at {lost[0].start:#x}" if lost and not log.is_crash_kernel else None


def _lacks(log: BootLog, descriptors: list[efi.EfiDescriptor]) -> Optional[str]:
    """Why the map may lack entries at its end, or have others than the firmware's; None: it is whole."""
    lost = e820_lacks(log, descriptors)
    if lost is not None:
        return lost
    if log.is_crash_kernel:
        return KEXEC_NOTE
    if "efi_fake_mem=" in str(log.command_line):
        return "efi_fake_mem= changed it"
    usable = rng.merge((start, end) for start, end, type_ in log.e820 if type_ == e820.RAM)
    missed = rng.subtract(usable, rng.merge((d.start, d.end) for d in descriptors if d.start < d.end))
    if missed:
        return f"the log lacks lines of the map: of RAM at {missed[0].start:#x}"
    if log.table_address is not None and not any(entry.type == efi.UNACCEPTED for entry in descriptors):
        return "there is a table, and no entry of type 15"
    return None
