# SPDX-License-Identifier: LGPL-2.1-or-later
"""Variables and symbols with nothing but BTF and kallsyms; where BTF comes from: the target, or a file."""

from __future__ import annotations

import contextlib
import shutil
import struct
import subprocess
from pathlib import Path

import drgn
import pytest
from drgn import FindObjectFlags, Object, Program, Symbol, SymbolBinding, SymbolIndex, SymbolKind

from drgn_unaccepted import limits
from drgn_unaccepted.targets.debug_info import GLOBALS, SYMBOLS, attach_kallsyms, find_btf, load_btf
from drgn_unaccepted.targets.errors import Unavailable
from drgn_unaccepted.targets.kallsyms import Kallsyms
from tests.asking import SAMPLES, Capsys, ask, refused, truth, units
from tests.targets import btf_writer as w
from tests.targets import elf_dump as made
from tests.targets.btf_writer import BtfWriter
from tests.targets.elf_dump import PAGE, gnu_build_id, note, read_sample, section_elf
from tests.targets.test_btf import AT, BOOL, INT, LONG, empty, kernel_types, program
from tests.targets.test_target import elf_of, found_by_drgn

# Variables that BTF does not describe


def globals_types() -> BtfWriter:
    b = kernel_types()
    b.record(w.TYPEDEF, "bool", BOOL)
    b.compound(w.STRUCT, "pglist_data", 8, [("node_id", INT, 0)])
    b.record(w.TYPEDEF, "atomic_long_t", b.compound(w.STRUCT, "", 8, [("counter", LONG, 0)]))
    b.enum("zone_stat_item", [("NR_FREE_PAGES", 0), ("NR_VM_ZONE_STAT_ITEMS", 11)])
    return b


def test_variables_that_are_declared_here() -> None:
    symbols = [("lazy_accept", AT, 32), ("node_data", AT + 64, 512), ("vm_zone_stat", AT + 1024, 128)]
    prog = program(globals_types(), *symbols, ("efi", AT, 8))
    assert (prog["lazy_accept"].type_.name, prog["lazy_accept"].address_) == ("bool", AT)
    vm_zone_stat = prog["vm_zone_stat"]
    assert vm_zone_stat.type_.length == 11 and vm_zone_stat[1].address_ == AT + 1024 + 8
    for name in ("efi", "boot_params"):  # BTF without struct efi; no symbol
        with pytest.raises(drgn.ObjectNotFoundError):
            prog[name]
    with pytest.raises(drgn.ObjectNotFoundError):
        prog.constant("lazy_accept")


@pytest.mark.parametrize(
    ("vmcoreinfo", "size", "length"),
    [
        *(("LENGTH(node_data)=64\n", 512, 64), ("NUMBER(x)=1\n", 512, 64)),
        *((text, 1 << 40, limits.GLOBAL_ARRAY_LENGTH) for text in ("LENGTH(node_data)=999999999\n", "")),
    ],
)
def test_the_length_of_node_data(vmcoreinfo: str, size: int, length: int) -> None:
    prog = program(globals_types(), ("node_data", AT, size))
    add_vmcoreinfo(prog, vmcoreinfo)
    assert prog["node_data"].type_.type_name() == f"struct pglist_data *[{length}]"


def test_of_variables_with_one_name_the_global_one_is_meant() -> None:
    one_static = program(globals_types(), ("lazy_accept", AT, 1), bind=SymbolBinding.LOCAL)
    assert one_static["lazy_accept"].address_ == AT
    two_static = program(globals_types(), ("lazy_accept", AT, 1), ("lazy_accept", AT + 1, 1), bind=SymbolBinding.LOCAL)
    with pytest.raises(drgn.ObjectNotFoundError):
        two_static["lazy_accept"]
    extra = SymbolIndex([Symbol("lazy_accept", AT + 8, 1, SymbolBinding.GLOBAL, SymbolKind.OBJECT)])
    two_static.register_symbol_finder("more", extra, enable_index=-1)
    assert two_static["lazy_accept"].address_ == AT + 8


# Where it comes from


