# SPDX-License-Identifier: LGPL-2.1-or-later
"""VMCOREINFO parsed, found in a dump's memory, and worked out from a CPU's registers."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple, Optional

import pytest

from drgn_unaccepted import limits
from drgn_unaccepted.targets.elf import ElfCore, read_elf_core
from drgn_unaccepted.targets.errors import TargetError, Unavailable
from drgn_unaccepted.targets.vmcoreinfo import parse_vmcoreinfo
from drgn_unaccepted.targets.vmcoreinfo_search import find_vmcoreinfo, work_out_vmcoreinfo
from tests.targets.elf_dump import PAGE, START_KERNEL_MAP, cpu_note, note, runs, section_elf, write_elf

MIB = 1 << 20
FLAGS = 0x63
LINKED = 0xFFFFFFFF81000000


class Kernel(NamedTuple):
    """A kernel image of 2 MiB at ``physical``, moved by ``offset`` from where it was linked."""

    release: str = "6.12.1-test"
    physical: int = 64 * MIB
    offset: int = 0
    levels: int = 4
    #: Whether user space has page tables of its own, in the page after the kernel's.
    isolated: bool = False

    #: As a vmlinux has them.
    SYMBOLS = {  # noqa: RUF012
        "init_top_pgt": LINKED + 0x2000,
        "init_uts_ns": LINKED + 0x20000,
        "linux_banner": LINKED + 0x21000,
        "__start_notes": LINKED + 0x22000,
        "__stop_notes": LINKED + 0x22000 + 60,
        "node_data": LINKED + 0x23000,
        "_stext": LINKED,
    }

    @property
    def phys_base(self) -> int:
        return self.physical - (LINKED - START_KERNEL_MAP) - self.offset

    def physical_of(self, symbol: str) -> int:
        return self.SYMBOLS[symbol] - LINKED + self.physical

    def virtual_of(self, symbol: str) -> int:
        return self.SYMBOLS[symbol] + self.offset

    @property
    def vmcoreinfo(self) -> bytes:
        return (
            f"OSRELEASE={self.release}\nPAGESIZE=4096\nSYMBOL(init_uts_ns)={self.virtual_of('init_uts_ns'):x}\n"
            f"OFFSET(uts_namespace.name)=4\nSYMBOL(swapper_pg_dir)={self.virtual_of('init_top_pgt'):x}\n"
            f"NUMBER(phys_base)={self.phys_base}\nNUMBER(pgtable_l5_enabled)={int(self.levels == 5)}\n"
            f"KERNELOFFSET={self.offset:x}\nNUMBER(sme_mask)=0\n"
        ).encode()

    def write(self, pages: dict[int, bytes]) -> None:
        """Put the image and its page tables into memory."""

        def put(physical: int, data: bytes) -> None:
            page, at = divmod(physical, PAGE)
            old = pages.get(page, bytes(PAGE))
            pages[page] = old[:at] + data + old[at + len(data) :]

        root = self.physical_of("init_top_pgt")
        roots = [root, root + PAGE] if self.isolated else [root]
        # All 2 MiB of the image in one page.
        tables = root + 2 * PAGE
        virtual = LINKED + self.offset
        for top in roots:
            table = top
            for shift in range(39 + 9 * (self.levels - 4), 21, -9):
                put(table + (virtual >> shift & 511) * 8, struct.pack("<Q", tables | FLAGS))
                table = tables
                tables += PAGE
            put(table + (virtual >> 21 & 511) * 8, struct.pack("<Q", self.physical | FLAGS | 0x80))
        put(self.physical_of("init_uts_ns") + 4 + 130, self.release.encode())
        put(self.physical_of("linux_banner"), f"Linux version {self.release} (builder@host) #1\n\0".encode())
        notes = note(b"Xen", 3, bytes(8)) + note(b"GNU", 3, bytes(range(20)))
        put(self.physical_of("__start_notes"), notes)

    def cpu(self, *, user: bool = False) -> bytes:
        """What QEMU notes of a CPU that runs this kernel, or a program under it."""
        cr3 = self.physical_of("init_top_pgt") + (PAGE if user else 0) + 5  # PCID
        return cpu_note(cr3, 0x1020 if self.levels == 5 else 0x20)


IDLE_CPU = cpu_note(0, 0)


def core_of(path: Path, pages: dict[int, bytes], notes: bytes) -> ElfCore:
    core = read_elf_core(str(write_elf(path, runs(pages), notes)))
    assert core is not None
    return core


def page(text: bytes) -> bytes:
    return text.ljust(PAGE, b"\0")


def pages_of(*kernels: Kernel) -> dict[int, bytes]:
    pages: dict[int, bytes] = {}
    for kernel in kernels:
        kernel.write(pages)
    return pages


def with_texts(*kernels: Kernel) -> dict[int, bytes]:
    """Each kernel's text in a page of its own, from 0x200000 on."""
    return {**pages_of(*kernels), **{0x200 + number: page(kernel.vmcoreinfo) for number, kernel in enumerate(kernels)}}


