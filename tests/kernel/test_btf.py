# SPDX-License-Identifier: LGPL-2.1-or-later
"""The BTF parser: the running kernel's BTF against bpftool's reading of it, edges by hand, damage by hypothesis."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.btf import Btf, BtfError, BtfType, Kind, Member

from . import btf_writer as w
from .btf_writer import BtfWriter

VMLINUX = Path("/sys/kernel/btf/vmlinux")
STRUCT = (Kind.STRUCT,)


@pytest.fixture(scope="module")
def running() -> Btf:
    if not os.access(VMLINUX, os.R_OK):
        pytest.skip(f"no {VMLINUX}: the running kernel shows no BTF")
    return Btf(VMLINUX.read_bytes())


@pytest.fixture(scope="module")
def bpftool() -> list[dict[str, Any]]:
    """The running kernel's types as bpftool (libbpf) reads them, by number from 1."""
    tool = shutil.which("bpftool", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if tool is None or not os.access(VMLINUX, os.R_OK):
        pytest.skip(f"needs bpftool (apt-get install bpftool) and {VMLINUX}")
    done = subprocess.run([tool, "-j", "btf", "dump", "file", VMLINUX], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"bpftool cannot read it: {done.stderr.decode().strip() or done.stdout.decode()[:200]}")
    types: list[dict[str, Any]] = json.loads(done.stdout)["types"]
    assert [t["id"] for t in types] == list(range(1, len(types) + 1))
    for t in types:
        if t["kind"] == "ENUM" and t["encoding"] == "UNSIGNED":
            for value in t["values"]:
                value["val"] &= 0xFFFFFFFF  # bpftool 7.1 extends the sign of an unsigned 32-bit value
    return types


def anon(name: str) -> str:
    return name or "(anon)"


def as_bpftool(btf: Btf, of: BtfType) -> dict[str, Any]:
    """A type in the words of ``bpftool -j btf dump``."""
    said: dict[str, Any] = {"id": of.id, "kind": of.kind.name, "name": anon(of.name)}
    if of.kind is Kind.INT:
        encoding, bit_offset, bits = btf.integer(of)
        words = {0: "(none)", 1: "SIGNED", 2: "CHAR", 4: "BOOL"}[encoding]
        said.update(size=of.size, bits_offset=bit_offset, nr_bits=bits, encoding=words)
    elif of.kind is Kind.ARRAY:
        type_id, length = btf.array(of)
        said.update(type_id=type_id, nr_elems=length)
    elif of.kind in (Kind.STRUCT, Kind.UNION):
        members = []
        for m in btf.members(of):
            member = {"name": anon(m.name), "type_id": m.type_id, "bits_offset": m.bit_offset}
            if m.bit_field_size:
                member["bitfield_size"] = m.bit_field_size
            members.append(member)
        said.update(size=of.size, vlen=of.vlen, members=members)
    elif of.kind in (Kind.ENUM, Kind.ENUM64):
        values = [{"name": name, "val": value} for name, value in btf.enumerators(of)]
        said.update(size=of.size, vlen=of.vlen, values=values, encoding="SIGNED" if of.kind_flag else "UNSIGNED")
    elif of.kind is Kind.FUNC_PROTO:
        params = [{"name": anon(name), "type_id": type_id} for name, type_id in btf.parameters(of)]
        said.update(ret_type_id=of.type_id, vlen=of.vlen, params=params)
    elif of.kind is Kind.FWD:
        said.update(fwd_kind="union" if of.kind_flag else "struct")
    elif of.kind is Kind.FLOAT:
        said.update(size=of.size)
    elif of.kind is Kind.DATASEC:
        said.update(size=of.size, vlen=of.vlen)
    else:
        said.update(type_id=of.type_id)
    return said


def test_every_type_of_the_running_kernel_reads_as_bpftool_reads_it(
    running: Btf, bpftool: list[dict[str, Any]]
) -> None:
    assert len(running) == len(bpftool)
    # What a symbol is linked as, and what a section or a tag holds, is nothing that we read.
    unread = {"linkage", "component_idx", "vars", "index_type_id"}
    for theirs in bpftool:
        expected = {key: value for key, value in theirs.items() if key not in unread}
        assert as_bpftool(running, running.type(theirs["id"])) == expected
    first: dict[tuple[str, str], int] = {}
    for t in bpftool:
        first.setdefault((t["kind"], t["name"]), t["id"])
    for kind, name in sorted(first)[::97]:
        if name != "(anon)":
            assert running.find(name, (Kind[kind],)) == first[kind, name], name


def test_a_name_that_is_not_there(running: Btf) -> None:
    for name in ("", "no_such_type_at_all", "page\0", "page\0zone", "\N{GREEK SMALL LETTER ALPHA}"):
        assert running.find(name, STRUCT) is None
        assert running.find_enumerator(name) is None
    assert running.find("page", ()) is None


# --- by hand ---


def test_kinds_read_as_written() -> None:
    b = BtfWriter()
    i = b.integer("int", 4, w.SIGNED)
    p = b.record(w.PTR, "", i)
    a = b.array(p, 7, index=i)
    s = b.compound(w.STRUCT, "s", 16, [("a", i, 0), ("", p, 64)])
    f = b.compound(w.STRUCT, "bits", 4, [("x", i, 0), ("y", i, 3)], bit_fields=[3, 0])
    proto = b.function(0, [("x", i), ("", 0)])
    fl = b.record(w.FLOAT, "double", 8)
    fwd = b.record(w.FWD, "u", flag=True)
    sec = b.record(w.DATASEC, ".data..percpu", 8, 1, 2, 3, vlen=1)
    var = b.record(w.VAR, "v", i, 1)
    tag = b.record(w.DECL_TAG, "t", var, 0xFFFFFFFF)
    btf = Btf(b.data())
    assert len(btf) == b.count == tag
    assert btf.integer(btf.type(i)) == (1, 0, 32)
    assert btf.type(p).type_id == i and btf.type(p).kind is Kind.PTR and btf.type(p).name == ""
    assert btf.array(btf.type(a)) == (p, 7)
    assert btf.members(btf.type(s)) == [Member("a", i, 0, 0), Member("", p, 64, 0)]
    assert btf.members(btf.type(f)) == [Member("x", i, 0, 3), Member("y", i, 3, 0)]
    assert btf.parameters(btf.type(proto)) == [("x", i), ("", 0)]
    assert (btf.type(fl).kind, btf.type(fl).size) == (Kind.FLOAT, 8)
    assert btf.type(fwd).kind_flag and btf.type(sec).kind is Kind.DATASEC
    assert btf.type(0).kind is Kind.VOID


@pytest.mark.parametrize("signed", [False, True])
def test_enumerators(signed: bool) -> None:
    low, high = (-(1 << 31), (1 << 31) - 1) if signed else (0, (1 << 32) - 1)
    low64, high64 = (-(1 << 63), (1 << 63) - 1) if signed else (0, (1 << 64) - 1)
    b = BtfWriter()
    e = b.enum("e", [("LOW", low), ("HIGH", high)], signed=signed)
    e64 = b.enum64("e64", [("LOW64", low64), ("HIGH64", high64), ("ONE", 1)], signed=signed)
    btf = Btf(b.data())
    assert btf.enumerators(btf.type(e)) == [("LOW", low), ("HIGH", high)]
    assert btf.find_enumerator("HIGH") == (e, high)
    assert btf.find_enumerator("LOW64") == (e64, low64)
    assert btf.find_enumerator("HIGH64") == (e64, high64)


def test_of_two_types_with_a_name_the_first_is_taken() -> None:
    b = BtfWriter()
    i = b.integer("int", 4)
    b.record(w.TYPEDEF, "twice", i)
    first = b.compound(w.STRUCT, "twice", 4, [("a", i, 0)])
    b.compound(w.STRUCT, "twice", 8, [("a", i, 0), ("b", i, 32)])
    union = b.compound(w.UNION, "twice", 8, [])
    btf = Btf(b.data())
    assert btf.find("twice", STRUCT) == first
    assert btf.find("twice", (Kind.UNION,)) == union
    assert btf.find("twice", (Kind.ENUM, Kind.UNION, Kind.STRUCT)) == first


def test_words_that_look_like_the_record_are_none() -> None:
    """A constant's name and value are laid out as a record's name and info; so are parts of other records."""
    b = BtfWriter()
    zone = b.string("zone")
    b.enum("e", [("zone", w.STRUCT << 24 | 1), ("other", 5)])
    b.array(zone, w.STRUCT << 24)  # type, index type, nelems: name_off at no record's start
    i = b.integer("int", 4)
    b.compound(w.STRUCT, "user", 8, [("zone", i, 0)])
    b.compound(w.STRUCT, "my_zone", 4, [("a", i, 0)])
    b.compound(w.STRUCT, "zones", 4, [("a", i, 0)])
    real = b.compound(w.STRUCT, "zone", 4, [("a", i, 0)])
    assert Btf(b.data()).find("zone", STRUCT) == real


def test_a_member_is_no_enumeration_constant() -> None:
    b = BtfWriter()
    i = b.integer("int", 4)
    b.compound(w.STRUCT, "s", 8, [("name", i, 0), ("x", i, 32)])
    b.function(i, [("name", i)])
    b.enum("name", [("no", b.string("name"))])  # the enumeration's own name; a value that is the name's offset
    b.enum64("name", [("no64", b.string("name") << 32)])
    real = b.enum("e", [("x1", 1), ("name", 7)])
    assert Btf(b.data()).find_enumerator("name") == (real, 7)


def damaged(**fields: Any) -> bytes:
    """A header with some fields changed, over 24 bytes of types and 8 of strings."""
    header = {
        "magic": 0xEB9F,
        "version": 1,
        "flags": 0,
        "header": 24,
        "type_off": 0,
        "type_len": 24,
        "str_off": 24,
        "str_len": 8,
    }
    header.update(fields)
    types = struct.pack("<IIIIII", 1, w.TYPEDEF << 24, 0, 1, w.TYPEDEF << 24, 1)
    strings = header.pop("strings", b"\0abcdef\0")
    return struct.pack("<HBBIIIII", *header.values()) + types + strings


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "0 bytes are too short"),
        (b"\x9f\xeb" + bytes(21), "23 bytes are too short"),
        (damaged(magic=0x9FEB), "big-endian"),
        (damaged(magic=0x457F), "not BTF: magic 0x457f"),
        (damaged(version=2), "version 2 is not supported"),
        (damaged(header=23), "header length 23"),
        (damaged(header=1 << 31), "header length"),
        (damaged(type_len=100), r"type section \[0, 100\) ends beyond"),
        (damaged(type_off=0xFFFFFFF0, type_len=0x20), "type section .* ends beyond"),
        (damaged(str_off=25), r"string section \[25, 33\) ends beyond"),
        (damaged(type_off=2, type_len=12), "not aligned"),
        (damaged(str_len=0), "last string does not end"),
        (damaged(str_len=4), "last string does not end"),
        (damaged(strings=b"abcdefg\0"), "split BTF"),
    ],
)
def test_a_wrong_header_is_refused(data: bytes, words: str) -> None:
    assert len(Btf(damaged())) == 2
    with pytest.raises(BtfError, match=words):
        Btf(data)


