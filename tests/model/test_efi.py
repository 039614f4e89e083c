# SPDX-License-Identifier: LGPL-2.1-or-later
"""The EFI memory map: bytes, the kernel's edits, and the lines of its log."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drgn_unaccepted import limits
from drgn_unaccepted.model.efi import (
    TYPES,
    EfiDescriptor,
    decode_memory_map,
    parse_log_lines,
    undo_merge_regions,
    undo_reserve_boot_services,
)

U64 = (1 << 64) - 1
descriptors = st.builds(
    lambda type_, page, pages, attribute: EfiDescriptor(type_, page << 12, (page + pages) << 12, attribute),
    st.integers(0, 16) | st.integers(0, (1 << 32) - 1),
    st.integers(0, 1 << 40),
    st.integers(0, 1 << 36),
    st.integers(0, U64),
)


def encode(entries: list[EfiDescriptor], stride: int, virt_addr: int = 0xFFFF) -> bytes:
    """efi_memory_desc_t: type, pad, phys_addr, virt_addr, num_pages, attribute; then what the stride adds."""
    return b"".join(
        struct.pack("<IIQQQQ", type_, 0xDEAD, start, virt_addr, (end - start) >> 12, attribute or 0)
        + b"\xee" * (stride - 40)
        for type_, start, end, attribute in entries
    )


@given(st.lists(descriptors, max_size=5), st.sampled_from([40, 48, 56, limits.EFI_DESCRIPTOR_BYTES]))
def test_round_trip_at_any_stride(entries: list[EfiDescriptor], stride: int) -> None:
    assert decode_memory_map(encode(entries, stride), stride) == entries


def test_an_entry_that_wraps_is_named() -> None:
    good = EfiDescriptor(7, 0, 0x1000, 0xF)
    data = encode([good, good], 48) + struct.pack("<IIQQQQ8x", 15, 0, U64 & ~0xFFF, 0, 2, 0xF)
    with pytest.raises(ValueError, match="mem02: 0x2 pages from 0xfffffffffffff000 wrap"):
        decode_memory_map(data, 48)
    assert decode_memory_map(struct.pack("<IIQQQQ", 7, 0, U64 & ~0xFFF, 0, 1, 0), 40)[0].end == 1 << 64


@pytest.mark.parametrize(
    ("data", "stride", "said"),
    [
        (bytes(48), 0, "of 0 bytes"),
        (bytes(48), 39, "of 39 bytes"),
        (bytes(257), 257, "of 257 bytes, not 40 to 256"),
        (bytes(1 << 20), 1 << 20, "of 1048576 bytes"),
        (bytes(50), 48, "of 50 bytes, no multiple"),
        (bytes(40 * (limits.EFI_DESCRIPTORS + 1)), 40, "65537 entries, over the limit"),
    ],
)
def test_a_map_that_cannot_be_is_refused(data: bytes, stride: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        decode_memory_map(data, stride)


# efi_merge_regions()


def merged(entries: list[EfiDescriptor]) -> list[EfiDescriptor]:
    """What efi_merge_regions() does: the last entry not absorbed takes in what touches it and is equal."""
    result: list[EfiDescriptor] = []
    keeper = -1
    for index, entry in enumerate(entries):
        if keeper >= 0:
            last = result[keeper]
            if (last.type, last.attribute) == (entry.type, entry.attribute) and last.end == entry.start:
                result[keeper] = last._replace(end=entry.end)
                result.append(entry._replace(type=0, attribute=0))
                continue
        keeper = index
        result.append(entry)
    return result


@st.composite
def boot_maps(draw: st.DrawFn) -> list[EfiDescriptor]:
    """Disjoint entries, many of which touch and are equal; not always in order."""
    pieces, position = [], 0
    for _ in range(draw(st.integers(0, 10))):
        position += draw(st.sampled_from([0, 0, 0, 4096]))
        size = draw(st.integers(1, 3)) * 4096
        type_, attribute = draw(st.sampled_from([(15, 0xF), (7, 0xF), (0, 0), (0, 1), (15, 1)]))
        pieces.append(EfiDescriptor(type_, position, position + size, attribute))
        position += size
    return draw(st.permutations(pieces)) if draw(st.booleans()) else pieces


@given(boot_maps())
def test_undoing_the_merge_gives_the_firmwares_map(entries: list[EfiDescriptor]) -> None:
    assert undo_merge_regions(merged(entries)) == entries
    assert undo_merge_regions(entries) == entries


def test_reserved_entries_that_do_not_fit_are_left_alone() -> None:
    odd = [EfiDescriptor(15, 0, 0x9000, 0xF), EfiDescriptor(0, 0x2000, 0x4000, 0), EfiDescriptor(0, 0x5000, 0x9000, 0)]
    assert undo_merge_regions(odd) == odd
    not_cleared = [EfiDescriptor(15, 0, 0x9000, 0xF), EfiDescriptor(0, 0x2000, 0x9000, 1)]
    assert undo_merge_regions(not_cleared) == not_cleared


# efi=debug

#: Attribute, width of its column, bit; in the kernel's order.
FLAGS = [
    *(("RUN", 3, 63), ("HP", 2, 20), ("MR", 2, 16), ("CC", 2, 19), ("SP", 2, 18), ("NV", 2, 15), ("XP", 2, 14)),
    *(("RP", 2, 13), ("WP", 2, 12), ("RO", 2, 17), ("UCE", 3, 4), ("WB", 2, 3), ("WT", 2, 2), ("WC", 2, 1)),
    ("UC", 2, 0),
]


def line(index: int, entry: EfiDescriptor) -> str:
    """One line as the kernel's format strings make it."""
    attribute = entry.attribute or 0
    name = f"[{TYPES[entry.type]:<12}" if entry.type < 16 else f"[type={entry.type}"
    if attribute & ~sum(1 << bit for _, _, bit in FLAGS):
        columns = f"|attr=0x{attribute:016x}]"
    else:
        columns = "".join(f"|{word if attribute >> bit & 1 else '':>{width}}" for word, width, bit in FLAGS) + "]"
    last = (entry.end - 1) & U64
    size = (entry.end - entry.start) >> 20
    return f"efi: mem{index:02}: {name}{columns} range=[0x{entry.start:016x}-0x{last:016x}] ({size}MB)"


