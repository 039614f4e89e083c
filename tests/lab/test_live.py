# SPDX-License-Identifier: LGPL-2.1-or-later
"""The program in a running guest of the lab, against the guest's own record and against its dump.

DRGN_UNACCEPTED_LAB_SAMPLES says how many samples the stress test takes (1,000; about ten minutes on two processors).
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from drgn_unaccepted.snapshot_file import read
from tests.lab.asking import ask, in_guest, on
from tests.lab.captures import CHUNK, LAB, listed_chunks, logged_table, read_bitmap, set_units, touched_units, units

# The answers


@pytest.mark.parametrize(
    ("series", "scenario"), [on("6.12", "fresh"), on("6.12", "big"), on("7.3", "edges"), on("7.3", "numa")]
)
def test_live_answers_equal_the_dump_of_that_moment(
    series: str, scenario: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    share = in_guest(tmp_path / "share", "answers", scenario, "--kernel", series)
    told = json.loads((share / "live.json").read_text())
    answers = {name: found["answer"] for name, found in told["answers"].items()}
    assert {name: found["status"] for name, found in told["answers"].items() if name != "check"} == {
        name: 0 for name in answers if name != "check"
    }
    dump = share / "dump.now.elf"
    console = (share / "serial.log").read_text(errors="replace")
    address = logged_table(console)

    # The table: what the stopped guest has in its memory, read without the package.
    base, unit, bitmap = read_bitmap(dump, address)
    before, after = read(str(share / "before.json")), read(str(share / "after.json"))
    for snapshot in (before, after):
        table = snapshot.table
        assert (table.state, table.read_through, table.address) == ("present", "bpf", address)
        assert (table.phys_base, table.unit_size, table.bitmap_bytes) == (base, unit, len(bitmap))
    assert before.table.bitmap == bitmap == after.table.bitmap, "the guest was to be idle"

    # The lists and counters, walked by drgn's own helpers with DWARF.
    vmlinux = next(LAB.glob(f"kernels/{series}-*/vmlinux"))
    chunks = listed_chunks(dump, str(vmlinux))
    listed = {pfn << 12 for zone in before.zones or () for pfn in (zone.listed.pfns if zone.listed else ())}
    assert listed == chunks
    assert told["nr_unaccepted"] == [len(chunks) * CHUNK] * 2
    assert before.counters is not None and before.counters.unaccepted_pages == len(chunks) * CHUNK // 4096

    # Every unit, as ranges and resolve answered it while the guest ran.
    covered, unaccepted = set_units(base, b"\xff" * len(bitmap)), set_units(base, bitmap)
    assert units(answers["ranges"], "unaccepted") == unaccepted
    no_ram = units(answers["ranges"], "no-ram")
    usable = re.findall(r"BIOS-e820: \[mem 0x(\w+)-0x(\w+)\] usable", console)
    assert not no_ram & touched_units((int(first, 16), int(last, 16)) for first, last in usable)
    assert units(answers["ranges"], "accepted") == covered - unaccepted - no_ram
    assert answers["ranges"]["source"] == "bitmap" and answers["ranges"]["exact"] is True
    assert answers["summary"]["unaccepted_bytes"] == len(unaccepted) * unit
    assert answers["header"]["header"]["set_bits"] == len(unaccepted)

    # From the lists: nothing that is unaccepted is called accepted, nothing accepted unaccepted but guards in a chunk.
    assert not units(answers["page-lists"], "accepted") & unaccepted
    wrong = units(answers["page-lists"], "unaccepted") & covered - unaccepted
    assert {number * unit // CHUNK * CHUNK for number in wrong} <= chunks
    assert answers["check"]["status"] == "ok", answers["check"]["findings"]

    # The same questions to the dump.
    for command in ("ranges", "zones", "e820", "efi"):
        _, dumped, _ = ask(capsys, "-c", dump, command)
        for key in ("ranges", "tables", "unaccepted_bytes", "nr_unaccepted_bytes"):
            assert dumped.get(key) == answers[command].get(key), f"{command}: {key}"
    zones = ask(capsys, "-c", dump, "zones")[1]["zones"]
    for key in ("node", "name", "start", "end", "managed_bytes", "unaccepted_bytes", "listed", "watermarks"):
        assert [zone[key] for zone in zones] == [zone[key] for zone in answers["zones"]["zones"]], key

    # The flight recorder's table is the memory's, and the dump knows it for its own.
    kept = share / "kept" / told["boot_id"]
    assert (kept / f"table-{address:#x}.bin").read_bytes()[24:] == bitmap
    _, with_saved, _ = ask(capsys, "-c", dump, "--table", kept / "snapshot.json", "ranges")
    for state in ("accepted", "unaccepted"):
        assert units(with_saved, state) == units(answers["ranges"], state)
    assert told["boot_id"] in with_saved["table"]["reason"]


# While memory is accepted


@pytest.mark.parametrize(("series", "delay_us"), [on("6.12", 0), on("7.3", 5000)])
def test_no_false_alarm_and_no_false_answer_while_memory_is_accepted(
    series: str, delay_us: int, tmp_path: Path
) -> None:
    samples = int(os.environ.get("DRGN_UNACCEPTED_LAB_SAMPLES", "1000"))
    options = ("stress", "--kernel", series, "--timeout", 900 + 6 * samples)
    share = in_guest(tmp_path / "share", "stress", *options, arguments=(samples, delay_us))
    found = json.loads((share / "stress.json").read_text())
    assert found["samples"] == samples
    assert found["lies"] == []
    assert found["alarms"] == []
    assert found["known"] > 100 * samples, "units that were called accepted, and could have been called so wrongly"
    assert found["torn"] > samples // 10, "samples during which memory was accepted"
    assert found["accepted_bytes"] > 1 << 30
    assert found["peak_kib"] < found["peak_kib_at_a_quarter"] + 4096, "memory does not grow with the samples"
    # Accepts of 5 ms are rarely met by few samples.
    assert found["in_flight"] or not delay_us or samples < 1000


# Restrictions


@pytest.mark.parametrize("series", [on("6.12"), on("7.3")])
def test_every_restriction_works_or_says_what_it_is(series: str, tmp_path: Path) -> None:
    share = in_guest(tmp_path / "share", "ways", "fresh", "--kernel", series)
    found = json.loads((share / "ways.json").read_text())

    def answers_from(name: str) -> str:
        assert found[name]["status"] == 0, found[name]
        return str(json.loads(found[name]["out"])["source"])

    def one_line(name: str) -> str:
        assert found[name]["status"] == 3, found[name]
        assert found[name]["err"].count("\n") == 1 and "Traceback" not in found[name]["err"], found[name]
        return str(found[name]["err"])

    assert found["sysctls"]["kptr_restrict"] == "2" and found["sysctls"]["unprivileged_bpf_disabled"] == "2"
    assert int(found["sysctls"]["perf_event_paranoid"]) >= 3
    for name in ("root", "unit", "strict", "strict, no CAP_SYSLOG", "strict unit", "lockdown=integrity", "drgn"):
        assert answers_from(name) == "bitmap", name
        assert json.loads(found[name]["out"])["table"]["read_through"] == "bpf"
    lacking = [("no CAP_BPF", "CAP_BPF"), ("no CAP_PERFMON", "CAP_PERFMON")]
    if series == "6.12":
        # There syscall_prog_func_proto() ends in bpf_tracing_func_proto(), which does not ask for CAP_PERFMON again.
        assert answers_from(lacking.pop()[0]) == "bitmap"
    for name, capability in lacking:
        assert answers_from(name) == "reconstructed"
        assert f"this process lacks {capability} " in json.loads(found[name]["out"])["source_reason"]
        assert found[name]["err"] == ""
    assert "which root has" in one_line("nobody")
    assert "CAP_SYS_RAWIO" in one_line("no CAP_SYS_RAWIO")
    assert "lockdown=confidentiality" in one_line("lockdown=confidentiality")
    assert found["unit keep"]["status"] == 0 and "--table" in found["unit keep"]["out"]

    # Over time.
    total = sum(r["end"] - r["start"] for r in json.loads(found["root"]["out"])["ranges"] if r["state"] == "unaccepted")
    assert found["watch"]["status"] == 0 and found["watch"]["out"].count(" MiB bitmap ") == 3
    for name, count in (("watch json", 3), ("replay", 4)):
        assert found[name]["status"] == 0 and found[name]["err"] == "", found[name]
        documents = [json.loads(line) for line in found[name]["out"].splitlines()]
        assert [document["sample"] for document in documents] == list(range(count))
        assert all(0 < document["unaccepted_bytes"] <= total for document in documents)
        assert all(document["accepting"] is not None and document["zones"] for document in documents)
    assert found["record"] == {"status": 0, "out": "/run/recording: 4 samples\n", "err": ""}
    assert "exists already" in one_line("record again")

    assert not re.findall(r"WARNING:|BUG:|Oops|panic.*", found["dmesg"]["out"]), "complaints of the kernel"

    # What the system calls were.
    for trace in ("strace", "strace.check"):
        calls = (share / trace).read_text(errors="replace")
        assert found["traced"]["status"] == 0
        opened = set(re.findall(r'\bopen(?:at|at2)?\([^"]*"([^"]*)"', calls))
        assert "/proc/kcore" in opened
        assert not [path for path in opened if path.startswith(("/dev/mem", "/dev/kmem", "/dev/port"))]
    calls = (share / "strace").read_text(errors="replace")
    # Nothing is pinned or attached: the kernel frees it all, however the process ends.
    assert set(re.findall(r"\bbpf\((\w+)", calls)) <= {"BPF_MAP_CREATE", "BPF_PROG_LOAD", "BPF_PROG_TEST_RUN"}
