# SPDX-License-Identifier: LGPL-2.1-or-later
"""ELF dumps: hostile program headers, bounds, and reads of their memory without drgn."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.elf_core import ElfMemory, read_elf_core
from drgn_unaccepted.kernel.vmcoreinfo_search import cpu_states
from tests.fuzz import run
from tests.kernel.elf_dump import PT_LOAD, PT_NOTE, elf, note, read_sample, runs, vmcoreinfo_note, write_elf
from tests.kernel.elf_dump import Load as L

COUNT = 60_000
QEMU = note(b"QEMU", 0, struct.pack("<II376xQ5Q", 1, 440, 0, 0, 0, 0, 0x1000, 0))


def with_more_headers(path: Path, p_type: int, notes: bytes) -> Path:
    """A sample as an ELF dump, and 60,000 program headers that each name all of the file."""
    loads = runs(read_sample("6.12-fill").pages)
    more = COUNT * 56
    data = bytearray(elf(loads, notes))
    (count,) = struct.unpack_from("<H", data, 56)
    for at in range(64 + 8, 64 + 56 * count, 56):
        struct.pack_into("<Q", data, at, struct.unpack_from("<Q", data, at)[0] + more)
    struct.pack_into("<H", data, 56, count + COUNT)
    size = len(data) + more
    header = struct.pack("<IIQQQQQQ", p_type, 7, 64, 0, 1 << 40, size - 64, size - 64, 0)
    data[64 + 56 * count : 64 + 56 * count] = header * COUNT
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("p_type", (PT_LOAD, PT_NOTE))
@pytest.mark.parametrize("has_note", (True, False))
def test_the_same_bytes_again_and_again(p_type: int, has_note: bool, tmp_path: Path) -> None:
    path = with_more_headers(
        tmp_path / "dump", p_type, vmcoreinfo_note(read_sample("6.12-fill").vmcoreinfo) if has_note else QEMU
    )

    def check() -> run.Outcome:
        status, _, said = run.command("-c", path, "header")
        return run.Outcome(run.REFUSED if status == 3 else run.ANSWERED, "".join(said))

    outcome = run.isolated(check)
    assert outcome.kind == (run.ANSWERED if has_note else run.REFUSED), outcome
    if not has_note and p_type == PT_LOAD:
        assert "the same bytes more than once" in outcome.text


def test_notes_at_the_limit_and_beyond(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    core = read_elf_core(str(write_elf(tmp_path / "dump", [], 3 * QEMU)))
    assert core is not None
    monkeypatch.setattr(limits, "ELF_NOTE_BYTES", 3 * len(QEMU))
    assert len(cpu_states(core)) == 3
    monkeypatch.setattr(limits, "ELF_NOTE_BYTES", 3 * len(QEMU) - 1)
    assert len(cpu_states(core)) == 2
    monkeypatch.setattr(limits, "GLOBAL_ARRAY_LENGTH", 1)
    assert len(cpu_states(core)) == 1


def test_segments_at_the_limit_and_beyond(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(write_elf(tmp_path / "dump", [L(0x1000, b"a"), L(0x2000, b"b")], b""))
    monkeypatch.setattr(limits, "ELF_SEGMENTS", 3)
    assert read_elf_core(path) is not None
    monkeypatch.setattr(limits, "ELF_SEGMENTS", 2)
    with pytest.raises(ValueError, match="3 program headers, more than 2"):
        read_elf_core(path)


def test_reads_across_segments_and_beside_them(tmp_path: Path) -> None:
    """Neighbours, and two that overlap as those of a kdump do: kernel text and the direct map."""
    loads = [L(0x1000, b"a" * 0x1000), L(0x2000, b"b" * 0x1000), L(0x5000, b"c" * 0x1000), L(0x4000, b"c" * 0x3000)]
    core = read_elf_core(str(write_elf(tmp_path / "dump", loads, b"")))
    assert core is not None
    with ElfMemory(core) as memory:
        assert memory.read(0x1FFE, 4) == b"aabb"
        assert memory.read(0x4FFF, 0x1002) == b"c" * 0x1002
        assert memory.read(0x6FFF, 1) == b"c"
        for address, size in ((0xFFF, 1), (0x2FFF, 2), (0x3000, 1), (0x7000, 1), (0x6FFF, 2), (0, 0x8000)):
            with pytest.raises(Exception, match="not in this dump"):
                memory.read(address, size)