def test_too_much_of_it_is_refused_before_it_is_looked_at() -> None:
    with pytest.raises(BtfError, match=f"more than the limit of {limits.BTF_BYTES}"):
        Btf(bytes(limits.BTF_BYTES + 1))


def test_an_unknown_kind_stops_what_comes_after_it_and_no_more() -> None:
    b = BtfWriter()
    before = b.integer("int", 4)
    unknown = b.record(20, "new")
    after = b.integer("long", 8)
    btf = Btf(b.data())
    assert btf.type(before).name == "int"
    for _ in range(2):  # also when asked again
        with pytest.raises(BtfError, match=f"type {unknown}: unknown kind 20"):
            btf.type(after)
    with pytest.raises(BtfError, match="unknown kind 20"):
        btf.find("long", (Kind.INT,))
    assert btf.find("int", (Kind.INT,)) == before


@pytest.mark.parametrize("left", range(1, 16))
def test_a_section_that_ends_anywhere(left: int) -> None:
    b = BtfWriter()
    b.integer("int", 4)
    del b.types[left:]
    with pytest.raises(BtfError, match="type 1: the section ends inside of it"):
        Btf(b.data()).type(1)


def test_references_that_lead_nowhere() -> None:
    b = BtfWriter()
    typedef = b.record(w.TYPEDEF, "t", 99)
    nameless = b.record(w.TYPEDEF, "", 0)
    b.types[-12:-8] = struct.pack("<I", 1 << 20)
    other = b.record(w.TYPEDEF, "\xff", 0)
    long = b.record(w.TYPEDEF, "x" * limits.SYMBOL_NAME_BYTES, 0)
    just = b.record(w.TYPEDEF, "y" * (limits.SYMBOL_NAME_BYTES - 1), 0)
    b.strings = b.strings.replace("\xff".encode(), b"\xff\xff")
    btf = Btf(b.data())
    with pytest.raises(BtfError, match="type 99: there are only 5"):
        btf.type(btf.type(typedef).type_id)
    with pytest.raises(BtfError, match=f"type {nameless}: name offset 1048576 is beyond"):
        btf.type(nameless)
    with pytest.raises(BtfError, match=f"type {other}: the name at 3 is not UTF-8"):
        btf.type(other)
    with pytest.raises(BtfError, match=f"type {long}: its name is longer than 512 bytes"):
        btf.type(long)
    assert btf.type(just).name == "y" * 511


