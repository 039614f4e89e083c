# SPDX-License-Identifier: LGPL-2.1-or-later
"""drgn's answers with nothing but BTF and symbols, on programs without a kernel and on the running kernel's BTF."""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Callable

import drgn
import pytest
from drgn import FindObjectFlags, Object, Program, Symbol, SymbolBinding, SymbolIndex, SymbolKind, TypeKind, offsetof

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.btf import BtfError
from drgn_unaccepted.kernel.btf_finder import GLOBALS, SYMBOLS, attach, attach_kallsyms, find_btf, load_btf
from drgn_unaccepted.kernel.errors import Unavailable
from drgn_unaccepted.kernel.kallsyms import Kallsyms

from . import btf_writer as w
from .btf_writer import BtfWriter
from .kallsyms_writer import KallsymsWriter

AT = 0xFFFFFFFF82000000


def program(data: bytes, *symbols: tuple[str, int, int], bind: SymbolBinding = SymbolBinding.GLOBAL) -> Program:
    """With BTF, and symbols (name, address, size)."""
    prog = Program(drgn.Platform(drgn.Architecture.X86_64))
    attach(prog, data)
    index = SymbolIndex([Symbol(*s, bind, SymbolKind.OBJECT) for s in symbols])
    prog.register_symbol_finder("test", index, enable_index=-1)
    return prog


def kernel_types() -> BtfWriter:
    """GCC's spelling of C's integers, and some types of the kernel."""
    b = BtfWriter()
    b.integer("char", 1, 0)
    b.integer("signed char", 1, w.SIGNED)
    b.integer("unsigned char", 1, 0)
    for name, size in (("short", 2), ("", 4), ("long", 8), ("long long", 8)):
        b.integer(f"{name} int".strip(), size, w.SIGNED)
        b.integer(f"{name} unsigned int".strip(), size, 0)
    b.integer("_Bool", 1, w.BOOL)
    return b


CHAR, SIGNED_CHAR, UCHAR, SHORT, USHORT, INT, UINT, LONG, ULONG, LLONG, ULLONG, BOOL = range(1, 13)


def test_integers_are_found_by_every_spelling_of_c() -> None:
    prog = program(kernel_types().data())
    for spelling, size, signed in (
        ("unsigned long", 8, False),
        ("long unsigned int", 8, False),
        ("unsigned long long", 8, False),
        ("long", 8, True),
        ("short", 2, True),
        ("unsigned short", 2, False),
        ("unsigned", 4, False),
        ("signed char", 1, True),
        ("char", 1, False),  # -funsigned-char since Linux 6.2; drgn's own default is signed
    ):
        found = prog.type(spelling)
        assert (found.kind, found.size, found.is_signed) == (TypeKind.INT, size, signed), spelling
    assert prog.type("unsigned long").name == "unsigned long"
    assert prog.type("_Bool").kind == TypeKind.BOOL


def test_declarators() -> None:
    b = kernel_types()
    zone = b.compound(w.STRUCT, "zone", 8, [("x", ULONG, 0)])
    b.record(w.TYPEDEF, "u64", ULLONG)
    prog = program(b.data())
    pointer = prog.type("struct zone *")
    assert pointer.kind == TypeKind.POINTER and pointer.type.tag == "zone" and pointer.size == 8
    array = prog.type("struct zone *[4]")
    assert (array.kind, array.length) == (TypeKind.ARRAY, 4)
    assert prog.type("const u64").qualifiers == drgn.Qualifiers.CONST
    assert prog.type("u64").type.name == "unsigned long long"
    assert drgn.sizeof(prog.type("struct zone[3]")) == 24
    with pytest.raises(LookupError):
        prog.type("union zone")
    with pytest.raises(LookupError):
        prog.type("struct zone", "mm/page_alloc.c")  # BTF knows of no files
    assert zone


