# SPDX-License-Identifier: LGPL-2.1-or-later
"""drgn's answers with nothing but BTF and symbols: types, variables, constants; damaged BTF; where BTF comes from."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterator
from typing import Any

import drgn
import pytest
from drgn import FindObjectFlags, Object, Program, Symbol, SymbolBinding, SymbolIndex, SymbolKind, TypeKind, offsetof
from hypothesis import given, settings
from hypothesis import strategies as st

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.btf import Btf, Kind
from drgn_unaccepted.kernel.debug_info import GLOBALS, SYMBOLS, attach, attach_kallsyms, find_btf, load_btf
from drgn_unaccepted.kernel.errors import Unavailable
from drgn_unaccepted.kernel.kallsyms import Kallsyms
from tests.kernel.elf_dump import SAMPLES

from . import btf_writer as w
from .btf_writer import BtfWriter

AT = 0xFFFFFFFF82000000
#: Numbers of the types that each BTF here begins with.
CHAR, SIGNED_CHAR, UCHAR, SHORT, USHORT, INT, UINT, LONG, ULONG, LLONG, ULLONG, BOOL = range(1, 13)


def empty() -> Program:
    return Program(drgn.Platform(drgn.Architecture.X86_64))


def program(b: BtfWriter, *symbols: tuple[str, int, int], bind: SymbolBinding = SymbolBinding.GLOBAL) -> Program:
    """With BTF, and symbols (name, address, size)."""
    prog = empty()
    attach(prog, b.data())
    index = SymbolIndex([Symbol(*s, bind, SymbolKind.OBJECT) for s in symbols])
    prog.register_symbol_finder("test", index, enable_index=-1)
    return prog


def kernel_types() -> BtfWriter:
    """C's integers in GCC's spelling."""
    b = BtfWriter()
    b.integer("char", 1, 0)
    b.integer("signed char", 1, w.SIGNED)
    b.integer("unsigned char", 1, 0)
    for name, size in (("short", 2), ("", 4), ("long", 8), ("long long", 8)):
        b.integer(f"{name} int".strip(), size, w.SIGNED)
        b.integer(f"{name} unsigned int".strip(), size, 0)
    b.integer("_Bool", 1, w.BOOL)
    return b


# Types


def test_integers_are_found_by_every_spelling_of_c() -> None:
    prog = program(kernel_types())
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


def test_declarators() -> None:
    b = kernel_types()
    b.compound(w.STRUCT, "zone", 8, [("x", ULONG, 0)])
    b.record(w.TYPEDEF, "u64", ULLONG)
    b.record(w.FLOAT, "double", 8)
    prog = program(b)
    pointer = prog.type("struct zone *")
    assert pointer.kind == TypeKind.POINTER and pointer.type.tag == "zone" and pointer.size == 8
    assert (prog.type("struct zone *[4]").kind, drgn.sizeof(prog.type("struct zone[3]"))) == (TypeKind.ARRAY, 24)
    assert prog.type("const u64").qualifiers == drgn.Qualifiers.CONST
    assert prog.type("u64").type.name == "unsigned long long"
    assert (prog.type("double").kind, prog.type("_Bool").kind) == (TypeKind.FLOAT, TypeKind.BOOL)
    for name in ("union zone", "struct no_such_zone", "struct one"):
        with pytest.raises(LookupError):
            prog.type(name)
    with pytest.raises(LookupError):
        prog.type("struct zone", "mm/page_alloc.c")  # BTF knows of no files


def test_a_structure_with_everything() -> None:
    b = kernel_types()
    inner = b.compound(w.UNION, "", 8, [("a", INT, 0), ("b", LONG, 0)])
    s = b.count + 5
    pointer = b.record(w.PTR, "", s)
    volatile = b.record(w.VOLATILE, "", b.record(w.CONST, "", b.record(w.TYPE_TAG, "rcu", INT)))
    members = [("bits3", UINT, 0), ("bits5", UINT, 3), ("v", volatile, 32), ("", inner, 64), ("next", pointer, 128)]
    members += [("flag", BOOL, 192), ("table", b.count + 2, 256)]
    b.compound(w.STRUCT, "s", 32, members, bit_fields=[3, 5, 0, 0, 0, 0, 0])
    b.array(ULONG, 0)
    prog = program(b)
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
    """As drgn reads the DWARF that GCC writes for these."""
    b = kernel_types()
    zero = b.array(ULONG, 0)
    b.compound(w.STRUCT, "end", 8, [("n", LONG, 0), ("a", zero, 64)])
    b.compound(w.STRUCT, "middle", 8, [("n", LONG, 0), ("a", zero, 64), ("b", zero, 64)])
    b.compound(w.STRUCT, "alone", 0, [("a", zero, 0)])
    b.compound(w.UNION, "u", 8, [("n", LONG, 0), ("a", zero, 0)])
    prog = program(b)
    found = {
        f"{name}.{member}": prog.type(name).member(member).type.length
        for name, member in (
            *(("struct end", "a"), ("struct middle", "a"), ("struct middle", "b")),
            *(("struct alone", "a"), ("union u", "a")),
        )
    }
    assert list(found.values()) == [None, 0, None, 0, 0], found


def test_enumerations_and_their_constants() -> None:
    b = kernel_types()
    b.enum("pagetype", [("PGTY_buddy", 0), ("PGTY_unaccepted", (1 << 32) - 1)])
    b.enum("negative", [("MINUS", -1 << 31)], signed=True)
    b.enum("", [("ANONYMOUS", 3)])
    b.enum("small", [("SMALL", 1)], size=1)
    b.enum64("wide", [("WIDE", (1 << 64) - 1)])
    b.enum64("low", [("LOW", -1 << 63), ("ONE", 1)], signed=True)
    b.record(w.ENUM, "declared", 4)
    prog = program(b)
    for name, value, tag, integer in (
        ("PGTY_unaccepted", (1 << 32) - 1, "pagetype", "unsigned int"),
        ("MINUS", -1 << 31, "negative", "int"),
        ("ANONYMOUS", 3, None, "unsigned int"),
        ("SMALL", 1, "small", "unsigned char"),
        ("WIDE", (1 << 64) - 1, "wide", "unsigned long"),
        ("LOW", -1 << 63, "low", "long"),
    ):
        constant = prog[name]
        assert (constant.value_(), constant.type_.tag, constant.type_.type.name) == (value, tag, integer)
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
    prog = program(b)
    a, c = prog.type("struct s").members
    assert a.type.type.size == 4 and a.type.type.is_complete()
    assert c.type.type.kind == TypeKind.UNION and not c.type.type.is_complete()
    with pytest.raises(LookupError):
        prog.type("union open")  # drgn finds no declarations in DWARF either


def test_functions_and_variables_that_btf_describes() -> None:
    b = kernel_types()
    proto = b.function(INT, [("fmt", b.record(w.PTR, "", b.record(w.CONST, "", CHAR))), ("", 0)])
    b.record(w.FUNC, "_printk", proto, vlen=1)
    b.compound(w.STRUCT, "ops", 8, [("call", b.record(w.PTR, "", proto), 0)])
    b.record(w.VAR, "pcpu_counter", ULONG, 1)
    b.record(w.VAR, "no_symbol", ULONG, 1)
    prog = program(b, ("_printk", AT, 64), ("pcpu_counter", 0x1000, 8))
    call = prog.type("struct ops").members[0].type.type
    assert call.kind == TypeKind.FUNCTION and call.is_variadic
    assert [(p.name, p.type.type_name()) for p in call.parameters] == [("fmt", "const char *")]
    function = prog.function("_printk")
    assert function.address_ == AT and function.type_.kind == TypeKind.FUNCTION
    assert prog["pcpu_counter"].address_ == 0x1000
    for name in ("_printk", "no_symbol"):
        with pytest.raises(drgn.ObjectNotFoundError):
            prog.variable(name)


def test_of_two_types_with_a_name_the_first_is_taken() -> None:
    b = kernel_types()
    b.record(w.TYPEDEF, "twice", INT)
    b.compound(w.STRUCT, "twice", 4, [("a", INT, 0)])
    b.compound(w.STRUCT, "twice", 8, [("a", INT, 0), ("b", INT, 32)])
    b.compound(w.UNION, "twice", 8, [])
    prog = program(b)
    assert (prog.type("struct twice").size, prog.type("union twice").size) == (4, 8)


def test_words_that_look_like_what_is_looked_for() -> None:
    """A constant's name and value are laid out as a record's name and info; so are parts of other records."""
    b = kernel_types()
    zone = b.string("zone")
    b.enum("e", [("zone", w.STRUCT << 24 | 1), ("other", 5)])
    b.array(zone, w.STRUCT << 24)  # type, index type, nelems: name_off at no record's start
    b.compound(w.STRUCT, "user", 8, [("zone", INT, 0), ("constant", INT, 32)])
    b.function(INT, [("constant", INT)])
    b.enum("constant", [("no", b.string("constant"))])  # the enumeration's own name; a value that is the name's offset
    b.enum64("constant", [("no64", b.string("constant") << 32)])
    b.compound(w.STRUCT, "my_zone", 4, [("a", INT, 0)])
    b.compound(w.STRUCT, "zones", 4, [("a", INT, 0)])
    b.compound(w.STRUCT, "zone", 12, [("a", INT, 0)])
    b.enum("real", [("x1", 1), ("constant", 7)])
    prog = program(b)
    assert prog.type("struct zone").size == 12
    assert (prog.constant("constant").type_.tag, prog.constant("constant").value_()) == ("real", 7)


# BTF that is damaged or hostile


def header(**fields: Any) -> bytes:
    """A header with some fields changed, over 24 bytes of types and 8 of strings."""
    whole = {"magic": 0xEB9F, "version": 1, "flags": 0, "header": 24}
    whole = {**whole, "type_off": 0, "type_len": 24, "str_off": 24, "str_len": 8, **fields}
    types = struct.pack("<IIIIII", 1, w.TYPEDEF << 24, 0, 1, w.TYPEDEF << 24, 1)
    strings = whole.pop("strings", b"\0abcdef\0")
    return struct.pack("<HBBIIIII", *whole.values()) + types + strings


@pytest.mark.parametrize(
    ("data", "words"),
    (
        (b"", "0 bytes are too short"),
        (b"\x9f\xeb" + bytes(21), "23 bytes are too short"),
        (header(magic=0x9FEB), "not BTF: magic 0x9feb"),
        (header(version=2), "version 2 is not supported"),
        (header(header=23), "header length 23"),
        (header(header=1 << 31), "header length"),
        (header(type_len=100), r"type section \[0, 100\) ends beyond"),
        (header(type_off=0xFFFFFFF0, type_len=0x20), "type section .* ends beyond"),
        (header(str_off=25), r"string section \[25, 33\) ends beyond"),
        (header(str_len=0), "last string does not end"),
        (header(str_len=4), "last string does not end"),
        (header(strings=b"abcdefg\0"), "split BTF"),
        (bytes(limits.BTF_BYTES + 1), f"more than the limit of {limits.BTF_BYTES}"),
    ),
)
def test_a_wrong_header_is_refused(data: bytes, words: str) -> None:
    assert Btf(empty(), header()).record(2).name == "abcdef"
    with pytest.raises(ValueError, match=words):
        Btf(empty(), data)


def deep(b: BtfWriter, count: int) -> None:
    last = INT
    for _ in range(count):
        last = b.record(w.PTR, "", last)
    b.record(w.TYPEDEF, "t", last)


def a_loop(b: BtfWriter) -> None:
    first = b.record(w.TYPEDEF, "t", b.count + 2)
    b.record(w.CONST, "", b.record(w.PTR, "", first + 2) - 1)


def twice_the_one_before(b: BtfWriter) -> None:
    """2^15 members, each structure through a declaration of it; with one more level each, twice as many."""
    last = INT
    for number in range(15):
        b.compound(w.STRUCT, f"s{number}", 4, [("", last, 0), ("", last, 0)])
        last = b.record(w.CONST, "", b.record(w.FWD, f"s{number}"))
    b.record(w.TYPEDEF, "t", last)


def ends_inside(b: BtfWriter) -> None:
    b.record(w.TYPEDEF, "t", b.integer("last", 4) + 2)
    del b.types[-1]


def bytes_for_a_name(b: BtfWriter) -> None:
    b.record(w.TYPEDEF, "t", b.record(w.TYPEDEF, "\xff", 0))
    b.strings = b.strings.replace("\xff".encode(), b"\xff\xff")


def name_beyond(b: BtfWriter) -> None:
    number = b.record(w.TYPEDEF, "", 0)
    b.types[-12:-8] = struct.pack("<I", 1 << 20)
    b.record(w.TYPEDEF, "t", number)


def typedef_of(make: Callable[[BtfWriter], int]) -> Callable[[BtfWriter], object]:
    return lambda b: b.record(w.TYPEDEF, "t", make(b))


@pytest.mark.parametrize(
    ("write", "words"),
    (
        (a_loop, "nested deeper than 64, or a cycle"),
        (lambda b: deep(b, limits.BTF_NESTING), "nested deeper than 64"),
        (typedef_of(lambda b: b.compound(w.STRUCT, "itself", 8, [("", b.count + 1, 0)])), "nested deeper than 64"),
        (twice_the_one_before, f"more than {limits.BTF_MEMBERS} members"),
        (typedef_of(lambda b: b.enum("e", [("E", 1)], size=3)), "an enumeration of 3 bytes"),
        (typedef_of(lambda b: b.integer("int", 3)), "an integer of 3 bytes"),
        (typedef_of(lambda b: b.record(w.FUNC, "f", b.function(0, []))), "is a FUNC, which is not a type"),
        (typedef_of(lambda b: b.array(INT, 1 << 24)), "an array of 16777216 elements, 4 bytes each"),
        (typedef_of(lambda b: b.compound(w.STRUCT, "s", 1 << 25, [])), "a structure of 33554432 bytes"),
        (lambda b: b.record(w.TYPEDEF, "t", 9999), "type 9999: there are only 13"),
        (typedef_of(lambda b: b.record(20, "new")), "unknown kind 20"),
        (ends_inside, "the section ends inside of it"),
        (name_beyond, "at 1048576"),
        (bytes_for_a_name, "the name at .* is not UTF-8"),
        (typedef_of(lambda b: b.record(w.TYPEDEF, "x" * limits.SYMBOL_NAME_BYTES, 0)), "no name of less than 512"),
    ),
)
def test_types_that_cannot_be(write: Callable[[BtfWriter], object], words: str) -> None:
    b = kernel_types()
    write(b)
    prog = program(b)
    assert prog.type("unsigned long").size == 8  # what comes before it is read
    for _ in range(2):  # also when asked again
        with pytest.raises(ValueError, match=words):
            prog.type("t")


def test_as_much_as_there_may_be() -> None:
    b = kernel_types()
    deep(b, limits.BTF_NESTING - 1)
    b.record(w.TYPEDEF, "y" * (limits.SYMBOL_NAME_BYTES - 1), INT)
    # An anonymous member counts beside those that it has.
    inner = b.compound(w.UNION, "", 4, [("m", INT, 0)] * (limits.BTF_MEMBERS - 1))
    b.compound(w.STRUCT, "most", 8, [("", inner, 0)])
    b.compound(w.STRUCT, "more", 8, [("", inner, 0), ("x", INT, 32)])
    prog = program(b)
    assert prog.type("t").type_name() == "t"
    assert drgn.sizeof(prog.type("y" * 511)) == 4
    (member,) = prog.type("struct most").members
    assert len(member.type.members) == limits.BTF_MEMBERS - 1
    with pytest.raises(ValueError, match=rf"^BTF type \d+: more than {limits.BTF_MEMBERS} members$"):
        prog.type("struct more")


def test_searches_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BTF_MATCHES", 100)
    b = kernel_types()
    b.function(0, [("zone", 1)] * 101)
    with pytest.raises(ValueError, match="more than 100 matches"):
        program(b).constant("zone")
    b.strings += b"page\0" * (limits.BTF_SAME_STRINGS + 1)
    with pytest.raises(ValueError, match="'page' more than 16 times"):
        program(b).type("struct page")


def well_formed() -> BtfWriter:
    b = kernel_types()
    p = b.record(w.PTR, "", INT)
    inner = b.compound(w.UNION, "", 8, [("x", INT, 0), ("y", p, 0)])
    b.compound(w.STRUCT, "page", 24, [("flags", INT, 0), ("", inner, 64), ("rest", b.array(p, 0), 128)])
    b.compound(w.STRUCT, "bits", 4, [("x", INT, 0), ("y", INT, 3)], bit_fields=[3, 29])
    b.enum("e", [("A", 1), ("B", 2)])
    b.enum64("e64", [("A64", 1), ("B64", 1 << 40)])
    b.record(w.PTR, "", b.function(INT, [("x", p), ("", 0)]))
    b.record(w.TYPEDEF, "page_t", b.record(w.CONST, "", 3))
    return b


def read_everything(data: bytes, count: int) -> None:
    """Each part is an answer or an error with words."""
    prog = empty()
    with refused():
        attach(prog, data)
        btf = Btf(prog, data)
        for name in ("page", "e", "page_t", "int"):
            with refused():
                btf.find(name, list(Kind))
        for name in ("B", "B64", "page"):
            with refused():
                prog.constant(name)
        for number in range(count + 2):
            with refused():
                of = btf.type(number)
                if of.kind in (TypeKind.STRUCT, TypeKind.UNION):
                    assert all(member.type for member in of.members or ())
                elif of.kind == TypeKind.FUNCTION:
                    assert all(parameter.type for parameter in of.parameters)


@contextlib.contextmanager
def refused() -> Iterator[None]:
    try:
        yield
    except (ValueError, LookupError) as error:
        assert str(error)


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 255)), max_size=8), st.integers(0, 2000))
def test_damage_is_an_error_or_an_answer(changes: list[tuple[int, int]], end: int) -> None:
    b = well_formed()
    data = bytearray(b.data())
    for position, value in changes:
        data[position % len(data)] = value
    read_everything(bytes(data[:end] if end < len(data) else data), b.count)


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
    (
        ("LENGTH(node_data)=64\n", 512, 64),
        ("NUMBER(x)=1\n", 512, 64),
        ("LENGTH(node_data)=999999999\n", 512, limits.GLOBAL_ARRAY_LENGTH),
        ("", 1 << 40, limits.GLOBAL_ARRAY_LENGTH),
    ),
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
        if name != "VMCOREINFO":
            return None
        data = text.encode()
        char = prog.int_type("char", 1, True)
        return Object(prog, prog.array_type(char, len(data) + 1), [*data, 0])

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
