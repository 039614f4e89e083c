# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernels that guests boot. The lab builds its own kernels and caches them by source, configuration and patch."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import patch, sources, stock
from .shell import LabError, cache_dir, lock, need_packages, run, say

#: Kernels that the lab builds; :data:`stock.SERIES` are a distribution's.
SERIES = ("6.12", "7.3")
#: One of them with the options that systemd as PID 1 needs (`lab live --booted`). It is not used for captures.
SYSTEMD = "systemd-6.12"
BUILD_TIMEOUT = 90 * 60
FRAGMENT = patch.SOURCES / "fragment.config"
SYSTEMD_FRAGMENT = patch.SOURCES / "systemd/fragment.config"


@dataclass(frozen=True)
class Kernel:
    """A kernel in the cache: vmlinux (DWARF and BTF), bzImage, config, build-id, kernel.json and optional modules."""

    series: str
    directory: Path

    @property
    def vmlinux(self) -> Path:
        return self.directory / "vmlinux"

    @property
    def bzimage(self) -> Path:
        return self.directory / "bzImage"

    @property
    def modules(self) -> list[Path]:
        """Modules that init.sh loads first."""
        return sorted((self.directory / "modules").glob("*.ko"))

    @property
    def build_id(self) -> str:
        return (self.directory / "build-id").read_text().strip()

    @property
    def about(self) -> dict[str, str]:
        about: dict[str, str] = json.loads((self.directory / "kernel.json").read_text())
        return about


def get(series: str) -> Kernel:
    """Return the kernel of this series. Build or fetch it if it is not in the cache."""
    if series in stock.SERIES:
        return Kernel(series, stock.directory(series))
    if series not in (*SERIES, SYSTEMD):
        raise LabError(f"unknown kernel series {series}: {', '.join((*SERIES, *stock.SERIES, SYSTEMD))}")
    fragments = [FRAGMENT, SYSTEMD_FRAGMENT] if series == SYSTEMD else [FRAGMENT]
    source = sources.locate(series.removeprefix("systemd-"))
    kernel = Kernel(series, cache_dir() / "kernels" / f"{series}-{_key(source, fragments)}")
    if not (kernel.directory / "kernel.json").exists():
        with lock(f"build-{series}"):
            if not (kernel.directory / "kernel.json").exists():
                need_packages()
                _build(source, kernel, fragments)
    return kernel


def _key(source: sources.Source, fragments: Sequence[Path]) -> str:
    parts = [source.version.encode()]
    parts += [path.read_bytes() for path in sorted(patch.SOURCES.iterdir()) if path.is_file()]
    parts.append(Path(patch.__file__).read_bytes())
    parts += [path.read_bytes() for path in fragments if path != FRAGMENT]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]


def _build(source: sources.Source, kernel: Kernel, fragments: Sequence[Path]) -> None:
    say(f"building {source.series} ({source.version}), 6 to 15 minutes on 2 cores")
    started = time.monotonic()
    work = kernel.directory.with_suffix(".build")
    if work.exists():
        shutil.rmtree(work)
    work.mkdir(parents=True)
    run(["tar", "-xf", source.tarball, "-C", work], timeout=600)
    tree = work / f"linux-source-{source.series}"
    patch.apply(tree)
    configure(tree, fragments)

    # Make the build reproducible: no time, user or host in it.
    env = {
        "KBUILD_BUILD_TIMESTAMP": "Thu Jan 1 00:00:00 UTC 1970",
        "KBUILD_BUILD_USER": "lab",
        "KBUILD_BUILD_HOST": "lab",
        "KBUILD_BUILD_VERSION": "1",
    }
    jobs = os.cpu_count() or 1
    run(["nice", "make", "-s", f"-j{jobs}", "bzImage"], timeout=BUILD_TIMEOUT, cwd=tree, env=env)

    out = work / "out"
    out.mkdir()
    for name, path in {
        "vmlinux": "vmlinux",
        "bzImage": "arch/x86/boot/bzImage",
        "System.map": "System.map",
        "config": ".config",
    }.items():
        shutil.copy(tree / path, out / name)
    build_id = _build_id(out / "vmlinux")
    (out / "build-id").write_text(build_id + "\n")
    about = {
        "series": source.series,
        "source": source.version,
        "release": run(["make", "-s", "kernelrelease"], timeout=120, cwd=tree).strip(),
        "build_id": build_id,
        "seconds": f"{time.monotonic() - started:.0f}",
    }
    (out / "kernel.json").write_text(json.dumps(about, indent=2) + "\n")
    out.rename(kernel.directory)
    shutil.rmtree(work)
    say(f"built {about['release']} in {about['seconds']} s: {kernel.directory}")


def configure(tree: Path, fragments: Sequence[Path]) -> None:
    """Configure allnoconfig plus the fragments. Every option of the fragments must be in the result."""
    text = "".join(path.read_text() for path in fragments)
    asked = tree / "lab.config"
    asked.write_text(re.sub(r"^# optional: ", "", text, flags=re.MULTILINE))
    run(["make", "-s", "allnoconfig"], timeout=300, cwd=tree, env={"KCONFIG_ALLCONFIG": str(asked.resolve())})
    got = set((tree / ".config").read_text().splitlines())
    missing = [line for line in text.splitlines() if line.startswith("CONFIG_") and line not in got]
    if missing:
        raise LabError(f"{tree.name}: the configuration lacks {', '.join(missing)}")


def _build_id(vmlinux: Path) -> str:
    notes = run(["readelf", "-n", vmlinux], timeout=120)
    match = re.search(r"Build ID: ([0-9a-f]+)", notes)
    if match is None:
        raise LabError(f"{vmlinux}: no build ID")
    return match[1]
