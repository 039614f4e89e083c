# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kernel sources: Debian's `linux-source-*` packages, installed or fetched from another suite of the archive."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from . import archive
from .shell import LabError, apt_line, cache_dir, run

#: Series that come from another suite than the machine's own.
FETCHED = ("7.3", "7.2")


@dataclass(frozen=True)
class Source:
    """A packed kernel source; `version` is the version of the Debian package."""

    series: str
    version: str
    tarball: Path


def missing_package(series: str) -> str | None:
    """Return the package to install for this series; None if it is installed or comes from another suite."""
    if series in FETCHED or _installed_tarball(series).exists():
        return None
    return f"linux-source-{series}"


def locate(series: str) -> Source:
    """Return the newest source of this series that was fetched or is installed. Fetch it if there is none."""
    if series in FETCHED:
        return _fetched(series) or _fetch(series)
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


def _fetch(series: str) -> Source:
    package = f"linux-source-{series}"
    version = archive.field(package, "Version")
    into = cache_dir() / "sources" / series / version
    into.mkdir(parents=True, exist_ok=True)
    archive.fetch(package, into, lambda name: name.endswith(".tar.xz"))
    return Source(series, version, into / f"usr/src/{package}.tar.xz")
