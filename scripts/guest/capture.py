# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run one scenario and write its capture: dumps, the guest's account, loader.json, scenario.json."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from . import account, image, kernel
from .qemu import Guest, dig_holes
from .scenarios import PANIC, SCENARIOS, Scenario
from .shell import LabError, cache_dir, lock, need_packages, run, say

OPTIONS = "console=ttyS0 no_timer_check tsc=nowatchdog"
# Small enough for a free block in the 512 MiB below 4 GiB, wherever KASLR puts the kernel.
CRASHKERNEL = "crashkernel={}M"
#: Debian switches most of SysRq off, among it the crash.
UNMODIFIED = "sysrq_always_enabled"
KDUMP_SECONDS = 600
UNIT = 2 << 20
#: Verbs that need the lab's files in debugfs, or a second kernel that accepts.
OF_BUILT_KERNELS = {"fail", "delay", "accepting", "kexec"}
#: The size of the sparse disk that the crash kernel of a guest without 9p writes to.
KDUMP_BYTES = 4 << 30


def directory(built: kernel.Kernel, scenario: str) -> Path:
    return cache_dir() / ("unmodified" if built.patch else "captures") / built.series / scenario


def exists(built: kernel.Kernel, name: str) -> bool:
    """Whether the whole capture exists and was made with this kernel."""
    path = directory(built, name) / "scenario.json"
    if not path.exists():
        return False
    about = json.loads(path.read_text())
    return "failed" not in about and bool(about["kernel"]["build_id"] == built.build_id)


def capture(built: kernel.Kernel, name: str, options: Sequence[str] = ()) -> Path:
    """Run the scenario from boot to capture, with these options of QEMU after its own.

    An older capture is replaced only after the new one is complete.
    """
    scenario = SCENARIOS[name]
    _refuse(built, scenario)
    if scenario.kdump and not built.has_disks:
        say(f"{built.series}: no kdump: virtio_blk is neither built in nor among its modules")
        verbs = [verb for verb in scenario.do.split(",") if verb != "kdump"]
        scenario = dataclasses.replace(scenario, kdump=(), do=",".join(verbs))
    with lock(f"capture-{built.series}-{name}"):
        return _capture(built, scenario, options)


def _refuse(built: kernel.Kernel, scenario: Scenario) -> None:
    """Refuse what only the lab's own kernels can do."""
    if scenario.unpatched and not built.patch:
        raise LabError(f"{scenario.name} is for unmodified kernels: --image, --package or --tree")
    if scenario.live_only:
        raise LabError(f"{scenario.name} is for `scripts/lab live`")
    if not built.patch:
        return
    verbs = {verb.partition(":")[0] for verb in scenario.do.split(",")}
    if lacks := sorted(verbs & OF_BUILT_KERNELS):
        raise LabError(f"{scenario.name}: only the lab's own kernels can {', '.join(lacks)}")
    for item in scenario.ranges:
        if (item.start | item.end) % UNIT or item.end - item.start < 2 * UNIT:
            raise LabError(
                f"{scenario.name}: {item.start:#x}-{item.end:#x} is not 2 MiB aligned or under 4 MiB, so that the EFI "
                "stub accepts from it at once; only the stub of the lab's own kernels can"
            )


def _capture(built: kernel.Kernel, scenario: Scenario, options: Sequence[str]) -> Path:
    work = directory(built, f"{scenario.name}.partial")
    if work.exists():
        shutil.rmtree(work)
    work.mkdir(parents=True)
    started = time.monotonic()
    failed = ""
    with boot(built, scenario, work, options) as guest:
        _wait_until_ready(guest, scenario)
        if not scenario.crashes:
            guest.stop()
            for dump_format in ("elf",) if built.patch else scenario.dump_formats:
                guest.dump(work / ("dump.elf" if dump_format == "elf" else f"dump.{dump_format}"), dump_format)
        if built.patch and scenario.accounts:
            (work / "guest").mkdir(exist_ok=True)
            account.noted_accepts(work / "accepts", work / "guest/lab_accepted")
        if scenario.kdump:
            try:
                kdump(guest, scenario, work)
            except LabError as err:
                # The dump by QEMU is good all the same.
                failed = f"kdump: {err}"
        command = guest.command
    final = _finish(built, scenario, work, {"qemu": command, "seconds": round(time.monotonic() - started, 1)}, failed)
    if failed:
        raise LabError(f"{failed}\nthe rest of the capture is {final}")
    say(f"{built.series} {scenario.name}: {time.monotonic() - started:.1f} s, {final}")
    return final


