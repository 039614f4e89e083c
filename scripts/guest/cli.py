# SPDX-License-Identifier: LGPL-2.1-or-later
"""`scripts/lab`: the command line of the guest lab."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from . import capture, kernel, live, matrix, sources, stock
from .scenarios import SCENARIOS
from .shell import LabError, apt_line, cache_dir, missing_packages, run, say

DESCRIPTION = """\
The guest lab: real kernels with unaccepted memory, booted under QEMU and captured.

It needs neither confidential hardware nor KVM: QEMU emulates the guest (TCG). A small EFI program gives an
ordinary guest memory of type 15 (EfiUnacceptedMemoryType). The guest boots a kernel built from Debian's source;
only the accept instruction is replaced, by code that records what was accepted. Unmodified kernels of 6.6 or later
work, too: the loader replaces the call in memory.

  scripts/lab setup            install missing packages (as root) and build the kernels
  scripts/lab list             list the scenarios and the existing captures
  scripts/lab run fill         boot one guest and capture it: about a minute
  scripts/lab run fill --image /boot/vmlinuz-6.12.95+deb12-amd64     the same with a distribution's kernel, as it is
  scripts/lab run fill --tree ~/linux     build that tree, outside it, and boot it
  scripts/lab matrix           test the program on all kernels that Debian's archive has, and record it in the docs
  scripts/lab all              make all missing captures, both kernels: about an hour
  scripts/lab live fill -- python3 -c 'print(1)'     run a command in a guest, on this machine's file system

See docs/lab.md for your own kernel.

Each capture is a directory, CACHE/captures/SERIES/SCENARIO/, or CACHE/unmodified/RELEASE/SCENARIO/:
  dump.elf           the guest's whole memory, written by QEMU (the only dump that contains the table)
  kdump.elf kdump.z  the same guest by kdump: /proc/vmcore, and `makedumpfile -c -d 31` of it
  guest/             the guest's own account, taken just before the dumps: /proc, /sys/firmware, the log, and
                     lab_accepted (every range that it accepted, with the task)
  loader.json        the EFI map that the kernel got, and what the EFI stub accepted
  scenario.json      kernel, path of its vmlinux, QEMU's command line
  serial.log         the console