def test_entries() -> None:
    text = (
        b"OSRELEASE=6.12.1\nSYMBOL(_stext)=ffffffff81000000\nNUMBER(phys_base)=-16777216\nLENGTH(node_data)=64\n"
        b"NUMBER(twice)=1\nNUMBER(twice)=2\nNUMBER(text)=0x10\nSYMBOL(text)=xyz\nSYMBOL(long)=11112222333344445\n"
        b"no entry\n"
    )
    found = parse_vmcoreinfo(text)
    assert found.text == text
    assert tuple(found.entries.get(key) for key in ("OSRELEASE", "BUILD-ID", "no entry")) == ("6.12.1", None, None)
    assert (found.symbol("_stext"), found.number("phys_base"), found.length("node_data")) == (LINKED, -16 * MIB, 64)
    assert found.number("twice") == 2
    for absent in (found.number("text"), found.symbol("text"), found.symbol("long"), found.symbol("phys_base")):
        assert absent is None
    assert parse_vmcoreinfo(bytes(limits.VMCOREINFO_BYTES)).entries == {}
    with pytest.raises(TargetError, match="limit 65536"):
        parse_vmcoreinfo(bytes(limits.VMCOREINFO_BYTES + 1))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dump"


@pytest.mark.parametrize(
    "kernel",
    (Kernel(), Kernel(offset=32 * MIB), Kernel(physical=5 << 40, offset=512 * MIB), Kernel(levels=5)),
    ids=("plain", "kaslr", "5 TiB", "la57"),
)
def test_it_is_found_among_what_only_looks_like_it(kernel: Kernel, path: Path) -> None:
    pages = pages_of(kernel)
    pages[0x100] = page(b"OSRELEASE=%s\n\0BUILD-ID=%20phN\n\0PAGESIZE=%ld\n\0SYMBOL(%s)=%lx\n")
    pages[0x101] = page(b"OSRELEASE=" + b"x" * 4000)
    pages[0x102] = page(kernel.vmcoreinfo.replace(b"4096", b"65536"))
    pages[0x103] = page(kernel.vmcoreinfo.replace(b"NUMBER(phys_base)", b"NUMBER(phys_bass)"))
    pages[0x104] = page(kernel.vmcoreinfo.replace(b"phys_base)=", b"phys_base)=zero"))
    pages[0x105] = page(b"12345" + kernel.vmcoreinfo)  # a copy in somebody's buffer
    pages[0x106] = page(kernel.vmcoreinfo.replace(b"phys_base)=", b"phys_base)=-999999999999"))  # a negative address
    pages[0x200] = page(kernel.vmcoreinfo)
    pages[0x300] = page(kernel.vmcoreinfo)  # vmcoreinfo_data_safecopy
    for notes in (IDLE_CPU + kernel.cpu(), IDLE_CPU):
        assert find_vmcoreinfo(core_of(path, pages, notes)) == (kernel.vmcoreinfo, 0x200000)
    pages[0x107] = page(kernel.vmcoreinfo + b"N\x82\x81=\n")  # a copy in a page that was used before
    assert find_vmcoreinfo(core_of(path, pages, IDLE_CPU)) == (kernel.vmcoreinfo, 0x107000)


