# SPDX-License-Identifier: LGPL-2.1-or-later
"""``resolve -f`` with numpy says what a model of one line says of each, and leaves all else to the usual way."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from drgn_unaccepted.answer import bulk as bulk_module
from drgn_unaccepted.answer.bulk import Block, Bulk
from drgn_unaccepted.answer.source import choose_source
from drgn_unaccepted.limits import PHYSICAL_END
from drgn_unaccepted.model.bitmap import Geometry
from drgn_unaccepted.snapshot import Snapshot, Table, Target
from drgn_unaccepted.views import bulk as view

np = pytest.importorskip("numpy", reason="numpy is not installed (the extra bulk)")

from drgn_unaccepted.answer import bulk_lines  # noqa: E402

UNIT = 2 << 20
TARGET = Target("vmcore", None, None, None, "none", "2026-01-01")

#: Ways to write an address that are read by columns.
USUAL = ("{:#x}", "0x{:X}", "{:#018x}", "{:#010x}")
#: And some that are not.
UNUSUAL = ("{:#019x}", "0X{:x}", "{:#x} ", " {:#x}", "{:#x}\r", "\n{:#x}", "{:#x}\n", "{:#x}\t{:#x}")

GEOMETRIES = st.builds(
    lambda base, nbytes, shift: Geometry(base << shift, nbytes, 1 << shift),
    st.integers(0, 1 << 15),
    st.integers(1, 64),
    st.sampled_from((12, 13, 21, 22, 30, 31)),
)


@pytest.fixture(autouse=True, scope="module")
def however_few() -> Iterator[None]:
    """By columns, although they do not pay."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bulk_module, "_WORTH_COLUMNS", 1)
        yield


def bulk_of(geometry: Geometry, bitmap: bytes) -> Bulk:
    base, size, unit = geometry
    snapshot = Snapshot(TARGET, Table("present", None, 0x1000, 1, unit, base, size, bitmap, "physical"))
    return Bulk(snapshot, choose_source(snapshot))


def line_of(word: str, address: int, geometry: Geometry, bitmap: bytes) -> str:
    if not geometry.phys_base <= address < geometry.end:
        return f"{word}    accepted  (outside the bitmap)\n"
    unit = (address - geometry.phys_base) // geometry.unit_size
    return f"{word}  {'unaccepted' if bitmap[unit // 8] >> unit % 8 & 1 else '  accepted'}\n"


def by_columns(text: bytes, bulk: Bulk) -> list[Any]:
    """The blocks of a text; those of type Lines were read by columns."""
    return list(bulk.lines(io.BufferedReader(io.BytesIO(text)), expected=1 << 30))  # type: ignore[arg-type]


@st.composite
def questions(draw: st.DrawFn) -> tuple[Geometry, bytes, list[tuple[str, int]]]:
    """A bitmap, and addresses in the usual form, many of them at the edges of units."""
    geometry = draw(GEOMETRIES)
    bitmap = draw(st.binary(min_size=geometry.bitmap_bytes, max_size=geometry.bitmap_bytes))
    edges = st.builds(
        lambda unit, by: min(max(0, geometry.phys_base + unit * geometry.unit_size + by), PHYSICAL_END - 1),
        st.integers(-1, geometry.units + 1),
        st.integers(-1, 1),
    )
    addresses = draw(st.lists(edges | st.integers(0, PHYSICAL_END - 1), min_size=1, max_size=40))
    form = st.sampled_from(USUAL) if draw(st.booleans()) else st.just(draw(st.sampled_from(USUAL)))
    return geometry, bitmap, [(draw(form).format(address), address) for address in addresses]


@given(questions())
@example((Geometry(0, 1, UNIT), b"\x80", [("0x0", 0), ("0xfffffffffffff", PHYSICAL_END - 1)]))
# Two lines together are as long as one.
@example((Geometry(0, 1, 4096), b"\x01", [("0x10000", 1 << 16), ("0x0", 0), ("0x0", 0)]))
@example((Geometry(1 << 32, 1, UNIT), b"\x01", [("0x100000000", 1 << 32), ("0xffffffff", (1 << 32) - 1)]))
def test_lines_are_those_of_the_model(question: tuple[Geometry, bytes, list[tuple[str, int]]]) -> None:
    geometry, bitmap, written = question
    bulk = bulk_of(geometry, bitmap)
    blocks = by_columns("".join(f"{word}\n" for word, _ in written).encode(), bulk)
    assert isinstance(blocks[0], bulk_lines.Lines)
    expected = "".join(line_of(word, address, geometry, bitmap) for word, address in written)
    assert "".join(view.text(block, bulk) for block in blocks) == expected


@given(st.lists(st.sampled_from(USUAL + UNUSUAL), min_size=1, max_size=8), st.data())
def test_what_is_unusual_is_read_all_the_same(forms: list[str], data: st.DataObject) -> None:
    geometry, bitmap = Geometry(1 << 32, 2, UNIT), b"\x0f\xa5"
    bulk = bulk_of(geometry, bitmap)
    addresses = [data.draw(st.integers(geometry.phys_base - 1, geometry.end)) for _ in forms]
    text = "\n".join(form.format(address, address) for form, address in zip(forms, addresses))
    # bytes.split() knows no line, and the model no more of the text than the words.
    expected = "".join(line_of(word, int(word, 16), geometry, bitmap) for word in text.split())
    assert "".join(view.text(block, bulk) for block in by_columns(text.encode(), bulk)) == expected


