# SPDX-License-Identifier: LGPL-2.1-or-later
"""``scripts/bench``: every comparison of the issue is there, and each compares two that say the same.

What is wanted of the speed is not tested: machines are slow and shared. scripts/bench shows it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest

TOP = Path(__file__).parent.parent
BENCH = TOP / "scripts" / "bench"
# Last: a folder of scripts must not hide a library of its name.
sys.path.append(str(TOP / "scripts"))

from benchmarks import addresses, growth, lists, measure, page, ranges, start  # noqa: E402
from benchmarks.dump import BASE, UNIT, as_in_the_lab, dump_of, random_bits, with_holes  # noqa: E402
from benchmarks.grown import Grown  # noqa: E402
from benchmarks.measure import Command, Missing, Process, Row  # noqa: E402

from drgn_unaccepted.checks import run_checks  # noqa: E402
from drgn_unaccepted.kernel.capture import capture  # noqa: E402
from drgn_unaccepted.kernel.target import open_vmcore  # noqa: E402
from drgn_unaccepted.snapshot import ALL_PARTS, Wanted  # noqa: E402

GIB = 1 << 30

#: What the issue asks for, by the name that scripts/bench has for it: words of the row, and the ratio wanted.
ISSUE: dict[str, list[tuple[str, float]]] = {
    "ranges": [("one prog.read()", 0.5), ("1,000 holes", 0.5)],
    "random": [("C loop over find_next_bit", 25), ("peak memory", 1.1)],
    "terabyte": [("for_each_set_bit", 1 / 1000), ("of a copy", 1 / 1000)],
    "resolve": [("test_bit loop", 1 / 50), ("test_bit loop, fields read once", 1 / 50)],
    "programs": [("test_bit loop", 1 / 50)],
    "start": [("bare drgn: time", 1.5), ("bare drgn: peak memory", 2)],
    "distribution": [("bare drgn: time", 2), ("bare drgn: peak", 2), ("DWARF: time", 1), ("DWARF: peak", 0.34)],
    "lists": [("list_for_each_entry", 1), ("4 times a quarter", 1.1), ("peak memory / 300 MiB", 1)],
    "merge": [("jq", 1), ("peak memory", 1)],
}
#: Their input is not always there.
OF_THE_LAB = ("resolve", "programs", "distribution")


def load_bench() -> Any:
    loader = SourceFileLoader("bench", str(BENCH))
    spec = spec_from_loader("bench", loader)
    assert spec is not None
    module = module_from_spec(spec)
    # No bytecode beside the script.
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    loader.exec_module(module)
    sys.dont_write_bytecode = before
    return module


BENCHES = load_bench().BENCHES


BITMAPS: dict[str, Callable[[], bytes]] = {
    "lab": lambda: as_in_the_lab(1024),
    "holes": lambda: with_holes(1024, 100),
    "random": lambda: random_bits(512),
    "none": lambda: bytes(64),
    "all": lambda: b"\xff" * 64,
    "one": lambda: bytes(63) + b"\x80",
}


@pytest.fixture(params=list(BITMAPS))
def bitmap(request: pytest.FixtureRequest) -> bytes:
    return BITMAPS[request.param]()


def naive_bits(bitmap: bytes) -> list[int]:
    return [bit for bit in range(8 * len(bitmap)) if bitmap[bit // 8] >> bit % 8 & 1]


# Both sides of a row say the same.


def test_ranges_are_the_bits_that_drgn_and_c_find(bitmap: bytes) -> None:
    expected = naive_bits(bitmap)
    with dump_of(bitmap) as dump:
        assert dump.read() == bitmap
        found = list(ranges.ranges_of_dump(dump))
        assert list(ranges.ranges(bitmap)) == found
        assert [(a - BASE) // UNIT for start, end in found for a in range(start, end, UNIT)] == expected
        assert all(before.end < after.start for before, after in zip(found, found[1:]))
        assert list(ranges.set_bits(dump)) == expected
        assert list(ranges.set_bits_of_copy(dump)) == expected
    try:
        loop = ranges.c_loop()
    except Missing as missing:
        pytest.skip(str(missing))
    assert loop(bitmap) == sum(expected)


def test_states_of_addresses_are_those_of_test_bit(bitmap: bytes, tmp_path: Path) -> None:
    bits = set(naive_bits(bitmap))
    with dump_of(bitmap) as dump:
        some = addresses.some_addresses(3000, BASE, dump.geometry.end)
        some += [0, BASE - 1, dump.geometry.end, (1 << 52) - 1]
        lines = [[hex(x), "unaccepted" if (x - BASE) // UNIT in bits else "accepted"] for x in some]
        with addresses.file_of(some) as directory:
            for work in addresses.of_dump(dump, directory / "addresses"):
                assert addresses.printed(work, tmp_path / "out") > 0
                assert list(addresses.said(tmp_path / "out")) == lines


def test_a_difference_of_the_two_is_seen(tmp_path: Path) -> None:
    ours, other = tmp_path / "ours", tmp_path / "other"
    ours.write_text("source: bitmap, exact\n\n0x1    accepted\n0x2  unaccepted\n")
    for same, text in ((True, "0x1 accepted\n0x2 unaccepted\n"), (False, "0x1 accepted\n0x2 accepted\n")):
        other.write_text(text)
        with contextlib.nullcontext() if same else pytest.raises(Missing, match="do not say the same"):
            addresses._hold(ours, other)
    other.write_text("0x1 accepted\n")
    with pytest.raises(Missing, match="do not say the same"):
        addresses._hold(ours, other)


@pytest.fixture(scope="module")
def guest() -> Iterator[Grown]:
    yield Grown(3 * GIB)


def test_check_and_the_walk_see_the_same_list(guest: Grown) -> None:
    snapshot = lists.checked(guest)
    assert snapshot.zones is not None
    listed = [pfn for zone in snapshot.zones if zone.listed is not None for pfn in zone.listed.pfns]
    layout = guest._layout
    walked = [(page_.value_() - layout.base) // layout.size for page_ in lists.walked(guest)]
    assert walked == listed
    truth = json.loads((measure.SAMPLE.parent / "truth.json").read_text())
    own = [pfn for pfn in listed if pfn < 5 * GIB >> 12]
    assert listed[len(own) :] == list(range(5 * GIB >> 12, 7 * GIB >> 12, 1024)) and guest.chunks == 512
    # A chunk is two units; one of them may have been accepted as the guard of what lies before it.
    assert {pfn >> 10 for pfn in own} == {unit >> 1 for unit in truth["unaccepted_units"]}


def test_a_grown_guest_has_nothing_wrong_but_what_its_sample_has(guest: Grown) -> None:
    def findings(snapshot: Any) -> list[tuple[str, str]]:
        return [(finding.rule, finding.status) for finding in run_checks(snapshot).findings]

    sample = capture(open_vmcore(str(measure.SAMPLE)), Wanted(ALL_PARTS))
    assert findings(capture(guest.opened, Wanted(ALL_PARTS))) == findings(sample)


@pytest.mark.parametrize(("size", "listed"), ((3 * GIB + 1, None), (GIB, 2 * GIB), (100 << 40, None)))
def test_what_a_guest_cannot_grow_to_is_refused(size: int, listed: int | None) -> None:
    with pytest.raises(ValueError, match="no guest"):
        Grown(size, listed)


def test_bitmaps_are_what_their_rows_say() -> None:
    assert len(list(ranges.ranges(as_in_the_lab(1 << 16)))) == 2
    assert len(list(ranges.ranges(with_holes(1 << 16, 1000)))) == 1001
    assert 0.49 < len(naive_bits(random_bits(1 << 14))) / (8 << 14) < 0.51


# Every row is there, with what was wanted.


def test_every_subject_of_the_issue_has_a_bench() -> None:
    assert set(BENCHES) == set(ISSUE)
    for bench in BENCHES.values():
        assert callable(getattr(importlib.import_module(f"benchmarks.{bench.module}"), bench.function))


@pytest.mark.parametrize("name", ISSUE)
def test_the_rows_of_a_bench(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is run, once and small."""
    monkeypatch.setattr(ranges, "MIB", 1 << 12)
    monkeypatch.setattr(lists, "TIB", 2 * GIB)
    bench = BENCHES[name]
    function = getattr(importlib.import_module(f"benchmarks.{bench.module}"), bench.function)
    more = {"count": 1000} if bench.module == "addresses" or name == "merge" else {}
    try:
        rows: list[Row] = function(runs=1, **more)
    except Missing as missing:
        if name in (*OF_THE_LAB, "merge", "random"):
            pytest.skip(str(missing))
        raise
    assert len(rows) == len(ISSUE[name])
    for row, (words, wanted) in zip(rows, ISSUE[name]):
        assert words in row.name
        assert row.wanted == wanted
        assert row.ours > 0 and row.other > 0 and row.unit in ("s", "bytes")