def test_a_structure_with_everything() -> None:
    b = kernel_types()
    inner = b.compound(w.UNION, "", 8, [("a", INT, 0), ("b", LONG, 0)])
    s = b.count + 4
    pointer = b.record(w.PTR, "", s)
    volatile = b.record(w.VOLATILE, "", b.record(w.CONST, "", INT))
    members = [("bits3", UINT, 0), ("bits5", UINT, 3), ("v", volatile, 32), ("", inner, 64), ("next", pointer, 128)]
    members += [("flag", BOOL, 192), ("table", b.count + 2, 256)]
    b.compound(w.STRUCT, "s", 32, members, bit_fields=[3, 5, 0, 0, 0, 0, 0])
    b.array(ULONG, 0)
    prog = program(b.data())
    t = prog.type("struct s")
    assert t.size == 32
    assert [(m.name or "", m.bit_offset) for m in t.members] == [(name, offset) for name, _, offset in members]
    assert [m.bit_field_size for m in t.members] == [3, 5, *5 * [None]]
    assert t.member("v").type.qualifiers == drgn.Qualifiers.VOLATILE | drgn.Qualifiers.CONST
    assert offsetof(t, "b") == 8  # through the anonymous union
    assert t.member("next").type.type.tag == "s"
    assert t.member("table").type.kind == TypeKind.ARRAY and t.member("table").type.length is None
    data = struct.pack("<IiqQ?", 0b10111_101, -2, -3, 0x1234, True).ljust(32, b"\0")
    value = Object.from_bytes_(prog, t, data)
    assert (value.bits3, value.bits5, value.v, value.b, value.flag) == (0b101, 0b10111, -2, -3, True)
    assert value.next.value_() == 0x1234


def test_an_array_without_length_is_flexible_only_at_the_end_of_a_structure() -> None:
    b = kernel_types()
    zero = b.array(ULONG, 0)
    b.compound(w.STRUCT, "end", 8, [("n", LONG, 0), ("a", zero, 64)])
    b.compound(w.STRUCT, "middle", 8, [("n", LONG, 0), ("a", zero, 64), ("b", zero, 64)])
    b.compound(w.STRUCT, "alone", 0, [("a", zero, 0)])
    b.compound(w.UNION, "u", 8, [("n", LONG, 0), ("a", zero, 0)])
    prog = program(b.data())

    def length(name: str, member: str) -> object:
        return prog.type(name).member(member).type.length

    # As drgn reads the DWARF that GCC writes for these.
    assert length("struct end", "a") is None
    assert length("struct middle", "a") == 0 and length("struct middle", "b") is None
    assert length("struct alone", "a") == 0
    assert length("union u", "a") == 0


def test_enumerations_and_their_constants() -> None:
    b = kernel_types()
    b.enum("pagetype", [("PGTY_buddy", 0xF0), ("PGTY_unaccepted", 0xF7)])
    b.enum("negative", [("MINUS", -1)], signed=True)
    b.enum("", [("ANONYMOUS", 3)])
    b.enum("small", [("SMALL", 1)], size=1)
    b.enum64("wide", [("WIDE", 1 << 40)])
    b.record(w.ENUM, "declared", 4)
    prog = program(b.data())
    constant = prog["PGTY_unaccepted"]
    assert constant.value_() == 0xF7 and constant.type_.tag == "pagetype"
    assert prog.constant("MINUS").value_() == -1
    assert prog["ANONYMOUS"].value_() == 3 and prog["WIDE"].value_() == 1 << 40
    assert [prog.type(f"enum {name}").type.name for name in ("pagetype", "negative", "small", "wide")] == [
        "unsigned int",
        "int",
        "unsigned char",
        "unsigned long",
    ]
    assert drgn.sizeof(prog.type("enum small")) == 1
    assert not prog.type("enum declared").is_complete()
    with pytest.raises(drgn.ObjectNotFoundError):
        prog.constant("pagetype")
    with pytest.raises(drgn.ObjectNotFoundError):
        prog.variable("PGTY_buddy")


