# SPDX-License-Identifier: LGPL-2.1-or-later
"""What every part of the lab needs: its cache, running a command, its packages, its own kind of error."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Optional


class LabError(Exception):
    """Something that the user of the lab has to know or do; printed without a traceback."""


def cache_dir() -> Path:
    """Where kernels and captures are kept: `$DRGN_UNACCEPTED_LAB`, or under `~/.cache`."""
    return Path(os.environ.get("DRGN_UNACCEPTED_LAB") or Path.home() / ".cache/drgn-unaccepted-lab")


def say(message: str) -> None:
    print(f"lab: {message}", file=sys.stderr, flush=True)


@contextmanager
def lock(name: str) -> Iterator[None]:
    """One maker of a thing at a time, over all processes: a second one waits."""
    (cache_dir() / "locks").mkdir(parents=True, exist_ok=True)
    with (cache_dir() / "locks" / name).open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def run(
    command: Sequence[str | Path],
    *,
    timeout: float,
    cwd: Optional[Path] = None,
    env: Optional[Mapping[str, str]] = None,
    stdin: Optional[str] = None,
) -> str:
    """Run a command and return its standard output; a failure is a LabError with the end of its output."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            cwd=cwd,
            env={**os.environ, **env} if env is not None else None,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
        )
    except FileNotFoundError as err:
        raise LabError(f"{words[0]} is not installed; `scripts/lab setup` names what is missing") from err
    except subprocess.TimeoutExpired as err:
        raise LabError(f"{' '.join(words)}: not done after {timeout:.0f} s") from err
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
        raise LabError(f"{' '.join(words)}: exit status {done.returncode}\n{tail}")
    return done.stdout


# What the lab needs, and the Debian package that brings it: a program by name, or a file by path.
PACKAGES: dict[str, str] = {
    "qemu-system-x86_64": "qemu-system-x86",
    "/usr/share/OVMF/OVMF_CODE_4M.fd": "ovmf",
    "/usr/include/efi/efi.h": "gnu-efi",
    "gcc": "gcc",
    "make": "make",
    "objcopy": "binutils",
    "flex": "flex",
    "bison": "bison",
    "bc": "bc",
    "cpio": "cpio",
    "rsync": "rsync",
    "xz": "xz-utils",
    "perl": "perl",
    "depmod": "kmod",
    "pahole": "dwarves",
    "/usr/include/libelf.h": "libelf-dev",
    "/usr/include/openssl/ssl.h": "libssl-dev",
    "/bin/busybox": "busybox-static",
    "kexec": "kexec-tools",
    "makedumpfile": "makedumpfile",
}


def missing_packages(extra: Sequence[str] = ()) -> list[str]:
    """Debian packages that the lab needs and that are not installed, without doubles."""
    missing = []
    for thing, package in PACKAGES.items():
        present = Path(thing).exists() if thing.startswith("/") else which(thing) is not None
        if not present:
            missing.append(package)
    return list(dict.fromkeys([*missing, *extra]))


def which(program: str) -> Optional[str]:
    """`shutil.which()` that also looks into the sbin directories, which a user's PATH often lacks."""
    path = os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin"
    return shutil.which(program, path=path)


def apt_line(packages: Sequence[str]) -> str:
    return "apt-get install -y --no-install-recommends " + " ".join(packages)


def need_packages() -> None:
    """Fail with the apt line if something is missing."""
    missing = missing_packages()
    if missing:
        raise LabError(f"missing packages; as root: {apt_line(missing)}\n(or `scripts/lab setup`)")
