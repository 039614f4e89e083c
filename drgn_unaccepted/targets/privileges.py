# SPDX-License-Identifier: LGPL-2.1-or-later
"""What this process may do."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

# include/uapi/linux/capability.h
_CAPABILITIES = {"CAP_DAC_READ_SEARCH": 2, "CAP_SYS_RAWIO": 17, "CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39}


def lacking(*names: str) -> list[str]:
    """Those of these capabilities that are not effective; none where that cannot be told, as with /proc hidden."""
    effective = _effective()
    return [name for name in names if not effective >> _CAPABILITIES[name] & 1]


def _effective() -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        lines = []
    return next((int(line.split()[1], 16) for line in lines if line.startswith("CapEff:")), -1)


def lockdown_mode(path: str = "/sys/kernel/security/lockdown") -> Optional[str]:
    """``none``, ``integrity`` or ``confidentiality``; None where it cannot be told."""
    try:
        line = Path(path).read_text()
    except OSError:
        return None
    return line.partition("[")[2].partition("]")[0] if "[" in line else None
