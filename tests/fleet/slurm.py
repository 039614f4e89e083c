# SPDX-License-Identifier: LGPL-2.1-or-later
"""A Slurm of one node on loopback, from Debian: munged, slurmctld and slurmd, gone at the end of the block."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fleet.tools import free_port, run, service, tool, wait_for

CONFIG = """\
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={state}/munge.socket
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmctldPort={controller}
SlurmdPort={node}
StateSaveLocation={state}/controller
SlurmdSpoolDir={state}/node
SlurmctldPidFile={state}/slurmctld.pid
SlurmdPidFile={state}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0,sched_interval=1
MpiDefault=none
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=1024 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
"""


class Slurm:
    def __init__(self, state: Path) -> None:
        self.environment = {**os.environ, "SLURM_CONF": str(state / "slurm.conf")}
        self._state = state

    def submit(self, *argv: object, **exported: str) -> int:
        """sbatch; the number of the job."""
        names = ",".join(["ALL", *exported])
        done = run(
            [tool("sbatch", "slurm-client"), "--parsable", f"--export={names}", *argv],
            env={**self.environment, **exported},
            cwd=self._state,
        )
        assert done.returncode == 0, done.stderr + self.logs()
        return int(done.stdout.strip().partition(";")[0])

    def wait(self, job: int, seconds: float = 120) -> None:
        """Until the job, with all tasks of its array, has left the queue."""
        end = time.monotonic() + seconds
        while True:
            done = run([tool("squeue", "slurm-client"), "-h", "-j", job, "-o", "%i %T %r"], env=self.environment)
            # A job that is over is forgotten sooner or later.
            if "Invalid job id" in done.stderr or (done.returncode == 0 and not done.stdout.strip()):
                return
            assert time.monotonic() < end, done.stdout + self.logs()
            time.sleep(0.3)

    def output(self, job: int) -> str:
        """What a job, or all tasks of an array, printed."""
        files = [*self._state.glob(f"slurm-{job}.out"), *self._state.glob(f"slurm-{job}_*.out")]
        return "".join(path.read_text() for path in sorted(files))

    def logs(self) -> str:
        return "".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-2000:]}" for path in sorted(self._state.glob("*.log"))
        )


@contextmanager
def slurm() -> Iterator[Slurm]:
    # Not below pytest's directory: munged wants every directory above its socket to be root's alone.
    state = Path(tempfile.mkdtemp(prefix="drgn-unaccepted-slurm-", dir="/run"))
    state.chmod(0o755)
    try:
        with _cluster(state) as cluster:
            yield cluster
    finally:
        shutil.rmtree(state)


@contextmanager
def _cluster(state: Path) -> Iterator[Slurm]:
    munged, slurmctld, slurmd = (
        tool("munged", "munge"),
        tool("slurmctld", "slurmctld"),
        tool("slurmd", "slurmd"),
    )
    (state / "controller").mkdir()
    (state / "node").mkdir()
    key = state / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    # slurmd is told its name, so that the host's own need not resolve.
    host = socket.gethostname().partition(".")[0]
    (state / "slurm.conf").write_text(CONFIG.format(host=host, state=state, controller=free_port(), node=free_port()))
    cluster = Slurm(state)
    authenticate = [
        munged,
        "--foreground",
        "--force",
        f"--key-file={key}",
        f"--socket={state}/munge.socket",
        f"--pid-file={state}/munged.pid",
        f"--seed-file={state}/munged.seed",
        "--num-threads=2",
    ]
    with service(authenticate, state / "munged.log"):
        wait_for(lambda: (state / "munge.socket").exists(), state / "munged.log")
        control = service([slurmctld, "-D", "-i"], state / "slurmctld.log", env=cluster.environment)
        work = service([slurmd, "-D", "-N", host], state / "slurmd.log", env=cluster.environment)
        with control, work:
            sinfo = [tool("sinfo", "slurm-client"), "-h", "-o", "%T"]
            idle = lambda: run(sinfo, env=cluster.environment).stdout.strip() == "idle"  # noqa: E731
            wait_for(idle, state / "slurmd.log")
            yield cluster
