# SPDX-License-Identifier: LGPL-2.1-or-later
"""Edit an unpacked kernel source so that it runs with unaccepted memory without TDX or SNP.

Only the accept instruction is replaced: the branch that dies with "unknown platform", once in the kernel and
once in the EFI stub, calls code of ours (kernel/lab_accept.c, kernel/lab_stub_accept.h) that notes the range.
"""

from __future__ import annotations

import shutil
from pathlib import Path

SOURCES = Path(__file__).parent / "kernel"
PANIC_WORDS = '"Cannot accept memory: unknown platform\\n"'


class PatchError(Exception):
    """An anchor is not in the source exactly once: this kernel series needs another edit."""


def _replace_once(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    if text.count(old) != 1:
        raise PatchError(f"{path}: expected {old!r} once, found it {text.count(old)} times")
    path.write_text(text.replace(old, new))


def _include(path: Path, header: str) -> None:
    """Put an #include before the first one in the file."""
    text = path.read_text()
    first = text.find("#include")
    if first < 0:
        raise PatchError(f"{path}: no #include")
    path.write_text(f"{text[:first]}#include {header}\n{text[first:]}")


def apply(tree: Path) -> None:
    """Patch the kernel source at `tree` in place."""
    kernel = tree / "arch/x86/include/asm/unaccepted_memory.h"
    _replace_once(kernel, f"panic({PANIC_WORDS})", "lab_accept_memory(start, end)")
    _include(kernel, "<linux/lab_accept.h>")
    shutil.copy(SOURCES / "lab_accept.h", tree / "include/linux/")
    shutil.copy(SOURCES / "lab_accept.c", tree / "drivers/firmware/efi/")
    with (tree / "drivers/firmware/efi/Makefile").open("a") as makefile:
        makefile.write("\nobj-$(CONFIG_UNACCEPTED_MEMORY) += lab_accept.o\n")

    stub = tree / "arch/x86/boot/compressed/mem.c"
    _replace_once(stub, f"error({PANIC_WORDS})", "lab_stub_accept(start, end)")
    _include(stub, '"lab_stub_accept.h"')
    shutil.copy(SOURCES / "lab_stub_accept.h", tree / "arch/x86/boot/compressed/")
