# SPDX-License-Identifier: LGPL-2.1-or-later
"""A fleet of three lab guests, one with a planted fault: Ansible checks them, Prometheus scrapes them, Slurm scans
their dumps with a damaged and a hanging one among them, and what is merged begins with the fault and lacks nothing.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, Optional

import pytest

from drgn_unaccepted.cli import main
from drgn_unaccepted.kernel.capture import capture
from drgn_unaccepted.kernel.target import open_vmcore
from drgn_unaccepted.snapshot import ALL_MEMORY, ALL_PARTS, Wanted
from drgn_unaccepted.snapshot_file import write
from tests.fleet.ansible import play, recap
from tests.fleet.monitoring import monitoring
from tests.fleet.slurm import slurm
from tests.fleet.tools import INTEGRATIONS, TOP, json_lines, make_hanging, run, wait_for
from tests.lab.captures import CHUNK, UNIT, Capture, captures, find, read_bitmap

pytestmark = pytest.mark.lab

if not captures():
    pytest.skip("no captures of the guest lab: make them with scripts/lab all", allow_module_level=True)

#: Of the planted bit: memory in use that the table calls unaccepted.
FAULT = "allocated-pages-accepted"

PLANTED, WELL = "guest-b", ("guest-a", "guest-c")


def capture_of(scenario: str, series: str) -> Capture:
    for found in find(scenario):
        if found.name.startswith(series):
            return found
    pytest.skip(f"no capture {series} {scenario}: scripts/lab run {scenario} --kernel {series}")


def plant_a_bit(of: Capture, to: Path) -> None:
    """The dump of a guest with one bit set: a unit 32 MiB into type 15 memory that it accepted, amid accepted ones."""
    first = -(-of.type15()[0][0] // CHUNK) * CHUNK + 8 * CHUNK
    assert not set(range(first // UNIT - 2, first // UNIT + 4)) & of.unaccepted_units()
    address = of.table_address()
    base, unit, bitmap = read_bitmap(of.dump, address)
    index = (first - base) // unit
    planted = bytes([bitmap[index >> 3] | 1 << (index & 7)])
    opened = open_vmcore(str(of.dump))
    at = address + 24 + (index >> 3)
    opened.prog.add_memory_segment(at, 1, lambda a, count, offset, physical: planted, physical=True)
    write(capture(opened, Wanted(ALL_PARTS, ALL_MEMORY)), str(to))


@pytest.fixture
def guests(tmp_path: Path) -> dict[str, list[str]]:
    """Each guest as options of the command line: a kdump, the planted one, one that panicked."""
    plant_a_bit(capture_of("fill", "6.12"), tmp_path / "planted.json")
    return {
        "guest-a": ["-c", str(capture_of("numa", "6.12").path / "kdump.z")],
        PLANTED: ["--snapshot", str(tmp_path / "planted.json")],
        "guest-c": ["-c", str(capture_of("panic", "7.3").dump)],
    }


def test_ansible_checks_them(guests: dict[str, list[str]], tmp_path: Path, capsys: Any) -> None:
    hosts: dict[str, Optional[list[str]]] = {**guests}
    done = play(tmp_path, hosts)
    assert {host: count["failed"] for host, count in recap(done).items()} == {"guest-a": 0, PLANTED: 1, "guest-c": 0}
    assert main(["merge", str(tmp_path / "results")]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith(f"CRITICAL {FAULT}: 1 of 2 hosts that could tell: {PLANTED} ")


def test_prometheus_scrapes_them(guests: dict[str, list[str]], tmp_path: Path) -> None:
    textfiles = {}
    for guest, options in guests.items():
        textfiles[guest] = tmp_path / guest
        textfiles[guest].mkdir()
        metrics = textfiles[guest] / "drgn-unaccepted.prom"
        argv = [sys.executable, "-m", "drgn_unaccepted", *options, "check", "--format", "prometheus", "-o", metrics]
        assert run(argv, cwd=TOP).returncode == (2 if guest == PLANTED else 1)
    with monitoring(textfiles, tmp_path) as prometheus:
        query = "efi_unaccepted_overall_status"
        wait_for(lambda: len(prometheus.values(query)) == 3, prometheus.log)
        assert prometheus.values(query) == {"guest-a": "1", PLANTED: "2", "guest-c": "1"}
        firing = wait_for(prometheus.firing, prometheus.log)
        assert {guest for guest, _ in firing} == {PLANTED}
        assert firing[PLANTED, FAULT] == "UnacceptedCheckCritical"
        # Each guest's own counter, as its /proc/vmstat had it, is what the lists say.
        numa = capture_of("numa", "6.12")
        assert prometheus.values("efi_unaccepted_memory_bytes")["guest-a"] == str(numa.nr_unaccepted())


@pytest.mark.skipif(os.geteuid() != 0, reason="slurmd runs jobs as root only")
def test_slurm_scans_their_dumps(guests: dict[str, list[str]], tmp_path: Path) -> None:
    damaged, hanging, manifest = tmp_path / "damaged", tmp_path / "hanging", tmp_path / "archive.jsonl"
    with Path(guests["guest-a"][1]).open("rb") as file:
        damaged.write_bytes(file.read(1 << 20))
    make_hanging(hanging)
    entries = {guest: path for guest, (_, path) in guests.items()} | {"guest-d": damaged, "guest-e": hanging}
    manifest.write_text("".join(json.dumps({"path": str(p), "host": host}) + "\n" for host, p in entries.items()))
    exported = {
        "UNACCEPTED_ARCHIVE": str(manifest),
        "UNACCEPTED_RESULTS": str(tmp_path / "results"),
        "UNACCEPTED_COMMAND": f"{sys.executable} -m drgn_unaccepted",
        "UNACCEPTED_TIMEOUT": "20",
        "PYTHONPATH": str(TOP),
    }
    batch = INTEGRATIONS / "slurm"
    with slurm() as cluster:
        job = cluster.submit("--array=0-2", "--mem=64M", batch / "scan.sbatch", **exported)
        after = cluster.submit(f"--dependency=afterany:{job}", "--mem=64M", batch / "merge.sbatch", **exported)
        cluster.wait(after)
        said = cluster.output(job) + cluster.output(after)
    results = tmp_path / "results"
    summary = (results / "summary.txt").read_text()
    # A kdump has no table, and so cannot tell.
    assert summary.startswith(f"CRITICAL {FAULT}: 1 of 2 hosts that could tell: {PLANTED} "), said + summary
    records = [line for path in results.glob("shard-*.jsonl") for line in json_lines(path) if "id" in line]
    assert sorted(record["host"] for record in records) == sorted(entries)
    errors = {record["host"]: record["error"]["kind"] for record in records if record["error"] is not None}
    assert errors == {"guest-d": "unreadable", "guest-e": "timeout"}
    merged = json.loads((results / "summary.json").read_text())
    assert (merged["targets"], merged["incomplete"], merged["doubles"], merged["problem_count"]) == (5, [], 0, 0)
    assert merged["standing_out"][0]["host"] == PLANTED