def test_anonymous_members_are_counted_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    b = BtfWriter()
    i = b.integer("int", 4)
    inner = b.compound(w.UNION, "", 4, [("a", i, 0), ("b", i, 0)])
    const = b.record(w.CONST, "", inner)
    outer = b.compound(w.STRUCT, "outer", 12, [("", inner, 0), ("c", i, 32), ("", const, 64)])
    itself = b.count + 1
    b.compound(w.STRUCT, "itself", 4, [("", itself, 0)])
    # Each holds the one before twice: 2^60 members.
    last = inner
    for _ in range(60):
        last = b.compound(w.STRUCT, "", 4, [("", last, 0), ("", last, 0)])
    deep = inner
    for _ in range(limits.BTF_NESTING + 2):
        deep = b.compound(w.STRUCT, "", 4, [("", deep, 0)])
    btf = Btf(b.data())
    btf.check_members(btf.type(outer))
    monkeypatch.setattr(limits, "BTF_MEMBERS", 3 + 2 + 2 + 1)  # and the qualifier
    btf.check_members(btf.type(outer))
    monkeypatch.setattr(limits, "BTF_MEMBERS", 3 + 2 + 2)
    with pytest.raises(BtfError, match=f"type {outer}: more than 7 members"):
        btf.check_members(btf.type(outer))
    monkeypatch.undo()
    with pytest.raises(BtfError, match=f"type {itself}: anonymous members nested deeper"):
        btf.check_members(btf.type(itself))
    with pytest.raises(BtfError, match=f"more than {limits.BTF_MEMBERS} members"):
        btf.check_members(btf.type(last))
    with pytest.raises(BtfError, match="anonymous members nested deeper"):
        btf.check_members(btf.type(deep))


