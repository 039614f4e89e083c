# SPDX-License-Identifier: LGPL-2.1-or-later
"""Symbols out of a kallsyms table that a second implementation of the kernel's build has written."""

from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random
from string import ascii_letters, digits

import pytest
from drgn import Symbol, SymbolBinding
from hypothesis import given, settings
from hypothesis import strategies as st

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.kallsyms import Kallsyms
from drgn_unaccepted.kernel.vmcoreinfo import parse_vmcoreinfo

from .kallsyms_writer import KallsymsWriter, Symbols

TEXT = 0xFFFFFFFF81000000
ENCODINGS = ("base", "percpu", "place")
NAMES = [
    f"{verb}_{what}{where}"
    for verb in ("efi", "init", "do", "__x64_sys", "accept", "aaaa", "aaa")
    for what in ("memory", "page", "pages", "unaccepted_memory", "aaaaa")
    for where in ("", "_late", "_node", ".constprop.0", "aa")
]

#: Does not compress to less than 128 bytes.
LONG = "".join(Random(1).choices(ascii_letters + digits, k=500))


def symbols() -> Symbols:
    """175 functions 64 bytes apart, a static name twice, data, a long name and per-CPU offsets."""
    found: Symbols = [("A", "this_cpu_off", 0x1000), ("A", "pcpu_hot", 0x2000), ("T", "_stext", TEXT)]
    found += [("t" if i % 3 else "T", name, TEXT + 64 + 64 * i) for i, name in enumerate(NAMES)]
    end = TEXT + 0x10000
    return [
        *found,
        ("t", "twice", end),
        ("t", "other", end),
        ("t", "twice", end + 16),
        ("B", "efi", end + 0x100),
        ("W", LONG, end + 0x140),
        ("b", "efi_late_byte", end + 0x200),
    ]


def find(table: KallsymsWriter, *names: str) -> dict[str, list[Symbol]]:
    found: dict[str, list[Symbol]] = {}
    for symbol in kallsyms(table).find(names):
        found.setdefault(symbol.name, []).append(symbol)
    return found


def kallsyms(table: KallsymsWriter) -> Kallsyms:
    return Kallsyms(table.read, parse_vmcoreinfo(table.vmcoreinfo().encode()))


def binding(letter: str) -> SymbolBinding:
    if letter == "W":
        return SymbolBinding.WEAK
    return SymbolBinding.GLOBAL if letter.isupper() else SymbolBinding.LOCAL


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_symbol_is_found_where_it_was_put(encoding: str) -> None:
    written = symbols() if encoding == "percpu" else [s for s in symbols() if s[0] != "A"]
    if encoding == "base":
        written += [("T", "first", TEXT - (1 << 30)), ("D", "far", TEXT + 0x7E000000)]  # more than 2 GiB apart
    table = KallsymsWriter(written, encoding)
    assert max(map(len, table.records)) > 127
    found = find(table, *{name for _, name, _ in written})
    for name in found:
        expected = [(binding(letter), address) for letter, other, address in written if other == name]
        assert [(s.binding, s.address) for s in found[name]] == expected
    assert {*found} == {name for _, name, _ in written}
    assert [s.size for name in ("_stext", "efi", "twice") for s in found[name]] == [64, 64, 16, 0x100 - 16]
    last = written[-1][1]
    assert found[last][0].size == 0
    everything = [(s.binding, s.name, s.address) for s in kallsyms(table).all()]
    assert everything == [(binding(letter), name, address) for letter, name, address in written]


def test_what_is_not_there_is_left_out() -> None:
    absent = ["lazy_accept", "ef", "efi_", "Befi", "\N{EURO SIGN}"]
    # No symbol has an X, so that its code stands for other text: taken for itself it would give names not there.
    table = KallsymsWriter(symbols(), "percpu")
    codes = {record[1:].decode() for record in table.records if record.isascii()}
    written = {name for _, name, _ in symbols()}
    assert codes - written
    assert set(find(table, "efi", *absent, *codes - written)) <= {"efi", "_stext"}


@settings(max_examples=30)
@given(
    st.lists(st.text("abcAB_1.", min_size=1, max_size=40), min_size=1, max_size=60, unique=True),
    st.sampled_from(ENCODINGS),
)
def test_any_names(names: list[str], encoding: str) -> None:
    written: Symbols = [("T", "_stext", TEXT)]
    written += [("dDbB"[i % 4], name, TEXT + 32 + 8 * i) for i, name in enumerate(names)]
    found = find(KallsymsWriter(written, encoding), *names)
    for letter, name, address in written[1:]:
        assert [(s.binding, s.address) for s in found[name]] == [(binding(letter), address)]


