# SPDX-License-Identifier: LGPL-2.1-or-later
"""The symbols of real kernels, against drgn's own reader; the same tables with damage."""

from __future__ import annotations

import random
import re
import struct
from array import array
from functools import cache
from typing import NamedTuple, Union

import drgn
import pytest
from drgn.helpers.linux.kallsyms import load_vmlinux_kallsyms
from hypothesis import given, settings
from hypothesis import strategies as st

from drgn_unaccepted import limits
from drgn_unaccepted.targets.kallsyms import Kallsyms, find_kallsyms
from drgn_unaccepted.targets.vmcoreinfo import parse_vmcoreinfo, vmcoreinfo_of
from tests.targets.elf_dump import SAMPLES

#: Addresses from a base, or per-CPU; from the offset's own place (Linux 7.0).
NAMES = ("6.12-fill", "7.3-fill")


class Known(NamedTuple):
    """The table as it is in a sample, and what drgn reads there: (name, address)."""

    prog: drgn.Program
    text: bytes
    symbols: list[tuple[str, int]]

    def at(self, part: str) -> int:
        address = parse_vmcoreinfo(self.text).symbol(f"kallsyms_{part}")
        assert address is not None
        return address


@cache
def known(name: str = NAMES[0]) -> Known:
    prog = drgn.Program()
    prog.set_core_dump(SAMPLES / name / "vmcore")
    found = load_vmlinux_kallsyms(prog)(prog, None, None, False)
    return Known(prog, vmcoreinfo_of(prog).text, sorted((symbol.name, symbol.address) for symbol in found))


def table(of: Known, changed: dict[int, bytes], **moved: int) -> Kallsyms:
    """With other bytes at some addresses, and parts that VMCOREINFO has elsewhere (-1: nowhere)."""

    def read(address: int, size: int) -> bytes:
        data = bytearray(of.prog.read(address, size))
        for at, new in changed.items():
            if address <= at < address + size:
                data[at - address : at - address + len(new)] = new
        return bytes(data[:size])

    text = of.text.decode()
    for part, at in moved.items():
        text = re.sub(rf"SYMBOL\({part}\)=\w+\n", "" if at < 0 else f"SYMBOL({part})={at:x}\n", text)
    return Kallsyms(read, parse_vmcoreinfo(text.encode()).symbol)


@pytest.mark.parametrize("name", NAMES)
def test_symbols_are_those_that_drgn_reads(name: str) -> None:
    of = known(name)
    everything = list(table(of, {}).all())
    assert sorted((symbol.name, symbol.address) for symbol in everything) == of.symbols
    wanted = {found for found, _ in of.symbols[::40]}
    assert max(map(len, wanted)) > 40
    found = table(of, {}).find(wanted)
    expected = [entry for entry in of.symbols if entry[0] in {*wanted, "_stext"}]
    assert sorted((symbol.name, symbol.address) for symbol in found) == expected
    # A size goes to the next address.
    addresses = sorted({address for _, address in of.symbols})
    following = dict(zip(addresses, addresses[1:]))
    for symbol in everything[:-1:40]:
        assert symbol.size in (0, following[symbol.address] - symbol.address)
    assert everything[-1].size == 0


def test_addresses_from_a_base_alone() -> None:
    """Linux 6.15 to 6.19: no symbol is per-CPU, and offsets are not signed."""
    of = known()
    base = of.prog.read_u64(of.at("relative_base")) - (3 << 30)
    size = 4 * of.prog.read_u32(of.at("num_syms"))
    offsets = array("i", of.prog.read(of.at("offsets"), size))
    new = struct.pack(f"<{len(offsets)}I", *((3 << 30) - 1 - offset if offset < 0 else 0 for offset in offsets))
    changed = {of.at("offsets"): new, of.at("relative_base"): struct.pack("<Q", base)}
    wanted = {found for found, address in of.symbols[::40] if address >> 32}
    found = table(of, changed).find(wanted)
    assert {symbol.name for symbol in found} >= wanted
    assert {symbol.name: symbol.address for symbol in found}.items() <= {*of.symbols}


def test_what_is_not_there_is_left_out() -> None:
    """Also names in characters that no symbol has, whose codes stand for other text."""
    of, chance = known(), random.Random(1)
    names = {"".join(chr(chance.randrange(1, 256)) for _ in range(1 + number % 3)) for number in range(1000)}
    found = table(of, {}).find({*names, "ef", "efi_", "Befi", "\N{EURO SIGN}"})
    assert {(symbol.name, symbol.address) for symbol in found} <= {*of.symbols}
    assert {symbol.name for symbol in found} & {"ef", "efi_", "Befi"} == set()


@pytest.mark.parametrize(
    ("part", "data", "words"),
    (
        ("num_syms", bytes(4), "is 0"),
        ("num_syms", struct.pack("<I", limits.KALLSYMS_SYMBOLS + 1), "kallsyms_num_syms is"),
        ("num_syms", struct.pack("<I", 500_000), "ends inside of symbol"),
        ("token_table", b"x" * 40, "is no pair of others|longer than"),
        ("token_index", b"\xff\xff", "kallsyms_token_index points at 65535"),
        ("kallsyms_num_syms", -1, r"no SYMBOL\(kallsyms_num_syms\)"),  # before Linux 6.0
        ("kallsyms_names", 0, "kallsyms_names has .* bytes, the limit is"),
        ("kallsyms_token_table", 0, "kallsyms_token_table has .* bytes, the limit is"),
        ("_stext", 1, "disagree about _stext"),
    ),
)
def test_bytes_and_addresses_that_no_build_has_made(part: str, data: Union[bytes, int], words: str) -> None:
    changed = {known().at(part): data} if isinstance(data, bytes) else {}
    moved = {part: data} if isinstance(data, int) else {}
    with pytest.raises(ValueError, match=words):
        table(known(), changed, **moved).find(["efi"])


