# SPDX-License-Identifier: LGPL-2.1-or-later
"""Shared by all parts of the lab: the cache, running commands, required packages, the error class."""

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
    """A problem that the user of the lab can understand or solve; printed without a traceback."""


def cache_dir() -> Path:
    """Return the directory of kernels and captures: `$DRGN_UNACCEPTED_LAB`, or one in `~/.cache`."""
    return Path(os.environ.get("DRGN_UNACCEPTED_LAB") or Path.home() / ".cache/drgn-unaccepted-lab")


def say(message: str) -> None:
    print(f"lab: {message}", file=sys.stderr, flush=True)


@contextmanager
def lock(name: str) -> Iterator[None]:
    """Hold a lock that excludes other processes; a second process waits."""
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
    """Run a command and return its standard output.

    :raises LabError: the command failed; with the end of its output
    """
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
        raise LabError(f"{words[0]} is not installed; run `scripts/lab setup`") from err
    except subprocess.TimeoutExpired as err:
        raise LabError(f"{' '.join(words)}: timeout after {timeout:.0f} s") from err
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
        raise LabError(f"{' '.join(words)}: exit status {done.returncode}\n{tail}")
    return done.stdout


# Programs (by name) and files (by path) that the lab needs, with the Debian packages that contain them.
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
    "zstd": "zstd",
    "lz4": "lz4",
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
    """Return the Debian packages that the lab needs and that are not installed, without duplicates."""
    missing = []
    for thing, package in PACKAGES.items():
        present = Path(thing).exists() if thing.startswith("/") else which(thing) is not None
        if not present:
            missing.append(package)
    return list(dict.fromkeys([*missing, *extra]))


def which(program: str) -> Optional[str]:
    """Like `shutil.which()`, but also search the sbin directories, which a user's PATH often lacks."""
    path = os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin"
    return shutil.which(program, path=path)


def apt_line(packages: Sequence[str]) -> str:
    return "apt-get install -y --no-install-recommends " + " ".join(packages)


def need_packages() -> None:
    """Raise LabError with the apt-get command line if a package is missing."""
    missing = missing_packages()
    if missing:
        raise LabError(f"missing packages; run as root: {apt_line(missing)}\n(or `scripts/lab setup`)")
