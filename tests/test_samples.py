# SPDX-License-Identifier: LGPL-2.1-or-later
"""The bundled samples: real captures, each with what its guest said of itself. No vmlinux is needed."""

from __future__ import annotations

from pathlib import Path

import drgn
import pytest

from tests.asking import SAMPLES, Capsys, ask, refused, truth, units
from tests.kernel.test_saved_table import saved

PAGE = 4096
NAMES = sorted(path.parent.name for path in SAMPLES.glob("*/truth.json"))
WITH_TABLE = [name for name in NAMES if truth(name)["has_table"]]
WITHOUT_TABLE = [name for name in NAMES if name not in WITH_TABLE]
#: Died while it was accepting, a little after its account was taken.
MOVING = ("6.12-panic",)


@pytest.mark.parametrize("name", WITH_TABLE)
def test_unaccepted_is_what_the_guest_did_not_accept(name: str, capsys: Capsys) -> None:
    known = truth(name)
    status, answer, err = ask(capsys, "-c", SAMPLES / name / "vmcore", "ranges")
    assert (status, err) == (0, "")
    assert (answer["source"], answer["exact"]) == ("bitmap", True)
    assert answer["table"]["address"] == known["table_address"]
    assert answer["target"]["release"] == known["kernel_release"]
    unaccepted = units(answer)
    if name in MOVING:
        assert unaccepted <= set(known["unaccepted_units"])
    else:
        assert unaccepted == set(known["unaccepted_units"])
        assert answer["nr_unaccepted_bytes"] == known["nr_unaccepted_bytes"]


@pytest.mark.parametrize("name", WITHOUT_TABLE)
def test_the_page_lists_of_a_kdump(name: str, capsys: Capsys) -> None:
    """What they have too much is marked; the judgement of all evidence is exact (tests/answer)."""
    known = truth(name)
    status, answer, _ = ask(capsys, "-c", SAMPLES / name / "vmcore", "--source", "page-lists", "ranges")
    assert (status, answer["source"], answer["exact"]) == (0, "page-lists", False)
    assert (answer["table"]["state"], answer["table"]["address"]) == ("not-captured", known["table_address"])
    assert answer["unaccepted_bytes"] == known["nr_unaccepted_bytes"]
    unaccepted = set(known["unaccepted_units"])
    listed = units(answer)
    assert unaccepted <= listed, "nothing unaccepted is missing"
    assert listed - unaccepted <= {start >> 21 for start, _ in answer["possible_guards"]}
    assert not units(answer, "accepted") & unaccepted


@pytest.mark.parametrize("name", WITHOUT_TABLE)
def test_a_kdump_has_no_bitmap_and_says_why(name: str, capsys: Capsys) -> None:
    status, answer, err = ask(capsys, "-c", SAMPLES / name / "vmcore", "--source", "bitmap", "summary")
    assert status == 3
    assert answer["unaccepted_bytes"] is None and answer["source"] == "none"
    assert len(err.splitlines()) == 1 and "kdump" in err and "ACPI memory" in err


@pytest.mark.parametrize("at_boot", [False, True])
@pytest.mark.parametrize("name", WITHOUT_TABLE)
def test_a_saved_table(name: str, at_boot: bool, capsys: Capsys, tmp_path: Path) -> None:
    """Of the crash it makes a kdump as good as the bitmap. Right after boot all bits are set: the lists say which of
    them still are, and pages in use which are not.
    """
    _, address, data, *_ = saved(None, name.replace("-kdump", ""))
    (tmp_path / "table").write_bytes(data[:24] + b"\xff" * len(data[24:]) if at_boot else data)
    table = f"{tmp_path / 'table'}@{address:#x}"
    status, answer, _ = ask(capsys, "-c", SAMPLES / name / "vmcore", "--table", table, "ranges")
    unaccepted, accepted = set(truth(name)["unaccepted_units"]), units(answer, "accepted")
    assert status == 0 and unaccepted <= units(answer)
    assert accepted and accepted.isdisjoint(unaccepted)
    if not at_boot:
        assert (answer["source"], answer["exact"], units(answer)) == ("reconstructed", True, unaccepted)
        reason = answer["source_reason"]
        assert "may have been another boot" in reason or "boot is not known" in reason


def test_a_table_of_another_address_is_refused(capsys: Capsys, tmp_path: Path) -> None:
    (tmp_path / "table").write_bytes(bytes(100))
    table = f"{tmp_path / 'table'}@0x1000"
    assert "another table" in refused(capsys, "-c", SAMPLES / WITHOUT_TABLE[0] / "vmcore", "--table", table, "summary")


@pytest.mark.parametrize("name", NAMES)
def test_check_raises_no_false_alarm(name: str, capsys: Capsys) -> None:
    """Healthy guests, but for the accept that killed one. None is TDX or SNP, and all but that one accepted memory."""
    status, answer, _ = ask(capsys, "-c", SAMPLES / name / "vmcore", "check")
    failed = {f["rule"] for f in answer["findings"] if f["status"] in ("warning", "critical")}
    died = {"platform-can-accept", "accepting-ranges-sane"} if name in MOVING else set()
    assert (status, failed) == (2 if died else 0, died)


@pytest.mark.parametrize("name", NAMES)
def test_no_kernel_text(name: str) -> None:
    prog = drgn.Program()
    prog.set_core_dump(str(SAMPLES / name / "vmcore"))
    start, end = truth(name)["kernel_text"]
    assert end - start > 1 << 20
    for address in range(start // PAGE * PAGE, end, PAGE):
        with pytest.raises(drgn.FaultError):
            prog.read(address, 8, physical=True)