def test_many_copies_of_a_name_are_refused() -> None:
    b = BtfWriter()
    b.strings += b"zone\0" * (limits.BTF_SAME_STRINGS + 1)
    with pytest.raises(BtfError, match="'zone' more than 16 times"):
        Btf(b.data()).find("zone", STRUCT)


def test_matches_that_never_end_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BTF_MATCHES", 100)
    b = BtfWriter()
    b.function(0, [("zone", 1)] * 101)
    with pytest.raises(BtfError, match="more than 100 matches"):
        Btf(b.data()).find_enumerator("zone")


# --- damage ---


def well_formed() -> bytes:
    b = BtfWriter()
    i = b.integer("int", 4, w.SIGNED)
    p = b.record(w.PTR, "", i)
    inner = b.compound(w.UNION, "", 8, [("x", i, 0), ("y", p, 0)])
    b.compound(w.STRUCT, "page", 24, [("flags", i, 0), ("", inner, 64), ("rest", b.array(p, 0), 128)])
    b.compound(w.STRUCT, "bits", 4, [("x", i, 0), ("y", i, 3)], bit_fields=[3, 29])
    b.enum("e", [("A", 1), ("B", 2)])
    b.enum64("e64", [("A64", 1), ("B64", 1 << 40)])
    b.record(w.PTR, "", b.function(i, [("x", p), ("", 0)]))
    b.record(w.TYPEDEF, "page_t", b.record(w.CONST, "", 3))
    return b.data()


def read_everything(btf: Btf) -> None:
    for name in ("page", "e", "e64", "page_t", "bits", "int"):
        btf.find(name, list(Kind))
        btf.find_enumerator(name)
    btf.find_enumerator("B64")
    for type_id in range(len(btf) + 1):
        of = btf.type(type_id)
        if of.kind in (Kind.STRUCT, Kind.UNION):
            btf.members(of)
            btf.check_members(of)
        elif of.kind in (Kind.ENUM, Kind.ENUM64):
            btf.enumerators(of)
        elif of.kind is Kind.FUNC_PROTO:
            btf.parameters(of)


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, len(well_formed()) - 1), st.integers(0, 255)), max_size=8), st.data())
def test_damage_is_an_error_or_an_answer(changes: list[tuple[int, int]], data: st.DataObject) -> None:
    damaged = bytearray(well_formed())
    for position, value in changes:
        damaged[position] = value
    if data.draw(st.booleans()):
        del damaged[data.draw(st.integers(0, len(damaged))) :]
    try:
        read_everything(Btf(bytes(damaged)))
    except BtfError as error:
        assert str(error)


@settings(max_examples=50)
@given(st.binary(max_size=400), st.binary(max_size=60))
def test_any_bytes_for_types_and_strings(types: bytes, strings: bytes) -> None:
    b = BtfWriter()
    b.types, b.strings = bytearray(types), bytearray(b"\0" + strings + b"\0")
    try:
        read_everything(Btf(b.data()))
    except BtfError as error:
        assert str(error)


@pytest.mark.long
def test_the_largest_section_has_an_end() -> None:
    """A million records of nothing, each with the name that is looked for in the wrong kind."""
    b = BtfWriter()
    record = struct.pack("<III", b.string("zone"), w.TYPEDEF << 24, 0)
    b.types += record * (limits.BTF_BYTES // 2 // len(record))
    btf = Btf(b.data())
    assert btf.find("zone", STRUCT) is None
    with pytest.raises(BtfError, match="matches of one name"):
        btf.find_enumerator("zone")
