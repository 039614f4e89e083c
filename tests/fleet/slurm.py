# SPDX-License-Identifier: LGPL-2.1-or-later
"""A Slurm of one node on loopback, from Debian: munged, slurmctld and slurmd."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import tempfile
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

    def wait(self, job: int) -> None:
        """Until the job, with all tasks of its array, has left the queue."""
        queue = [tool("squeue", "slurm-client"), "-h", "-j", job, "-o", "%i %T %r"]

        def is_over() -> bool:
            done = run(queue, env=self.environment)
            # A job that is over is forgotten sooner or later.
            return "Invalid job id" in done.stderr or (done.returncode == 0 and not done.stdout.strip())

        wait_for(is_over, self._state / "slurmctld.log")

    def output(self, job: int) -> str:
        """The output of a job, or of all tasks of an array."""
        files = [*self._state.glob(f"slurm-{job}.out"), *self._state.glob(f"slurm-{job}_*.out")]
        return "".join(path.read_text() for path in sorted(files))

    def logs(self) -> str:
        return "".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-2000:]}" for path in sorted(self._state.glob("*.log"))
        )


@contextmanager
def slurm() -> Iterator[Slurm]:
    # Not below pytest's directory: every directory above munged's socket must belong to root alone.
    state = Path(tempfile.mkdtemp(prefix="drgn-unaccepted-slurm-", dir="/run"))
    state.chmod(0o755)
    try:
        with _cluster(state) as cluster:
            yield cluster
    finally:
        shutil.rmtree(state)


@contextmanager
def _cluster(state: Path) -> Iterator[Slurm]:
    munged, slurmctld, slurmd = tool("munged", "munge"), tool("slurmctld", "slurmctld"), tool("slurmd", "slurmd")
    (state / "controller").mkdir()
    (state / "node").mkdir()
    key = state / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    # With an explicit name for slurmd, the host's own need not resolve.
    host = socket.gethostname().partition(".")[0]
    (state / "slurm.conf").write_text(CONFIG.format(host=host, state=state, controller=free_port(), node=free_port()))
    cluster = Slurm(state)
    files = [f"--key-file={key}", f"--socket={state}/munge.socket", f"--pid-file={state}/munged.pid"]
    authenticate = [munged, "--foreground", "--force", *files, f"--seed-file={state}/munged.seed", "--num-threads=2"]
    with service(authenticate, state / "munged.log"):
        wait_for(lambda: (state / "munge.socket").exists(), state / "munged.log")
        control = service([slurmctld, "-D", "-i"], state / "slurmctld.log", env=cluster.environment)
        work = service([slurmd, "-D", "-N", host], state / "slurmd.log", env=cluster.environment)
        with control, work:
            sinfo = [tool("sinfo", "slurm-client"), "-h", "-o", "%T"]
            idle = lambda: run(sinfo, env=cluster.environment).stdout.strip() == "idle"  # noqa: E731
            wait_for(idle, state / "slurmd.log")
            yield cluster
