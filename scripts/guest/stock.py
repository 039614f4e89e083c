# SPDX-License-Identifier: LGPL-2.1-or-later
"""Unmodified kernels: an image of this machine or of a kernel developer, or a package of Debian's archive.

Nothing is installed on the system. A kernel in the cache has what :class:`kernel.Kernel` describes, and the patch that
the loader applies.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Optional

from . import archive, binary
from .shell import LabError, cache_dir, lock, run, say

#: What the guest loads, in this order, if it is not built in: its disks, and the driver that writes QEMU's vmcoreinfo.
MODULES = (
    *("virtio", "virtio_ring", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk"),
    "qemu_fw_cfg",
)
#: Packages that linux-image-* depends on since Debian's 6.19.
PARTS = re.compile(r"linux-(?:binary|modules)-[^ ,]+")


def from_image(image: Path, modules: Optional[Path], vmlinux: Optional[Path]) -> Path:
    """Return the directory in the cache that has this image, patch, modules and optional symbols."""
    if not image.is_file():
        raise LabError(f"{image}: no such file")
    with tempfile.TemporaryDirectory(prefix="lab-image-") as name:
        unpacked = Path(name) / "vmlinux"
        release = binary.unpack(image, unpacked)
        patch = binary.patch(unpacked)
        id_ = build_id(unpacked)
        # The prefix of its parameters, if it is built in.
        disks = b"\0virtio_blk." in unpacked.read_bytes()
    if vmlinux and build_id(vmlinux) != id_:
        raise LabError(f"{vmlinux} has another build ID than {image}")
    digest = hashlib.sha256(b"\0".join([image.read_bytes(), patch.encode(), str(vmlinux).encode()])).hexdigest()[:12]
    out = cache_dir() / "kernels" / f"{release}-{digest}"
    if not (out / "kernel.json").exists():
        work = out.with_name(f"{out.name}.partial")
        shutil.rmtree(work, ignore_errors=True)
        (work / "modules").mkdir(parents=True)
        shutil.copy(image, work / "bzImage")
        (work / "patch").write_text(patch)
        if vmlinux:
            (work / "vmlinux").symlink_to(vmlinux.resolve())
        _copy_modules(modules or _modules_of(image, release), work / "modules")
        disks = disks or any((work / "modules").glob("*virtio_blk.ko"))
        about = {"series": release, "source": str(image), "release": release}
        finish(work, out, {**about, "share": "no", "disks": "yes" if disks else "no", "build_id": id_})
    return out


def finish(work: Path, out: Path, about: Mapping[str, str]) -> None:
    """Write what describes a kernel, and put it into the cache in one step."""
    (work / "kernel.json").write_text(json.dumps(about, indent=2) + "\n")
    if out.exists():
        shutil.rmtree(out)
    work.rename(out)
    say(f"{about['release']}: {out}")


def from_package(package: str, symbols: bool = False) -> Path:
    """The same for a package linux-image-*; with `symbols`, also the vmlinux of its -dbg package (400 MiB).

    A package such as linux-image-cloud-amd64 stands for the kernel of Debian's stable release.
    """
    depends = archive.field(package, "Depends")
    if newest := re.match(r"linux-image-\d[^ ,]*", depends):
        return from_package(newest[0], symbols)
    release = package.removeprefix("linux-image-")
    version = archive.field(package, "Version")
    into = cache_dir() / "packages" / f"{release}_{version}"
    with lock(f"fetch-{release}"):
        if not (into / "complete").exists():
            shutil.rmtree(into, ignore_errors=True)
            into.mkdir(parents=True)
            for part in [package, *PARTS.findall(depends)]:
                # The archive drops the modules of an image before the image.
                if archive.names(re.escape(part)):
                    archive.fetch(part, into, _wanted)
            (into / "complete").touch()
        if symbols and not any(into.rglob("vmlinux*.debug")):
            archive.fetch(f"{package}-dbg", into, re.compile(rf"/vmlinux-{re.escape(release)}$|/vmlinux$").search)
            (found,) = (*into.rglob(f"vmlinux-{release}"), *into.rglob("vmlinux"))
            found.rename(into / "vmlinux.debug")
    # /boot until 7.1, then with the modules.
    images = [*into.rglob(f"vmlinuz-{release}"), *into.rglob("vmlinuz")]
    if len(images) != 1:
        raise LabError(f"{package} and what it depends on have {len(images)} files vmlinuz, not one")
    return from_image(images[0], into, next(into.rglob("vmlinux.debug"), None))


def _wanted(name: str) -> bool:
    base = name.rpartition("/")[2]
    return base.startswith("vmlinuz") or base.partition(".ko")[0] in MODULES


def build_id(vmlinux: Path) -> str:
    match = re.search(r"Build ID: ([0-9a-f]+)", run(["readelf", "-n", vmlinux], timeout=120))
    if match is None:
        raise LabError(f"{vmlinux}: no build ID")
    return match[1]


def _modules_of(image: Path, release: str) -> Path:
    """The directory of modules that belongs to an image, or the image's own if there is none."""
    beside = image.resolve().parent
    for place in (beside.parent / "lib/modules" / release, Path("/lib/modules") / release):
        if place.is_dir():
            return place
    return beside


def _copy_modules(modules: Path, into: Path) -> None:
    """Copy the modules that the guest loads. Others are taken to be built in: the guest says what it lacks."""
    for number, name in enumerate(MODULES):
        for path in modules.rglob(f"{name}.ko*"):
            target = into / f"{number}-{name}.ko"
            if path.suffix == ".zst":
                run(["zstd", "-q", "-d", path, "-o", target], timeout=60)
            else:
                unpack = {".xz": lzma.decompress, ".gz": gzip.decompress}.get(path.suffix, bytes)
                target.write_bytes(unpack(path.read_bytes()))
