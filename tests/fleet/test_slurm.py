# SPDX-License-Identifier: LGPL-2.1-or-later
"""The sbatch files on a real Slurm of one node, from Debian, on loopback."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.fleet import tools
from tests.waiting import wait_for

pytestmark = [pytest.mark.lab, pytest.mark.skipif(os.geteuid() != 0, reason="slurmd runs jobs as root only")]

CONFIG = """\
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthInfo=socket={state}/munge.socket
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmctldPort={controller}
SlurmdPort={node}
StateSaveLocation={state}/controller
SlurmdSpoolDir={state}/node
SlurmctldPidFile={state}/slurmctld.pid
SlurmdPidFile={state}/slurmd.pid
ProctrackType=proctrack/linuxproc
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0,sched_interval=1
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=1024 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
"""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """munged, slurmctld and slurmd; the directory of their files."""
    munged, (slurmctld, slurmd) = tools.tool("munged", "munge"), (tools.tool(n, n) for n in ("slurmctld", "slurmd"))
    # Not below pytest's directory: every directory above munged's socket must belong to root alone.
    state = Path(tempfile.mkdtemp(prefix="drgn-unaccepted-slurm-", dir="/run"))
    state.chmod(0o755)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, state)
        (state / "controller").mkdir()
        (state / "node").mkdir()
        (state / "munge.key").write_bytes(secrets.token_bytes(1024))
        (state / "munge.key").chmod(0o400)
        # With an explicit name for slurmd, the host's own need not resolve.
        host = socket.gethostname().partition(".")[0]
        config = CONFIG.format(host=host, state=state, controller=tools.free_port(), node=tools.free_port())
        (state / "slurm.conf").write_text(config)
        monkeypatch.setenv("SLURM_CONF", str(state / "slurm.conf"))
        files = [f"--{name}={state}/munge{suffix}" for name, suffix in (("key-file", ".key"), ("socket", ".socket"))]
        files += [f"--pid-file={state}/munged.pid", f"--seed-file={state}/munged.seed"]
        log = state / "munged.log"
        stack.enter_context(tools.service([munged, "--foreground", "--force", *files, "--num-threads=2"], log))
        wait_for((state / "munge.socket").exists, log.read_text)
        stack.enter_context(tools.service([slurmctld, "-D", "-i"], state / "slurmctld.log"))
        stack.enter_context(tools.service([slurmd, "-D", "-N", host], state / "slurmd.log"))
        sinfo = [tools.tool("sinfo", "slurm-client"), "-h", "-o", "%T"]
        wait_for(lambda: tools.run(sinfo).stdout.strip() == "idle", (state / "slurmd.log").read_text)
        yield state


def submit(state: Path, *argv: object) -> str:
    """The number of the job. It gets all that this small node has."""
    sbatch = (tools.tool("sbatch", "slurm-client"), "--parsable", "--export=ALL", "--mem=64M")
    done = tools.run([*sbatch, *argv], cwd=state)
    assert done.returncode == 0, done.stderr + (state / "slurmctld.log").read_text()
    return done.stdout.strip().partition(";")[0]


def test_an_archive_in_shards(cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a planted fault, a damaged and a hanging dump; a job merges the results."""
    archive, results = tmp_path / "archive", tmp_path / "results"
    for sample in ("6.12-fill", "6.12-numa", "7.3-fill", "7.3-fill-kdump"):
        (archive / sample).mkdir(parents=True)
        shutil.copy(tools.SAMPLES / sample / "vmcore", archive / sample)
    tools.plant(tools.SAMPLES / "6.12-edges" / "vmcore", archive / "planted.json")
    (archive / "cut.vmcore").write_bytes(tools.FILL.read_bytes()[:100_000])
    tools.make_hanging(archive / "hang.vmcore")
    monkeypatch.setenv("UNACCEPTED_ARCHIVE", str(archive))
    monkeypatch.setenv("UNACCEPTED_RESULTS", str(results))
    monkeypatch.setenv("UNACCEPTED_COMMAND", " ".join(tools.PROGRAM))
    monkeypatch.setenv("UNACCEPTED_TIMEOUT", "30")
    monkeypatch.setenv("PYTHONPATH", str(tools.TOP))
    batch = tools.INTEGRATIONS / "slurm"
    job = submit(cluster, "--array=1-3%2", batch / "scan.sbatch")
    after = submit(cluster, f"--dependency=afterany:{job}", batch / "merge.sbatch")
    queue = [tools.tool("squeue", "slurm-client"), "-h", "-j", after]

    def is_over() -> bool:
        done = tools.run(queue)
        # A job that is over is forgotten sooner or later.
        return "Invalid job id" in done.stderr or (done.returncode == 0 and not done.stdout.strip())

    wait_for(is_over, (cluster / "slurmctld.log").read_text)
    log = (cluster / f"slurm-{after}.out").read_text()
    shards = sorted(results.glob("shard-*.jsonl"))
    tasks = "".join(path.read_text() for path in cluster.glob(f"slurm-{job}_*.out"))
    assert [path.name for path in shards] == [f"shard-{n}-of-3.jsonl" for n in (1, 2, 3)], tasks
    assert [tools.json_lines(path)[0]["shard"] for path in shards] == [[0, 3], [1, 3], [2, 3]]
    found = [record["target"]["path"] for path in shards for record in tools.json_lines(path)[1:]]
    dumps = (path for pattern in ("*/vmcore", "*.vmcore", "planted.json") for path in archive.glob(pattern))
    assert sorted(found) == sorted(map(str, dumps))
    assert log.startswith(f"CRITICAL {tools.PLANTED}: 1 of 5 targets that could tell: {archive}/planted.json"), log
    summary = json.loads((results / "summary.json").read_text())
    assert summary["incomplete"] == [] and summary["problem_count"] == 0 and summary["doubles"] == 0
    assert {failed["kind"]: failed["targets"] for failed in summary["failed"]} == {"timeout": 1, "unreadable": 1}
    assert len((results / "targets.csv").read_text().splitlines()) == 1 + 7
