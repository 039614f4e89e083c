# SPDX-License-Identifier: LGPL-2.1-or-later
"""The sbatch files on a real Slurm of one node: an archive in shards, with a damaged and a hanging dump."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.fleet.slurm import slurm
from tests.fleet.tools import FILL, INTEGRATIONS, PLANTED, PROGRAM, SAMPLES, TOP, json_lines, make_hanging, plant

pytestmark = pytest.mark.lab

BATCH = INTEGRATIONS / "slurm"


@pytest.mark.skipif(os.geteuid() != 0, reason="slurmd runs jobs as root only")
def test_an_archive_in_shards(tmp_path: Path) -> None:
    archive, results = tmp_path / "archive", tmp_path / "results"
    for sample in ("6.12-fill", "6.12-numa", "7.3-fill", "7.3-fill-kdump"):
        (archive / sample).mkdir(parents=True)
        shutil.copy(SAMPLES / sample / "vmcore", archive / sample)
    plant(SAMPLES / "6.12-edges" / "vmcore", archive / "planted.json")
    (archive / "cut.vmcore").write_bytes(FILL.read_bytes()[:100_000])
    make_hanging(archive / "hang.vmcore")
    exported = {
        "UNACCEPTED_ARCHIVE": str(archive),
        "UNACCEPTED_RESULTS": str(results),
        "UNACCEPTED_COMMAND": " ".join(PROGRAM),
        "UNACCEPTED_TIMEOUT": "30",
        "PYTHONPATH": str(TOP),
    }
    with slurm() as cluster:
        # All that this small node has.
        size = "--mem=64M"
        job = cluster.submit("--array=1-3%2", size, BATCH / "scan.sbatch", **exported)
        after = cluster.submit(f"--dependency=afterany:{job}", size, BATCH / "merge.sbatch", **exported)
        cluster.wait(after)
        log = cluster.output(after)
        tasks = cluster.output(job)
    shards = sorted(results.glob("shard-*.jsonl"))
    assert [path.name for path in shards] == [f"shard-{n}-of-3.jsonl" for n in (1, 2, 3)], tasks
    headers = [json_lines(path)[0] for path in shards]
    assert [header["shard"] for header in headers] == [[0, 3], [1, 3], [2, 3]]
    found = [record["target"]["path"] for path in shards for record in json_lines(path)[1:]]
    assert sorted(found) == sorted(
        str(path) for pattern in ("*/vmcore", "*.vmcore", "planted.json") for path in archive.glob(pattern)
    )
    assert log.startswith(f"CRITICAL {PLANTED}: 1 of 5 targets that could tell: {archive}/planted.json"), log
    summary = json.loads((results / "summary.json").read_text())
    assert summary["incomplete"] == [] and summary["problem_count"] == 0 and summary["doubles"] == 0
    assert {failed["kind"]: failed["targets"] for failed in summary["failed"]} == {"timeout": 1, "unreadable": 1}
    assert len((results / "targets.csv").read_text().splitlines()) == 1 + 7
