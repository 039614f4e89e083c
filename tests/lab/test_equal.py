# SPDX-License-Identifier: LGPL-2.1-or-later
"""DWARF and the target's own BTF give equal snapshots, on every dump of every capture."""

from __future__ import annotations

import dataclasses

import pytest

from drgn_unaccepted.kernel.capture import Wanted, capture
from drgn_unaccepted.kernel.target import open_vmcore
from drgn_unaccepted.snapshot import ALL_MEMORY, ALL_PARTS, Snapshot
from tests.lab.asking import NEEDS_CAPTURES
from tests.lab.captures import Capture, all_captures

pytestmark = NEEDS_CAPTURES

ALL = [c for c in all_captures() if c.vmlinux]
#: Stopped before there was a VMCOREINFO: the addresses come from vmlinux, also where types come from BTF.
EARLY = ("early", "stock-panic")
DUMPS = [
    pytest.param(capture, path.name, id=f"{capture.name}-{path.name}")
    for capture in ALL
    for path in sorted(capture.path.glob("*dump.*"))
]


def read_all(capture_: Capture, name: str, debug_info: str) -> Snapshot:
    symbols = [capture_.vmlinux] if debug_info == "dwarf" or capture_.path.name in EARLY else []
    opened = open_vmcore(str(capture_.path / name), symbols, debug_info)
    snapshot = capture(opened, Wanted(ALL_PARTS, ALL_MEMORY))
    assert snapshot.target.debug_info == debug_info
    same = dataclasses.replace(snapshot.target, debug_info="either", taken_at="")
    return dataclasses.replace(snapshot, target=same)


@pytest.mark.parametrize(("capture_", "name"), DUMPS)
def test_snapshots_are_equal(capture_: Capture, name: str) -> None:
    dwarf, btf = (read_all(capture_, name, kind) for kind in ("dwarf", "btf"))
    for field in dataclasses.fields(Snapshot):
        assert getattr(dwarf, field.name) == getattr(btf, field.name), field.name
    assert dwarf.zones and dwarf.kernel is not None, "and they are not equally empty"
