# SPDX-License-Identifier: LGPL-2.1-or-later
"""Packages from suites of Debian's archive that the machine itself may not use.

apt runs with a configuration in the lab's cache. It takes the archive's address from the machine's apt sources, and
does not change the system's configuration, lists or package state.
"""

from __future__ import annotations

import re
import subprocess
import tarfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from .shell import LabError, cache_dir, lock, run, say

#: Together they have 6.12 and every series since 6.16.
SUITES = ("bookworm-backports", "trixie", "trixie-backports")
KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
MAX_PACKAGE_BYTES = 1 << 30


@cache
def _options() -> list[str]:
    """Options for apt's programs, with fresh lists."""
    apt = cache_dir() / "apt"
    for name in ("lists/partial", "archives/partial"):
        (apt / name).mkdir(parents=True, exist_ok=True)
    sources = apt / "archive.sources"
    sources.write_text(_source())
    options = [
        f"Dir::Etc::sourcelist={sources}",
        "Dir::Etc::sourceparts=/dev/null",
        f"Dir::State::lists={apt / 'lists'}",
        f"Dir::Cache={apt}",
        f"Dir::Cache::archives={apt / 'archives'}",
        "APT::Sandbox::User=root",
        "Acquire::Languages=none",
    ]
    flags = [word for option in options for word in ("-o", option)]
    with lock("apt"):
        run(["apt-get", *flags, "-q", "update"], timeout=600)
    return flags


def names(pattern: str) -> list[str]:
    """The packages whose names match a regular expression."""
    found = run(["apt-cache", *_options(), "pkgnames"], timeout=60).split()
    return sorted(name for name in found if re.fullmatch(pattern, name))


def field(package: str, name: str) -> str:
    shown = run(["apt-cache", *_options(), "show", "--no-all-versions", package], timeout=60)
    match = re.search(rf"^{name}: (.*)$", shown, re.M)
    if match is None:
        raise LabError(f"the archive has no {name} of {package}")
    return match[1]


def fetch(package: str, into: Path, wanted: Callable[[str], object]) -> None:
    """Fetch a package, and unpack those of its files that are wanted: all modules and their symbols take gigabytes."""
    size = int(field(package, "Size"))
    if size > MAX_PACKAGE_BYTES:
        raise LabError(f"{package} is {size >> 20} MiB, more than the limit of {MAX_PACKAGE_BYTES >> 20} MiB")
    say(f"fetching {package}, {size >> 20} MiB")
    run(["apt-get", *_options(), "-q", "download", package], timeout=1800, cwd=into)
    (archive,) = into.glob(f"{package}_*.deb")
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE) as unpacked:
        assert unpacked.stdout is not None
        with tarfile.open(fileobj=unpacked.stdout, mode="r|") as tar:
            for member in tar:
                if member.isreg() and wanted(member.name):
                    tar.extract(member, into)
    archive.unlink()


def _source() -> str:
    """Return a deb822 source for SUITES at the address from which this machine has its own release of Debian."""
    release = run(["sh", "-c", '. /etc/os-release; echo "$VERSION_CODENAME"'], timeout=30).strip()
    listed = ["apt-get", "indextargets", "--format", "$(RELEASE) $(SITE)", "Identifier: Packages", "Component: main"]
    sites = [line.split()[1] for line in run(listed, timeout=60).splitlines() if line.startswith(f"{release} ")]
    if not (sites and KEYS.exists()):
        raise LabError(f"no apt source of this machine has {release} main of Debian, where packages come from")
    return f"Types: deb\nURIs: {sites[0]}\nSuites: {' '.join(SUITES)}\nComponents: main\nSigned-By: {KEYS}\n"
