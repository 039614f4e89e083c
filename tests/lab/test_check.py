# SPDX-License-Identifier: LGPL-2.1-or-later
"""``check`` on every capture of the lab: the expected findings, rule by rule, and no false alarm.

Expected is ``pass``, but for what stands here. It follows from what each scenario is, not from what the program said.
"""

from __future__ import annotations

import re

import pytest

from drgn_unaccepted.checks import rule_names, run_checks
from drgn_unaccepted.kernel.capture import capture
from drgn_unaccepted.snapshot import ALL_MEMORY, ALL_PARTS, Wanted
from drgn_unaccepted.targets.vmcore import open_vmcore
from tests.lab.asking import NEEDS_CAPTURES, ask, ids
from tests.lab.captures import UNIT, Capture, all_captures, find

pytestmark = NEEDS_CAPTURES

PAGE, GIB = 4096, 1 << 30

Expected = dict[str, str]

#: Both kernels are too new for the static key, and no lab guest is TDX or SNP, but its patched kernel accepts.
ALWAYS: Expected = {"static-key-matches-lists": "skip", "platform-can-accept": "info"}

#: A kdump has no bitmap, and what lists and pages themselves would decide cannot be said.
OF_THE_BITMAP = (
    *("header-version", "unit-size-valid", "bitmap-geometry", "padding-bits-clear", "table-covers-efi-unaccepted"),
    *("guard-unit-accepted", "list-entries-without-bits", "orphan-bits", "masked-pages-in-use"),
)
NO_BITMAP: Expected = {**dict.fromkeys(OF_THE_BITMAP, "skip"), "table-captured": "info"}

#: No type 15, no table: there is nothing that the rules about it and about unaccepted memory could look at.
OF_UNACCEPTED = (
    *("table-aligned", "table-reserved", "table-in-acpi-memory", "bits-within-initial-map", "bits-within-firmware-ram"),
    *("bits-trimmed-by-kernel", "kernel-memory-accepted", "buddy-pages-accepted", "allocated-pages-accepted"),
    "kexec-segments-accepted",
)
NO_TABLE: Expected = {
    **dict.fromkeys((*OF_THE_BITMAP, *OF_UNACCEPTED), "skip"),
    **{"table-captured": "pass", "platform-can-accept": "pass"},
}

#: Everything was accepted, so there is nothing left that this platform could fail to accept.
NOTHING_LEFT: Expected = {"platform-can-accept": "info"}

#: The map of the second kernel has runtime entries only.
NO_INITIAL_MAP: Expected = dict.fromkeys(
    ("padding-bits-clear", "bits-within-initial-map", "table-covers-efi-unaccepted", "efi-unaccepted-has-table"), "skip"
)

BY_SCENARIO: dict[str, Expected] = {
    "none": NO_TABLE,
    "all": NOTHING_LEFT,
    "eager": NOTHING_LEFT,
    "kexec": NO_INITIAL_MAP,
    # Type 15 memory became Reserved: the kernel will never accept it, and says nothing of it.
    "add_efi_memmap": {
        "bits-trimmed-by-kernel": "info",
        "orphan-bits": "info",
        "platform-can-accept": "info",
        "advisory-type-15-reserved": "info",
    },
    # Between its 120 ranges of type 15 lies memory that was never unaccepted, so pages in use lie right before a unit
    # that is: /proc/kcore and /proc/vmcore show zeros in their place.
    "e820ext": {"masked-pages-in-use": "info"},
    "panic": {"accepting-ranges-sane": "critical", "platform-can-accept": "warning"},
    "panic-kdump": {"accepting-ranges-sane": "critical", "platform-can-accept": "warning"},
    "inflight": {"accepting-ranges-sane": "info"},
}

#: A kdump whose log has no map either.
WITHOUT_MAP: Expected = dict.fromkeys(("efi-unaccepted-has-table", "table-reserved", "table-in-acpi-memory"), "skip")

#: What a skipped rule says if makedumpfile 1.7.2 left out slab pages that it needs. It does so with kernels other than
#: the lab's 6.12, among them those with e820_table, kexec_crash_image or tasks, or not, as it happens.
LEFT_OUT = re.compile(r"not in this (target|dump)")

