# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run one scenario and write its capture: dumps, the guest's account, loader.json, scenario.json."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from . import account, image, kernel, stock
from .qemu import Guest, dig_holes
from .scenarios import PANIC, SCENARIOS, Scenario
from .shell import LabError, cache_dir, lock, need_packages, say

OPTIONS = "console=ttyS0 no_timer_check tsc=nowatchdog"
# Small enough for a free block in the 512 MiB below 4 GiB, wherever KASLR puts the kernel.
CRASHKERNEL = "crashkernel=128M"
KDUMP_SECONDS = 600


def directory(series: str, scenario: str) -> Path:
    """Captures of a distribution's kernel have their own directory: they contain no account to compare with."""
    return cache_dir() / ("stock" if series in stock.SERIES else "captures") / series / scenario


def series_of(scenario: Scenario) -> Sequence[str]:
    """The kernels that can run the scenario."""
    return stock.SERIES if scenario.stock else kernel.SERIES


def exists(series: str, scenario: str) -> bool:
    """Whether the capture exists and was made with the current kernel of the series."""
    about = directory(series, scenario) / "scenario.json"
    if not about.exists():
        return False
    return bool(json.loads(about.read_text())["kernel"]["build_id"] == kernel.get(series).build_id)


def capture(series: str, name: str) -> Path:
    """Run the scenario from boot to capture. An older capture is replaced only after the new one is complete."""
    scenario = SCENARIOS[name]
    if series not in series_of(scenario):
        raise LabError(f"{name} is for {', '.join(series_of(scenario))}, not for {series}")
    built = kernel.get(series)
    with lock(f"capture-{series}-{name}"):
        return _capture(built, scenario)


def _capture(built: kernel.Kernel, scenario: Scenario) -> Path:
    final = directory(built.series, scenario.name)
    work = final.with_name(final.name + ".partial")
    if work.exists():
        shutil.rmtree(work)
    work.mkdir(parents=True)
    started = time.monotonic()
    with boot(built, scenario, work) as guest:
        _wait_until_ready(guest, scenario)
        if not scenario.crashes:
            guest.stop()
            for dump_format in scenario.dump_formats:
                guest.dump(work / ("dump.elf" if dump_format == "elf" else f"dump.{dump_format}"), dump_format)
        if scenario.kdump:
            kdump(guest, scenario)
        command = guest.command
    tidy(work)
    for needed in ("guest/meminfo", "guest/lab_accepted"):
        if scenario.accounts and not (work / needed).exists():
            raise LabError(f"{work}: the guest left no {needed}")
    for path in work.glob("kdump.elf"):
        dig_holes(path)
    loaded = account.loader_account((work / "serial.log").read_text(errors="replace"), scenario.ranges)
    (work / "loader.json").write_text(json.dumps(loaded, indent=1) + "\n")
    about = {
        "scenario": scenario.name,
        "about": scenario.about,
        "kernel": {**built.about, "vmlinux": str(built.vmlinux)},
        "kaslr": "nokaslr" not in scenario.options,
        "do": scenario.do,
        "qemu": command,
        "seconds": round(time.monotonic() - started, 1),
        "sha256": {
            path.name: account.sha256(path)
            for path in sorted(work.iterdir())
            if path.name.startswith(("dump.", "kdump."))
        },
    }
    (work / "scenario.json").write_text(json.dumps(about, indent=1) + "\n")
    if final.exists():
        shutil.rmtree(final)
    work.rename(final)
    say(f"{built.series} {scenario.name}: {about['seconds']} s, {final}")
    return final


@contextmanager
def boot(built: kernel.Kernel, scenario: Scenario, work: Path, extra: Sequence[str] = ()) -> Iterator[Guest]:
    """Boot the scenario. `work` becomes its 9p share and receives serial.log."""
    need_packages()
    crash = [CRASHKERNEL] if "kdump" in scenario.do.split(",") else []
    debug = ["efi=debug"] if scenario.efi_debug else []
    share = ["lab.share=no"] if scenario.stock else []
    line = " ".join([OPTIONS, *debug, *crash, *share, *scenario.options, f"lab.do={scenario.do}"])
    with tempfile.TemporaryDirectory(prefix="lab-esp-") as esp:
        image.make_esp(Path(esp), built, line, scenario.ranges)
        shutil.copy(image.initramfs(built.modules), work / "initrd")
        shutil.copy(built.bzimage, work / "bzImage")
        (work / "kdump").write_text(" ".join(scenario.kdump) + "\n")
        machine = ["-cpu", scenario.cpu, *scenario.machine, *extra]
        if scenario.vmcoreinfo:
            machine += ["-device", "vmcoreinfo"]
        with Guest(Path(esp), work, work / "serial.log", machine) as guest:
            yield guest


def _wait_until_ready(guest: Guest, scenario: Scenario) -> None:
    if scenario.ready != PANIC:
        guest.wait_for_words(scenario.ready, scenario.seconds, never=PANIC)
        return
    guest.wait_for_words(PANIC, scenario.seconds)
    # Let the panic finish: it stops the other CPU and writes the log.
    time.sleep(3)


def kdump(guest: Guest, scenario: Scenario) -> None:
    """Crash the guest by SysRq over the serial line and wait until its crash kernel has saved the dump."""
    if not scenario.crashes:
        guest.resume()
        guest.sysrq("c")
    end = guest.wait_for_words("lab: do vmcore", scenario.seconds)
    guest.wait_for_words("lab: kdump done", KDUMP_SECONDS, end)
    guest.wait_for_end(60)


def tidy(work: Path) -> None:
    """Remove the lab's own files from the share and make the rest readable."""
    for name in ("initrd", "bzImage", "kdump"):
        (work / name).unlink()
    for path in work.rglob("*"):
        if path.is_file():
            path.chmod(0o644)