def _finish(built: kernel.Kernel, scenario: Scenario, work: Path, how: Mapping[str, object], failed: str) -> Path:
    """Complete the capture in `work` and put it in its place. Return that, or `work` if a whole capture is there."""
    final = work.with_name(work.name.removesuffix(".partial"))
    tidy(work)
    for needed in ("guest/meminfo", "guest/lab_accepted"):
        if scenario.accounts and not (work / needed).exists():
            raise LabError(f"{work}: the guest left no {needed}")
    for path in work.glob("kdump.elf"):
        dig_holes(path)
    loaded = account.loader_account((work / "serial.log").read_text(errors="replace"))
    (work / "loader.json").write_text(json.dumps(loaded, indent=1) + "\n")
    about = {
        "scenario": scenario.name,
        "about": scenario.about,
        "kernel": {**built.about, "vmlinux": built.vmlinux and str(built.vmlinux)},
        "kaslr": "nokaslr" not in scenario.options,
        "do": scenario.do,
        **how,
        **({"failed": failed.splitlines()[0]} if failed else {}),
    }
    (work / "scenario.json").write_text(json.dumps(about, indent=1) + "\n")
    if failed and final.exists():
        return work
    if final.exists():
        shutil.rmtree(final)
    work.rename(final)
    return final


@contextmanager
def boot(built: kernel.Kernel, scenario: Scenario, work: Path, extra: Sequence[str] = ()) -> Iterator[Guest]:
    """Boot the scenario. `work` becomes its 9p share and receives serial.log."""
    need_packages()
    crash = [CRASHKERNEL.format(160 if built.patch else 128)] if "kdump" in scenario.do.split(",") else []
    debug = ["efi=debug"] if scenario.efi_debug else []
    other = [UNMODIFIED] if built.patch else []
    share = [] if built.has_9p else ["lab.share=no"]
    line = " ".join([OPTIONS, *debug, *crash, *other, *share, *scenario.options, f"lab.do={scenario.do}"])
    with tempfile.TemporaryDirectory(prefix="lab-esp-") as esp:
        image.make_esp(Path(esp), built, line, scenario.ranges, "" if scenario.unpatched else built.patch)
        shutil.copy(image.initramfs(built.modules), work / "initrd")
        shutil.copy(built.bzimage, work / "bzImage")
        (work / "kdump").write_text(" ".join(scenario.kdump) + "\n")
        machine = ["-cpu", scenario.cpu, *scenario.machine, *extra]
        if scenario.vmcoreinfo:
            machine += ["-device", "vmcoreinfo"]
        if built.patch:
            machine += ["-chardev", f"file,id=accepts,path={work / 'accepts'}"]
            machine += ["-device", "isa-debugcon,iobase=0xe9,chardev=accepts"]
        if not built.has_9p:
            machine += ["-serial", f"file:{work / 'account'}", *(_disks(work) if built.has_disks else ())]
        with Guest(Path(esp), work, work / "serial.log", machine) as guest:
            yield guest


def _disks(work: Path) -> Iterator[str]:
    """QEMU's options for the disks of a guest without 9p; init.sh finds them by their serial numbers."""
    with (work / "disk").open("wb") as disk:
        disk.truncate(KDUMP_BYTES)
    for name, path in ("kdump", "disk"), ("bzImage", "bzImage"), ("initrd", "initrd"):
        readonly = "off" if path == "disk" else "on"
        yield from ("-drive", f"if=none,id={name},format=raw,readonly={readonly},file={work / path}")
        yield from ("-device", f"virtio-blk-pci,drive={name},serial={name}")


def _wait_until_ready(guest: Guest, scenario: Scenario) -> None:
    if scenario.ready != PANIC:
        guest.wait_for_words(scenario.ready, scenario.seconds, never=PANIC)
        return
    guest.wait_for_words(PANIC, scenario.seconds)
    # Let the panic finish: it stops the other CPU and writes the log.
    time.sleep(3)


def kdump(guest: Guest, scenario: Scenario, work: Path) -> None:
    """Crash the guest by SysRq over the serial line and wait until its crash kernel has saved the dump."""
    start = len(guest.console())
    if not scenario.crashes:
        guest.resume()
        start = guest.crash()
    booting = guest.wait_for_words("Linux version", scenario.seconds, start)
    end = guest.wait_for_words("lab: do vmcore", scenario.seconds, booting, never=PANIC)
    guest.wait_for_words("lab: kdump done", KDUMP_SECONDS, end, never=PANIC)
    guest.wait_for_end(60)
    if (work / "disk").exists():
        run(["sh", "-c", 'makedumpfile -R "$1" <"$2"', "sh", work / "kdump.z", work / "disk"], timeout=600)


def tidy(work: Path) -> None:
    """Unpack the account from the serial port, remove the lab's own files from the share, make the rest readable."""
    if (work / "account").exists():
        account.unpack((work / "account").read_bytes(), work)
    for name in ("initrd", "bzImage", "kdump", "accepts", "account", "disk"):
        (work / name).unlink(missing_ok=True)
    for path in work.rglob("*"):
        if path.is_file():
            path.chmod(0o644)
