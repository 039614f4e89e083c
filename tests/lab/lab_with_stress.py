# SPDX-License-Identifier: LGPL-2.1-or-later
"""scripts/lab with one more scenario, which is of no use for captures: much memory that the host never has to find."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from guest.cli import main
from guest.scenarios import GIB, HIGH, MIB, SCENARIOS, Range, Scenario

SCENARIOS["stress"] = Scenario(
    "stress",
    "5 GiB, nearly all of it unaccepted; three CPUs, of which two can accept while the third looks",
    ranges=(Range(HIGH, HIGH + 5 * GIB - 128 * MIB),),
    do="idle",
    machine=("-machine", "q35,max-ram-below-4g=512M", "-m", "5632M", "-smp", "3"),
)

if __name__ == "__main__":
    sys.exit(main())