def damage(where: str, data: bytes) -> Callable[[KallsymsWriter], object]:
    def change(table: KallsymsWriter) -> None:
        start = table.at[where] - table.base
        table.memory[start : start + len(data)] = data

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    (
        (lambda table: table.at.pop("kallsyms_num_syms"), r"no SYMBOL\(kallsyms_num_syms\)"),  # before Linux 6.0
        (lambda table: table.at.update(kallsyms_names=0), "kallsyms_names has .* bytes, the limit is"),
        (lambda table: table.at.update(kallsyms_token_table=0), "kallsyms_token_table has .* bytes, the limit is"),
        (lambda table: table.at.update(_stext=TEXT + 1), "disagree about _stext"),
        (lambda table: table.at.update(kallsyms_offsets=16), "nothing at 0x10"),  # what the reader raises
        (damage("kallsyms_num_syms", bytes(4)), "is 0"),
        (damage("kallsyms_num_syms", struct.pack("<I", limits.KALLSYMS_SYMBOLS + 1)), "kallsyms_num_syms is"),
        (damage("kallsyms_num_syms", struct.pack("<I", 200_000)), "ends inside of symbol"),
        (damage("kallsyms_token_table", b"x" * 40), "is no pair of others|longer than"),
        (damage("kallsyms_token_index", b"\xff\xff"), "kallsyms_token_index points at 65535"),
    ),
)
def test_a_table_that_no_build_has_made(change: Callable[[KallsymsWriter], object], words: str) -> None:
    table = KallsymsWriter(symbols(), "percpu")
    change(table)
    with pytest.raises((ValueError, LookupError), match=words):
        find(table, "efi")


def test_a_name_in_the_table_that_is_too_long() -> None:
    """A hostile table: each of its bytes stands for 500 characters."""
    table = KallsymsWriter([*symbols(), ("d", "x" * 600, TEXT + 0x20000)], "percpu")
    with pytest.raises(ValueError, match="has a name of 601 bytes"):
        list(kallsyms(table).all())


@pytest.mark.parametrize(
    ("limit", "what", "after"),
    (
        ("KALLSYMS_NAMES_BYTES", "kallsyms_names", "kallsyms_token_table"),
        ("KALLSYMS_TOKEN_BYTES", "kallsyms_token_table", "kallsyms_token_index"),
    ),
)
def test_as_long_a_part_as_is_read(limit: str, what: str, after: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table = KallsymsWriter(symbols(), "percpu")
    size = table.at[after] - table.at[what]
    monkeypatch.setattr(limits, limit, size)
    assert [symbol.address for symbol in find(table, "efi")["efi"]] == [TEXT + 0x10100]
    monkeypatch.setattr(limits, limit, size - 1)
    with pytest.raises(ValueError, match=rf"^{what} has {size} bytes, the limit is {size - 1}$"):
        find(table, "efi")


@pytest.mark.parametrize(("aliases", "size"), ((limits.KALLSYMS_ALIASES, 32), (limits.KALLSYMS_ALIASES + 1, 0)))
def test_as_many_aliases_as_are_looked_through(aliases: int, size: int) -> None:
    """Behind them the size is not known, which is 0, as that of the last symbol."""
    written: Symbols = [("T", "_stext", TEXT)]
    written += [("d", f"alias_{n}", TEXT + 64) for n in range(aliases)]
    written += [("d", "next", TEXT + 96), ("d", "last", TEXT + 128)]
    table = KallsymsWriter(written, "place")
    assert [symbol.size for symbol in find(table, "alias_0")["alias_0"]] == [size]
    assert [symbol.size for symbol in find(table, "alias_1")["alias_1"]] == [32]


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(min_value=0), st.integers(0, 255)), min_size=1, max_size=6))
def test_damage_is_an_error_or_an_answer(changes: list[tuple[int, int]]) -> None:
    table = KallsymsWriter([s for s in symbols()[::8] if s[0] != "A"] + [("T", "_stext", TEXT)], "place")
    for position, value in changes:
        table.memory[position % len(table.memory)] = value
    try:
        find(table, "efi", "twice")
    except (ValueError, LookupError) as error:
        assert str(error)