def add_vmcoreinfo(prog: Program, text: str) -> None:
    def find(prog: Program, name: str, flags: FindObjectFlags, filename: object) -> object:
        of = prog.array_type(prog.int_type("char", 1, True), len(text) + 1)
        return Object(prog, of, [*text.encode(), 0]) if name == "VMCOREINFO" else None

    prog.register_object_finder("vmcoreinfo", find, enable_index=0)


def sample(name: str) -> Program:
    prog = Program()
    prog.set_core_dump(SAMPLES / name / "vmcore")
    return prog


@pytest.mark.parametrize("name", ("6.12-fill", "7.3-fill"))
def test_a_target_describes_itself(name: str) -> None:
    prog = sample(name)
    load_btf(prog)
    assert prog["lazy_accept"].type_.name == "bool"
    assert prog.type("struct pglist_data").size > 1000
    assert prog.symbols("no_such_symbol") == []
    assert (prog.enabled_type_finders()[-1], prog.enabled_symbol_finders()[-1]) == ("btf", "kallsyms")
    # Symbols that we do not use are found, too, by name and address.
    start_kernel = prog.symbol("start_kernel")
    assert prog.symbol(start_kernel.address + 1).name == "start_kernel"
    assert len(prog.symbols()) > 40_000


def test_our_own_symbols_are_not_decoded_with_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a distribution's 200 thousand take as long as the rest of a start."""
    monkeypatch.setattr(Kallsyms, "all", None)
    prog = sample("6.12-fill")
    load_btf(prog)
    for name in (*GLOBALS, *SYMBOLS):
        prog.symbols(name)
        with contextlib.suppress(LookupError):
            prog[name]


@pytest.mark.parametrize("size", (0, -1, limits.BTF_BYTES + 1, 100))
def test_btf_is_not_read_where_its_bounds_make_no_sense(size: int) -> None:
    prog = program(kernel_types(), ("__start_BTF", AT, 0), ("__stop_BTF", AT + size, 0))
    with pytest.raises(Unavailable, match="could not find memory segment" if size == 100 else "no size between 1 and"):
        find_btf(prog)


def test_reasons_for_a_target_that_does_not_describe_itself() -> None:
    with pytest.raises(Unavailable, match="no symbol __start_BTF: the kernel has no BTF"):
        find_btf(empty())
    known = "".join(f"SYMBOL(kallsyms_{name})=10\n" for name in ("num_syms", "names", "token_table", "token_index"))
    for text, words in (
        ("OSRELEASE=5.15\n", r"VMCOREINFO .*no SYMBOL\(kallsyms_num"),
        (known, "could not find memory"),
    ):
        prog = empty()
        add_vmcoreinfo(prog, text)
        with pytest.raises(Unavailable, match=f"kallsyms: {words}"):
            attach_kallsyms(prog)


# What is given with -s and --debug-info


@pytest.fixture(scope="module")
def btf() -> dict[str, bytes]:
    """BTF of the samples' kernels."""
    found = {}
    for name in ("6.12-fill", "7.3-fill"):
        prog, (start, stop) = found_by_drgn(name, "__start_BTF", "__stop_BTF")
        found[name] = prog.read(start, stop - start)
    return found