def test_as_much_as_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    of = known()
    for limit, part, after in (
        ("KALLSYMS_NAMES_BYTES", "names", "token_table"),
        ("KALLSYMS_TOKEN_BYTES", "token_table", "token_index"),
    ):
        size = of.at(after) - of.at(part)
        monkeypatch.setattr(limits, limit, size)
        assert table(of, {}).find(["efi"])
        monkeypatch.setattr(limits, limit, size - 1)
        with pytest.raises(ValueError, match=rf"^kallsyms_{part} has {size} bytes, the limit is {size - 1}$"):
            table(of, {})
        monkeypatch.undo()
    longest = max(len(name) for name, _ in of.symbols)
    monkeypatch.setattr(limits, "SYMBOL_NAME_BYTES", longest)  # with the type's letter that is one too few
    with pytest.raises(ValueError, match=f"has a name of {longest + 1} bytes"):
        list(table(of, {}).all())


def test_as_many_aliases_as_are_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind them the size is not known, which is 0, as that of the last symbol."""
    symbols = list(table(known(), {}).all())
    of_two = next(
        one
        for one, two, three in zip(symbols[1000:], symbols[1001:], symbols[1002:])
        if one.address == two.address < three.address and one.name.isidentifier() and one.size
    )
    monkeypatch.setattr(limits, "KALLSYMS_ALIASES", 1)
    found = next(s for s in table(known(), {}).find([of_two.name]) if s.address == of_two.address)
    assert (found.size, of_two.size > 0) == (0, True)


def image(of: Known) -> bytes:
    """A page, and the table as it lies in memory."""
    end = of.at("offsets") + 4 * of.prog.read_u32(of.at("num_syms")) + 16
    return bytes(4096) + of.prog.read(of.at("num_syms"), end - of.at("num_syms"))


@pytest.mark.parametrize("name", NAMES)
def test_it_is_found_without_vmcoreinfo(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    of, parts = known(name), ("num_syms", "names", "token_table", "token_index", "offsets", "relative_base")
    # Of Linux 7.0 and later there is no base.
    said = {f"kallsyms_{part}": of.at(part) for part in parts if f"SYMBOL(kallsyms_{part})=".encode() in of.text}
    decoy = b"".join(b"%d\0" % digit for digit in range(10))
    before = of.at("num_syms") - 4096
    assert find_kallsyms(image(of), before) == said
    assert find_kallsyms(62 * decoy + image(of), before - 62 * len(decoy)) == said
    assert find_kallsyms(64 * decoy + image(of), 0) is None


@pytest.mark.parametrize("align", [4, 8])
@pytest.mark.parametrize("count", [300, 600, 768, 769])
def test_parts_of_every_alignment_are_found(count: int, align: int) -> None:
    """An even and an odd number of markers, full and not; records whose bytes look like the number of symbols."""
    number, like = struct.pack("<I", count), struct.pack("<I", (count - 1) // 256 * 256 + 1)
    records = [bytes([17]) + b"T" + 4 * like] * 8 + [b"\5Tname"] * (count - 8)
    table, whole, places = b"", bytes(4096), {}
    for code in range(256):
        table += (bytes([code]) if chr(code).isalnum() and code < 128 else b"") + b"\0"
    starts = [table[:at].count(b"\0") for at in range(len(table))]
    markers = (sum(map(len, records[:at])) for at in range(0, count, 256))
    for part, data in (
        *(("num_syms", number), ("names", b"".join(records)), ("", b"".join(struct.pack("<I", at) for at in markers))),
        *(("token_table", table), ("token_index", struct.pack("<256H", *(starts.index(code) for code in range(256))))),
        *(("offsets", bytes(4 * count)), ("relative_base", b"\xff" * 8)),
    ):
        whole += bytes(-len(whole) % (8 if part == "relative_base" else align))
        places[f"kallsyms_{part}"] = 1 << 32 | len(whole)
        whole += data
    del places["kallsyms_"]
    assert find_kallsyms(whole, 1 << 32) == places


@settings(max_examples=20)
@given(st.dictionaries(st.integers(0), st.binary(min_size=1, max_size=4), min_size=1, max_size=6), st.booleans())
def test_damage_is_an_error_or_an_answer(changes: dict[int, bytes], is_sought: bool) -> None:
    of = known()
    start, size = of.at("num_syms"), of.at("token_index") + 512 - of.at("num_syms")
    try:
        table(of, {start + at % size: data for at, data in changes.items()}).find(["efi", "init_task"])
    except (ValueError, LookupError) as error:
        assert str(error)
    data = bytearray(image(of))
    for at, new in changes.items():
        # The markers and the end of the names, too.
        place = len(data) - 1 - at % len(data) if is_sought else 4096 + size - 6144 + at % 6144
        data[place : place + len(new)] = new
    found = find_kallsyms(bytes(data), start - 4096)
    assert found is None or found["kallsyms_names"] > start - 4096
