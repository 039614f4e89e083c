# SPDX-License-Identifier: LGPL-2.1-or-later
"""The answers on dumps of kernels that booted, compared with the guest's own account."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab.asking import NEEDS_CAPTURES, ask, ids
from tests.lab.captures import CHUNK, UNIT, Capture, all_captures, find, listed_chunks, units, whole_units

pytestmark = NEEDS_CAPTURES

NO_TABLE = ("none",)
#: Guests that were accepting when they were captured: their account is a little older than their dump.
MOVING = ("panic", "inflight")
#: Without the note drgn itself, which the independent walk uses, does not open the dump.
DRGN_REFUSES = ("novmcoreinfo",)
#: The second kernel of a kexec knows nothing of what the first one accepted.
SECOND_KERNEL = ("kexec",)
WITH_TABLE = [c for c in all_captures() if c.has_account and c.path.name not in NO_TABLE and c.dump.exists()]
WITH_KDUMP = [c for c in WITH_TABLE if (c.path / "kdump.elf").exists()]
KINDS = [(c, kind) for c in WITH_TABLE for kind in ("btf", "dwarf") if c.vmlinux or kind == "btf"]


@pytest.mark.parametrize(("capture", "kind"), KINDS, ids=lambda value: getattr(value, "name", value))
def test_ranges_equal_an_independent_reader(capture: Capture, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, base, unit, bitmap = capture.table()
    bits = [bitmap[i >> 3] >> (i & 7) & 1 for i in range(len(bitmap) * 8)]
    types = ["-s", capture.vmlinux] if kind == "dwarf" else []
    status, answer, _ = ask(capsys, "-c", capture.dump, *types, "ranges")
    assert status == 0
    assert (answer["source"], answer["exact"], answer["table"]["state"]) == ("bitmap", True, "present")
    assert answer["target"]["debug_info"] == kind
    at = base
    for entry in answer["ranges"]:
        assert entry["start"] == at, "the ranges tile what the bitmap covers"
        first, end = (entry["start"] - base) // unit, (entry["end"] - base) // unit
        assert set(bits[first:end]) == {int(entry["state"] == "unaccepted")}
        at = entry["end"]
    assert at == base + len(bits) * unit
    assert answer["unaccepted_bytes"] == sum(bits) * unit


@pytest.mark.parametrize("capture", WITH_TABLE, ids=ids)
def test_unaccepted_is_what_nobody_accepted(capture: Capture, capsys: pytest.CaptureFixture[str]) -> None:
    """Type 15 memory, without what the stub and the kernel recorded as they accepted it."""
    status, answer, _ = ask(capsys, "-c", capture.dump, "ranges")
    assert status == 0
    unaccepted = units(answer, "unaccepted")
    if capture.path.name in (*MOVING, *SECOND_KERNEL):
        assert unaccepted <= capture.unaccepted_units()
    else:
        assert unaccepted == capture.unaccepted_units()


@pytest.mark.parametrize("capture", find("none"), ids=ids)
def test_no_type_15_is_no_table(capture: Capture, capsys: pytest.CaptureFixture[str]) -> None:
    status, answer, _ = ask(capsys, "-c", capture.dump, "summary")
    # The whole EFI memory map, which has no type 15, and empty lists prove it.
    assert (status, answer["table"]["state"], answer["exact"]) == (0, "absent", True)
    assert answer["unaccepted_bytes"] == answer["nr_unaccepted_bytes"] == capture.nr_unaccepted() == 0


@pytest.mark.parametrize("format_", ("kdump.elf", "kdump.z", "kdump.flat"))
@pytest.mark.parametrize("capture", WITH_KDUMP, ids=ids)
def test_a_kdump_has_no_table_and_says_so(capture: Capture, format_: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = capture.path / format_
    if not path.exists():
        pytest.skip(f"{capture.name} has no {format_}")
    status, answer, err = ask(capsys, "-c", path, "--source", "bitmap", "ranges")
    assert status == 3
    assert answer["table"]["state"] == "not-captured"
    assert answer["table"]["address"] == capture.table_address()
    assert answer["ranges"] is None and answer["unaccepted_bytes"] is None
    assert "is not in this " in err
    assert "kdump" in err and len(err.splitlines()) == 1


# Page lists and the bitmap of one moment differ only by guard units

#: Its lists hold nothing of the memory that add_efi_memmap took away, and two chunks of inflight are on no list.
LISTS_SHORT = ("add_efi_memmap", "inflight", "panic")
UNITS_OF_CHUNK = CHUNK // UNIT
KDUMPS = [(c, c.path / name) for c in WITH_TABLE for name in ("kdump.elf", "kdump.z") if (c.path / name).exists()]


def guards(capture: Capture, listed: set[int], unaccepted: set[int]) -> set[int]:
    """Listed units that are accepted although their chunk stays listed.

    The unit in front is accepted too, and its accept took this one along as its guard; or no unit of the chunk is
    left, and it is listed for the sake of the unit behind it; or the unit never was unaccepted, and shares a chunk with
    one that is.
    """
    found = set()
    for n in listed - unaccepted:
        first = n // UNITS_OF_CHUNK * UNITS_OF_CHUNK
        chunk = set(range(first, first + UNITS_OF_CHUNK))
        for_its_guard = not chunk & unaccepted and first + UNITS_OF_CHUNK in unaccepted
        if n - 1 not in unaccepted or for_its_guard or n not in capture.initial_units():
            found.add(n)
    return found


@pytest.mark.parametrize("capture", WITH_TABLE, ids=ids)
def test_every_disagreement_is_a_guard_unit(capture: Capture, capsys: pytest.CaptureFixture[str]) -> None:
    _, lists, _ = ask(capsys, "-c", capture.dump, "--source", "page-lists", "ranges")
    _, bitmap, _ = ask(capsys, "-c", capture.dump, "--source", "bitmap", "ranges")
    assert (lists["source"], lists["exact"]) == ("page-lists", False)
    unaccepted = units(bitmap, "unaccepted")
    listed = units(lists, "unaccepted")
    assert not units(lists, "accepted") & unaccepted, "called accepted, and is not"
    assert listed - unaccepted == guards(capture, listed, unaccepted)
    assert len(listed) * UNIT == lists["unaccepted_bytes"]
    if capture.path.name not in LISTS_SHORT:
        assert unaccepted <= listed
    if capture.path.name not in MOVING:
        # NR_UNACCEPTED counts whole chunks.
        assert capture.nr_unaccepted() == bitmap["nr_unaccepted_bytes"] == len(listed) * UNIT
    if capture.vmlinux and capture.path.name not in DRGN_REFUSES:
        chunks = listed_chunks(capture.dump, capture.vmlinux)
        assert listed == whole_units((chunk, chunk + CHUNK) for chunk in chunks)


@pytest.mark.parametrize(("capture", "path"), KDUMPS, ids=lambda value: value.name)
def test_a_kdump_never_calls_unaccepted_memory_accepted(
    capture: Capture, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The kdump is a little later than the account: the guest accepted a few chunks more until it crashed."""
    _, exact, _ = ask(capsys, "-c", path, "ranges")
    source = ("reconstructed", True) if capture.logs_efi_map else ("page-lists", False)
    assert (exact["source"], exact["exact"], exact["table"]["state"]) == (*source, "not-captured")
    _, answer, _ = ask(capsys, "-c", path, "--source", "page-lists", "ranges")
    if capture.logs_efi_map:
        assert units(exact, "unaccepted") <= capture.unaccepted_units() & units(answer, "unaccepted")
    listed = units(answer, "unaccepted")
    accepted = units(answer, "accepted")
    before = capture.unaccepted_units()
    assert listed - before == guards(capture, listed, before & listed)
    assert len(before - listed) <= 16 * UNITS_OF_CHUNK
    # What is called accepted was, or was taken off the list since.
    assert accepted & before <= before - listed