"""
EPILOG = "CACHE is $DRGN_UNACCEPTED_LAB, or ~/.cache/drgn-unaccepted-lab. Kernels are in CACHE/kernels."


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    # End the guest, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return int(options.run(options))
    except (LabError, OSError) as err:
        print(f"lab: {err}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/lab",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    setup = commands.add_parser("setup", help="install missing packages (as root) and build the kernels")
    setup.add_argument("--packages-only", action="store_true", help="do not build")
    setup.add_argument("--dry-run", action="store_true", help="only print what is missing")
    setup.set_defaults(run=_setup)

    listing = commands.add_parser("list", help="list the scenarios and the existing captures")
    listing.set_defaults(run=_list)

    one = commands.add_parser("run", help="boot one scenario and capture it")
    one.add_argument("scenario", choices=SCENARIOS, metavar="SCENARIO", help="one that `scripts/lab list` shows")
    which = one.add_mutually_exclusive_group()
    which.add_argument("--image", metavar="FILE", help="boot this bzImage or EFI image, unmodified, 6.6 or later")
    one.add_argument("--modules", metavar="DIR", help="the image's modules (default: found by its release)")
    one.add_argument("--vmlinux", metavar="FILE", help="the image's symbols, for tests that compare DWARF and BTF")
    which.add_argument("--package", metavar="NAME", help="boot this linux-image-* of Debian's archive, unmodified")
    one.add_argument("--symbols", action="store_true", help="with --package: also fetch its vmlinux, 400 MiB")
    which.add_argument("--tree", metavar="DIR", help="build this kernel source, outside it, and boot it")
    one.add_argument("--cpus", type=int, metavar="N", help="CPUs of the guest (default: the scenario's)")
    one.set_defaults(run=_run)

    table = commands.add_parser(
        "matrix",
        help="test the program on the kernels of Debian's archive",
        description="Boot the newest kernel of each series and flavour that the archive has, capture it, and compare "
        "the program's answers with the guest's own account. What is done already is not done again. "
        f"Dumps of RAM are deleted once they were compared. The result is written to {matrix.TABLE.name}.",
    )
    table.add_argument("packages", nargs="*", metavar="PACKAGE", help="only these; default: cloud, then generic and rt")
    table.add_argument("--list", action="store_true", help="only list the packages")
    table.add_argument("--again", action="store_true", help="also repeat what is done")
    table.add_argument("--keep", action="store_true", help="keep the dumps of RAM, 300 MiB each")
    table.set_defaults(run=matrix.main)

    everything = commands.add_parser("all", help="make the captures that are missing")
    everything.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="make only these")
    everything.add_argument("--again", action="store_true", help="also replace existing captures")
    everything.set_defaults(run=_all)

    guest = commands.add_parser(
        "live",
        help="run a command in a guest",
        description="Boot the scenario and run COMMAND in it as root, chrooted into this machine's file "
        "system (over 9p; everything it writes outside /share is lost). Its output and exit status are passed "
        "through. When COMMAND creates /share/ask/dump.NAME, the lab stops the guest, writes "
        "/share/dump.NAME.elf, resumes the guest and creates /share/ask/dump.NAME.done.",
    )
    guest.add_argument("scenario", choices=SCENARIOS, metavar="SCENARIO", help="one that `scripts/lab list` shows")
    guest.add_argument("--share", metavar="DIR", help="the directory that becomes /share (default: a temporary one)")
    guest.add_argument("--timeout", type=float, default=900, metavar="SECONDS", help="limit for COMMAND (default: 900)")
    guest.add_argument("--append", default="", metavar="OPTIONS", help="append to the kernel command line")
    guest.add_argument(
        "--booted",
        action="store_true",
        help="boot this machine's systemd as PID 1 and run COMMAND as a service (uses its own kernel, built once)",
    )
    guest.add_argument("--layer", metavar="DIR", help="overlay the files of DIR on this machine's file system")
    guest.add_argument("--crash", action="store_true", help="with --booted: crash afterwards and save /share/kdump.*")
    guest.add_argument("words", nargs="+", metavar="COMMAND", help="the command and its arguments, after --")
    guest.set_defaults(run=live.main)

    for command in (setup, everything):
        command.add_argument("--kernel", action="append", choices=kernel.SERIES, help="default: every series")
    guest.add_argument("--kernel", default=kernel.SERIES[0], choices=kernel.SERIES)
    one.add_argument("--kernel", choices=kernel.SERIES, default=kernel.SERIES[0])
    return parser


def _setup(options: argparse.Namespace) -> int:
    series = options.kernel or list(kernel.SERIES)
    built = () if options.packages_only else series
    missing = missing_packages([name for name in map(sources.missing_package, built) if name])
    if missing:
        line = apt_line(missing)
        say(f"missing: {line}")
        if options.dry_run:
            return 1
        if os.geteuid() != 0:
            raise LabError(f"run as root: {line}")
        run(["apt-get", "update", "-q"], timeout=600)
        run(shlex.split(line), timeout=1800, env={"DEBIAN_FRONTEND": "noninteractive"})
    if not options.packages_only and not options.dry_run:
        for name in series:
            say(f"{name}: {kernel.get(name).directory}")
    return 0


def _list(options: argparse.Namespace) -> int:
    for name, scenario in SCENARIOS.items():
        there = sorted(path.parent.parent.name for path in cache_dir().glob(f"captures/*/{name}/scenario.json"))
        if others := len(list(cache_dir().glob(f"unmodified/*/{name}/scenario.json"))):
            there.append(f"+{others}")
        print(f"{name:15} {' '.join(there) or '-':10} {scenario.about}")
    print("\n+N: with N unmodified kernels")
    print(f"captures: {cache_dir()}/captures, and {cache_dir()}/unmodified")
    return 0


def _run(options: argparse.Namespace) -> int:
    if options.image:
        modules, vmlinux = (path and Path(path) for path in (options.modules, options.vmlinux))
        built = kernel.Kernel(stock.from_image(Path(options.image), modules, vmlinux))
    elif options.package:
        built = kernel.Kernel(stock.from_package(options.package, options.symbols))
    elif options.tree:
        built = kernel.from_tree(Path(options.tree))
    else:
        built = kernel.get(options.kernel)
    print(capture.capture(built, options.scenario, ["-smp", str(options.cpus)] if options.cpus else ()))
    return 0


def _all(options: argparse.Namespace) -> int:
    unknown = [name for name in options.scenarios if name not in SCENARIOS]
    if unknown:
        raise LabError(f"no such scenario: {', '.join(unknown)}")
    failed = []
    for series in options.kernel or kernel.SERIES:
        built = kernel.get(series)
        usual = (name for name, scenario in SCENARIOS.items() if not (scenario.unpatched or scenario.live_only))
        for name in options.scenarios or usual:
            if not options.again and capture.exists(built, name):
                continue
            try:
                capture.capture(built, name)
            except LabError as err:
                print(textwrap.indent(str(err), f"{series} {name}: "), file=sys.stderr)
                failed.append(f"{series} {name}")
    if failed:
        raise LabError(f"failed: {', '.join(failed)}")
    return 0