def test_memory_of_ranges_does_not_grow_with_their_number() -> None:
    small, large = (ranges.peak_of_ranges(random_bits(size)) for size in (1 << 14, 1 << 17))
    assert large < 2 * small
    # A list of the small one's ranges alone would be more.
    assert large < 200 * sum(1 for _ in ranges.ranges(random_bits(1 << 14)))


# What lacks its input says so.


@pytest.mark.parametrize("name", OF_THE_LAB)
def test_without_the_lab_a_row_says_what_brings_its_input(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = importlib.import_module(f"benchmarks.{BENCHES[name].module}")
    monkeypatch.setattr(module, "LAB", tmp_path)
    with pytest.raises(Missing, match="scripts/lab run"):
        getattr(module, BENCHES[name].function)()


def test_without_a_compiler_or_jq_too(monkeypatch: pytest.MonkeyPatch) -> None:
    ranges.c_loop.cache_clear()
    monkeypatch.setattr("shutil.which", lambda _name: None)
    with pytest.raises(Missing, match="apt-get install gcc"):
        ranges.random_bitmap()
    with pytest.raises(Missing, match="apt-get install jq"):
        start.merge()


def run_bench(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, str(BENCH), *words]
    return subprocess.run(argv, capture_output=True, text=True, env={**os.environ, **env}, check=False)


def test_the_json_has_all_rows_and_what_was_not_measured(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    process = run_bench("terabyte", "programs", "--json", str(out), DRGN_UNACCEPTED_LAB=str(tmp_path))
    assert process.returncode == 0, process.stderr
    run = json.loads(out.read_text())
    assert run["schema"] == "drgn-unaccepted-bench/1"
    assert {"date", "commit", "machine", "python", "drgn", "bytecode"} <= set(run)
    assert all(row["name"] in process.stdout for row in run["rows"])
    assert len(run["rows"]) == len(ISSUE["terabyte"])
    for row in run["rows"]:
        assert set(row) == {"bench", "name", "ours", "other", "unit", "ratio", "wanted", "met"}
        assert row["met"] is (row["ratio"] <= row["wanted"])
    (missing,) = run["not_measured"]
    assert missing["name"] == "programs" and "scripts/lab run" in missing["reason"]
    assert "programs: not measured: " in process.stderr


def test_a_name_that_is_none() -> None:
    process = run_bench("speed")
    assert process.returncode == 2
    assert "speed: not one of ranges, random" in process.stderr


# Measuring.


def test_medians_and_ratios() -> None:
    """The ratio is the median of the pairs', not that of the medians."""
    row = measure.row("x", [(1.0, 2.0), (9.0, 3.0), (2.0, 2.0)], wanted=1.0)
    assert row == Row("x", 2.0, 2.0, "s", 1.0, 1.0)
    row = measure.row("x", [(1, 10), (2, 1), (3, 2)], wanted=1.0, unit="bytes")
    assert row == Row("x", 2, 2, "bytes", 1.5, 1.0)
    assert measure.row("x", [(1.0, 2.0)], 0.5).met
    assert not measure.row("x", [(1.0, 2.0)], 0.49).met
    with pytest.raises(ValueError, match="nothing was measured"):
        measure.row("x", [], 1)


def test_ours_and_the_other_run_in_turns_and_the_first_turn_does_not_count() -> None:
    order: list[str] = []

    def side(name: str) -> int:
        order.append(name)
        return len(order)

    assert measure.pairs(lambda: side("a"), lambda: side("b"), runs=2) == [(3, 4), (5, 6)]
    assert order == ["a", "b"] * 3


def test_what_is_too_short_to_be_told_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def work(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr("time.perf_counter", lambda: now)
    assert measure.timed(lambda: work(5.0))() == 5.0
    assert now == 5.0
    assert measure.timed(lambda: work(0.0005))() == pytest.approx(0.0005)
    assert 5.0 + measure.SHORTEST <= now < 5.0 + measure.SHORTEST + 0.001


_SETTINGS = "import sys; print(sys.dont_write_bytecode, bool(sys.pycache_prefix), sys.stdout.write_through)"


@pytest.mark.parametrize("command", (measure.program(), measure.drgn(Path("x"))), ids=("ours", "drgn"))
def test_both_sides_use_bytecode_and_buffers_whatever_the_caller_has_set(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    process = measure.run(Command((sys.executable, "-c", _SETTINGS), command.env))
    assert process.output.split() == [b"False", b"True", b"False"]
    assert process.seconds > 0


def test_a_peak_is_that_of_the_process_however_large_this_one_is() -> None:
    mine = b"x" * (256 << 20)
    for size in (64 << 20, 128 << 20):
        peak = measure.peak(measure.run(Command((sys.executable, "-c", f"x = b'x' * {size}"))))
        assert size < peak < size + (32 << 20)
    del mine


def test_a_peak_that_is_hidden_is_not_told() -> None:
    """By the process that starts it, which is larger than this one."""
    true = shutil.which("true")
    assert true is not None
    process = measure.run(Command((true,)))
    assert process.peak_bytes is None
    with pytest.raises(Missing, match="hidden"):
        measure.peak(process)


def test_a_command_that_fails_is_no_figure() -> None:
    with pytest.raises(Missing, match=r"exit status 3: drgn-unaccepted: .*no-such-dump"):
        measure.run(measure.program("-c", "no-such-dump"))


# Growth, and the page.

_SIZES = (10 * GIB, 100 * GIB, 1 << 40, 10 << 40, 4 << 50)


def test_growth_goes_up_to_the_kernels_worst_case() -> None:
    assert growth.SIZES == _SIZES
    assert growth.nbytes(_SIZES[-1]) == 256 << 20


@pytest.mark.parametrize(
    "function", (growth.to_ranges, growth.random_to_ranges, growth.set_bits, growth.resolved), ids=lambda f: f.__name__
)
def test_a_series_has_a_point_for_each_size(function: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "SIZES", (GIB, 2 * GIB))
    monkeypatch.setattr(growth, "ADDRESSES", 100)
    try:
        series = function()
    except Missing as missing:
        pytest.skip(str(missing))
    assert [point.size for point in series.points] == [GIB, 2 * GIB]
    assert all(point.ours > 0 and point.other > 0 for point in series.points)


def test_growth_of_guests(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no guest that can be listed has no figure, and the reason."""
    monkeypatch.setattr(growth, "SIZES", (2 * GIB, 3 * GIB))
    monkeypatch.setattr(growth, "LISTED_CHUNKS", 512)
    monkeypatch.setattr(lists, "alone", lambda *words: (1.0 + len(words), Process(9.0, 7, b"")))
    summary, check, peaks = growth.guests()
    assert [(point.ours, point.other) for point in summary.points] == [(3.0, None), (4.0, None)]
    assert [(point.ours, point.other) for point in check.points] == [(3.0, 3.0), (None, None)]
    assert [(point.ours, point.other) for point in peaks.points] == [(7, 7), (7, None)]
    assert all(series.stops for series in (summary, check, peaks))


def a_run(**more: Any) -> dict[str, Any]:
    rows = [Row("1 TiB, with the read / x", 0.002, 1.0, "s", 0.002, 0.001), Row("y", 1, 2 << 20, "bytes", 0.5, 1)]
    points = [growth.Point(10 * GIB, 1e-6, 0.5)._asdict(), growth.Point(4 << 50, 2.0, None)._asdict()]
    series = {**growth.Series("z", "us", "them", "s", [], "them stops: why")._asdict(), "points": points}
    about = page.about_this_run(0.5)
    return {**about, "quick": False, "rows": measure.as_json(rows), "not_measured": [], "growth": [series], **more}


def test_the_page_shows_misses_and_what_is_not_there() -> None:
    text = page.markdown(a_run(not_measured=[{"name": "merge", "reason": "no jq"}]))
    assert "| 1 TiB, with the read / x | 2.00 ms | 1.00 s | 0.00200 | <= 0.001 | missed |" in text
    assert "| y | 1.00 bytes | 2.00 MiB | 0.500 | <= 1 | met |" in text
    assert f"* 1 TiB, with the read / x: {page.REASONS['1 TiB, with the read']}" in text
    assert "* merge: no jq" in text
    assert page.unexplained(a_run()["rows"]) == []
    no_reason = measure.as_json([Row("nobody knows", 2.0, 1.0, "s", 2.0, 1.0), Row("met", 1.0, 2.0, "s", 0.5, 1.0)])
    assert page.unexplained(no_reason) == no_reason[:1]
    assert "* nobody knows: Not explained yet." in page.markdown(a_run(rows=no_reason))
    assert "| 10 GiB | 1.00 µs | 500 ms |" in text
    assert "| 4 PiB | 2.00 s |  |" in text
    assert "* z: them stops: why." in text
    assert f"drgn {measure_version()}" in text


def measure_version() -> str:
    from importlib.metadata import version

    return version("drgn")


def test_the_plot_has_a_panel_for_each_series(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    figure = page.plot(a_run())
    (axes,) = figure.axes
    assert axes.get_title(loc="left") == "z"
    lines = {line.get_label(): list(line.get_xdata()) for line in axes.lines}
    assert lines == {"us": [10 * GIB, 4 << 50], "them": [10 * GIB]}


def test_the_page_is_that_of_the_last_run() -> None:
    """Written by scripts/bench --docs, or --redraw."""
    run = json.loads(page.LAST_RUN.read_text(encoding="utf-8"))
    assert page.PAGE.read_text(encoding="utf-8") == page.markdown(run)
    assert page.PLOT.exists()
    names = {row["bench"] for row in run["rows"]} | {one["name"] for one in run["not_measured"]}
    assert names == set(ISSUE)
    for start_ in page.REASONS:
        assert [row for row in run["rows"] if row["name"].startswith(start_)] or run["not_measured"], start_
    for series in run["growth"]:
        assert [point["size"] for point in series["points"]] == list(_SIZES)
        cut = [p for p in series["points"] if p["ours"] is None or (series["other"] and p["other"] is None)]
        assert not cut or series["stops"]


def test_three_digits() -> None:
    random_ = random.Random(1)
    for value in (0.000123456, 0.0999, 1.0, 12.3456, 999.4, 28.1e-6):
        assert float(page.digits(value)) == pytest.approx(value, rel=0.006)
    for _ in range(100):
        value = 10 ** random_.uniform(-5, 2)
        assert len(page.digits(value).replace(".", "").lstrip("0")) in (3, 4)
    assert page.amount(135 << 20, "bytes") == "135 MiB"
    assert page.amount(0.0000281, "s") == "28.1 µs"