def without_btf(path: Path, data: bytes) -> Path:
    """The dump of a kernel whose BTF is not in it."""
    sample = read_sample("6.12-fill")
    start = next(page for page, content in sample.pages.items() if data[PAGE : PAGE + 64] in content)
    for page in range(start, start + len(data) // PAGE - 2):
        del sample.pages[page]
    return elf_of(path, sample)


XEN = note(b"Xen", 3, struct.pack("<Q", 0xFFFFFFFF80000000))


@pytest.mark.parametrize(
    ("way", "debug_info"),
    (
        *(("bare", "auto"), ("section", "btf"), ("stripped vmlinux", "auto"), ("with an empty vmlinux before", "btf")),
        *((f"{program} image", "auto") for program in ("gzip", "xz", "xz --format=lzma", "zstd", "bzip2", "lz4 -l")),
    ),
)
def test_btf_out_of_a_file(
    way: str, debug_info: str, btf: dict[str, bytes], capsys: Capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "6.12-fill"
    dump, file = without_btf(tmp_path / "dump", btf[name]), tmp_path / "file"
    assert "BTF" in refused(capsys, "-c", dump, "summary")
    files = ["-s", str(file)]
    if way == "bare":
        file.write_bytes(btf[name])
    elif way == "section":
        section_elf(file, {".BTF": btf[name]})
    else:
        section_elf(file, {".notes": XEN + gnu_build_id(name), ".BTF": btf[name]})
        if way.endswith("image"):
            program = way.split()[:-1]
            if shutil.which(program[0]) is None:
                pytest.skip(f"no {program[0]} here")
            whole = file.read_bytes()
            packed = subprocess.run((*program, "-c"), input=whole, capture_output=True, check=True).stdout
            file.write_bytes(made.kernel_image(packed))
            monkeypatch.setattr(limits, "KERNEL_FILE_BYTES", len(whole) - 1)
            assert f"a kernel image of more than {len(whole) - 1} bytes" in refused(capsys, "-c", dump, *files)
            monkeypatch.setattr(limits, "KERNEL_FILE_BYTES", len(whole))
        elif way != "stripped vmlinux":
            bare = section_elf(tmp_path / "vmlinux", {".notes": gnu_build_id(name)})
            files = ["-s", str(bare), *files]
    status, document, err = ask(capsys, "-c", dump, *files, "--debug-info", debug_info, "ranges")
    assert (status, err) == (0, "")
    assert (document["target"]["debug_info"], document["target"]["debug_info_path"]) == ("btf", str(file))
    assert units(document) == set(truth(name)["unaccepted_units"])


def test_files_that_are_of_no_use(btf: dict[str, bytes], capsys: Capsys, tmp_path: Path) -> None:
    name = "6.12-fill"
    dump, file = SAMPLES / name / "vmcore", tmp_path / "file"

    def words(sections: dict[str, bytes], *argv: str) -> str:
        section_elf(file, sections)
        return refused(capsys, "-c", dump, "-s", str(file), *argv)

    this, other = gnu_build_id(name), gnu_build_id("7.3-fill")
    assert "neither DWARF nor BTF" in words({".notes": this})
    assert "no build-id" in words({".text": b"\xc3"})
    assert truth("7.3-fill")["build_id"] in words({".notes": XEN + other, ".BTF": btf["7.3-fill"]})
    assert f"{file}: BTF: " in words({".notes": this, ".BTF": b"not BTF at all"})
    assert "DWARF" in words({".notes": this, ".BTF": btf[name]}, "--debug-info", "dwarf")
    for image, why in (
        (made.kernel_image(b"\x1f\x8b" + bytes(99)), "damaged"),
        (made.kernel_image(bytes(99)), "compressed in a way that is not known"),
        (made.kernel_image(bytes(99))[:1100], "cut short"),
    ):
        file.write_bytes(image)
        assert f"{file}: a kernel image, {why}" in refused(capsys, "-c", dump, "-s", str(file))
    # Without a build-id the sizes of structures tell.
    file.write_bytes(btf["7.3-fill"])
    assert "of another kernel: " in refused(capsys, "-c", dump, "-s", str(file))
    # The second of two files is looked at as well.
    good = section_elf(tmp_path / "good", {".notes": this, ".BTF": btf[name]})
    section_elf(file, {".notes": other})
    assert truth("7.3-fill")["build_id"] in refused(capsys, "-c", dump, "-s", str(good), "-s", str(file))


@pytest.mark.parametrize("release", ["../../x", "/x", "..", "6.12.1\t/../x"])
def test_dwarf_is_never_searched_by_what_is_no_release(release: str, capsys: Capsys, tmp_path: Path) -> None:
    """drgn makes paths of it."""
    sample, own = read_sample("6.12-fill"), truth("6.12-fill")["kernel_release"].encode()
    hostile = sample.vmcoreinfo.replace(b"OSRELEASE=%s\n" % own, b"OSRELEASE=%s\n" % release.encode())
    dump = elf_of(tmp_path / "dump", made.Sample(sample.pages, hostile))
    assert "give a vmlinux with -s" in refused(capsys, "-c", dump, "--debug-info", "dwarf")
