# SPDX-License-Identifier: LGPL-2.1-or-later
"""The EFI memory map, from the best source that the target has.

1. The buffer that ``boot_params.efi_info`` describes: the firmware's final map, from which the EFI stub built the
   bitmap. It lies in ACPI memory, so only whole-RAM dumps have it.
2. The ``efi: memNN:`` lines of the kernel log, which ``efi=debug`` makes the kernel print from the same buffer before
   it edits it.
   Where the ring buffer has lost them, a log file of the same boot (``--log``) can have them.
3. ``efi.memmap``: what the kernel keeps for runtime services. It never contains unaccepted memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import accumulate
from typing import Callable, NamedTuple, Optional

from drgn import FaultError, Object, Program

from drgn_unaccepted import limits
from drgn_unaccepted.errors import one_line
from drgn_unaccepted.kernel.boot import SETUP_EFI, read_boot_params, read_physical, read_setup_data
from drgn_unaccepted.kernel.printk import log_of_this_boot, read_log
from drgn_unaccepted.log import boots
from drgn_unaccepted.log.boots import KEXEC_NOTE, BootLog
from drgn_unaccepted.model import efi
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import EfiMap
from drgn_unaccepted.targets.errors import UNREADABLE, TargetError, Unavailable


class _NotEfi(Unavailable):
    """The kernel was not booted through EFI."""


class _BootMap(NamedTuple):
    """``boot_params.efi_info``."""

    buffer: Range
    nr_map: int  #: Descriptors, as efi_memmap_init_early() counts them, and bytes from one to the next.
    stride: int
    kexec: bool  #: The kernel was started by kexec.


def read_efi_map(prog: Program, logs: Sequence[BootLog] = (), table_address: Optional[int] = None) -> EfiMap:
    """Return the EFI memory map with its provenance; a complete one if any source has it.

    :param logs: the boots in a log file, one of which has to be this one
    :param table_address: ``efi.unaccepted``, as far as it is known, to compare with the log file's
    :raises TargetError: none of them is
    :raises Unavailable: not booted through EFI, or no source has the map; the reason then names each
    """
    failed: list[str] = []
    found: list[EfiMap] = []
    boot: Optional[_BootMap] = None
    damaged: Optional[str] = None

    sources: list[tuple[str, Callable[[Program, Optional[_BootMap]], EfiMap]]] = [
        ("boot-map", _from_buffer),
        # The first map that efi_print_memmap() printed: in efi_init(), before any merge.
        ("kernel-log", lambda prog, boot: _of_log(read_log(prog), boot)),
        ("--log", lambda prog, boot: _of_log(log_of_this_boot(prog, logs, table_address), boot)),
        ("runtime-map", _from_runtime_map),
    ]
    for name, read in sources:
        # The log is read too where the buffer is whole: to compare them.
        if (name == "--log" and not logs) or (name == "runtime-map" and any(efi_map.is_whole for efi_map in found)):
            continue
        try:
            if name == "boot-map":
                boot = _read_efi_info(prog)
            found.append(replace(read(prog, boot), buffer=None if boot is None else boot.buffer))
        except _NotEfi:
            raise
        except UNREADABLE as error:
            failed.append(f"{name}: {one_line(error)}")
            if name == "boot-map" and isinstance(error, ValueError):
                damaged = f"the EFI memory map in memory does not decode: {one_line(error)}"
    if not found:
        raise Unavailable("; ".join(failed))
    whole = [efi_map for efi_map in found if efi_map.is_whole]
    if not whole:
        # An earlier source can hold more.
        return replace(found[0], note="; ".join(filter(None, (found[0].note, *failed))))
    if len({efi_map.descriptors for efi_map in whole if efi_map.provenance == "kernel-log"}) > 1:
        raise TargetError("--log is of another boot: its EFI memory map differs from that in the target's own log")
    conflict = _conflict(found) if found[0].provenance == "boot-map" else damaged
    # The kernel printed the log before anything could overwrite the buffer.
    return whole[0] if conflict is None else replace(whole[-1], conflict=conflict)


def _conflict(found: Sequence[EfiMap]) -> Optional[str]:
    """How the buffer and a whole log of the same map differ; the kernel's own edits of the buffer are undone by now."""
    buffer = found[0].descriptors
    logs = (efi_map for efi_map in found if efi_map.provenance == "kernel-log" and efi_map.complete)
    log = next((efi_map.descriptors for efi_map in logs), buffer)
    differing = [n for n, (a, b) in enumerate(zip(buffer, log)) if (a.type, a.start, a.end) != (b.type, b.start, b.end)]
    if not differing and len(buffer) == len(log):
        return None
    names = ", ".join(map(str, differing[:4])) + (f" and {len(differing) - 4} more" if len(differing) > 4 else "")
    return f"the EFI memory map in memory differs from the kernel's log in entries {names or 'that one of them lacks'}"


