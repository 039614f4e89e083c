# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a recording costs: processor time, memory, bytes."""

from __future__ import annotations

import json
import resource
import sys
import time

from drgn_unaccepted.kernel.sampler import Sampler
from drgn_unaccepted.kernel.target import open_kernel
from drgn_unaccepted.record.loop import Stop, record
from tests.lab.in_guest.guest import SHARE


def main(count: int, interval: float) -> None:
    start = time.process_time()
    sampler = Sampler(open_kernel())
    sampler.take()
    opened = time.process_time()
    record(sampler.take, str(SHARE / "recording.jsonl"), interval, count, Stop())
    found = {
        "to_open_seconds": opened - start,
        "seconds_a_sample": (time.process_time() - opened) / count,
        "peak_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }
    (SHARE / "cost.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
