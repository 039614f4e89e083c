# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kernel sources: Debian's `linux-source-*` packages, installed or fetched from another suite of the archive.

A series that the machine's suite lacks (SUITES) is downloaded with a separate apt configuration in the lab's cache. It
takes the archive's address from the machine's apt sources, and does not change the system's configuration, lists or
package state.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from .shell import LabError, apt_line, cache_dir, run, say

# Series that come from another suite than the machine's own.
SUITES = {"7.3": "trixie-backports", "7.2": "trixie-backports"}


@dataclass(frozen=True)
class Source:
    """A packed kernel source; `version` is the version of the Debian package."""

    series: str
    version: str
    tarball: Path


def missing_package(series: str) -> str | None:
    """Return the package to install for this series; None if it is installed or comes from another suite."""
    if series in SUITES or _installed_tarball(series).exists():
        return None
    return f"linux-source-{series}"


def locate(series: str) -> Source:
    """Return the newest source of this series that was fetched or is installed. Fetch it if there is none."""
    if series in SUITES:
        return _fetched(series) or _fetch(series, SUITES[series])
    tarball = _installed_tarball(series)
    if not tarball.exists():
        raise LabError(f"no {tarball}; run as root: {apt_line([f'linux-source-{series}'])} (or `scripts/lab setup`)")
    version = run(["dpkg-query", "-W", "-f", "${Version}", f"linux-source-{series}"], timeout=30)
    return Source(series, version.strip(), tarball)


def _installed_tarball(series: str) -> Path:
    return Path(f"/usr/src/linux-source-{series}.tar.xz")


def _fetched(series: str) -> Source | None:
    found = sorted((cache_dir() / "sources" / series).glob(f"*/usr/src/linux-source-{series}.tar.xz"))
    if not found:
        return None
    tarball = max(found, key=lambda path: path.stat().st_mtime)
    return Source(series, tarball.parents[2].name, tarball)


def _fetch(series: str, suite: str) -> Source:
    package = f"linux-source-{series}"
    apt = cache_dir() / "apt" / suite
    for name in ("lists/partial", "archives/partial", "download"):
        (apt / name).mkdir(parents=True, exist_ok=True)
    sources = apt / "archive.sources"
    sources.write_text(_archive_in_suite(suite))
    options = [
        f"Dir::Etc::sourcelist={sources}",
        "Dir::Etc::sourceparts=/dev/null",
        f"Dir::State::lists={apt / 'lists'}",
        f"Dir::Cache={apt}",
        f"Dir::Cache::archives={apt / 'archives'}",
        "APT::Sandbox::User=root",
        "APT::Get::List-Cleanup=0",
        "Acquire::Languages=none",
    ]
    flags = [word for option in options for word in ("-o", option)]
    say(f"fetching {package} from {suite}")
    run(["apt-get", *flags, "-q", "update"], timeout=600)
    run(["apt-get", *flags, "-q", "download", package], timeout=1200, cwd=apt / "download")
    packages = sorted((apt / "download").glob(f"{package}_*.deb"), key=lambda path: path.stat().st_mtime)
    if not packages:
        raise LabError(f"{suite} has no {package}")
    version = run(["dpkg-deb", "-f", packages[-1], "Version"], timeout=60).strip()
    into = cache_dir() / "sources" / series / version
    into.mkdir(parents=True, exist_ok=True)
    run(["dpkg-deb", "-x", packages[-1], into], timeout=600)
    for path in packages:
        path.unlink()
    return Source(series, version, into / f"usr/src/{package}.tar.xz")


def _archive_in_suite(suite: str) -> str:
    """Return a deb822 source for `suite`, with the address and key of the machine's main Debian archive."""
    codename = _codename()
    for path in sorted(Path("/etc/apt/sources.list.d").glob("*.sources")):
        for stanza in re.split(r"\n\s*\n", path.read_text()):
            fields = dict(re.findall(r"^([A-Za-z-]+):[ \t]*(.*)$", stanza, re.MULTILINE))
            if codename in fields.get("Suites", "").split() and "main" in fields.get("Components", "").split():
                return _stanza(fields["URIs"], suite, fields.get("Signed-By", ""))
    lists = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*.list"))]
    for path in lists:
        for line in path.read_text().splitlines() if path.exists() else ():
            one_line = re.match(r"deb\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s+(.*)$", line.strip())
            if one_line and one_line[3] == codename and "main" in one_line[4].split():
                key = re.search(r"signed-by=(\S+)", one_line[1] or "")
                return _stanza(one_line[2], suite, key[1] if key else "")
    raise LabError(f"no apt source for {codename} main on this machine, so the address of {suite} is unknown")


def _stanza(uris: str, suite: str, key: str) -> str:
    lines = ["Types: deb", f"URIs: {uris}", f"Suites: {suite}", "Components: main"]
    if key:
        lines.append(f"Signed-By: {key}")
    return "\n".join(lines) + "\n"


def _codename() -> str:
    match = re.search(r"^VERSION_CODENAME=\"?(\w+)", Path("/etc/os-release").read_text(), re.MULTILINE)
    if match is None:
        raise LabError("/etc/os-release names no codename: is this Debian?")
    return match[1]