def test_forward_declarations() -> None:
    b = kernel_types()
    whole = b.record(w.FWD, "whole")
    open_union = b.record(w.FWD, "open", flag=True)
    b.compound(w.STRUCT, "s", 16, [("a", b.record(w.PTR, "", whole), 0), ("b", b.record(w.PTR, "", open_union), 64)])
    b.compound(w.STRUCT, "whole", 4, [("x", INT, 0)])
    b.compound(w.STRUCT, "open", 4, [("x", INT, 0)])
    prog = program(b.data())
    a, c = prog.type("struct s").members
    assert a.type.type.size == 4 and a.type.type.is_complete()
    assert c.type.type.kind == TypeKind.UNION and not c.type.type.is_complete()
    with pytest.raises(LookupError):
        prog.type("union open")  # drgn finds no declarations in DWARF either


def test_functions() -> None:
    b = kernel_types()
    proto = b.function(INT, [("fmt", b.record(w.PTR, "", b.record(w.CONST, "", CHAR))), ("", 0)])
    b.record(w.FUNC, "_printk", proto, vlen=1)
    b.compound(w.STRUCT, "ops", 8, [("call", b.record(w.PTR, "", proto), 0)])
    prog = program(b.data(), ("_printk", AT, 64))
    call = prog.type("struct ops").members[0].type.type
    assert call.kind == TypeKind.FUNCTION and call.is_variadic
    assert [(p.name, p.type.type_name()) for p in call.parameters] == [("fmt", "const char *")]
    function = prog.function("_printk")
    assert function.address_ == AT and function.type_.kind == TypeKind.FUNCTION
    with pytest.raises(drgn.ObjectNotFoundError):
        prog.variable("_printk")


def test_variables_that_btf_describes() -> None:
    b = kernel_types()
    b.record(w.VAR, "pcpu_counter", ULONG, 1)
    assert program(b.data(), ("pcpu_counter", 0x1000, 8))["pcpu_counter"].address_ == 0x1000
    with pytest.raises(drgn.ObjectNotFoundError):
        program(b.data())["pcpu_counter"]  # no symbol


def globals_types() -> BtfWriter:
    b = kernel_types()
    b.record(w.TYPEDEF, "bool", BOOL)
    b.compound(w.STRUCT, "pglist_data", 8, [("node_id", INT, 0)])
    b.record(w.TYPEDEF, "atomic_long_t", b.compound(w.STRUCT, "", 8, [("counter", LONG, 0)]))
    b.enum("zone_stat_item", [("NR_FREE_PAGES", 0), ("NR_VM_ZONE_STAT_ITEMS", 11)])
    return b


def test_variables_that_are_declared_here() -> None:
    symbols = [("lazy_accept", AT, 32), ("node_data", AT + 64, 512), ("vm_zone_stat", AT + 1024, 128)]
    prog = program(globals_types().data(), *symbols, ("efi", AT, 8))
    assert (prog["lazy_accept"].type_.name, prog["lazy_accept"].address_) == ("bool", AT)
    vm_zone_stat = prog["vm_zone_stat"]
    assert vm_zone_stat.type_.length == 11 and vm_zone_stat[1].address_ == AT + 1024 + 8
    with pytest.raises(drgn.ObjectNotFoundError):
        prog["efi"]  # BTF without struct efi
    with pytest.raises(drgn.ObjectNotFoundError):
        prog["boot_params"]  # no symbol
    with pytest.raises(drgn.ObjectNotFoundError):
        prog.constant("lazy_accept")


@pytest.mark.parametrize(
    ("vmcoreinfo", "size", "length"),
    [
        ("LENGTH(node_data)=64\n", 512, 64),
        ("NUMBER(x)=1\n", 512, 64),
        ("LENGTH(node_data)=999999999\n", 512, limits.GLOBAL_ARRAY_LENGTH),
        ("", 1 << 40, limits.GLOBAL_ARRAY_LENGTH),
    ],
)
def test_the_length_of_node_data(vmcoreinfo: str, size: int, length: int) -> None:
    prog = program(globals_types().data(), ("node_data", AT, size))
    add_vmcoreinfo(prog, vmcoreinfo)
    assert prog["node_data"].type_.type_name() == f"struct pglist_data *[{length}]"


