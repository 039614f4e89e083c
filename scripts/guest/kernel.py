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
from typing import Optional

from . import binary, patch, sources, stock
from .shell import LabError, cache_dir, lock, need_packages, run, say

#: Kernels that the lab builds.
SERIES = ("6.12", "7.3")
#: One of them with the options that systemd as PID 1 needs (`lab live --booted`). It is not used for captures.
SYSTEMD = "systemd-6.12"
BUILD_TIMEOUT = 90 * 60
FRAGMENT = patch.SOURCES / "fragment.config"
SYSTEMD_FRAGMENT = patch.SOURCES / "systemd/fragment.config"


@dataclass(frozen=True)
class Kernel:
    """A kernel in the cache: bzImage, kernel.json, maybe vmlinux (DWARF and BTF), config, patch, modules."""

    directory: Path

    @property
    def about(self) -> dict[str, str]:
        about: dict[str, str] = json.loads((self.directory / "kernel.json").read_text())
        return about

    @property
    def series(self) -> str:
        """Of the lab's own kernels; of others it is the release."""
        return self.about["series"]

    @property
    def vmlinux(self) -> Optional[Path]:
        path = self.directory / "vmlinux"
        return path if path.exists() else None

    @property
    def bzimage(self) -> Path:
        return self.directory / "bzImage"

    @property
    def patch(self) -> str:
        """What the loader changes in an unmodified kernel, see :mod:`binary`."""
        path = self.directory / "patch"
        return path.read_text() if path.exists() else ""

    @property
    def has_9p(self) -> bool:
        """Whether the guest can share a directory with the lab. Else it writes to a serial port and a disk."""
        return self.about.get("share") != "no"

    @property
    def has_disks(self) -> bool:
        return self.about.get("disks") != "no"

    @property
    def modules(self) -> list[Path]:
        """Modules that init.sh loads first."""
        return sorted((self.directory / "modules").glob("*.ko"))

    @property
    def build_id(self) -> str:
        return self.about["build_id"]


def get(series: str) -> Kernel:
    """Return the lab's kernel of this series. Build it if it is not in the cache."""
    fragments = [FRAGMENT, SYSTEMD_FRAGMENT] if series == SYSTEMD else [FRAGMENT]
    source = sources.locate(series.removeprefix("systemd-"))
    kernel = Kernel(cache_dir() / "kernels" / f"{series}-{_key(source, fragments)}")
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


def from_tree(tree: Path) -> Kernel:
    """Build a kernel developer's tree with its .config or the default one, and the lab's options.

    Neither tree nor source is changed: the loader changes the kernel in memory, like an unmodified one.
    """
    if not (tree / "arch/x86/boot").is_dir():
        raise LabError(f"{tree} is not the top of a kernel's source")
    need_packages()
    work = cache_dir() / "trees" / hashlib.sha256(str(tree.resolve()).encode()).hexdigest()[:12]
    with lock(f"build-{work.name}"):
        # The next build of the same tree compiles only what has changed.
        (work / "objects").mkdir(parents=True, exist_ok=True)
        source = _clean(tree.resolve(), work / "source")
        config = tree / ".config"
        configure(source, work / "objects", [FRAGMENT], config if config.exists() else "defconfig")
        out = work / "out"
        about = _make(source, work / "objects", out)
        (out / "patch").write_text(binary.patch(out / "vmlinux"))
        final = cache_dir() / "kernels" / f"{about['release']}-{work.name}"
        stock.finish(out, final, {"series": about["release"], "source": str(tree), **about})
    return Kernel(final)


def _clean(tree: Path, copy: Path) -> Path:
    """Return the tree, or a clean copy: make cannot build outside a tree that was configured or built in place."""
    if not any((tree / name).exists() for name in (".config", "include/config", "arch/x86/include/generated")):
        return tree
    say(f"{tree} was configured or built in place: copying its sources to {copy}")
    built = [f"--exclude={pattern}" for pattern in ("/.git", "/vmlinux*", "*.o", "*.ko", "*.cmd")]
    run(["rsync", "-a", "--delete", *built, f"{tree}/", copy], timeout=1800)
    run(["make", "-s", "mrproper"], timeout=600, cwd=copy)
    return copy


def _build(source: sources.Source, kernel: Kernel, fragments: Sequence[Path]) -> None:
    say(f"building {source.series} ({source.version}), 6 to 15 minutes on 2 cores")
    work = kernel.directory.with_name(f"{kernel.directory.name}.build")
    if work.exists():
        shutil.rmtree(work)
    (work / "objects").mkdir(parents=True)
    run(["tar", "-xf", source.tarball, "-C", work], timeout=600)
    tree = work / f"linux-source-{source.series}"
    patch.apply(tree)
    configure(tree, work / "objects", fragments)
    about = _make(tree, work / "objects", work / "out")
    about = {"series": source.series, "source": source.version, **about}
    stock.finish(work / "out", kernel.directory, about)
    shutil.rmtree(work)


def _make(tree: Path, objects: Path, out: Path) -> dict[str, str]:
    """Build the kernel and put vmlinux, bzImage, System.map and config into `out`."""
    started = time.monotonic()
    # Make the build reproducible: no time, user or host in it.
    env = {
        "KBUILD_BUILD_TIMESTAMP": "Thu Jan 1 00:00:00 UTC 1970",
        "KBUILD_BUILD_USER": "lab",
        "KBUILD_BUILD_HOST": "lab",
        "KBUILD_BUILD_VERSION": "1",
    }
    make = ["make", "-s", f"O={objects}"]
    run(["nice", *make, f"-j{os.cpu_count() or 1}", "bzImage"], timeout=BUILD_TIMEOUT, cwd=tree, env=env)
    if out.exists():
        shutil.rmtree(out)
    out.mkdir()
    for name, path in {
        "vmlinux": "vmlinux",
        "bzImage": "arch/x86/boot/bzImage",
        "System.map": "System.map",
        "config": ".config",
    }.items():
        shutil.copy(objects / path, out / name)
    return {
        "release": run([*make, "kernelrelease"], timeout=120, cwd=tree).strip(),
        "build_id": stock.build_id(out / "vmlinux"),
        "seconds": f"{time.monotonic() - started:.0f}",
    }


def configure(tree: Path, objects: Path, fragments: Sequence[Path], base: str | Path = "allnoconfig") -> None:
    """Configure `base` (a target of make, or a file) plus the fragments, whose options must be in the result."""
    text = "".join(path.read_text() for path in fragments)
    asked = objects / "lab.config"
    asked.write_text(re.sub(r"^# optional: ", "", text, flags=re.MULTILINE))
    make = ["make", "-s", f"O={objects}"]
    env = {"KCONFIG_ALLCONFIG": str(asked.resolve())} if base == "allnoconfig" else {}
    if isinstance(base, Path):
        shutil.copy(base, objects / ".config")
    else:
        run([*make, base], timeout=300, cwd=tree, env=env)
    if base != "allnoconfig":
        merge: list[str | Path] = ["scripts/kconfig/merge_config.sh", "-m", "-O", objects, objects / ".config", asked]
        run(merge, timeout=300, cwd=tree)
        run([*make, "olddefconfig"], timeout=300, cwd=tree)
    got = set((objects / ".config").read_text().splitlines())
    # Values, for example NR_CPUS, may depend on other options of a developer's configuration.
    needed = (line for line in text.splitlines() if line.startswith("CONFIG_"))
    missing = [line for line in needed if line not in got and (base == "allnoconfig" or line.endswith("=y"))]
    if missing:
        raise LabError(f"{tree.name}: the configuration lacks {', '.join(missing)}")
