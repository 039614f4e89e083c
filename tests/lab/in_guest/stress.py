# SPDX-License-Identifier: LGPL-2.1-or-later
"""Take samples with all their checks while memory is accepted on both CPUs, and hold each against what must be true.

A unit whose bit is set after a sample was set when it was taken, because bits only clear: no answer of that sample may
call it accepted. A unit that a sample calls accepted must be in the kernel's own record of accepts by then.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import time
from typing import Any

from drgn_unaccepted.answer.best_source import judge
from drgn_unaccepted.checks import Finding, Report, confirm, run_checks
from drgn_unaccepted.commands.ranges import ranges
from drgn_unaccepted.kernel.capture import capture
from drgn_unaccepted.snapshot import ALL_MEMORY, ALL_PARTS, Snapshot, Wanted
from drgn_unaccepted.targets.bpf import KernelReader
from drgn_unaccepted.targets.live import open_kernel
from drgn_unaccepted.targets.opened import Opened
from tests.lab.captures import CHUNK, set_units, units
from tests.lab.in_guest.guest import BURST, FILL, LAB, REST, SHARE, Filler, accepted_units, mount_tmpfs, nr_unaccepted

#: Every so many samples one is taken as if there were no table.
WITHOUT_TABLE = 10


class Stress:
    def __init__(self, opened: Opened) -> None:
        self.opened = opened
        self.reader = KernelReader()
        table = self.take().table
        self.at = opened.prog["page_offset_base"].value_() + table.address + 24
        self.base, self.size = table.phys_base, len(table.bitmap)
        self.initial = self.unaccepted()
        self.results: dict[str, Any] = {"alarms": [], "lies": [], "torn": 0, "in_flight": 0, "known": 0}

    def take(self, without_table: bool = False) -> Snapshot:
        return capture(self.opened, Wanted(ALL_PARTS, ALL_MEMORY if without_table else (), bitmap=not without_table))

    def unaccepted(self) -> set[int]:
        return set_units(self.base, self.reader.read(self.at, self.size))

    def sample(self) -> tuple[Snapshot, float]:
        start = time.perf_counter()
        snapshot = self.take()
        cost = time.perf_counter() - start
        self.results["torn"] += bool(snapshot.torn)
        self.results["in_flight"] += bool(snapshot.accepting and snapshot.accepting.entries)
        return snapshot, cost

    def hold(self, number: int, snapshot: Snapshot, source: str) -> None:
        later = self.unaccepted()
        recorded = accepted_units()
        chosen = judge(snapshot, source)
        if chosen.name != source:
            self.results["alarms"].append(f"{number}: no {source}: {chosen.reason}")
            return
        answer = ranges(snapshot, chosen)
        accepted = units(answer, "accepted") & self.initial
        self.results["known"] += len(accepted)
        for text, wrong in (
            ("called accepted, and their bits are set afterwards", accepted & later),
            ("called accepted, and the kernel has no record of it", accepted - recorded),
        ):
            if wrong:
                self.results["lies"].append(f"{number}: {source}: {len(wrong)} units {text}: {sorted(wrong)[:5]}")

    def check(self, number: int, snapshot: Snapshot) -> None:
        report = run_checks(snapshot)
        bad = wrong(report)
        alarms = [finding for finding in bad if finding.status == "critical"]
        if bad:
            alarms += wrong(confirm(report, run_checks(self.take())))
        self.results["alarms"] += [f"{number}: {each.rule}: {each.status}: {each.message}" for each in alarms]


def wrong(report: Report) -> list[Finding]:
    return [each for each in report.findings if each.status in ("warning", "critical")]


def main(count: int, delay_us: str) -> None:
    (LAB / "delay_us").write_text(delay_us)
    stress = Stress(open_kernel())
    mount_tmpfs(FILL)
    fillers = [Filler(cpu, FILL) for cpu in (0, 1)]
    chance = random.Random(1)
    costs: list[float] = []
    peak = 0
    start = nr_unaccepted()
    for number in range(count):
        chunks = max(0, nr_unaccepted() - REST) // CHUNK
        # Memory is accepted while a sample is taken, and so paced that there is some until the end; a third of it, as
        # fast as it goes.
        seconds = sum(costs[1:]) / (number - 1) * (count - number) if number > 1 else 0.3 * count
        for filler in fillers:
            if chance.random() < chunks / (3 * BURST * len(fillers) * (count - number)):
                filler.pause(0)
            else:
                filler.pause(1.5 * seconds / chunks * len(fillers) if chunks else None)
        snapshot, cost = stress.sample()
        for filler in fillers:
            filler.pause(None)
        costs.append(cost)
        stress.hold(number, snapshot, "bitmap")
        stress.check(number, snapshot)
        if number % WITHOUT_TABLE == 0:
            stress.hold(number, stress.take(without_table=True), "page-lists")
        if number == count // 4:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for filler in fillers:
        filler.end()
    results = stress.results
    results.update(
        samples=count,
        accepted_bytes=start - nr_unaccepted(),
        peak_kib_at_a_quarter=peak,
        peak_kib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    )
    (SHARE / "stress.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
