# SPDX-License-Identifier: LGPL-2.1-or-later
"""The platform that a kernel runs on, how it was built, and what its image says of itself."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Callable, Optional

from drgn import FaultError, Object, Program

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.memmap import page_layout
from drgn_unaccepted.kernel.probe import cpus_in, enumerators, read_string
from drgn_unaccepted.model.addresses import on_command_line
from drgn_unaccepted.snapshot import PAGE_SIZE, Image, KernelBuild, Platform
from drgn_unaccepted.targets.errors import DAMAGED, Unavailable
from drgn_unaccepted.targets.page_tables import NotMapped, kernel_page_tables
from drgn_unaccepted.targets.vmcoreinfo import vmcoreinfo_of

# arch/x86/include/asm/cpufeatures.h: X86_FEATURE_TDX_GUEST is bit 22 of word 8 from v5.17 on. Word 8 is Linux's own.
_TDX_GUEST_WORD, _TDX_GUEST_BIT = 8, 1 << 22
# arch/x86/include/asm/msr-index.h
_SEV_SNP_ENABLED = 1 << 2

#: Fixes that added a call: the function, and what it calls since then.
_CALLS = {
    "caeb8ba598f0": ("sanity_check_segment_list", "accept_memory"),
    "1c5a1627f481": ("accept_memory", "touch_softlockup_watchdog"),
}


def read_platform(prog: Program) -> Platform:
    """What ``arch_accept_memory()`` would do: the TDX call, the SNP call, or panic. Unavailable: nothing tells it."""
    feature_word = _integer(prog, lambda prog: prog["boot_cpu_data"].x86_capability[_TDX_GUEST_WORD])
    sev = _integer(prog, lambda prog: prog["sev_status"])
    number = _integer(prog, lambda prog: prog["cc_vendor"])
    vendor = _constant(prog, "cc_vendor", "cc_vendor") or (None if number is None else str(number))
    lazy = _integer(prog, lambda prog: prog["lazy_accept"])
    if feature_word is not None and feature_word & _TDX_GUEST_BIT:
        kind: Optional[str] = "tdx"
    elif sev is not None and sev & _SEV_SNP_ENABLED:
        kind = "snp"
    else:
        # A kernel without CONFIG_AMD_MEM_ENCRYPT has no sev_status and cannot be an SNP guest.
        kind = None if feature_word is None else "none"
    if kind is None and sev is None and vendor is None and lazy is None:
        raise Unavailable("neither boot_cpu_data, sev_status, cc_vendor nor lazy_accept can be read")
    return Platform(kind, vendor and vendor.removeprefix("CC_VENDOR_"), sev, None if lazy is None else bool(lazy))


def read_kernel_build(prog: Program) -> KernelBuild:
    """What the kernel was built with, from its types, its symbols and VMCOREINFO."""
    zone = prog.type("struct zone")
    orders = zone.member("free_area").type.length
    # MAX_PAGE_ORDER + 1 elements: MAX_ORDER in v6.4 to v6.7.
    if orders is None or not 0 < orders <= limits.PAGE_ORDERS:
        raise Unavailable(f"zone->free_area has {orders} elements: at most {limits.PAGE_ORDERS} are expected")
    layout, vmcoreinfo = page_layout(prog), vmcoreinfo_of(prog)
    page_type = enumerators(prog, "pagetype").get("PGTY_unaccepted")
    efi_setup = _integer(prog, lambda prog: prog["efi_setup"])
    state = _constant(prog, "system_state", "system_states")
    with suppress(*DAMAGED):
        # "booting" is 0, as what is not in a dump reads.
        if not any(prog.read(prog["system_state"].address_ & -PAGE_SIZE, PAGE_SIZE)):
            state = None
    try:
        cpus: Optional[int] = len(cpus_in(prog, "__cpu_present_mask"))
    except LookupError:  # without CONFIG_SMP there is no mask
        cpus = 1
    except FaultError:
        cpus = None
    # cma=SIZE@BASE of the command line; None where that is not known.
    line = _command_line(prog) if prog.symbols("cma_areas") else ""
    return KernelBuild(
        unaccepted_memory=zone.has_member("unaccepted_pages"),
        # Linux kernel commit 310183de7bb2 ("mm: introduce PageUnaccepted() page type") (in v6.12)
        unaccepted_page_type=None if page_type is None else page_type << 24,
        chunk_pages=1 << (orders - 1),
        # Removed by Linux kernel commit fefc07518227 ("mm/page_alloc: fix race condition in unaccepted memory
        # handling") (in v6.15, 6.14.8, 6.12.30, 6.6.92)
        static_key=_integer(prog, lambda prog: prog["zones_with_unaccepted_pages"].key.enabled.counter),
        vmcoreinfo_unaccepted=vmcoreinfo.number("PAGE_UNACCEPTED_MAPCOUNT_VALUE") is not None,  # v6.16
        kexec_booted=None if efi_setup is None else efi_setup != 0,
        # A function that sets bits again; None where functions cannot be looked up.
        unaccepts=any(prog.symbols(f"unaccept_{what}memory") for what in ("", "hotplug_"))
        if prog.symbols("accept_memory")
        else None,
        fixed_cma=None if line is None else tuple(on_command_line(line, "cma", "@")),
        system_state=state and state.removeprefix("SYSTEM_").lower().replace("_", "-"),
        reserved_flag=layout.reserved_flag,
        cpus=cpus,
        zone_id_shift=layout.zone_shift,
        page_offset_base=_direct_map(prog),
        vmalloc_base=_integer(prog, lambda prog: prog["vmalloc_base"]),
        phys_base=vmcoreinfo.number("phys_base"),
    )


def _integer(prog: Program, read: Callable[[Program], Object]) -> Optional[int]:
    """A number's value; None where the kernel has no such variable, or it is not in the target."""
    try:
        return int(read(prog).value_())
    except (LookupError, AttributeError, FaultError):
        return None


