# SPDX-License-Identifier: LGPL-2.1-or-later
"""``check`` as metrics, for the textfile collector of node_exporter.

The text is the Prometheus exposition format 0.0.4, written so that it is OpenMetrics 1.0 too: base units, no
timestamps, ``# EOF`` at the end. What is unknown has no sample: a 0 would be an answer.
``node_memory_Unaccepted_bytes``, which node_exporter reads from ``/proc/meminfo``, is not repeated here; the alert
rules compare the two.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Optional, Union

from drgn_unaccepted.answer.documents import CheckAnswer
from drgn_unaccepted.errors import EXIT_STATUS
from drgn_unaccepted.words import safe

#: The status of a check as a number.
_CHECK = {"pass": 0, "info": 0, "warning": 1, "critical": 2, "skip": 3}

#: A metric's labels and its value; an unknown value has no sample.
Sample = tuple[dict[str, Optional[str]], Union[int, float, None]]


def prometheus(answer: CheckAnswer) -> Iterator[str]:
    table, platform, version = answer["table"], answer["platform"], answer["table"]["version"]
    unaccepted, covered, status = answer["unaccepted_bytes"], answer["covered_bytes"], EXIT_STATUS[answer["status"]]
    labels = {
        "state": table["state"],
        "version": None if version is None else str(version),
        "source": answer["source"],
        "exact": "true" if answer["exact"] else "false",
        "platform": None if platform is None else platform["kind"],
        "release": answer["target"]["release"],
    }
    taken_at = datetime.fromisoformat(answer["target"]["taken_at"]).timestamp()
    statuses: list[Sample] = [({"check": found["rule"]}, _CHECK[found["status"]]) for found in answer["findings"]]
    metrics: dict[str, tuple[str, list[Sample]]] = {
        "memory_bytes": ("Memory that the guest has not accepted yet.", [({}, unaccepted)]),
        "coverage_bytes": ("Address space that the bitmap of unaccepted memory has bits for.", [({}, covered)]),
        "unit_bytes": ("Memory that one bit stands for.", [({}, table["unit_size"])]),
        "table_info": (
            "State of the table of unaccepted memory, the source of the figures and whether it is exact.",
            [(labels, 1)],
        ),
        "overall_status": ("Worst finding of all checks: 0 ok, 1 warning, 2 critical, 3 unknown.", [({}, status)]),
        "check_status": ("Finding of one check: 0 passed, 1 warning, 2 critical, 3 could not be told.", statuses),
        "last_run_timestamp_seconds": ("When the target was read.", [({}, taken_at)]),
    }
    for name, (help_, samples) in metrics.items():
        lines = [f"efi_unaccepted_{name}{_labels(of)} {value}" for of, value in samples if value is not None]
        if lines:
            yield f"# HELP efi_unaccepted_{name} {help_}"
            yield f"# TYPE efi_unaccepted_{name} gauge"
            yield from lines
    yield "# EOF"


def _labels(labels: dict[str, Optional[str]]) -> str:
    """A label without a value is the same as none."""
    given = [(name, safe(value)) for name, value in labels.items() if value is not None]
    escaped = [(name, value.replace("\\", "\\\\").replace('"', '\\"')) for name, value in given]
    pairs = ",".join(f'{name}="{value}"' for name, value in escaped)
    return f"{{{pairs}}}" if pairs else ""
