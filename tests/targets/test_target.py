# SPDX-License-Identifier: LGPL-2.1-or-later
"""Dumps that are awkward to open, made of the pages of a sample: a real guest's, so that its account is the truth."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, Optional

import drgn
import pytest
from drgn.helpers.linux.kallsyms import load_vmlinux_kallsyms

from drgn_unaccepted import limits
from drgn_unaccepted.targets.adopt import adopt
from drgn_unaccepted.targets.errors import TargetError, Unavailable
from drgn_unaccepted.targets.vmcore import open_vmcore
from tests.asking import SAMPLES, UNIT, Capsys, ask, refused, truth, units
from tests.targets.elf_dump import (
    PAGE,
    Load,
    Sample,
    cpu_note,
    encrypted,
    every,
    note,
    read_sample,
    runs,
    vmcoreinfo_note,
    with_own_text,
    write_elf,
)

TIB = 1 << 40


def elf_of(path: Path, sample: Sample, loads: Optional[list[Load]] = None) -> Path:
    return write_elf(path, runs(sample.pages) if loads is None else loads, vmcoreinfo_note(sample.vmcoreinfo))


def answers(capsys: Capsys, path: Path) -> list[tuple[int, Any, str]]:
    """Of commands that together read everything, without what tells one dump of the same guest from the other."""
    found = []
    for command in ("ranges", "check"):
        status, document, err = ask(capsys, "-c", path, command)
        for key in ("path", "taken_at"):
            del document["target"][key]
        found.append((status, document, err))
    return found


# AMD's C-bit


def with_direct_map(sample: Sample, start: int) -> list[Load]:
    """PT_LOADs as in a kdump, with the direct map's addresses."""
    return [load._replace(vaddr=start + load.paddr) for load in runs(sample.pages)]


def found_by_drgn(name: str, *symbols: str) -> tuple[drgn.Program, list[int]]:
    """Addresses of symbols in the sample as it is, by drgn's own reader of kallsyms."""
    prog = drgn.Program()
    prog.set_core_dump(str(SAMPLES / name / "vmcore"))
    known = load_vmlinux_kallsyms(prog)
    return prog, [known(prog, symbol, None, True)[0].address for symbol in symbols]


def page_offset_base(name: str) -> int:
    prog, (address,) = found_by_drgn(name, "page_offset_base")
    return prog.read_u64(address)


@pytest.mark.parametrize(("name", "like"), (("6.12-fill", "qemu"), ("7.3-fill", "kdump")))
def test_with_the_c_bit_in_all_page_tables_every_answer_is_the_same(
    name: str, like: str, capsys: Capsys, tmp_path: Path
) -> None:
    plain, bits = read_sample(name), encrypted(name)
    base = page_offset_base(name)

    def loads(sample: Sample) -> list[Load]:
        return runs(sample.pages) if like == "qemu" else with_direct_map(sample, base)

    path = elf_of(tmp_path / "encrypted", bits, loads(bits))
    prog = drgn.Program()
    prog.set_core_dump(str(path))
    with pytest.raises(drgn.FaultError):  # what it is all about
        prog.read(bits.number("SYMBOL(kallsyms_num_syms)", 16), 4)
    found = answers(capsys, path)
    assert found == answers(capsys, elf_of(tmp_path / "plain", plain, loads(plain)))
    assert units(found[0][1]) == set(truth(name)["unaccepted_units"])
    assert found[0][1]["nr_unaccepted_bytes"] == truth(name)["nr_unaccepted_bytes"]


def test_what_a_segment_maps_is_not_walked(tmp_path: Path) -> None:
    """Bytes at a PT_LOAD's virtual address come from there, although the tables lead elsewhere."""
    sample = encrypted("6.12-fill")
    base = page_offset_base("6.12-fill")
    loads = [*with_direct_map(sample, base), Load(0, b"not by the tables" * 241, vaddr=base)]
    opened = open_vmcore(str(elf_of(tmp_path / "dump", sample, loads)))
    assert opened.prog.read(base, 17) == b"not by the tables"
    some = next(iter(sample.pages))
    assert opened.prog.read(base + some * PAGE, PAGE) == sample.pages[some]


def test_drgns_own_prompt_reaches_encrypted_memory_after_the_first_question(tmp_path: Path) -> None:
    sample = encrypted("6.12-fill")
    prog = drgn.Program()
    prog.set_core_dump(str(elf_of(tmp_path / "dump", sample)))
    for _ in range(2):
        assert adopt(prog).debug_info == "btf"
    (tmp_path / "dump").unlink()
    with pytest.raises(TargetError, match="No such file"):
        adopt(prog)
    assert prog["efi"].unaccepted == truth("6.12-fill")["table_address"]