def test_of_variables_with_one_name_the_global_one_is_meant() -> None:
    data = globals_types().data()
    one_static = program(data, ("lazy_accept", AT, 1), bind=SymbolBinding.LOCAL)
    assert one_static["lazy_accept"].address_ == AT
    two_static = program(data, ("lazy_accept", AT, 1), ("lazy_accept", AT + 1, 1), bind=SymbolBinding.LOCAL)
    with pytest.raises(drgn.ObjectNotFoundError):
        two_static["lazy_accept"]
    extra = SymbolIndex([Symbol("lazy_accept", AT + 8, 1, SymbolBinding.GLOBAL, SymbolKind.OBJECT)])
    two_static.register_symbol_finder("more", extra, enable_index=-1)
    assert two_static["lazy_accept"].address_ == AT + 8


# --- refused types ---


def deep(b: BtfWriter, count: int) -> None:
    last = INT
    for _ in range(count):
        last = b.record(w.PTR, "", last)
    b.record(w.TYPEDEF, "t", last)


def a_loop(b: BtfWriter) -> None:
    first = b.record(w.TYPEDEF, "t", b.count + 2)
    b.record(w.CONST, "", b.record(w.PTR, "", first + 2) - 1)


def itself(b: BtfWriter) -> None:
    b.record(w.TYPEDEF, "t", b.compound(w.STRUCT, "itself", 8, [("", b.count + 1, 0)]))


def typedef_of(make: Callable[[BtfWriter], int]) -> Callable[[BtfWriter], object]:
    return lambda b: b.record(w.TYPEDEF, "t", make(b))


@pytest.mark.parametrize(
    ("write", "words"),
    (
        (a_loop, "nested deeper than 64, or a cycle"),
        (lambda b: deep(b, limits.BTF_NESTING), "nested deeper than 64"),
        (itself, "anonymous members nested deeper"),
        (typedef_of(lambda b: b.enum("e", [("E", 1)], size=3)), "an enumeration of 3 bytes"),
        (typedef_of(lambda b: b.integer("int", 3)), "an integer of 3 bytes"),
        (typedef_of(lambda b: b.integer("int", 4, bits=3)), "3 bits at bit 0 of an integer are not supported"),
        (typedef_of(lambda b: b.integer("int", 4, bits=8, offset=3)), "8 bits at bit 3 of an integer"),
        (typedef_of(lambda b: b.record(w.FUNC, "f", b.function(0, []))), "is a FUNC, which is not a type"),
        (typedef_of(lambda b: b.array(INT, 1 << 24)), "an array of 16777216 elements, 4 bytes each"),
        (typedef_of(lambda b: b.compound(w.STRUCT, "s", 1 << 25, [])), "a structure of 33554432 bytes"),
        (lambda b: b.record(w.TYPEDEF, "t", 9999), "type 9999: there are only"),
    ),
)
def test_types_that_cannot_be(write: Callable[[BtfWriter], object], words: str) -> None:
    b = kernel_types()
    write(b)
    with pytest.raises(BtfError, match=words):
        program(b.data()).type("t")


def test_as_deep_as_types_may_be() -> None:
    b = kernel_types()
    deep(b, limits.BTF_NESTING - 1)
    assert program(b.data()).type("t").type_name() == "t"


@pytest.mark.parametrize("beyond", [0, 1])
def test_as_many_members_as_a_structure_may_have(beyond: int) -> None:
    """An anonymous member counts beside those that it has."""
    b = kernel_types()
    inner = b.compound(w.UNION, "", 4, [("m", 1, 0)] * (limits.BTF_MEMBERS - 1))
    b.compound(w.STRUCT, "outer", 8, [("", inner, 0), ("x", 1, 32)][: 1 + beyond])
    prog = program(b.data())
    if beyond:
        with pytest.raises(BtfError, match=rf"^BTF type \d+: more than {limits.BTF_MEMBERS} members$"):
            prog.type("struct outer")
    else:
        (member,) = prog.type("struct outer").members
        assert len(member.type.members) == limits.BTF_MEMBERS - 1


# --- where it comes from ---


def add_vmcoreinfo(prog: Program, text: str) -> None:
    def find(prog: Program, name: str, flags: FindObjectFlags, filename: object) -> object:
        if name != "VMCOREINFO":
            return None
        data = text.encode()
        char = prog.int_type("char", 1, True)
        return Object(prog, prog.array_type(char, len(data) + 1), [*data, 0])

    prog.register_object_finder("vmcoreinfo", find, enable_index=0)


