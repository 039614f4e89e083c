# SPDX-License-Identifier: LGPL-2.1-or-later
"""What was measured, as text, as docs/speed.md, and as the plot in it."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import TOP

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAGE = TOP / "docs" / "speed.md"
PLOT = TOP / "docs" / "pictures" / "speed-growth.svg"
LAST_RUN = Path(__file__).resolve().parent / "last-run.json"

#: Why a row may miss what was wanted, by how its name begins. Shown for rows that do.
REASONS = {
    "1 MiB of random bits to ranges": "Two million ranges are two million Python objects, which is nearly all "
    "of it; no guest has such a bitmap.",
    "1 TiB, with the read / for_each_set_bit of a copy": "With the copy made first, drgn's loop reads nothing more. "
    "Ours is a read of 64 KiB and two passes over it.",
    "1 TiB, with the read": "Ours is a read of 64 KiB and two passes over it, tens of microseconds in all; what "
    "drgn and Python take for one call is a large part of it.",
    "resolve -f of 10,000,000, whole programs": "Ours has to start, to open the dump and to import numpy, "
    "which is what drgn's loop takes for some thousand addresses.",
    "check of a million listed chunks / list_for_each_entry": "Both follow the list entry by entry, each needs the one "
    "before; half of that is the synthetic memory, which is a function of Python for either.",
    "check of a million listed chunks / 4 times": "About linear; what is above 1 is memory that does not fit in a "
    "cache.",
    "merge of 100,000 records / jq": "jq counts one field. merge checks each record, finds the newest of a guest, and "
    "adds up all of them.",
    "summary, Debian's kernel / bare drgn: time": "A distribution's BTF and kallsyms are read, where a bare "
    "drgn reads no types.",
}

_NO_REASON = "Not explained yet."

_HEAD = """\
# Speed

What `scripts/bench` measured last, against what a user would do instead. The machine matters, so look at the ratios:
ours by the other. What is wanted was set before anything was measured; a row that misses it says so, and why.

    $(scripts/venv test,pictures)/python scripts/bench --docs

measures all of it again, in a quarter of an hour, and writes this page, its plot, and
`scripts/benchmarks/last-run.json`, where the numbers are as JSON. `scripts/bench --redraw` writes the page from that
file and measures nothing. `scripts/bench NAME` measures one subject; `--help` names them.

"""

_HOW = """\
## How it is measured

* Ours and the other run in turns in the same process, or as processes one after the other; the first turn is not
  counted. A ratio is the median of the ratios of the turns, so that it need not be that of the two medians beside it.
  What takes less than two milliseconds is repeated in its turn until that has passed, and its mean counts. Each
  subject has a process of its own.
* Both give the same answer: `tests/test_bench.py` holds what ours says of small inputs against what the other says.
* Programs that are started (`summary`, `merge`, whole programs) use bytecode on both sides, as what is installed does,
  whatever `PYTHONDONTWRITEBYTECODE` says, and buffer their output, whatever `PYTHONUNBUFFERED` says. Without bytecode
  Python compiles each module again at every start. drgn is started without this program's plugin.
* Bitmaps are those of a sample, stretched: every capture of the lab has two runs of unaccepted units, whatever its
  size, since a guest accepts from one end of each zone. 1,000 holes, and random bits, are what no guest was seen with.
* `prog.read()` and `for_each_set_bit` read an ELF dump that lies in the page cache.
* `resolve -f` and `test_bit` have a whole dump of the lab's guest `fill` (ELF, in the page cache) and addresses
  anywhere in its bitmap, each on a line of a file that both read; both print a line for each. The first loop asks
  `test_bit((x - table.phys_base) / table.unit_size, table.bitmap)`, as the kernel does and with drgn objects; the
  second reads the fields of the table once, before it. Ours is by columns, with numpy (the extra `bulk`), and all
  addresses of this guest have as many digits; where their number differs from line to line it takes about twice as
  long, and without numpy ten times. In the growth below the loop reads a made dump of one segment without page tables,
  which takes half of what a read of a guest's dump does.
* Ten million addresses make up for the start of both programs: bare drgn takes longer to open a dump than
  `resolve -f` then takes for a million.
* Guests with long lists are the sample `6.12-fill` with memory added (`scripts/benchmarks/grown.py`): its `struct page`
  are made when they are read, by the same function of Python for both sides, and both read each once.
* The C loop is compiled with `-O2`.

"""


def about_this_run(load: float) -> dict[str, Any]:
    """What else one has to know about the numbers."""
    describe = ["git", "-C", str(TOP), "describe", "--always", "--dirty"]
    commit = subprocess.run(describe, capture_output=True, text=True, check=False).stdout.strip()
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "schema": "drgn-unaccepted-bench/1",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit or None,
        "machine": {"cpu": cpu, "cpus": os.cpu_count(), "kernel": platform.release(), "load": round(load, 2)},
        "python": platform.python_version(),
        "drgn": version("drgn"),
        "bytecode": True,
    }


def need_plots() -> None:
    """Say at once that the plot cannot be made, and not after half an hour."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        sys.exit(f"the plot needs matplotlib ({error}): $(scripts/venv test,pictures)/python scripts/bench --docs")


def amount(value: float, unit: str) -> str:
    """Three digits: ``28.1 µs``, ``1.20 s``, ``135 MiB``."""
    if unit == "bytes":
        scales = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "bytes"))
    else:
        scales = ((1, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))  # type: ignore[assignment]
    scale, name = next((pair for pair in scales if value >= pair[0]), scales[-1])
    return f"{digits(value / scale)} {name}"


