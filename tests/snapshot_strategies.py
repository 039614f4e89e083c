# SPDX-License-Identifier: LGPL-2.1-or-later
"""Snapshots as hypothesis makes them, by the annotations of their types: whatever a file may hold, sensible or not."""

from __future__ import annotations

import dataclasses
import typing
from array import array
from collections.abc import Mapping
from functools import cache
from typing import Any, Union

from hypothesis import strategies as st

from drgn_unaccepted.codec import COLUMNS, annotations_of, hint
from drgn_unaccepted.field_types import Bounds, Choices
from drgn_unaccepted.model.efi import EfiDescriptor
from drgn_unaccepted.snapshot import ALL_PARTS, PAGE_SHIFT, ListedChunks, Snapshot, Table, Target

U32, U64 = (1 << 32) - 1, (1 << 64) - 1

#: What a terminal, a web page, a shell, XML or a monitoring system would obey or choke on.
HOSTILE_TEXTS = ("", "Normal", "\x1b[2J\x1b]0;owned\x07", "a\nb\r\nc\x0b\x85d", "</script><script>alert(1)</script>")
HOSTILE_TEXTS += ("<b onmouseover=x>&amp;\"'", "x|y='1';;;", "50% {release} {{data}} \\", "$(reboot)`id`")
HOSTILE_TEXTS += ("=cmd|' /C calc'!A1", "\"'`,;|=\\", "{0}{name}%s%(x)s${x}{{x}}", "\x1b]8;;http://x\x07", "]]>\uffff")
HOSTILE_TEXTS += ("\u202e\u2066override\u2028\u0085", "\udc80\ud83d", "\x00\x9b31m\x7f", "\ufffe\U0001f600" * 3)
TEXTS = st.one_of(st.sampled_from(HOSTILE_TEXTS), st.text(max_size=12))


def numbers(least: int, most: int) -> st.SearchStrategy[int]:
    """Mostly the numbers at which something changes."""
    edges = {least, least + 1, 0, 1, 511, 512, 1024, 1 << 20, 1 << 21, 1 << 32, 1 << 52, 1 << 63, most - 1, most}
    return st.one_of(st.sampled_from(sorted(n for n in edges if least <= n <= most)), st.integers(least, most))


def spans(most: int, shift: int = 0) -> st.SearchStrategy[tuple[int, int]]:
    """Start and end; often multiples of 2 MiB about 4 GiB, where the units of :func:`tables` are."""
    near = st.tuples(st.integers(2040, 2090), st.integers(0, 12)).map(lambda p: (p[0] << 21, p[0] + p[1] << 21))
    anywhere = st.tuples(numbers(0, most), numbers(0, most)).map(lambda pair: (min(pair), max(pair)))
    return st.one_of(near.map(lambda p: (p[0] >> shift, p[1] >> shift)), anywhere)


@cache
def of(annotation: Any) -> st.SearchStrategy[Any]:
    """Values that an annotation allows."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Union:
        return st.none() | of(arguments[0])
    if origin is typing.Annotated and isinstance(arguments[1], Choices):
        return st.sampled_from(arguments[1].values)
    if origin is typing.Annotated and arguments[0] is int:
        return numbers(*arguments[1])
    if hint(annotation).kind is str:
        return TEXTS
    if annotation is bool:
        return st.booleans()
    if origin is typing.Annotated:
        return of(arguments[0])
    if origin is tuple:
        return st.lists(of(arguments[0]), max_size=4).map(tuple)
    if annotation is ListedChunks:
        return lists()
    if dataclasses.is_dataclass(annotation):
        return st.builds(annotation, **{name: of(hint) for name, hint in annotations_of(annotation).items()})
    return named_tuples(annotation)


def named_tuples(kind: Any) -> st.SearchStrategy[Any]:
    fields = annotations_of(kind)
    start, end = ("start_pfn", "end_pfn") if "start_pfn" in fields else ("start", "end")
    bounds = typing.get_args(fields[end])[1]
    assert isinstance(bounds, Bounds)
    others = st.fixed_dictionaries({name: of(hint) for name, hint in fields.items() if name not in (start, end)})
    if kind is EfiDescriptor:
        others = others.flatmap(lambda d: st.sampled_from((0, 7, 15, 15, d["type"])).map(lambda t: {**d, "type": t}))
    shift = PAGE_SHIFT if start == "start_pfn" else 0
    return st.builds(lambda d, span: kind(**d, **{start: span[0], end: span[1]}), others, spans(bounds.high, shift))


@st.composite
def lists(draw: st.DrawFn) -> ListedChunks:
    pfns = draw(st.lists(spans(1 << 40, PAGE_SHIFT).map(lambda span: min(span[0], (1 << 40) - 1)), max_size=4))
    limits = {"Q": (0, U64), "I": (0, U32), "i": (-(1 << 31), (1 << 31) - 1)}
    columns = {
        name: array(code, draw(st.lists(numbers(*limits[code]), min_size=len(pfns), max_size=len(pfns))))
        for name, code in COLUMNS.items()
    }
    return ListedChunks(**{**columns, "pfns": array("Q", pfns)}, problems=draw(of(tuple[str, ...]))[:1])


@st.composite
def tables(draw: st.DrawFn) -> Table:
    state = draw(st.sampled_from(("present", "present", "absent", "not-captured", "unsupported", "invalid")))
    table = Table(state, draw(TEXTS if state != "present" else st.none() | TEXTS))
    if state == "absent":
        return table
    more = {name: draw(of(annotations_of(Table)[name])) for name in ("read_through", "unmapped")}
    table = dataclasses.replace(table, address=draw(numbers(0, 1 << 40)), **more)
    if state in ("unsupported", "invalid"):
        header = draw(st.none() | st.tuples(numbers(0, U32), numbers(0, U32), numbers(0, U64), numbers(0, U64)))
    else:
        bitmap = draw(st.one_of(st.binary(min_size=1, max_size=12), st.sampled_from((bytes(5000), b"\x0f" * 5000))))
        unit_size = 1 << draw(st.sampled_from((12, 21, 21, 21, 27, 31)))
        base = draw(st.sampled_from((0, unit_size, -(-(1 << 32) // unit_size) * unit_size)))
        header = (1, unit_size, base, len(bitmap))
        if state == "present":
            table = dataclasses.replace(table, bitmap=bitmap)
        elif draw(st.booleans()):
            header = None
    names = ("version", "unit_size", "phys_base", "bitmap_bytes")
    return table if header is None else dataclasses.replace(table, **dict(zip(names, header)))


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    """A snapshot that a file may hold. Where a part is None the reason is hostile text."""
    parts = {name: draw(of(hint)) for name, hint in annotations_of(Snapshot).items() if name in ALL_PARTS}
    if parts["kernel"] is None:
        parts["zones"] = None
    lacking = [name for name, part in parts.items() if part is None]
    if parts["e820"] is not None:
        lacking += [f"e820.{name}" for name, value in vars(parts["e820"]).items() if value is None]
    times = st.sampled_from(("2026-11-22T12:00:00.000+00:00", "0001-01-01T00:00:00+00:00"))
    missing: Mapping[str, str] = {name: draw(TEXTS) for name in lacking}
    return Snapshot(
        target=dataclasses.replace(draw(of(Target)), taken_at=draw(times), snapshot_path=None),
        table=draw(tables()),
        missing=missing,
        torn=draw(of(tuple[str, ...])),
        **parts,
    )
