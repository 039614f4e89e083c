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
MAX_PACKAGE_BYTES = 1 << 30


@cache
def _options() -> list[str]:
    """Options for apt's programs, with fresh lists."""
    apt = cache_dir() / "apt"
    for name in ("lists/partial", "archives/partial"):
        (apt / name).mkdir(parents=True, exist_ok=True)
    sources = apt / "archive.sources"
    sources.write_text(_archive_in_suites())
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


def _archive_in_suites() -> str:
    """Return a deb822 source for SUITES, with the address and key of the machine's main Debian archive."""
    codename = _codename()
    for path in sorted(Path("/etc/apt/sources.list.d").glob("*.sources")):
        for stanza in re.split(r"\n\s*\n", path.read_text()):
            fields = dict(re.findall(r"^([A-Za-z-]+):[ \t]*(.*)$", stanza, re.MULTILINE))
            if codename in fields.get("Suites", "").split() and "main" in fields.get("Components", "").split():
                return _stanza(fields["URIs"], fields.get("Signed-By", ""))
    lists = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*.list"))]
    for path in lists:
        for line in path.read_text().splitlines() if path.exists() else ():
            one_line = re.match(r"deb\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s+(.*)$", line.strip())
            if one_line and one_line[3] == codename and "main" in one_line[4].split():
                key = re.search(r"signed-by=(\S+)", one_line[1] or "")
                return _stanza(one_line[2], key[1] if key else "")
    raise LabError(f"no apt source for {codename} main on this machine, so the address of {SUITES[-1]} is unknown")


def _stanza(uris: str, key: str) -> str:
    lines = ["Types: deb", f"URIs: {uris}", f"Suites: {' '.join(SUITES)}", "Components: main"]
    if key:
        lines.append(f"Signed-By: {key}")
    return "\n".join(lines) + "\n"


def _codename() -> str:
    match = re.search(r"^VERSION_CODENAME=\"?(\w+)", Path("/etc/os-release").read_text(), re.MULTILINE)
    if match is None:
        raise LabError("/etc/os-release names no codename: is this Debian?")
    return match[1]