def digits(value: float) -> str:
    """Three significant ones, without an exponent."""
    if value == 0:
        return "0"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def cells(row: dict[str, Any]) -> tuple[str, str, str, str, str, str]:
    return (
        row["name"],
        amount(row["ours"], row["unit"]),
        amount(row["other"], row["unit"]),
        digits(row["ratio"]),
        f"<= {row['wanted']:g}",
        "met" if row["met"] else "missed",
    )


_COLUMNS = ("what", "ours", "other", "ratio", "wanted", "")


def text_table(rows: Sequence[dict[str, Any]]) -> str:
    from tabulate import tabulate

    return tabulate([cells(row) for row in rows], headers=_COLUMNS, disable_numparse=True)


def reason(row: dict[str, Any]) -> str:
    return next((text for start, text in REASONS.items() if row["name"].startswith(start)), _NO_REASON)


def unexplained(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows that miss what was wanted and are given no reason on the page."""
    return [row for row in rows if not row["met"] and reason(row) == _NO_REASON]


def write(run: dict[str, Any]) -> None:
    """The page and its plot."""
    from drgn_unaccepted.views.figure import image

    PAGE.write_text(markdown(run), encoding="utf-8")
    PLOT.write_bytes(image(plot, run, "svg"))


def markdown(run: dict[str, Any]) -> str:
    """docs/speed.md."""
    machine = run["machine"]
    parts = [
        _HEAD,
        "## The last run\n\n",
        f"{run['date']}, commit {run['commit']}; {machine['cpu']}, {machine['cpus']} CPUs, Linux {machine['kernel']}, "
        f"load {machine['load']:g} when it began; Python {run['python']}, drgn {run['drgn']}."
        f"{' With --quick: one turn of each.' if run['quick'] else ''}\n\n",
        _markdown_table(_COLUMNS, [cells(row) for row in run["rows"]]),
    ]
    missed = [row for row in run["rows"] if not row["met"]]
    if missed:
        parts += ["\nMissed, and why:\n\n", *(f"* {row['name']}: {reason(row)}\n" for row in missed)]
    if run["not_measured"]:
        parts += ["\nNot measured:\n\n", *(f"* {one['name']}: {one['reason']}\n" for one in run["not_measured"])]
    parts += ["\n## With the size of the guest\n\n", "![Time and memory by the size of the guest](pictures/"]
    parts += [f"{PLOT.name})\n\n", "Both axes are logarithmic. Where a line bends or ends:\n\n"]
    stops = {one["name"]: one["stops"] for one in run["growth"] if one["stops"]}
    parts += [f"* {name}: {text}.\n" for name, text in stops.items()]
    for one in run["growth"]:
        parts += [f"\n### {one['name'].capitalize()}\n\n", _growth_table(one)]
    return "".join((*parts, "\n", _HOW)).rstrip("\n") + "\n"


def _growth_table(one: dict[str, Any]) -> str:
    lines = [name for name in ("ours", "other") if one[name] is not None]
    return _markdown_table(
        ("guest", *(one[name] for name in lines)),
        [
            (
                size(point["size"]),
                *("" if point[name] is None else amount(point[name], one["unit"]) for name in lines),
            )
            for point in one["points"]
        ],
    )


def growth_text(growth: Sequence[dict[str, Any]]) -> str:
    from tabulate import tabulate

    texts = []
    for one in growth:
        rows = [
            [size(point["size"])]
            + ["" if point[name] is None else amount(point[name], one["unit"]) for name in ("ours", "other")]
            for point in one["points"]
        ]
        head = (one["name"], one["ours"], one["other"] or "")
        texts.append(
            tabulate(rows, headers=head, disable_numparse=True) + (f"\n{one['stops']}" if one["stops"] else "")
        )
    return "\n\n".join(("", *texts))


def size(nbytes: float) -> str:
    """``10 GiB``, ``4 PiB``."""
    scales = ((1 << 50, "PiB"), (1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "bytes"))
    scale, name = next((pair for pair in scales if nbytes >= pair[0]), scales[-1])
    return f"{nbytes / scale:g} {name}"


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


# Okabe and Ito's blue and vermilion, told apart by their marks too.
_LINES = (("ours", "#0072b2", "o", "-"), ("other", "#d55e00", "s", "--"))


def plot(run: dict[str, Any]) -> Figure:
    """A panel for each series."""
    from matplotlib.figure import Figure

    growth = run["growth"]
    rows = -(-len(growth) // 2)
    figure = Figure(figsize=(10, 2.9 * rows), layout="constrained")
    for number, one in enumerate(growth, 1):
        _panel(figure.add_subplot(rows, 2, number), one)
    return figure


def _panel(axes: Axes, one: dict[str, Any]) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    for name, color, marker, style in _LINES:
        points = [(point["size"], point[name]) for point in one["points"] if point[name] is not None]
        if one[name] is not None and points:
            axes.plot(*zip(*points), color=color, marker=marker, markersize=4, linestyle=style, label=one[name])
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2 if one["unit"] == "bytes" else 10)
    sizes = [point["size"] for point in one["points"]]
    axes.set_xlim(sizes[0] / 2, sizes[-1] * 2)
    axes.set_xticks(sizes, [size(value) for value in sizes], fontsize=8)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: amount(value, one["unit"])))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(color="#e2e6ea", linewidth=0.6)
    axes.set_title(one["name"], loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
