# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the tests of fleets share: real tools from Debian or PyPI, and targets that are ill. A test without its tool is
skipped, and says what installs it.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Optional

import pytest

from drgn_unaccepted.kernel.capture import capture
from drgn_unaccepted.snapshot import ALL_MEMORY, ALL_PARTS, Wanted
from drgn_unaccepted.snapshot_file import write
from drgn_unaccepted.targets.vmcore import open_vmcore

Record = dict[str, Any]

TOP = Path(__file__).resolve().parent.parent.parent
INTEGRATIONS = TOP / "drgn_unaccepted" / "integrations"
SAMPLES = TOP / "vmcore-samples"
FILL = SAMPLES / "6.12-fill" / "vmcore"
PROGRAM = (sys.executable, "-m", "drgn_unaccepted")


def tool(name: str, package: str = "") -> str:
    """The path of a program, or the test is skipped."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if path is None:
        pytest.skip(f"{name} is not here: apt-get install {package or name}")
    return path


def ansible_playbook() -> str:
    """The path of ansible-playbook, or the test is skipped."""
    tools = Path(os.environ.get("DRGN_UNACCEPTED_TOOLS", "~/.cache/drgn-unaccepted-tools")).expanduser()
    path = shutil.which("ansible-playbook", path=f"{tools}/ansible/bin:{os.environ['PATH']}")
    if path is None:
        pytest.skip("ansible-core is not here: scripts/fleet-tools")
    return path


def give_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a file or a link be another user's."""
    if os.geteuid() == 0:
        os.chown(path, 65534, 65534, follow_symlinks=False)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: path.lstat().st_uid + 1)


def make_hanging(path: Path) -> None:
    """A dump whose open(2) blocks for 45 s (/proc/sys/fs/lease-break-time), as on a dead file server.

    This process holds a lease on it until it ends.
    """
    # The kernel asks for the lease with this signal.
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)


def run(argv: Sequence[object], stdin: str = "", timeout: float = 600, **more: Any) -> subprocess.CompletedProcess[str]:
    words = [str(argument) for argument in argv]
    return subprocess.run(words, input=stdin, capture_output=True, text=True, timeout=timeout, check=False, **more)


def make_packages(out: Path) -> Path:
    """All packages, in this directory."""
    out.mkdir(exist_ok=True)
    done = run([sys.executable, TOP / "scripts" / "packages" / "main.py", out], timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


#: The answer of ``check`` as the contract has it, written by hand.
CHECK = """{"schema": "drgn-unaccepted/1", "command": "check", "target": {"kind": "live", "path": null,
"release": "6.12.117", "build_id": "dfe6ef2966087fd8748d4524039f33705b1c62d5", "debug_info": "btf",
"taken_at": "2026-11-01T12:00:00.250+00:00"}, "table": {"state": "present", "reason": null, "address": 2103590936,
"version": 1, "unit_size": 2097152, "phys_base": 4294967296, "bitmap_bytes": 4060, "read_through": "bpf"},
"source": "bitmap", "exact": true, "source_reason": null, "covered_bytes": 68115496960,
"unaccepted_bytes": 12884901888, "nr_unaccepted_bytes": 12884901888, "torn": [],
"platform": {"kind": "tdx", "cc_vendor": "INTEL", "lazy": true}, "status": "ok", "findings": []}"""


def check_document(**changes: Any) -> dict[str, Any]:
    return {**json.loads(CHECK), **changes}


def finding(rule: str, status: str, message: str = "words") -> dict[str, Any]:
    return {"rule": rule, "status": status, "message": message, "ranges": [], "needs": []}


NOW = "2025-11-01T12:00:00+00:00"


def scanned(
    number: int,
    findings: Sequence[tuple[str, str]] = (),
    error: Optional[str] = None,
    release: str = "6.12.117",
    platform: Optional[str] = "tdx",
    **more: Any,
) -> Record:
    """The record of a dump."""
    statuses = [status for _, status in findings]
    document = check_document(
        **{"command": "scan", "id": f"{number:032x}", "host": None, "finished_at": NOW, "seconds": 0.2},
        **{"passed": [], "skipped": []},
        error=error and {"kind": error, "reason": f"because {number}"},
        status=next((s for s in ("critical", "warning") if s in statuses), "unknown" if error else "ok"),
        findings=[finding(rule, status, f"{rule} of {number}") for rule, status in findings],
        platform=platform and {"kind": platform, "cc_vendor": None, "lazy": None},
    )
    document["target"] = {**document["target"], "kind": "vmcore", "path": f"/crash/{number}/vmcore", "release": release}
    return {**document, **more}


def json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


#: The rule that :func:`plant` breaks, and no other.
PLANTED = "global-counter-matches-zones"


def plant(dump: Path, to: Path) -> None:
    """A snapshot of a real dump with a fault: the kernel's global counter has a chunk more than its zones together."""
    opened = open_vmcore(str(dump))
    counter = opened.prog["vm_zone_stat"][opened.prog.constant("NR_UNACCEPTED")].counter
    assert counter.address_ is not None
    # Pages of 4 MiB, a chunk of zone->unaccepted_pages.
    planted = (counter.value_() + 1024).to_bytes(8, "little")
    opened.prog.add_memory_segment(counter.address_, 8, lambda at, count, offset, _: planted[offset : offset + count])
    write(capture(opened, Wanted(ALL_PARTS, ALL_MEMORY)), str(to))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def service(argv: Sequence[object], log: Path, **more: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs until the end of the block."""
    with log.open("wb") as file:
        process = subprocess.Popen([str(a) for a in argv], stdin=subprocess.DEVNULL, stdout=file, stderr=file, **more)
    try:
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        process.kill()
        process.wait()
