# SPDX-License-Identifier: LGPL-2.1-or-later
"""`scripts/lab`: the command line of the guest lab."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import textwrap
from collections.abc import Sequence

from . import capture, kernel, live, sources, stock
from .scenarios import SCENARIOS
from .shell import LabError, apt_line, cache_dir, missing_packages, run, say

DESCRIPTION = """\
The guest lab: real kernels with unaccepted memory, booted under QEMU and captured.

No confidential hardware is needed. A small EFI program gives an ordinary guest memory of type 15
(EfiUnacceptedMemoryType), and a kernel built from Debian's source runs with it; only the accept instruction
is replaced, by code that notes what was accepted. QEMU emulates (TCG): no KVM either.

  scripts/lab setup            install what is missing (root), build the kernels
  scripts/lab list             the scenarios, and which captures are there
  scripts/lab run fill         boot one guest and capture it: about a minute
  scripts/lab all              everything that is missing, both kernels: about an hour
  scripts/lab live fill -- python3 -c 'print(1)'     run a command in a guest, on this machine's file system

A scenario of a distribution's kernel (run stock-idle) fetches that kernel as packages, 350 MB; `all` leaves it out.

Each capture is a directory, CACHE/captures/SERIES/SCENARIO/ (of a distribution's kernel CACHE/stock/...):
  dump.elf           the guest's whole memory, by QEMU (only this one holds the table)
  kdump.elf kdump.z  the same guest by kdump: /proc/vmcore, and `makedumpfile -c -d 31` of it
  guest/             the guest's account of itself, taken right before: /proc, /sys/firmware, its log,
                     lab_accepted (every range that it accepted, by whom)
  loader.json        the memory given as type 15, the EFI map that the kernel got, what the EFI stub accepted
  scenario.json      kernel, path of its vmlinux, QEMU's command line, SHA-256 of the dumps
  serial.log         the console
"""
EPILOG = "CACHE is $DRGN_UNACCEPTED_LAB, or ~/.cache/drgn-unaccepted-lab. Kernels lie in CACHE/kernels."


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except LabError as err:
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
    setup.add_argument("--dry-run", action="store_true", help="only name what is missing")
    setup.set_defaults(run=_setup)

    listing = commands.add_parser("list", help="the scenarios and the captures that are there")
    listing.set_defaults(run=_list)

    one = commands.add_parser("run", help="boot one scenario and capture it")
    one.add_argument("scenario", choices=SCENARIOS)
    one.set_defaults(run=_run)

    everything = commands.add_parser("all", help="make the captures that are missing")
    everything.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="only these")
    everything.add_argument("--again", action="store_true", help="also those that are there")
    everything.set_defaults(run=_all)

    guest = commands.add_parser(
        "live",
        help="run a command in a guest",
        description="Boot the scenario and run COMMAND in it as root, chrooted into this machine's file "
        "system (over 9p; what it writes is lost, but for /share). Its output and exit status are passed "
        "through. When it creates /share/ask/dump.NAME, the lab stops the guest, writes "
        "/share/dump.NAME.elf, lets the guest go on and creates /share/ask/dump.NAME.done.",
    )
    guest.add_argument("scenario", choices=SCENARIOS)
    guest.add_argument("--share", metavar="DIR", help="this directory is /share (default: a temporary one)")
    guest.add_argument("--timeout", type=float, default=900, metavar="SECONDS", help="for the command")
    guest.add_argument("--append", default="", metavar="OPTIONS", help="more kernel command line")
    guest.add_argument(
        "--booted",
        action="store_true",
        help="boot this machine's systemd too, as PID 1; COMMAND is a service (a kernel of its own, built once)",
    )
    guest.add_argument("--layer", metavar="DIR", help="files over this machine's file system")
    guest.add_argument("--crash", action="store_true", help="with --booted: crash afterwards, and save /share/kdump.*")
    guest.add_argument("words", nargs="+", metavar="COMMAND", help="after --")
    guest.set_defaults(run=_live)

    for command in (setup, everything):
        command.add_argument("--kernel", action="append", choices=kernel.SERIES, help="default: every series")
    guest.add_argument("--kernel", default=kernel.SERIES[0], choices=kernel.SERIES)
    one.add_argument("--kernel", choices=(*kernel.SERIES, *stock.SERIES), help="default: the scenario's first")
    return parser


def _setup(options: argparse.Namespace) -> int:
    series = options.kernel or list(kernel.SERIES)
    missing = missing_packages([name for name in map(sources.missing_package, series) if name])
    if missing:
        line = apt_line(missing)
        say(f"missing: {line}")
        if options.dry_run:
            return 1
        if os.geteuid() != 0:
            raise LabError(f"as root: {line}")
        run(["apt-get", "update", "-q"], timeout=600)
        run(shlex.split(line), timeout=1800, env={"DEBIAN_FRONTEND": "noninteractive"})
    if not options.packages_only and not options.dry_run:
        for name in series:
            say(f"{name}: {kernel.get(name).directory}")
    return 0


def _list(options: argparse.Namespace) -> int:
    for name, scenario in SCENARIOS.items():
        kernels = capture.series_of(scenario)
        there = [series for series in kernels if (capture.directory(series, name) / "scenario.json").exists()]
        print(f"{name:15} {' '.join(there) or '-':10} {scenario.about}")
    print(f"\ncaptures: {cache_dir() / 'captures'}, of a distribution's kernel {cache_dir() / 'stock'}")
    return 0


def _run(options: argparse.Namespace) -> int:
    series = options.kernel or capture.series_of(SCENARIOS[options.scenario])[0]
    print(capture.capture(series, options.scenario))
    return 0


def _all(options: argparse.Namespace) -> int:
    unknown = [name for name in options.scenarios if name not in SCENARIOS]
    if unknown:
        raise LabError(f"no such scenario: {', '.join(unknown)}")
    failed = []
    for series in options.kernel or kernel.SERIES:
        for name in options.scenarios or SCENARIOS:
            if series not in capture.series_of(SCENARIOS[name]):
                continue
            if not options.again and capture.exists(series, name):
                continue
            try:
                capture.capture(series, name)
            except LabError as err:
                print(textwrap.indent(str(err), f"{series} {name}: "), file=sys.stderr)
                failed.append(f"{series} {name}")
    if failed:
        raise LabError(f"failed: {', '.join(failed)}")
    return 0


def _live(options: argparse.Namespace) -> int:
    how = live.How(options.share, options.timeout, options.append.split(), options.booted, options.layer, options.crash)
    return live.run(options.kernel, options.scenario, options.words, how)