def target(encoding: str = "percpu", btf: bytes = b"", **changed: str) -> Program:
    """A program whose memory holds kallsyms, and BTF behind it, as a dump does."""
    btf = btf or globals_types().data()
    start = AT + 0x100000
    symbols = [
        ("T", "_stext", AT - 0x1000),
        ("B", "lazy_accept", AT - 0x100),
        ("t", "unknown_to_us", AT - 0x80),
        ("R", "__start_BTF", start),
        ("R", "__stop_BTF", start + len(btf)),
    ]
    table = KallsymsWriter(symbols, encoding, AT)
    memory = bytes(table.memory).ljust(0x100000, b"\0") + btf
    prog = Program(drgn.Platform(drgn.Architecture.X86_64))
    prog.add_memory_segment(AT, len(memory), lambda address, count, offset, physical: memory[offset : offset + count])
    vmcoreinfo = table.vmcoreinfo()
    for old, new in changed.items():
        vmcoreinfo = re.sub(rf"(?<=\({old}\)=)\w+", new, vmcoreinfo)
    add_vmcoreinfo(prog, vmcoreinfo)
    return prog


@pytest.mark.parametrize("encoding", ["base", "percpu", "place"])
def test_a_target_describes_itself(encoding: str) -> None:
    prog = target(encoding)
    load_btf(prog)
    assert prog["lazy_accept"].address_ == AT - 0x100
    assert prog.type("struct pglist_data").size == 8
    assert prog.symbol("__start_BTF").address == AT + 0x100000
    assert prog.symbols("efi") == []
    assert prog.enabled_type_finders()[-1] == "btf"
    assert prog.enabled_symbol_finders()[-1] == "kallsyms"


def test_our_own_symbols_are_not_decoded_with_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a distribution's 200 thousand take as long as the rest of a start."""
    monkeypatch.setattr(Kallsyms, "all", None)
    prog = target()
    load_btf(prog)
    for name in (*GLOBALS, *SYMBOLS):
        prog.symbols(name)
        with contextlib.suppress(LookupError):
            prog[name]


def test_other_symbols_are_found_by_name_and_address() -> None:
    prog = target("percpu")
    load_btf(prog)
    assert prog.symbol("unknown_to_us").address == AT - 0x80
    assert prog.symbol(AT - 0x100 + 8).name == "lazy_accept"
    assert len(prog.symbols()) == 5
    with pytest.raises(LookupError):
        prog.symbol("nobody_knows_it")


def test_btf_is_not_read_where_its_bounds_make_no_sense() -> None:
    def with_bounds(start: int, stop: int) -> Program:
        return program(kernel_types().data(), ("__start_BTF", start, 0), ("__stop_BTF", stop, 0))

    for start, stop in ((AT, AT), (AT, AT - 1), (AT, AT + limits.BTF_BYTES + 1)):
        with pytest.raises(Unavailable, match="no size between 1 and"):
            find_btf(with_bounds(start, stop))
    with pytest.raises(Unavailable, match=r"BTF from 0x.*could not find memory segment"):
        find_btf(with_bounds(AT, AT + 100))


def test_reasons_for_a_target_that_does_not_describe_itself() -> None:
    with pytest.raises(Unavailable, match="no symbol __start_BTF: the kernel has no BTF"):
        find_btf(Program(drgn.Platform(drgn.Architecture.X86_64)))
    prog = Program(drgn.Platform(drgn.Architecture.X86_64))
    add_vmcoreinfo(prog, "OSRELEASE=5.15\n")
    with pytest.raises(Unavailable, match=r"kallsyms: VMCOREINFO does not say .*no SYMBOL\(kallsyms_num_syms\)"):
        attach_kallsyms(prog)
    with pytest.raises(Unavailable, match="kallsyms: could not find memory segment"):
        attach_kallsyms(target(kallsyms_names="10", kallsyms_token_table="20", kallsyms_token_index="30"))
    with pytest.raises(BtfError, match="not BTF: magic 0x0000"):
        load_btf(target(btf=bytes(64)))
