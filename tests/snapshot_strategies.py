# SPDX-License-Identifier: LGPL-2.1-or-later
"""Snapshots as hypothesis makes them: whatever a snapshot file may hold, however little sense it makes."""

from __future__ import annotations

from array import array
from typing import Any, TypeVar

from hypothesis import strategies as st

from drgn_unaccepted.model.e820 import E820Entry
from drgn_unaccepted.model.efi import EfiDescriptor
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import (
    ALL_PARTS,
    Accept,
    AcceptingList,
    Counters,
    E820Tables,
    EfiMap,
    KernelBuild,
    KexecSegment,
    ListedChunks,
    NamedRange,
    PageRun,
    Pages,
    Platform,
    Snapshot,
    Table,
    Target,
    Task,
    Watermarks,
    Zone,
)

T = TypeVar("T")

U32, U64 = (1 << 32) - 1, (1 << 64) - 1
PHYSICAL_END = 1 << 52
PFN_END = 1 << 40

#: What a terminal, a web page, a shell, XML or a monitoring system would obey or choke on.
HOSTILE_TEXTS = (
    "",
    "Normal",
    "\x1b[2J\x1b]0;owned\x07",
    "a\nb\r\nc",
    "</script><script>alert(1)</script>",
    "<b onmouseover=x>&amp;\"'",
    "x|y='1';;;",
    "50% {release} {{data}} \\",
    "\u202e\u2066override\u2028\u0085",
    "\udc80\ud83d",
    "\x00\x9b31m\x7f",
    "\ufffe\U0001f600" * 3,
    "$(reboot)`id`",
)
TEXTS = st.one_of(st.sampled_from(HOSTILE_TEXTS), st.text(max_size=12))
FLAGS = st.booleans()


def numbers(least: int, most: int) -> st.SearchStrategy[int]:
    """Mostly the numbers at which something changes."""
    edges = sorted(
        {least, least + 1, 0, 1, 511, 512, 1024, 1 << 20, 1 << 21, 1 << 32, 1 << 52, 1 << 63, most - 1, most}
    )
    return st.one_of(st.sampled_from([n for n in edges if least <= n <= most]), st.integers(least, most))


