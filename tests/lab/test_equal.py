# SPDX-License-Identifier: LGPL-2.1-or-later
"""Types by DWARF or by the target's own BTF: the same answers, field for field, on every dump of every capture."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from drgn_unaccepted.cli import main
from drgn_unaccepted.commands import COMMANDS, load
from drgn_unaccepted.commands.base import Question
from drgn_unaccepted.kernel.capture import Wanted, capture
from drgn_unaccepted.kernel.target import open_vmcore
from drgn_unaccepted.snapshot import ALL_MEMORY, ALL_PARTS, Snapshot
from tests.lab.captures import LAB, Capture

pytestmark = pytest.mark.lab

#: The lab's own kernels, and a distribution's.
ALL = [Capture(path.parent) for path in sorted(LAB.glob("*/*/*/scenario.json"))]
#: Stopped before there was a VMCOREINFO: the addresses come from vmlinux, also where types come from BTF.
EARLY = ("early", "stock-panic")
DUMPS = [
    pytest.param(capture, path.name, id=f"{capture.name}-{path.name}")
    for capture in ALL
    for path in sorted(capture.path.glob("*dump.*"))
]
#: One of each kind of dump, for what each command reads by itself.
NAMES = ("dump.elf", "kdump.elf", "kdump.z", "kdump.flat", "dump.kdump-zlib")
CHOSEN = [next(dump for dump in DUMPS if dump.values[1] == name) for name in NAMES if DUMPS]
QUESTIONS = [
    ["summary"],
    ["header"],
    ["ranges"],
    ["ranges", "--source", "page-lists"],
    ["resolve", "0-8G", "0x100000000"],
    ["check"],
    ["efi"],
    ["e820"],
    ["zones"],
    ["accepting"],
    ["map"],
]

if not ALL:
    pytest.skip("no captures of the guest lab: make them with scripts/lab all", allow_module_level=True)

Capsys = pytest.CaptureFixture[str]


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


@pytest.mark.parametrize("question", QUESTIONS, ids=" ".join)
@pytest.mark.parametrize(("capture_", "name"), CHOSEN)
def test_documents_are_equal(capture_: Capture, name: str, question: list[str], capsys: Capsys) -> None:
    documents: list[Any] = []
    for kind in ("dwarf", "btf"):
        symbols = ["-s", capture_.vmlinux] if kind == "dwarf" else []
        status = main(
            ["-c", str(Path(capture_.path / name)), *symbols, "--debug-info", kind, *question, "--format", "json"]
        )
        out, err = capsys.readouterr()
        document = json.loads(out)
        assert document["target"].pop("debug_info") == kind
        del document["target"]["taken_at"]
        documents.append((status, document, err))
    assert documents[0] == documents[1]


def test_no_question_is_left_out() -> None:
    asked = {words[0] for words in QUESTIONS}
    # Those two write the snapshot, whole.
    there_are = {name for name in COMMANDS if isinstance(load(name), Question)}
    assert there_are == asked | {"snapshot", "report"}
