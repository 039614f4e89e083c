# SPDX-License-Identifier: LGPL-2.1-or-later
"""``check`` as metrics, for the textfile collector of node_exporter.

The text is the Prometheus exposition format 0.0.4, written so that it is OpenMetrics 1.0 too: base units, no
timestamps, ``# EOF`` at the end. What is unknown has no sample: a 0 would be an answer.
``node_memory_Unaccepted_bytes``, which node_exporter reads from ``/proc/meminfo``, is not repeated here; the alert
rules compare the two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Optional, Union

from drgn_unaccepted.answer.documents import CheckAnswer
from drgn_unaccepted.errors import EXIT_STATUS
from drgn_unaccepted.words import safe

Value = Union[int, float, None]

_CHECK = {"pass": 0, "info": 0, "warning": 1, "critical": 2, "skip": 3}


def prometheus(answer: CheckAnswer) -> Iterator[str]:
    """The answer's numbers and the status of every rule."""
    table = answer["table"]
    yield from _metric(
        "efi_unaccepted_memory_bytes", "Memory that the guest has not accepted yet.", answer["unaccepted_bytes"]
    )
    yield from _metric(
        "efi_unaccepted_coverage_bytes",
        "Address space that the bitmap of unaccepted memory has bits for.",
        answer["covered_bytes"],
    )
    yield from _metric("efi_unaccepted_unit_bytes", "Memory that one bit stands for.", table["unit_size"])
    yield from _family(
        "efi_unaccepted_table_info",
        "State of the table of unaccepted memory, the source of the figures and whether it is exact.",
        [(_labels_of(answer), 1)],
    )
    yield from _metric(
        "efi_unaccepted_overall_status",
        "Worst finding of all checks: 0 ok, 1 warning, 2 critical, 3 unknown.",
        EXIT_STATUS[answer["status"]],
    )
    yield from _family(
        "efi_unaccepted_check_status",
        "Finding of one check: 0 passed, 1 warning, 2 critical, 3 could not be told.",
        [({"check": finding["rule"]}, _CHECK[finding["status"]]) for finding in answer["findings"]],
    )
    yield from _metric(
        "efi_unaccepted_last_run_timestamp_seconds",
        "When the target was read.",
        datetime.fromisoformat(answer["target"]["taken_at"]).timestamp(),
    )
    yield "# EOF"


def _labels_of(answer: CheckAnswer) -> dict[str, Optional[str]]:
    table, platform = answer["table"], answer["platform"]
    return {
        "state": table["state"],
        "version": None if table["version"] is None else str(table["version"]),
        "source": answer["source"],
        "exact": "true" if answer["exact"] else "false",
        "platform": None if platform is None else platform["kind"],
        "release": answer["target"]["release"],
    }


def _metric(name: str, help_: str, value: Value) -> Iterator[str]:
    return _family(name, help_, [] if value is None else [({}, value)])


def _family(name: str, help_: str, samples: list[tuple[Mapping[str, Optional[str]], Value]]) -> Iterator[str]:
    if not samples:
        return
    yield f"# HELP {name} {help_}"
    yield f"# TYPE {name} gauge"
    for labels, value in samples:
        yield f"{name}{_labels(labels)} {value}"


def _labels(labels: Mapping[str, Optional[str]]) -> str:
    """A label without a value is the same as none."""
    pairs = [f'{name}="{_escaped(value)}"' for name, value in labels.items() if value is not None]
    return f"{{{','.join(pairs)}}}" if pairs else ""


def _escaped(value: str) -> str:
    return safe(value).replace("\\", "\\\\").replace('"', '\\"')