def maybe(strategy: st.SearchStrategy[T]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


def several(strategy: st.SearchStrategy[T], most: int = 3) -> st.SearchStrategy[tuple[T, ...]]:
    return st.lists(strategy, max_size=most).map(tuple)


def pairs(most: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(numbers(0, most), numbers(0, most)).map(lambda pair: (min(pair), max(pair)))


#: Multiples of 2 MiB about 4 GiB, where the units of TABLES are; and all others.
NEAR = st.tuples(st.integers(2040, 2090), st.integers(0, 12)).map(lambda p: (p[0] << 21, p[0] + p[1] << 21))
EDGES = st.one_of(NEAR, pairs(PHYSICAL_END), pairs(1 << 64))
PFNS = st.one_of(NEAR.map(lambda pair: (pair[0] >> 12, pair[1] >> 12)), pairs(PFN_END))
RANGES = EDGES.map(lambda pair: Range(*pair))
U64S, U32S, COUNTS = numbers(0, U64), numbers(0, U32), numbers(-(1 << 100), 1 << 100)

TASKS = st.builds(Task, U32S, TEXTS.map(lambda text: text[:16]), maybe(U32S))


@st.composite
def lists(draw: st.DrawFn) -> ListedChunks:
    pfns = draw(st.lists(PFNS.map(lambda pair: min(pair[0], PFN_END - 1)), max_size=4))
    n = len(pfns)
    return ListedChunks(
        array("Q", pfns),
        array("Q", draw(st.lists(U64S, min_size=n, max_size=n))),
        array("i", draw(st.lists(numbers(-(1 << 31), (1 << 31) - 1), min_size=n, max_size=n))),
        array("I", draw(st.lists(U32S, min_size=n, max_size=n))),
        draw(several(TEXTS, 1)),
    )


@st.composite
def tables(draw: st.DrawFn) -> Table:
    state = draw(st.sampled_from(("present", "present", "absent", "not-captured", "unsupported", "invalid")))
    reason = draw(TEXTS if state != "present" else maybe(TEXTS))
    how = draw(st.sampled_from(("physical", "direct-map", "bpf", "file", None)))
    unmapped = draw(maybe(several(RANGES)))
    if state == "absent":
        return Table(state, reason)
    address = draw(numbers(0, 1 << 40))
    if state in ("unsupported", "invalid"):
        fields = draw(st.one_of(st.none(), st.tuples(U32S, U32S, U64S, U64S)))
        return Table(state, reason, address, *(fields or (None,) * 4), None, how, unmapped)
    bitmap = draw(st.one_of(st.binary(min_size=1, max_size=12), st.sampled_from((bytes(5000), b"\x0f" * 5000))))
    unit_size = 1 << draw(st.sampled_from((12, 21, 21, 21, 27, 31)))
    base = draw(st.sampled_from((0, unit_size, -(-(1 << 32) // unit_size) * unit_size)))
    if state == "not-captured":
        header = draw(st.sampled_from(((1, unit_size, base, len(bitmap)), (None,) * 4)))
        return Table(state, reason, address, *header, None, how, unmapped)
    return Table(state, reason, address, 1, unit_size, base, len(bitmap), bitmap, how, unmapped)


ZONES = st.builds(
    Zone,
    numbers(0, 1023),
    TEXTS.map(lambda text: text[:16]),
    st.one_of(st.just(1 << 20), U64S),
    U64S,
    U64S,
    COUNTS,
    COUNTS,
    maybe(COUNTS),
    COUNTS,
    st.builds(Watermarks, U64S, U64S, U64S, maybe(U64S), U64S),
    maybe(FLAGS),
    maybe(lists()),
    maybe(U64S),
    several(TEXTS, 1),
)
DESCRIPTORS = several(
    st.builds(lambda t, r, a: EfiDescriptor(t, *r, a), st.sampled_from((0, 7, 15, 15, U32)), EDGES, maybe(U64S)), 5
)
E820 = maybe(several(st.builds(lambda r, t: E820Entry(*r, t), EDGES, st.sampled_from((1, 1, 2, 128, U32))), 5))
KERNELS = st.builds(
    KernelBuild,
    maybe(FLAGS),
    maybe(U64S),
    st.sampled_from((1, 512, 1024, 1024, 1 << 19)),
    maybe(COUNTS),
    FLAGS,
    maybe(FLAGS),
    maybe(FLAGS),
    maybe(st.one_of(st.sampled_from(("booting", "scheduling", "running")), TEXTS)),
    maybe(U64S),
    maybe(numbers(0, 8192)),
    maybe(numbers(0, 64)),
)
PAGES = st.builds(
    Pages,
    several(
        st.builds(
            lambda r, s: PageRun(*r, s),
            PFNS,
            st.sampled_from(
                ("buddy", "in-use", "unaccepted", "reserved", "offline", "free", "uninitialised", "device", "absent")
            ),
        ),
        6,
    ),
    several(RANGES),
    maybe(TEXTS),
    several(numbers(0, PFN_END - 1)),
)


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    """A snapshot that a file may hold. Where a part is None the reason is hostile text."""
    parts = {
        "kernel": draw(maybe(KERNELS)),
        "efi_map": draw(
            maybe(
                st.builds(
                    EfiMap,
                    st.sampled_from(("boot-map", "kernel-log", "runtime-map")),
                    FLAGS,
                    maybe(TEXTS),
                    DESCRIPTORS,
                    maybe(RANGES),
                    FLAGS,
                )
            )
        ),
        "e820": draw(maybe(st.builds(E820Tables, E820, E820, E820, E820))),
        "counters": draw(maybe(st.builds(Counters, COUNTS, maybe(COUNTS), maybe(COUNTS)))),
        "accepting": draw(
            maybe(st.builds(AcceptingList, several(st.builds(Accept, U64S, U64S, U64S, maybe(TASKS))), several(TEXTS)))
        ),
        "platform": draw(
            maybe(
                st.builds(
                    Platform, st.sampled_from(("tdx", "snp", "none", None)), maybe(TEXTS), maybe(U64S), maybe(FLAGS)
                )
            )
        ),
        "kernel_memory": draw(maybe(several(st.builds(lambda n, r: NamedRange(n, *r), TEXTS, EDGES)))),
        "pages": draw(maybe(PAGES)),
        "kexec_segments": draw(
            maybe(
                several(
                    st.builds(
                        lambda n, r: KexecSegment(n, *r), st.sampled_from(("kexec_image", "kexec_crash_image")), EDGES
                    )
                )
            )
        ),
        "reclaiming": draw(maybe(several(TASKS))),
        "panic": draw(maybe(TEXTS)),
    }
    parts["zones"] = None if parts["kernel"] is None else draw(maybe(several(ZONES)))
    assert parts.keys() == ALL_PARTS
    lacking = [name for name, part in parts.items() if part is None]
    if parts["e820"] is not None:
        lacking += [f"e820.{name}" for name, value in vars(parts["e820"]).items() if value is None]
    return Snapshot(
        target=draw(
            st.builds(
                Target,
                st.sampled_from(("live", "vmcore")),
                maybe(TEXTS),
                maybe(TEXTS),
                maybe(TEXTS),
                st.sampled_from(("dwarf", "btf", "none")),
                st.sampled_from(("2026-11-22T12:00:00.000+00:00", "0001-01-01T00:00:00+00:00")),
                maybe(TEXTS),
            )
        ),
        table=draw(tables()),
        missing={name: draw(TEXTS) for name in lacking},
        torn=draw(several(TEXTS, 2)),
        **parts,
    )
