# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make what the guest boots from: the EFI system partition (a directory that QEMU serves as FAT) and the initramfs."""

from __future__ import annotations

import gzip
import hashlib
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .kernel import Kernel
from .shell import LabError, cache_dir, run, which

HERE = Path(__file__).parent
EFI_LIBRARY = Path("/usr/lib")
GUEST_PROGRAMS = ("kexec", "makedumpfile")


@dataclass(frozen=True)
class Range:
    """Physical memory [start, end) given as type 15. A `fake` range is reported, but not allocated in the firmware."""

    start: int
    end: int
    fake: bool = False

    def line(self) -> str:
        return f"{'fake' if self.fake else 'alloc'} {self.start:#x} {self.end:#x}\n"


def make_esp(directory: Path, kernel: Kernel, command_line: str, ranges: Sequence[Range], patch: str) -> None:
    """Write the files that the firmware and the loader read into `directory`."""
    (directory / "EFI/BOOT").mkdir(parents=True)
    (directory / "lab").mkdir()
    shutil.copy(loader(), directory / "EFI/BOOT/BOOTX64.EFI")
    shutil.copy(kernel.bzimage, directory / "lab/bzImage")
    shutil.copy(initramfs(kernel.modules), directory / "lab/initrd")
    (directory / "lab/cmdline").write_text(command_line + " initrd=\\lab\\initrd\n")
    (directory / "lab/ranges").write_text("".join(item.line() for item in ranges))
    if patch:
        (directory / "lab/patch").write_text(patch)


def loader() -> Path:
    """Return the EFI loader, compiled once for each version of its source."""
    source = HERE / "loader/loader.c"
    out = cache_dir() / "images" / f"loader-{_digest(source.read_bytes())}.efi"
    if out.exists():
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        flags = "-ffreestanding -fno-stack-protector -fpic -fshort-wchar -mno-red-zone -mgeneral-regs-only -O2"
        flags += " -maccumulate-outgoing-args -DGNU_EFI_USE_MS_ABI -Wall -Wextra -Werror"
        include: list[str | Path] = ["-I/usr/include/efi", "-I/usr/include/efi/x86_64"]
        run(["gcc", *flags.split(), *include, "-c", source, "-o", work / "loader.o"], timeout=120)
        link = "-nostdlib -znocombreloc -shared -Bsymbolic -T"
        objects: list[str | Path] = [EFI_LIBRARY / "crt0-efi-x86_64.o", work / "loader.o"]
        objects += ["-o", work / "loader.so"]
        libraries = [f"-L{EFI_LIBRARY}", "-lefi", "-lgnuefi"]
        run(["ld", *link.split(), EFI_LIBRARY / "elf_x86_64_efi.lds", *objects, *libraries], timeout=60)
        sections = [".text", ".sdata", ".data", ".rodata", ".dynamic", ".dynsym", ".rel*", ".reloc"]
        keep = [word for section in sections for word in ("-j", section)]
        run(
            ["objcopy", *keep, "--target", "efi-app-x86_64", work / "loader.so", work / "loader.efi"],
            timeout=60,
        )
        _put(work / "loader.efi", out)
    return out


def initramfs(modules: Sequence[Path] = ()) -> Path:
    """Return an initramfs with busybox, kexec, makedumpfile, their libraries, init.sh and the modules that it loads."""
    init = HERE / "init.sh"
    programs = [Path("/bin/busybox"), *(_program(name) for name in GUEST_PROGRAMS)]
    content = b"".join(path.read_bytes() for path in [init, *programs, *modules])
    out = cache_dir() / "images" / f"initramfs-{_digest(content)}.gz"
    if out.exists():
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "root"
        (root / "bin").mkdir(parents=True)
        for program in programs:
            shutil.copy(program, root / "bin" / program.name)
            for library in _libraries(program):
                target = root / library.relative_to("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(library, target)
        shutil.copy(init, root / "init")
        (root / "init").chmod(0o755)
        (root / "dev").mkdir()
        (root / "modules").mkdir()
        for module in modules:
            shutil.copy(module, root / "modules" / module.name)
        (root / "bin/sh").symlink_to("busybox")
        listing = "\n".join(str(path.relative_to(root)) for path in [root, *sorted(root.rglob("*"))])
        archive = Path(name) / "initramfs"
        run(["cpio", "--quiet", "-o", "-H", "newc", "-O", archive], timeout=60, cwd=root, stdin=listing + "\n")
        packed = Path(name) / "initramfs.gz"
        packed.write_bytes(gzip.compress(archive.read_bytes(), 6, mtime=0))
        _put(packed, out)
    return out


def _program(name: str) -> Path:
    path = which(name)
    if path is None:
        raise LabError(f"{name} is not installed; run `scripts/lab setup`")
    return Path(path)


def _libraries(program: Path) -> list[Path]:
    """Return the shared libraries and the dynamic linker that ldd finds for a program."""
    listing = run(["sh", "-c", 'ldd "$1" 2>&1 || true', "sh", program], timeout=30)
    return [Path(path) for path in re.findall(r"(?:=>\s+|^\s+)(/\S+) \(0x", listing, re.MULTILINE)]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def _put(made: Path, out: Path) -> None:
    """Move a finished file into the cache in one step."""
    partial = out.with_name(out.name + ".partial")
    shutil.copy(made, partial)
    partial.rename(out)