def log(entries: list[EfiDescriptor], stamp: str = "") -> list[str]:
    return [stamp + line(index, entry) for index, entry in enumerate(entries)]


#: The kernel drops entries without pages before it prints. Half of them have only attributes with a column.
columns = st.sets(st.sampled_from([1 << bit for _, _, bit in FLAGS])).map(sum)
printed = st.builds(
    lambda entry, attribute: entry._replace(attribute=entry.attribute if attribute is None else attribute),
    descriptors.filter(lambda entry: entry.start < entry.end),
    st.none() | columns,
)


@given(st.lists(printed, min_size=1, max_size=120), st.sampled_from(["", "[    0.000000] ", "<6>[0.0][    T0] "]))
def test_the_log_gives_the_map_back(entries: list[EfiDescriptor], stamp: str) -> None:
    runtime = [entry for entry in entries if (entry.attribute or 0) >> 63]
    lines = ["Linux version 6.12.117", *log(entries, stamp), stamp + "efi: EFI runtime memory map:", *log(runtime)]
    assert parse_log_lines(lines) == (entries, None)


def test_a_line_as_kernels_print_it() -> None:
    text = (
        "[    0.000000] efi: mem104: [Unaccepted  |   |  |  |  |  |  |  |  |  |  |   |WB|WT|WC|UC]"
        " range=[0x0000000100000000-0x00000001bfffffff] (3072MB)"
    )
    lost = "the log starts at mem104, earlier entries are lost"
    assert parse_log_lines([text]) == ([EfiDescriptor(15, 0x100000000, 0x1C0000000, 0xF)], lost)


MAP = [EfiDescriptor(7, page << 12, (page + 1) << 12, 0xF) for page in range(5)]


BAD = line(1, MAP[1]).replace("range=[0x0000000000001000", "range=[0x0000000000009000")
NO_LINES = "the log has no efi: mem lines (the kernel prints them with efi=debug)"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (log(MAP)[:2] + log(MAP)[3:], (MAP[:2], "the log has no mem02")),
        ([*log(MAP), *log(MAP[:2])], (MAP, None)),
        (["efi: EFI v2.7 by EDK II", "efi: Remove mem58: MMIO range=[0xffc00000-0xffffffff]"], ([], NO_LINES)),
        (["efi: EFI runtime memory map:", *log(MAP)], ([], NO_LINES)),
        ([line(0, MAP[0]), BAD], (MAP[:1], "mem01 cannot be read")),
        ([line(0, MAP[0]).replace("|WB|", "|XX|")], ([MAP[0]._replace(attribute=None)], None)),
    ],
    ids=["gap", "printed twice", "no lines", "runtime entries alone", "contradicts itself", "unknown attribute"],
)
def test_logs(lines: list[str], expected: object) -> None:
    assert parse_log_lines(lines) == expected


@given(st.lists(st.text(max_size=80) | st.sampled_from(log(MAP)).map(lambda text: text[:70]), max_size=8))
def test_any_text_gets_an_answer(lines: list[str]) -> None:
    assert parse_log_lines(lines)[1] is not None


def test_the_runtime_tag_goes_from_boot_services_and_from_nothing_else() -> None:
    run = 1 << 63
    tagged = [EfiDescriptor(type_, type_ << 12, (type_ + 1) << 12, run | 0xF) for type_ in range(16)]
    tagged.append(EfiDescriptor(4, 0x20000, 0x21000, 0xF))
    assert [entry.attribute for entry in undo_reserve_boot_services(tagged)] == [
        0xF if type_ in (3, 4) else run | 0xF for type_ in range(16)
    ] + [0xF]