DUMPS = [
    (c, name)
    for c in all_captures()
    if c.has_account
    for name in ("dump.elf", "kdump.elf", "kdump.z")
    if (c.path / name).exists()
]


@pytest.mark.parametrize(("capture_", "name"), DUMPS, ids=lambda value: getattr(value, "name", value))
def test_the_expected_findings(capture_: Capture, name: str) -> None:
    scenario = capture_.path.name
    expected = {rule: "pass" for rule in rule_names() if not rule.startswith("advisory-")}
    expected |= ALWAYS | BY_SCENARIO.get(scenario, {})
    if name != "dump.elf":
        expected |= NO_BITMAP | ({} if capture_.logs_efi_map else WITHOUT_MAP)
    snapshot = capture(open_vmcore(str(capture_.path / name)), Wanted(ALL_PARTS, ALL_MEMORY))
    findings = run_checks(snapshot).findings
    found = {finding.rule: finding.status for finding in findings}
    if name != "dump.elf" and capture_.path.parent.name != "6.12":
        expected |= {f.rule: "skip" for f in findings if f.status == "skip" and LEFT_OUT.search(f.message)}
    assert found == expected


@pytest.mark.parametrize("name", ("dump.elf", "kdump.elf", "kdump.z"))
@pytest.mark.parametrize("capture_", find("panic", "panic-kdump"), ids=ids)
def test_the_accept_that_killed_the_guest_is_named(
    capture_: Capture, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The guest's own last words name task and CPU; the range is one that it had not accepted."""
    path = capture_.path / name
    if not path.exists():
        pytest.skip(f"{capture_.name} has no {name}")
    (entry,) = ask(capsys, "-c", path, "accepting")[1]["accepting"]
    console = capture_.console()
    last_words = console[console.index("Cannot accept memory: unknown platform") :]
    task = entry["task"]
    assert f"CPU: {task['cpu']} " in last_words.replace("UID: 0 ", "")
    assert f"PID: {task['pid']} " in last_words
    assert f"Comm: {task['comm']} " in last_words
    first, end = entry["start"] // UNIT, entry["end"] // UNIT
    assert 2 <= end - first <= 3, "a chunk, and its guard"
    assert set(range(first, end)) & capture_.unaccepted_units()
    # check names them, too, and resolve knows of the range, also where a kdump has no table.
    (finding,) = ask(capsys, "-c", path, "check", "--rule", "accepting-ranges-sane")[1]["findings"]
    assert f"{entry['start']:#x}-{entry['end']:#x}" in finding["message"]
    assert f"by {task['comm']} (pid {task['pid']}), CPU {task['cpu']}; panic: Cannot accept" in finding["message"]
    _, found, _ = ask(capsys, "-c", path, "resolve", f"{entry['start']:#x}", f"{entry['end']:#x}")
    assert [address["in_flight"] for address in found["addresses"]] == [True, False]


@pytest.mark.parametrize("capture_", [c for c in all_captures() if c.path.name == "reservation"], ids=ids)
def test_the_bug_that_killed_the_guest_is_named(capture_: Capture, capsys: pytest.CaptureFixture[str]) -> None:
    """Its last words: a fault in the second page of the table, which kernels without 0862438c do not map."""
    second = capture_.table_address() // PAGE * PAGE + PAGE
    fault = re.search(r"BUG: unable to handle page fault for address: ([0-9a-f]+)", capture_.console())
    # The direct map begins at a multiple of 1 GiB.
    assert fault and int(fault[1], 16) // PAGE % (GIB // PAGE) == second // PAGE % (GIB // PAGE)
    _, answer, _ = ask(capsys, "-c", capture_.dump, "check")
    found = {finding["rule"]: finding for finding in answer["findings"]}
    bug = found["table-reserved"]
    assert (bug["status"], bug["ranges"]) == ("critical", [[second, second + PAGE]]) and "0862438c" in bug["message"]
    assert found["advisory-reservation-short"]["status"] == "warning"
