# SPDX-License-Identifier: LGPL-2.1-or-later
"""Page lists and the bitmap of the same guest at the same moment differ only by guard units."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab.asking import NEEDS_CAPTURES, ask, ids
from tests.lab.captures import CHUNK, UNIT, Capture, all_captures, units

pytestmark = NEEDS_CAPTURES

#: Its lists hold nothing of the memory that add_efi_memmap took away, and two chunks of inflight are on no list.
LISTS_SHORT = ("add_efi_memmap", "inflight", "panic")
WITH_TABLE = [c for c in all_captures() if c.has_account and c.dump.exists() and c.path.name != "none"]
UNITS_OF_CHUNK = CHUNK // UNIT


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


KDUMPS = [(c, c.path / name) for c in WITH_TABLE for name in ("kdump.elf", "kdump.z") if (c.path / name).exists()]


@pytest.mark.parametrize(("capture", "path"), KDUMPS, ids=lambda value: value.name)
def test_a_kdump_never_calls_unaccepted_memory_accepted(
    capture: Capture, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The kdump is a little later than the account: the guest accepted a few chunks more until it crashed."""
    _, exact, _ = ask(capsys, "-c", path, "ranges")
    assert (exact["source"], exact["exact"], exact["table"]["state"]) == ("reconstructed", True, "not-captured")
    _, answer, _ = ask(capsys, "-c", path, "--source", "page-lists", "ranges")
    assert units(exact, "unaccepted") <= capture.unaccepted_units() & units(answer, "unaccepted")
    listed = units(answer, "unaccepted")
    accepted = units(answer, "accepted")
    before = capture.unaccepted_units()
    assert listed - before == guards(capture, listed, before & listed)
    assert len(before - listed) <= 16 * UNITS_OF_CHUNK
    # What is called accepted was, or was taken off the list since.
    assert accepted & before <= before - listed
