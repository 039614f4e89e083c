# SPDX-License-Identifier: LGPL-2.1-or-later
"""A distribution's unmodified kernel: Debian's cloud kernel, fetched as packages and unpacked into the cache.

Nothing is installed on the system. The packages come from the machine's apt sources: the image (about 35 MB) and its
debug symbols (about 320 MB, for vmlinux).
"""

from __future__ import annotations

import json
import lzma
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .shell import LabError, cache_dir, lock, run, say

SERIES = ("debian",)
# This package depends on the newest kernel of its series.
META = "linux-image-6.12-cloud-amd64"
# Do not fetch larger packages.
MAX_PACKAGE_BYTES = 1 << 30
# QEMU's fw_cfg driver writes the vmcoreinfo note. There is no 9p module, so the guest has no share.
MODULES = ("qemu_fw_cfg",)


def directory(series: str) -> Path:
    """Return the directory of vmlinux, bzImage, config, build-id, kernel.json and modules/. Fetch it if necessary."""
    found = _cached(series)
    if found:
        return found[-1]
    with lock(f"fetch-{series}"):
        found = _cached(series)
        return found[-1] if found else _fetch(series)


def _cached(series: str) -> list[Path]:
    return sorted(path.parent for path in (cache_dir() / "kernels").glob(f"{series}-*/kernel.json"))


def _fetch(series: str) -> Path:
    depends = re.search(rf"^Depends: ({META.replace('6.12', '6.12[^ ,]*')})\b", _show(META), re.M)
    if depends is None:
        raise LabError(f"{META} depends on no kernel; add bookworm-security to the apt sources and run apt-get update")
    image, symbols = depends[1], f"{depends[1]}-dbg"
    version = _field(image, "Version")
    out = cache_dir() / "kernels" / f"{series}-{version}"
    work = out.with_name(f"{out.name}.partial")
    shutil.rmtree(work, ignore_errors=True)
    (work / "modules").mkdir(parents=True)
    release = image.removeprefix("linux-image-")
    with tempfile.TemporaryDirectory(prefix="lab-stock-") as name:
        tree = Path(name)
        _unpack(image, tree)
        shutil.copy(tree / f"boot/vmlinuz-{release}", work / "bzImage")
        shutil.copy(tree / f"boot/config-{release}", work / "config")
        for module in MODULES:
            _copy_module(tree / "lib/modules" / release, module, work / "modules")
        _unpack(symbols, tree, f"./usr/lib/debug/boot/vmlinux-{release}")
        shutil.move(tree / f"usr/lib/debug/boot/vmlinux-{release}", work / "vmlinux")
    build_id = re.search(r"Build ID: ([0-9a-f]+)", run(["readelf", "-n", work / "vmlinux"], timeout=120))
    if build_id is None:
        raise LabError(f"{symbols}: its vmlinux has no build ID")
    (work / "build-id").write_text(build_id[1] + "\n")
    about = {"series": series, "source": version, "release": release, "build_id": build_id[1]}
    (work / "kernel.json").write_text(json.dumps(about, indent=2) + "\n")
    work.rename(out)
    say(f"{release}: {out}")
    return out


def _show(package: str) -> str:
    return run(["apt-cache", "show", "--no-all-versions", package], timeout=60)


def _field(package: str, field: str) -> str:
    match = re.search(rf"^{field}: (\S+)", _show(package), re.M)
    if match is None:
        raise LabError(f"apt-cache shows no {field} for {package}")
    return match[1]


def _unpack(package: str, into: Path, *members: str) -> None:
    """Fetch a package and unpack all of it, or only ``members``."""
    size = int(_field(package, "Size"))
    if size > MAX_PACKAGE_BYTES:
        raise LabError(f"{package} is {size >> 20} MiB, more than the limit of {MAX_PACKAGE_BYTES >> 20} MiB")
    say(f"fetching {package}, {size >> 20} MiB")
    run(["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", package], timeout=1800, cwd=into)
    (archive,) = into.glob("*.deb")
    # dpkg-deb alone would unpack everything; the symbols of all modules take several GB.
    run(
        ["sh", "-c", 'dpkg-deb --fsys-tarfile "$1" | { shift; tar -xf - "$@"; }', "sh", archive, *members],
        timeout=900,
        cwd=into,
    )
    archive.unlink()


def _copy_module(modules: Path, name: str, into: Path) -> None:
    for path in _named(modules, name):
        data = path.read_bytes()
        (into / f"{name}.ko").write_bytes(lzma.decompress(data) if path.suffix == ".xz" else data)
        return
    raise LabError(f"{modules.name} has no module {name}")


def _named(modules: Path, name: str) -> Iterator[Path]:
    return (path for path in modules.rglob(f"{name}.ko*") if path.suffix in (".ko", ".xz"))
