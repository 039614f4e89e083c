# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kernel sources: Debian's `linux-source-*` packages, installed or fetched from another suite of the archive."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from . import archive
from .shell import LabError, apt_line, cache_dir, run

#: Series that come from another suite than the machine's own.
FETCHED = ("7.3",)


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
    """Return the source of this series that is installed or was fetched, the newest one. Fetch it if there is none."""
    package = f"linux-source-{series}"
    if series not in FETCHED:
        tarball = _installed_tarball(series)
        if not tarball.exists():
            raise LabError(f"no {tarball}; run as root: {apt_line([package])} (or `scripts/lab setup`)")
        version = run(["dpkg-query", "-W", "-f", "${Version}", package], timeout=30).strip()
        return Source(series, version, tarball)
    there = cache_dir() / "sources" / series
    if not (fetched := list(there.glob("*/usr/src/*.tar.xz"))):
        into = there / archive.field(package, "Version")
        into.mkdir(parents=True, exist_ok=True)
        archive.fetch(package, into, lambda name: name.endswith(".tar.xz"))
        fetched = list(into.glob("usr/src/*.tar.xz"))
    tarball = max(fetched, key=lambda path: path.stat().st_mtime)
    return Source(series, tarball.parents[2].name, tarball)


def _installed_tarball(series: str) -> Path:
    return Path(f"/usr/src/linux-source-{series}.tar.xz")