@pytest.mark.parametrize("which", (0, 1))
def test_of_two_kernels_the_one_that_a_cpu_runs(which: int, path: Path) -> None:
    """After a kexec the first kernel's memory is still there, page tables and all, where nothing has used it yet."""
    kernels = (Kernel("6.12.1-first"), Kernel("6.12.2-second", physical=96 * MIB, offset=16 * MIB))
    pages = with_texts(*kernels)
    assert find_vmcoreinfo(core_of(path, pages, kernels[which].cpu()))[0] == kernels[which].vmcoreinfo
    with pytest.raises(Unavailable, match=r"several .* 6\.12\.1-first at 0x200000, 6\.12\.2-second at 0x201000"):
        find_vmcoreinfo(core_of(path, pages, IDLE_CPU))


def test_a_kernel_that_was_overwritten_does_not_count(path: Path) -> None:
    gone, running = Kernel("6.12.1-gone"), Kernel("6.12.2-running", physical=96 * MIB)
    for lost in ("init_uts_ns", "init_top_pgt"):
        pages = with_texts(gone, running)
        del pages[gone.physical_of(lost) // PAGE]
        assert find_vmcoreinfo(core_of(path, pages, IDLE_CPU))[0] == running.vmcoreinfo


def test_under_page_table_isolation_a_cpu_in_user_mode_proves_it_too(path: Path) -> None:
    other, kernel = Kernel("6.12.1-first"), Kernel("6.12.2", physical=96 * MIB, isolated=True)
    pages = with_texts(other, kernel)
    # User space's tables map the entry code alone.
    root = kernel.physical_of("init_top_pgt")
    pages[root // PAGE + 1] = bytes(PAGE)
    # PTI_USER_PGTABLE_BIT is bit 12, so that the kernel's table lies in an even page.
    assert root // PAGE % 2 == 0
    assert find_vmcoreinfo(core_of(path, pages, kernel.cpu(user=True)))[0] == kernel.vmcoreinfo


def test_the_search_is_bounded_and_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel()
    with pytest.raises(Unavailable, match="none is in its memory"):
        find_vmcoreinfo(core_of(path, {**pages_of(kernel), 0x100: page(b"OSRELEASE=%s\n")}, IDLE_CPU))
    pages = {number: bytes([number & 0xFF]) * PAGE for number in range(0x100, 0x400)}
    kernel.write(pages)
    pages[0x300] = page(kernel.vmcoreinfo)
    core = core_of(path, pages, IDLE_CPU)
    monkeypatch.setattr(limits, "SEARCH_PIECE_BYTES", 5 * PAGE + 3)  # so that the words lie across two pieces, too
    for most in (0, MIB):
        monkeypatch.setattr(limits, "VMCOREINFO_SEARCH_BYTES", most)
        with pytest.raises(Unavailable, match="not found in the first"):
            find_vmcoreinfo(core)
    monkeypatch.setattr(limits, "VMCOREINFO_SEARCH_BYTES", 1 << 30)
    for piece in range(16 * PAGE - 12, 16 * PAGE + 2):
        monkeypatch.setattr(limits, "SEARCH_PIECE_BYTES", piece)
        assert find_vmcoreinfo(core)[1] == 0x300000


def test_many_kernels_are_too_many(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "VMCOREINFO_COPIES", 3)
    kernels = [Kernel(f"6.12.{number}", physical=(64 + 2 * number) * MIB) for number in range(5)]
    with pytest.raises(Unavailable, match="more than 3"):
        find_vmcoreinfo(core_of(path, with_texts(*kernels), IDLE_CPU))


def test_holes_of_a_sparse_dump_are_passed_over(path: Path) -> None:
    """64 GiB of hole: read through, they would take a minute."""
    kernel = Kernel()
    pages = {0x10: bytes(PAGE)}
    kernel.write(pages)
    write_elf(path, runs(pages), kernel.cpu())
    size = path.stat().st_size
    with path.open("r+b") as file:
        # The first PT_LOAD becomes one of 64 GiB, of which only the last page is written.
        hole = 64 << 30
        file.seek(64 + 56)
        file.write(struct.pack("<IIQQQQQQ", 1, 7, size, 0, 1 << 40, hole + PAGE, hole + PAGE, 0))
        file.seek(size + hole)
        file.write(page(kernel.vmcoreinfo))
    core = read_elf_core(str(path))
    assert core is not None
    # Read from end to end, the hole would take longer than any test runner waits.
    assert find_vmcoreinfo(core)[1] == (1 << 40) + hole


# From registers


def vmlinux(path: Path, symbols: Optional[dict[str, int]] = None) -> str:
    return str(
        section_elf(path, {".debug_info": b"", ".debug_abbrev": b""}, Kernel.SYMBOLS if symbols is None else symbols)
    )


@pytest.mark.parametrize(
    "kernel",
    [
        *(Kernel(), Kernel(offset=32 * MIB), Kernel(physical=5 << 40, offset=1006 * MIB)),
        *(Kernel(levels=5, offset=2 * MIB), Kernel(isolated=True, offset=2 * MIB)),
    ],
    ids=("plain", "kaslr", "5 TiB", "la57", "in user mode"),
)
def test_addresses_are_worked_out_from_registers(kernel: Kernel, path: Path, tmp_path: Path) -> None:
    state = IDLE_CPU + cpu_note(0x1000, 0x20) + kernel.cpu(user=kernel.isolated)
    core = core_of(path, pages_of(kernel), state)
    text, *where = work_out_vmcoreinfo(core, [vmlinux(tmp_path / "vmlinux")])
    assert where == [2, str(tmp_path / "vmlinux")]
    lines = text.decode().splitlines()
    assert {
        f"OSRELEASE={kernel.release}",
        f"BUILD-ID={bytes(range(20)).hex()}",
        "PAGESIZE=4096",
        f"SYMBOL(swapper_pg_dir)={kernel.virtual_of('init_top_pgt'):x}",
        f"NUMBER(phys_base)={kernel.phys_base}",
        f"NUMBER(pgtable_l5_enabled)={int(kernel.levels == 5)}",
        f"KERNELOFFSET={kernel.offset:x}",
    } <= set(lines)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        # Another banner, beyond memory, other page tables, no kernel.
        *(({"linux_banner": LINKED + at}, "no CPU of it was in the kernel of") for at in (0x24000, 0x2400000)),
        ({"init_top_pgt": LINKED + 0x8000}, "no CPU of it was in the kernel of"),
        ({"init_top_pgt": None}, "in a kernel with kallsyms, and no vmlinux with symbols is given"),
    ],
)
def test_a_vmlinux_of_another_kernel(change: dict[str, Optional[int]], words: str, path: Path, tmp_path: Path) -> None:
    kernel = Kernel()
    pages = pages_of(kernel)
    symbols = {name: value for name, value in {**Kernel.SYMBOLS, **change}.items() if value is not None}
    with pytest.raises(Unavailable, match=words):
        work_out_vmcoreinfo(core_of(path, pages, kernel.cpu()), [vmlinux(tmp_path / "vmlinux", symbols)])


def test_no_registers(path: Path, tmp_path: Path) -> None:
    pages = pages_of(Kernel())
    for notes in (b"", note(b"CORE", 1, bytes(336)), note(b"QEMU", 0, bytes(440)), note(b"QEMU", 0, bytes(100))):
        core = core_of(path, pages, notes)
        with pytest.raises(Unavailable, match="no registers"):
            work_out_vmcoreinfo(core, [vmlinux(tmp_path / "vmlinux")])