@pytest.mark.parametrize(
    "text",
    (
        b"",
        b"\n",
        b"\n\n",
        b"0x1\n\n",
        b"\n0x1\n",
        b"0x\n",
        b"0x\n0x\n",
        b"0x1\n0x\n",
        b"0x1",
        b"0x1\n0x2",
        b"0x1\n0x23",
        b"001\n0x1\n",
        b"0x1\n1x1\n",
        b"xx1\n0x1\n",
        b"0x1\n0y1\n",
        b"0x1\n0X1\n",
        b"0x1\n0xg\n",
        b"0x1\n0x1 \n",
        b"0x1\n 0x1\n",
        b"0x1\n0x/\n",
        b"0x1\n0x:\n",
        b"0x1\n0x@\n",
        b"0x1\n0xG\n",
        b"0x1\n0x`\n",
        b"0x1\n0x_\n",
        b"0x1\n0xx\n",
        b"0x12\n0x1\0\n",
        b"0x1\n0x\xb1\n",
        b"0x1\n0x\xff\n",
        b"0x10000000000000\n",
        b"0x1\n0x10000000000000\n",
        b"0x8000000000000000\n",
        b"0xffffffffffffffff\n0x1\n",
        b"0x00000000000000001\n",
        # As many characters that are no digits, in other places.
        b"0x1\n\n0x11\n0x1\n001\n",
    ),
)
@pytest.mark.parametrize("base", (0, 1 << 32))
def test_what_is_left_to_the_usual_way(text: bytes, base: int) -> None:
    look_up = bulk_lines.in_bitmap(Geometry(base, 1, UNIT), b"\x01")
    assert bulk_lines.lines(text, look_up) is None
    # Where no digit makes a difference, and where each does.
    assert bulk_lines.lines(text, bulk_lines.in_pieces([0], b"\0")) is None
    assert bulk_lines.lines(text, bulk_lines.in_pieces([0, 1], b"\0\1")) is None


@given(
    st.sets(st.sampled_from([0, 4096, UNIT, 1 << 32, (1 << 32) + 1, PHYSICAL_END - 1]) | st.integers(0, 1 << 20)),
    st.lists(st.integers(0, 1 << 20) | st.integers(0, PHYSICAL_END - 1), min_size=1),
)
def test_pieces(edges: set[int], addresses: list[int]) -> None:
    """Each of another kind than its neighbour, as where page lists tell what is unaccepted."""
    starts = sorted({0, *edges})
    kinds = bytes(place % 3 for place in range(len(starts)))
    # Addresses at the edges, too.
    addresses += [address for start in starts for address in (start, max(0, start - 1))]
    lines = bulk_lines.lines("".join(f"{a:#x}\n" for a in addresses).encode(), bulk_lines.in_pieces(starts, kinds))
    assert lines is not None
    of = {range(start, end): kind for (start, end), kind in zip(zip(starts, [*starts[1:], PHYSICAL_END]), kinds)}
    assert list(lines.kinds) == [next(kind for piece, kind in of.items() if a in piece) for a in addresses]


def test_the_line_of_an_error_is_counted_over_all_that_was_read_before() -> None:
    bulk = bulk_of(Geometry(0, 1, UNIT), b"\x01")
    # Of one width, of several, and not usual, each more than a block.
    text = b"0x10\n" * 300_000 + b"0x10\n0x100\n" * 300_000 + b"0x10 \n" * 300_000 + b"0x1g\n"
    blocks = []
    with pytest.raises(ValueError, match=r"^line 1200001: 0x1g: not an address"):
        for block in bulk.lines(io.BufferedReader(io.BytesIO(text)), len(text)):  # type: ignore[arg-type]
            blocks.append(block)
    assert {type(block) for block in blocks} == {Block, bulk_lines.Lines}


def test_numpy_waits_until_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """For few addresses its import takes longer than they do; of a pipe it is seen when they have come."""
    monkeypatch.setattr(bulk_module, "_WORTH_NUMPY", 1 << 19)
    monkeypatch.setattr(bulk_module, "_BLOCK", 1 << 17)
    bulk = bulk_of(Geometry(0, 1, UNIT), b"\x01")

    def types(text: bytes, expected: int) -> list[type]:
        file = io.BufferedReader(io.BytesIO(text))  # type: ignore[arg-type]
        return [type(block) for block in bulk.lines(file, expected)]

    # The last block is what follows the last newline.
    text = b"0x00100\n" * (1 << 17)
    assert types(text, len(text)) == [bulk_lines.Lines] * 8 + [Block]
    assert types(text, 0) == [Block] * 4 + [bulk_lines.Lines] * 4 + [Block]
    assert types(text[: 1 << 18], 1 << 18) == [Block] * 3
    # Lines that come one by one.
    monkeypatch.setattr(bulk_module, "_WORTH_COLUMNS", (1 << 17) + 1)
    assert types(text, len(text)) == [Block] * 9


def test_without_numpy_the_answer_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    geometry, bitmap = Geometry(1 << 32, 2, UNIT), b"\x0f\xa5"
    bulk = bulk_of(geometry, bitmap)
    text = "".join(f"{address:#x}\n" for address in range(0, geometry.end + UNIT, UNIT // 2)).encode()
    with_numpy = by_columns(text, bulk)
    assert isinstance(with_numpy[0], bulk_lines.Lines)
    monkeypatch.setitem(sys.modules, "numpy", None)
    without = by_columns(text, bulk)
    assert {type(block) for block in without} == {Block}
    said = "".join(view.text(block, bulk) for block in without)
    assert said == "".join(view.text(block, bulk) for block in with_numpy)
