# SPDX-License-Identifier: LGPL-2.1-or-later
"""drgn's answers with nothing but BTF: types and constants; damaged BTF."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Optional, TypeVar

import drgn
import pytest
from drgn import Object, Program, Symbol, SymbolBinding, SymbolIndex, SymbolKind, TypeKind, offsetof
from hypothesis import given, settings
from hypothesis import strategies as st

from drgn_unaccepted import limits
from drgn_unaccepted.targets.btf import Btf, Kind
from drgn_unaccepted.targets.debug_info import attach

from . import btf_writer as w
from .btf_writer import BtfWriter

T = TypeVar("T")
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
    # char is unsigned: -funsigned-char since Linux 6.2; drgn's own default is signed.
    unsigned = {"unsigned long": 8, "long unsigned int": 8, "unsigned long long": 8, "unsigned short": 2, "unsigned": 4}
    sizes = {**unsigned, "char": 1, "long": 8, "short": 2, "signed char": 1}
    for spelling, size in sizes.items():
        is_signed = spelling not in (*unsigned, "char")
        found = prog.type(spelling)
        assert (found.kind, found.size, found.is_signed) == (TypeKind.INT, size, is_signed), spelling


TYPES = (
    "typedef unsigned long long u64",
    "struct middle {\n\tlong n;\n\tunsigned long a[0];\n\tunsigned long b[];\n}",
    "struct alone {\n\tunsigned long a[0];\n}",
    "union u {\n\tlong n;\n\tunsigned long a[0];\n}",
    """struct s {
\tunsigned int bits3 : 3;
\tunsigned int bits5 : 5;
\tconst volatile int v;
\tunion {
\t\tint a;
\t\tlong b;
\t};
\tstruct s *next;
\t_Bool flag;
\tstruct whole *w;
\tunion open *o;
\tint (*call)(const char *fmt, ...);
\tunsigned long table[];
}""",
)


def everything() -> BtfWriter:
    """:data:`TYPES` and what they need, and constants."""
    b = kernel_types()
    b.record(w.TYPEDEF, "u64", ULLONG)
    zero = b.array(ULONG, 0)
    b.compound(w.STRUCT, "middle", 8, [("n", LONG, 0), ("a", zero, 64), ("b", zero, 64)])
    b.compound(w.STRUCT, "alone", 0, [("a", zero, 0)])
    b.compound(w.UNION, "u", 8, [("n", LONG, 0), ("a", zero, 0)])
    inner = b.compound(w.UNION, "", 8, [("a", INT, 0), ("b", LONG, 0)])
    volatile = b.record(w.VOLATILE, "", b.record(w.CONST, "", b.record(w.TYPE_TAG, "rcu", INT)))
    whole, union = (b.record(w.PTR, "", b.record(w.FWD, name, flag=name == "open")) for name in ("whole", "open"))
    call = b.record(w.PTR, "", b.function(INT, [("fmt", b.record(w.PTR, "", b.record(w.CONST, "", CHAR))), ("", 0)]))
    itself = b.record(w.PTR, "", b.count + 2)
    members = [("bits3", UINT, 0), ("bits5", UINT, 3), ("v", volatile, 32), ("", inner, 64), ("next", itself, 128)]
    members += [("flag", BOOL, 192), ("w", whole, 256), ("o", union, 320), ("call", call, 384), ("table", zero, 448)]
    b.compound(w.STRUCT, "s", 56, members, bit_fields=[3, 5, *8 * [0]])
    b.compound(w.STRUCT, "whole", 4, [("x", INT, 0)])
    b.compound(w.STRUCT, "open", 4, [("x", INT, 0)])
    b.enum("pagetype", [("PGTY_buddy", 0), ("PGTY_unaccepted", (1 << 32) - 1)])
    b.enum("negative", [("MINUS", -1 << 31)], signed=True)
    b.enum("", [("ANONYMOUS", 3)])
    b.enum("small", [("SMALL", 1)], size=1)
    b.enum64("wide", [("WIDE", (1 << 64) - 1)])
    b.enum64("low", [("LOW", -1 << 63), ("ONE", 1)], signed=True)
    b.record(w.ENUM, "declared", 4)
    return b


def test_types_as_c_writes_them() -> None:
    """An array without length is flexible only at the end of a structure, as drgn reads the DWARF of GCC."""
    prog = program(everything())
    for text in TYPES:
        name = text.split()[-1] if text.startswith("typedef") else " ".join(text.split()[:2])
        assert str(prog.type(name)) == text
    s = prog.type("struct s")
    assert (s.size, offsetof(s, "b")) == (56, 8)  # through the anonymous union
    assert s.member("w").type.type.is_complete() and not s.member("o").type.type.is_complete()
    assert drgn.sizeof(prog.type("struct s *[4]")) == 32
    data = struct.pack("<IiqQ?", 0b10111_101, -2, -3, 0x1234, True).ljust(56, b"\0")
    value = Object.from_bytes_(prog, s, data)
    assert (value.bits3, value.bits5, value.v, value.b, value.flag) == (0b101, 0b10111, -2, -3, True)
    for lacking in ("union s", "struct no_such_zone", "struct ole", "union open"):
        with pytest.raises(LookupError):
            prog.type(lacking)
    with pytest.raises(LookupError):
        prog.type("struct s", "mm/page_alloc.c")  # BTF knows of no files


def test_enumerations_and_their_constants() -> None:
    prog = program(everything())
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


def test_functions_and_variables_that_btf_describes() -> None:
    b = kernel_types()
    b.record(w.FUNC, "_printk", b.function(INT, []), vlen=1)
    b.record(w.VAR, "pcpu_counter", ULONG, 1)
    b.record(w.VAR, "no_symbol", ULONG, 1)
    prog = program(b, ("_printk", AT, 64), ("pcpu_counter", 0x1000, 8))
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


def ends_inside(b: BtfWriter, cut: int) -> None:
    """In an enumeration of one constant: in its record, or in its constant."""
    b.record(w.TYPEDEF, "t", b.count + 2)
    b.enum("last", [("LAST", 1)])
    del b.types[-cut:]


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
        (lambda b: ends_inside(b, 1), "the section ends inside of it"),
        (lambda b: ends_inside(b, 9), "the section ends inside of it"),
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


def attempt(ask: Callable[..., T], *arguments: object) -> Optional[T]:
    """An answer, or an error with words."""
    try:
        return ask(*arguments)
    except (ValueError, LookupError) as error:
        assert str(error)
        return None


def parts(of: drgn.Type) -> list[drgn.Type]:
    if of.kind in (TypeKind.STRUCT, TypeKind.UNION):
        return [member.type for member in of.members or ()]
    return [parameter.type for parameter in of.parameters] if of.kind == TypeKind.FUNCTION else []


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=8), st.integers(0, 3000))
def test_damage_is_an_error_or_an_answer(changes: list[tuple[int, int]], end: int) -> None:
    whole, prog = everything(), empty()
    data = bytearray(whole.data())
    for position, value in changes:
        data[position % len(data)] = value
    attempt(attach, prog, bytes(data[:end]))
    btf = attempt(Btf, prog, bytes(data[:end]))
    for name in ("s", "pagetype", "u64", "int", "ONE", "WIDE"):
        attempt(prog.constant, name)
        if btf is not None:
            attempt(btf.find, name, list(Kind))
    for number in range(0 if btf is None else whole.count + 2):
        attempt(lambda n: parts(btf.type(n)) if btf else None, number)