def _read_efi_info(prog: Program) -> _BootMap:
    params = read_boot_params(prog)
    info = params.efi_info
    signature = info.efi_loader_signature.value_().to_bytes(4, "little")
    if signature not in (b"EL64", b"EL32"):
        raise _NotEfi("not booted through EFI (boot_params.efi_info has no signature)")
    start, size = info.efi_memmap.value_() | info.efi_memmap_hi.value_() << 32, info.efi_memmap_size.value_()
    stride = _stride(info.efi_memdesc_size, "boot_params.efi_info.efi_memdesc_size")
    # What kexec leaves for this kernel: efi_setup, and the setup_data entry that it points to.
    kexec = any(entry.type == SETUP_EFI for entry in read_setup_data(prog, params)[0])
    with suppress(LookupError, FaultError):
        kexec = kexec or bool(prog["efi_setup"].value_())
    return _BootMap(Range(start, start + size), size // stride, stride, kexec)


def _stride(value: Object, what: str) -> int:
    if not 40 <= value <= limits.EFI_DESCRIPTOR_BYTES:
        raise Unavailable(f"{what} is {value.value_()}")
    return int(value)


def _read_descriptors(prog: Program, address: int, count: int, stride: int, what: str) -> list[efi.EfiDescriptor]:
    data = read_physical(prog, address, count * stride, what)
    if not any(data):
        raise Unavailable(f"{what}: reads as zeros, not captured")
    return efi.decode_memory_map(data, stride)


def _from_buffer(prog: Program, boot: Optional[_BootMap]) -> EfiMap:
    """The boot map with the kernel's edits undone."""
    assert boot is not None
    what = f"boot_params.efi_info.efi_memmap {boot.buffer.start:#x}"
    if not boot.nr_map or boot.nr_map > limits.EFI_DESCRIPTORS:
        raise Unavailable(f"{what}: {boot.nr_map} descriptors")
    edited = _read_descriptors(prog, boot.buffer.start, boot.nr_map, boot.stride, what)
    unmerged = efi.undo_merge_regions(edited)
    descriptors = efi.undo_reserve_boot_services(unmerged)

    notes = []
    zeros = edited.count(efi.EfiDescriptor(0, 0, 0, 0))
    if zeros:
        notes.append(f"{zeros} of {boot.nr_map} descriptors read as zeros, not captured")
    # Every boot map has EFI_CONVENTIONAL_MEMORY, no runtime map does.
    if boot.kexec or not any(entry.type == efi.CONVENTIONAL for entry in descriptors):
        notes.append(KEXEC_NOTE)
    complete = not notes
    for function, before, after in (
        ("efi_merge_regions", edited, unmerged),
        ("efi_reserve_boot_services", unmerged, descriptors),
    ):
        entries = sum(a != b for a, b in zip(before, after))
        if entries:
            notes.append(f"{entries} of {boot.nr_map} entries that {function}() changed were restored")
    # By a merge that was not undone, or a fault of the firmware.
    spans = sorted((entry.start, entry.end) for entry in descriptors if entry.start < entry.end)
    ends = accumulate((end for _, end in spans), max)
    overlaps = [start for (start, _), last in zip(spans[1:], ends) if start < last]
    notes += [f"ambiguous: entries overlap at {start:#x}" for start in overlaps[:1]]
    return EfiMap("boot-map", complete, "; ".join(notes) or None, tuple(descriptors), ambiguous=bool(overlaps))


def _of_log(log: BootLog, boot: Optional[_BootMap]) -> EfiMap:
    found = boots.efi_map(log, None if boot is None else boot.nr_map, boot is not None and boot.kexec)
    if isinstance(found, str):
        raise Unavailable(found)
    return found


def _from_runtime_map(prog: Program, boot: Optional[_BootMap]) -> EfiMap:
    """``efi.memmap`` as efi_enter_virtual_mode() leaves it, in the kernel's own memory."""
    memmap = prog["efi"].memmap.read_()
    address = memmap.phys_map.value_()
    count = memmap.nr_map.value_()
    what = f"efi.memmap {address:#x}"
    if boot is not None and address == boot.buffer.start:
        raise Unavailable(f"{what} is the boot map (efi=noruntime, kexec, or too early)")
    if not 0 < count <= limits.EFI_DESCRIPTORS:
        raise Unavailable(f"efi.memmap.nr_map is {count}")
    descriptors = _read_descriptors(prog, address, count, _stride(memmap.desc_size, "efi.memmap.desc_size"), what)
    note = "holds only what EFI services use: no free and no unaccepted memory"
    return EfiMap("runtime-map", False, note, tuple(descriptors))