def test_damaged_encrypted_tables_are_a_stated_reason(capsys: Capsys, tmp_path: Path) -> None:
    """The root leads to itself, to memory beyond any, or nowhere."""
    for entry in (None, 0xFFFFFFFFFFFFF067, 0):
        sample = encrypted("6.12-fill")
        root = sample.physical("swapper_pg_dir")
        sample.write(root, struct.pack("<Q", root | 0x67 if entry is None else entry) * 512)
        status, document, err = ask(capsys, "-c", elf_of(tmp_path / "dump", sample), "summary")
        assert (status, document) == (3, None)
        assert len(err.splitlines()) == 1 and "no types: kallsyms: " in err


# Memory that reads as zeros


def lacking(sample: Sample, addresses: range) -> list[Load]:
    """The pages of a sample, with some of them only claimed: p_filesz < p_memsz, as makedumpfile leaves pages out."""
    gone = {page: sample.pages.pop(page) for page in range(addresses.start // PAGE, (addresses.stop - 1) // PAGE + 1)}
    return [*runs(sample.pages), *(Load(page * PAGE, b"", memory=PAGE) for page in gone)]


def assert_not_captured(document: Any, err: str, name: str) -> None:
    """The table is not there, and the lists say no less than the truth."""
    assert err == ""
    assert document["table"]["state"] == "not-captured"
    assert (document["source"], document["exact"]) == ("reconstructed", False)
    assert units(document) >= set(truth(name)["unaccepted_units"])


@pytest.mark.parametrize("way", ("claimed", "zeros"))
def test_a_table_whose_page_is_not_in_the_dump(way: str, capsys: Capsys, tmp_path: Path) -> None:
    name = "6.12-fill"
    sample, address = read_sample(name), truth(name)["table_address"]
    loads = lacking(sample, range(address, address + 1))
    if way == "zeros":
        sample.pages[address // PAGE] = bytes(PAGE)
        loads = runs(sample.pages)
    status, document, err = ask(capsys, "-c", elf_of(tmp_path / "dump", sample, loads), "ranges")
    assert status == 0
    assert_not_captured(document, err, name)


def test_a_bitmap_whose_second_page_is_not_in_the_dump(capsys: Capsys, tmp_path: Path) -> None:
    """The header's page is there. The table is moved so that its bitmap crosses into a page that is claimed only."""
    name = "6.12-fill"
    sample = read_sample(name)
    moved = 0x1F000000 + PAGE - 32
    table = sample.read(truth(name)["table_address"], 24 + 56)
    move_table(sample, name, moved)
    sample.pages[moved // PAGE] = bytes(PAGE - 32) + table[:32]
    loads = [*runs(sample.pages), Load(moved // PAGE * PAGE + PAGE, b"", memory=PAGE)]
    status, document, err = ask(capsys, "-c", elf_of(tmp_path / "dump", sample, loads), "ranges")
    assert status == 0
    assert_not_captured(document, err, name)
    assert document["table"]["phys_base"] == 4 << 30
    # And with that page it answers: nothing else was in the way.
    sample.pages[moved // PAGE + 1] = table[32:].ljust(PAGE, b"\0")
    _, document, _ = ask(capsys, "-c", elf_of(tmp_path / "dump", sample), "ranges")
    assert units(document) == set(truth(name)["unaccepted_units"])


def test_zeros_for_the_kernels_variables_are_no_answer(capsys: Capsys, tmp_path: Path) -> None:
    """Pages that are only claimed read as zeros in drgn: no zone would have unaccepted memory, no table be there.

    The same dump through both doors: also of what drgn had given as zeros before.
    """
    from drgn_unaccepted import e820_table, for_each_unaccepted_page

    sample = read_sample("6.12-fill")
    start = sample.physical("node_data") // PAGE * PAGE
    path = elf_of(tmp_path / "dump", sample, lacking(sample, range(start, start + PAGE)))
    status, document, err = ask(capsys, "-c", path, "zones")
    assert (status, document["zones"]) == (3, None)
    assert len(err.splitlines()) == 1 and "not saved in this dump" in err
    prog = drgn.Program()
    prog.set_core_dump(str(path))
    assert prog.read(start, PAGE, physical=True) == bytes(PAGE)
    for _ in range(2):
        with pytest.raises(Unavailable, match="not saved in this dump"):
            list(for_each_unaccepted_page(prog))
    with pytest.raises(drgn.FaultError, match="not saved in this dump"):
        prog.read(start, PAGE, physical=True)
    assert e820_table(prog) == e820_table(open_vmcore(str(path)).prog)


def test_drgns_own_prompt_says_that_a_dump_is_cut_short(tmp_path: Path, capsys: Capsys) -> None:
    from drgn.commands import run_command

    import drgn_unaccepted.plugin  # noqa: F401

    for whole, warned in (
        (elf_of(tmp_path / "whole", read_sample("6.12-fill")), True),
        (SAMPLES / "6.12-fill" / "vmcore", False),
    ):
        path = tmp_path / "dump"
        path.write_bytes(whole.read_bytes()[:-1])
        prog = drgn.Program()
        prog.set_core_dump(str(path))
        if warned:
            run_command(prog, "unaccepted e820")
            assert "cut short" in capsys.readouterr().err
        else:
            with pytest.raises(TargetError, match="cut short"):
                adopt(prog)


# Large addresses


def move_table(sample: Sample, name: str, address: int) -> None:
    """Let efi.unaccepted, the only copy of the table's address in the kernel's variables, lead elsewhere."""
    old = struct.pack("<Q", truth(name)["table_address"])
    places = [page * PAGE + data.find(old) for page, data in sample.pages.items() if old in data]
    assert len(places) == 1
    sample.write(places[0], struct.pack("<Q", address))


def test_a_table_and_memory_above_1_tib(capsys: Capsys, tmp_path: Path) -> None:
    sample = read_sample("6.12-fill")
    address = 3 * TIB + 0x18
    move_table(sample, "6.12-fill", address)
    # The guest's own bits, which its page lists ask for, and some at 2 TiB.
    known = truth("6.12-fill")
    base, far = known["type15"][0][0], b"\x80\0\xff\x01"
    near = sum(1 << (n - base // UNIT) for n in known["unaccepted_units"])
    bitmap = near.to_bytes((2 * TIB - base) // UNIT // 8, "little") + far
    table = bytes(0x18) + struct.pack("<IIQQ", 1, UNIT, base, len(bitmap)) + bitmap
    for start in range(0, len(table), PAGE):
        sample.pages[(address + start) // PAGE] = table[start : start + PAGE].ljust(PAGE, b"\0")
    path = elf_of(tmp_path / "dump", sample)
    # No RAM is there, so that the bitmap is asked for by name.
    status, document, err = ask(capsys, "-c", path, "--source", "bitmap", "ranges")
    assert (status, err) == (0, "")
    assert (document["table"]["address"], document["exact"]) == (address, False)
    assert "bits are set where no RAM is, the first at 0x20000e00000" in document["table"]["reason"]
    assert units(document) == {2 * TIB // UNIT + bit for bit in (7, *range(16, 25))} | set(known["unaccepted_units"])


# What is no dump of a kernel


def test_what_is_no_dump_of_a_kernel(capsys: Capsys, tmp_path: Path) -> None:
    """The core of a process, and another hypervisor's dump, told by its physical addresses."""
    path = write_elf(tmp_path / "core", [Load(0, bytes(PAGE), vaddr=0x400000)], note(b"CORE", 1, bytes(336)))
    assert "not a dump of a Linux kernel" in refused(capsys, "-c", path, "summary")
    path = write_elf(tmp_path / "core", [Load(PAGE, bytes(PAGE))], note(b"VBCORE", 0xB00, bytes(16)))
    err = refused(capsys, "-c", path, "summary")
    assert "none is in its memory" in err and "--vmcoreinfo FILE" in err
    text = tmp_path / "vmcoreinfo"
    text.write_bytes(b"OSRELEASE=6.12.1\nPAGESIZE=4096\n")
    assert "swapper_pg_dir" in refused(capsys, "-c", path, "--vmcoreinfo", str(text), "summary")


def test_a_sample_without_its_note_and_with_its_text(capsys: Capsys, tmp_path: Path) -> None:
    name = "6.12-fill"
    sample, text = read_sample(name), tmp_path / "vmcoreinfo"
    path = write_elf(tmp_path / "dump", runs(sample.pages), note(b"QEMU", 0, bytes(440)))
    assert "no VMCOREINFO note" in refused(capsys, "-c", path, "ranges")
    text.write_bytes(sample.vmcoreinfo)
    status, document, err = ask(capsys, "-c", path, "--vmcoreinfo", str(text), "ranges")
    assert (status, err) == (0, "")
    assert units(document) == set(truth(name)["unaccepted_units"])
    write_elf(path, runs(with_own_text(sample).pages), note(b"QEMU", 0, bytes(440)))
    status, document, err = ask(capsys, "-c", path, "ranges")
    assert status == 0 and "found in the dumped memory, at 0x12345000" in err
    assert units(document) == set(truth(name)["unaccepted_units"])


@pytest.mark.parametrize("name", ["6.12-fill", "7.3-fill"])
def test_a_guest_that_died_before_it_wrote_vmcoreinfo(
    name: str, capsys: Capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says where its symbols are all the same: addresses from a base, and from the offset's own place."""
    sample = read_sample(name)
    _, (start, end, banner) = found_by_drgn(name, "_stext", "_end", "linux_banner")
    first = sample.physical("_stext")
    for page in range(first // PAGE, (first + end - start) // PAGE + 512):
        sample.pages.setdefault(page, bytes(PAGE))  # of the image no sample has more than is read
    sample.write(first + banner - start, b"Linux version %s (" % truth(name)["kernel_release"].encode())
    state = cpu_note(
        sample.physical("swapper_pg_dir"), 0x1020 if b"pgtable_l5_enabled)=1" in sample.vmcoreinfo else 0x20
    )
    path = write_elf(tmp_path / "dump", runs(sample.pages), state)
    status, document, err = ask(capsys, "-c", path, "ranges")
    assert status == 0 and err.endswith(
        ": no VMCOREINFO; addresses are from the registers of CPU 0 and kallsyms in the memory\n"
    )
    assert units(document) == set(truth(name)["unaccepted_units"])
    with monkeypatch.context() as patch:
        patch.setattr(limits, "KERNEL_SEARCHES", 0)
        refused(capsys, "-c", path, "ranges")
    # Where its tokens are not, nothing else is taken for them.
    sample.write(sample.physical("kallsyms_token_table"), b"\xff" * 8)
    err = refused(capsys, "-c", write_elf(path, runs(sample.pages), state), "ranges")
    assert "no CPU of it was in a kernel with kallsyms" in err and "(-s)" in err


@pytest.mark.parametrize("key", ["SYMBOL(swapper_pg_dir)", "NUMBER(phys_base)", "OSRELEASE"])
def test_a_note_that_is_not_this_kernels(capsys: Capsys, tmp_path: Path, key: str) -> None:
    """It names other addresses; the kernel's own text is in its memory."""
    sample = read_sample("6.12-fill")
    lines = sample.vmcoreinfo.decode().splitlines()
    wrong = "\n".join(f"{key}=7f0000" if line.startswith(f"{key}=") else line for line in lines) + "\n"
    notes = note(b"QEMU", 0, bytes(440)) + note(b"VMCOREINFO", 0, wrong.encode())
    path = write_elf(tmp_path / "dump", runs(with_own_text(sample).pages), notes)
    status, document, err = ask(capsys, "-c", path, "ranges")
    assert status == 0, err
    assert units(document) == set(truth("6.12-fill")["unaccepted_units"])
    if key != "OSRELEASE":
        assert "not this kernel's" in err and "at 0x12345000" in err


# Dumps that end too soon


@pytest.mark.parametrize(
    ("name", "written", "step"),
    [("6.12-fill", "ELF", 1800000), ("6.12-fill", "kdump", 800000), ("6.12-fill-kdump", "kdump", 800000)],
)
def test_a_dump_cut_short_at_many_lengths(name: str, written: str, step: int, capsys: Capsys, tmp_path: Path) -> None:
    """It is refused, or what it says is true; where only the last pages of an ELF dump lack there is an answer."""
    is_elf, path, answered = written == "ELF", tmp_path / "dump", 0
    whole = (elf_of(tmp_path / "whole", read_sample(name)) if is_elf else SAMPLES / name / "vmcore").read_bytes()
    near = [0, 1, 8, 15, 16, 63, 64, 65, 119, 120, 431, 464, 4000, 4095, 4096, 4097, 6000, 8192, 12288]
    near += [len(whole) - 4096, len(whole) - 1]
    expected = set(truth(name)["unaccepted_units"])
    for kept in sorted({*near, *every(range(20000, len(whole)), step)} - {len(whole)}):
        path.write_bytes(whole[:kept])
        status, document, err = ask(capsys, "-c", path, "ranges")
        lines = err.splitlines()
        if status == 3:
            assert document is None or document["ranges"] is None
            assert len(lines) <= 2 and str(path) in lines[0]
            continue
        assert status == 0
        assert not is_elf or (len(lines) <= 2 and "cut short" in lines[0])
        assert units(document) == expected if document["exact"] else units(document) >= expected
        answered += 1
    assert answered or not is_elf


def test_types_that_cannot_be_read_are_a_reason() -> None:
    """Found by the oracle: a traceback of the helpers, where BTF is damaged behind what opening the dump read."""
    prog = open_vmcore(str(SAMPLES / "6.12-fill" / "vmcore")).prog

    def broken(*_: object) -> None:
        raise ValueError("BTF type 7: unknown kind 31")

    prog.register_type_finder("broken", broken, enable_index=0)
    with pytest.raises(TargetError, match="no struct page: BTF type 7: unknown kind 31"):
        adopt(prog)