def _direct_map(prog: Program) -> Optional[int]:
    """``page_offset_base``; None where it cannot be: KASLR moves it by 1 GiB, and it maps the page tables too."""
    base = _integer(prog, lambda prog: prog["page_offset_base"])
    tables = kernel_page_tables(prog)
    if base is None or base % (1 << 30):
        return None
    try:
        found = tables is None or tables.translate(base + tables.root).start == tables.root
    except FaultError as error:
        found = not isinstance(error, NotMapped)
    return base if found else None


def _constant(prog: Program, name: str, enum: str) -> Optional[str]:
    """The name of the value of a variable of type ``enum``; None where it has none."""
    value = _integer(prog, lambda prog: prog[name])
    return next((constant for constant, number in enumerators(prog, enum).items() if number == value), None)


def read_image(prog: Program) -> Image:
    """Each part is None, or not told, where it is not in the target."""
    known = {commit: _calls(prog, *names) for commit, names in _CALLS.items()}
    if prog.symbols("accept_memory"):
        known["50e782a86c98"] = bool(prog.symbols("accepting_list"))
    if prog.symbols("unaccepted_memory_vmcore_pfn_is_ram"):
        known["7cd34dd3c9bf"] = True
    banner = None
    with suppress(*DAMAGED):
        text = prog.read(prog.symbol("linux_banner").address, limits.BANNER_BYTES)
        banner = re.match(rb"Linux version ([!-~]{1,64}) ", text)
    fixes, lacks = (tuple(commit for commit, there in known.items() if there is each) for each in (True, False))
    return Image(banner[1].decode() if banner else None, _command_line(prog), fixes, lacks)


def _calls(prog: Program, caller: str, callee: str) -> Optional[bool]:
    """Whether a function has a ``call rel32`` of another one; None where its code is not in the target."""
    try:
        function, target = prog.symbol(caller), prog.symbol(callee).address
        code = prog.read(function.address, min(function.size, limits.FUNCTION_BYTES + 1))
    except DAMAGED:
        return None
    # makedumpfile leaves pages out, and they read as zeros.
    pages = range(-(function.address % PAGE_SIZE), len(code), PAGE_SIZE)
    if not 0 < len(code) <= limits.FUNCTION_BYTES or not all(any(code[max(0, at) : at + PAGE_SIZE]) for at in pages):
        return None
    found = re.finditer(rb"\xe8(?=(.{4}))", code, re.DOTALL)
    distances = (match.end() + 4 + int.from_bytes(match[1], "little", signed=True) for match in found)
    return target - function.address in distances


def _command_line(prog: Program) -> Optional[str]:
    with suppress(*DAMAGED):
        text = read_string(prog, prog["saved_command_line"].value_(), limits.COMMAND_LINE_BYTES)
        return text.decode("ascii", "backslashreplace")[: limits.COMMAND_LINE_BYTES] or None
    return None
