# SPDX-License-Identifier: LGPL-2.1-or-later
"""The page of ``report`` in a real Chromium, with pointer, keyboard and axe-core."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any, Callable

import pytest

from drgn_unaccepted.answer.history import history
from drgn_unaccepted.model.e820 import E820Entry
from drgn_unaccepted.record.file import Recording
from drgn_unaccepted.snapshot import E820Tables, Sample, Snapshot
from tests.views import guests
from tests.views.chromium import axe
from tests.views.guests import BASE, GIB, MIB, TIB, UNIT
from tests.views.pages import (
    NEEDS_BROWSER,
    answer,
    color_at,
    css,
    frame,
    keys,
    place_of,
    point_at,
    text,
    value_text,
    wait,
)
from tests.views.test_history import REAL, sweep

pytestmark = NEEDS_BROWSER

#: How many pixels have the colour in which a finding is framed.
FINDING_PIXELS = """
const canvas = unaccepted.view.canvas;
const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
let count = 0;
for (let i = 0; i < pixels.length; i += 4) {
  count += pixels[i] === 0xc2 && pixels[i + 1] === 0x18 && pixels[i + 2] === 0x5b;
}
return count;
"""

#: The custom properties of each rule for the root.
PALETTES = """
const found = {};
for (const outer of document.styleSheets[0].cssRules) {
  for (const rule of outer.cssRules?.length ? outer.cssRules : [outer]) {
    if (!(rule.selectorText || "").startsWith(":root")) continue;
    const names = Array.from(rule.style).filter((name) => name.startsWith("--"));
    const value = (name) => rule.style.getPropertyValue(name).trim();
    found[rule.selectorText] = Object.fromEntries(names.map((name) => [name, value(name)]));
  }
}
return found;
"""

#: What is written on canvases from now on, with its left and right edge and the width of the canvas.
WATCH_TEXTS = """
window.written = [];
const pen = CanvasRenderingContext2D.prototype, fillText = pen.fillText;
pen.fillText = function (text, x, y) {
  const width = this.measureText(text).width;
  const left = { right: x - width, center: x - width / 2 }[this.textAlign] ?? x;
  window.written.push([text, left, left + width, this.canvas.width / devicePixelRatio, y, this.canvas.id]);
  return fillText.call(this, text, x, y);
};
"""

#: The colours of the strip of all rows and of the marks below it, without the usual blue.
OVERVIEW_COLORS = """
const canvas = document.getElementById("overview"), pen = canvas.getContext("2d"), found = [];
for (const y of [11, 24]) {
  const line = pen.getImageData(0, y, canvas.width, 1).data, colors = new Set();
  for (let i = 0; i < line.length; i += 4) if (line[i + 3] === 255) colors.add(Array.from(line.slice(i, i + 3)).join());
  found.push(Array.from(colors));
}
return found;
"""

#: Rows, whether all of them are on the canvas, and the page's colour, while the page is being printed.
PRINTING = """
let seen = null;
const look = () => {
  const view = unaccepted.view, page = getComputedStyle(document.documentElement).getPropertyValue("--page");
  seen = [view.rows.length, view.canvas.height >= view.height, page.trim()];
};
window.addEventListener("beforeprint", look);
window.dispatchEvent(new Event("beforeprint"));
window.dispatchEvent(new Event("afterprint"));
window.removeEventListener("beforeprint", look);
return seen;
"""


def test_what_is_drawn(show: Callable[..., Any]) -> None:
    unaccepted, accepted = (0xE6, 0x9F, 0x00), (0xA8, 0xCF, 0xE8)
    driver = show(guests.small())
    # Byte 3 of the bitmap is 0b111: its units 0 to 2 are set.
    for unit, wanted in ((24, unaccepted), (26, unaccepted), (27, accepted), (31, accepted), (256, unaccepted)):
        assert color_at(driver, BASE + unit * UNIT) == wanted, unit
    # Reserved, and no RAM: neither looks accepted.
    assert color_at(driver, 500 * MIB) == (0xA9, 0xB0, 0xB9)
    assert color_at(driver, 800 * MIB) not in (unaccepted, accepted)
    assert text(driver, "#cards").split("\n")[:3] == ["Unaccepted", "456 MiB", "22% of 1.98 GiB RAM"]


def test_unknown_does_not_look_accepted(show: Callable[..., Any]) -> None:
    driver = show(guests.lists())
    assert color_at(driver, BASE) == (0xA8, 0xCF, 0xE8)
    colors = {color_at(driver, BASE + 192 * MIB + unit * UNIT) for unit in range(8)}
    assert (0xA8, 0xCF, 0xE8) not in colors and (0xE6, 0x9F, 0x00) not in colors
    assert "page-lists" in text(driver, "#cards") and "not exact" in text(driver, "#cards")


def test_hover_and_click(show: Callable[..., Any]) -> None:
    driver = show(guests.small())
    point_at(driver, BASE + 25 * UNIT)
    assert text(driver, "#tip").split("\n") == [
        "0x103200000  Unaccepted",
        "unit 25, 0x103200000-0x103400000",
        "EFI: Unaccepted",
        "e820: RAM",
        "zone: node 0, Normal",
        "source: the bitmap, exact",
    ]
    point_at(driver, 500 * MIB)
    assert text(driver, "#tip").split("\n")[0] == "0x1f400000  Reserved"
    point_at(driver, 700 * MIB)
    assert text(driver, "#tip").split("\n")[0] == "0x2bc00000  No RAM"
    point_at(driver, BASE + 4 * UNIT, click=True)
    shown = answer(driver)
    assert shown.startswith("0x100800000 Accepted")
    for words in ("its bit is 0", "4, bit 0", "Unaccepted (type 15)", "0x100000000-0x138000000", "being accepted"):
        assert words in shown
    assert driver.execute_script("return location.hash") == "#0x100800000"


def test_search(show: Callable[..., Any]) -> None:
    driver = show(guests.huge())
    before = driver.execute_script("return unaccepted.view.scroller.scrollTop")
    keys(driver, "/", "0x60000000000", "\ue007")
    # 0x60000000000 is in node 1; its unit is bit 0 of a byte of which only bit 4 is set.
    assert answer(driver).startswith("0x60000000000 Accepted")
    assert text(driver, "#search-status").startswith("0x60000000000, accepted, unit 3143680, EFI Unaccepted")
    assert driver.execute_script("return unaccepted.view.scroller.scrollTop") > before
    _, y = place_of(driver, 0x60000000000)
    assert 0 <= y < css(driver, "#canvas").size["height"]
    beyond = "beyond the last physical address"
    for wrong, why in (("5368709120", "or hexadecimal?"), ("five", "not an address"), ("0x10000000000000", beyond)):
        css(driver, "#address").clear()
        css(driver, "#address").send_keys(wrong, "\ue007")
        assert why in text(driver, "#search-status")
        assert css(driver, "#address").get_attribute("aria-invalid") == "true"
    css(driver, "#address").clear()
    css(driver, "#address").send_keys("2T", "\ue007")
    assert answer(driver).startswith("0x20000000000 Accepted")
    assert css(driver, "#address").get_attribute("aria-invalid") is None


def test_keyboard(show: Callable[..., Any]) -> None:
    driver = show(guests.small(), place="#0x120000000")
    assert answer(driver).startswith("0x120000000 Unaccepted")
    driver.execute_script("document.getElementById('map').focus()")
    keys(driver, "\ue011")  # Home
    assert value_text(driver) == "0x0, accepted, EFI Conventional, e820 Reserved"
    for key, address in (
        ("\ue014", UNIT),  # right
        ("\ue015", BASE + UNIT),  # down, over the hole
        ("\ue015", BASE + GIB + UNIT),
        ("\ue013", BASE + UNIT),  # up
        ("\ue012", BASE),  # left
        ("\ue012", GIB - UNIT),  # left, over the hole
        ("\ue014", BASE),
        ("n", BASE + 8 * UNIT),  # the first set bit, of byte 1
        ("n", BASE + 9 * UNIT),
        ("n", BASE + 16 * UNIT),
        ("p", BASE + 9 * UNIT),
        ("\ue010", BASE + 2 * GIB - UNIT),  # End
    ):
        keys(driver, key)
        assert value_text(driver).startswith(f"{address:#x}, "), (key, hex(address))
        assert answer(driver).startswith(f"{address:#x} ")
    assert css(driver, "#map").get_attribute("role") == "slider"
    assert int(css(driver, "#map").get_attribute("aria-valuenow")) == (BASE + 2 * GIB) // UNIT - 1


def test_tab_reaches_everything_and_shows_where_it_is(show: Callable[..., Any]) -> None:
    driver = show(guests.small())
    seen = []
    for _ in range(14):
        keys(driver, "\ue004")
        seen.append(
            driver.execute_script("const e = document.activeElement; return e.id || e.textContent.slice(0, 20)")
        )
        outline = driver.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", seen[-1]
    assert {"theme", "address", "previous", "next", "row-size", "map"} <= set(seen)


def test_findings_highlight_their_ranges(show: Callable[..., Any]) -> None:
    snapshot = guests.small()
    finding = {
        "rule": "bits-within-firmware-ram",
        "status": "critical",
        "message": "planted",
        "ranges": [[BASE + 64 * MIB, BASE + 96 * MIB], [BASE + GIB, BASE + GIB + UNIT]],
        "needs": [],
    }
    passed = {"rule": "table-captured", "status": "pass", "message": "fine", "ranges": [], "needs": []}
    driver = show(snapshot, checks={"status": "critical", "findings": [passed, finding]})
    assert text(driver, "#verdict").startswith("critical")
    assert text(driver, "#findings").startswith("critical bits-within-firmware-ram")
    assert text(driver, "#others summary") == "1 passed, 0 skipped"
    pressed = css(driver, "#findings button.show")
    assert pressed.text == "Show 2 ranges (34 MiB) on the map"
    pressed.click()
    frame(driver)
    assert pressed.get_attribute("aria-pressed") == "true"
    assert driver.execute_script(FINDING_PIXELS) > 100
    assert answer(driver).startswith("0x104000000 ")
    pressed.click()
    frame(driver)
    assert driver.execute_script(FINDING_PIXELS) == 0
    css(driver, "#findings details summary").click()
    assert "Why:" in text(driver, "#findings details")


def test_tables_sort(show: Callable[..., Any]) -> None:
    driver = show(guests.small())

    def column(number: int) -> list[str]:
        cells = driver.find_elements("css selector", f"#ranges td:nth-child({number})")
        return [cell.text for cell in cells]

    assert column(3) == ["2 MiB", "4 MiB", "6 MiB", "8 MiB", "10 MiB", "12 MiB", "14 MiB", "16 MiB", "384 MiB"]
    header = css(driver, "#ranges th:nth-child(3) button")
    header.click()
    header.click()
    assert column(3)[0] == "384 MiB" and column(3)[-1] == "2 MiB"
    assert css(driver, "#ranges th:nth-child(3)").get_attribute("aria-sort") == "descending"
    assert css(driver, "#ranges th:nth-child(1)").get_attribute("aria-sort") is None
    css(driver, "#ranges td button").click()
    assert answer(driver).startswith("0x120000000 Unaccepted")
    assert "dd" in text(driver, "#accepting") and "812" in text(driver, "#accepting")
    assert "0x800000000000000f" in text(driver, "#efi"), "all 64 bits of an attribute"


def test_long_tables_are_shown_in_parts(show: Callable[..., Any]) -> None:
    driver = show(guests.huge())
    runs = 1 + 5 * TIB // UNIT // 8
    assert text(driver, "#ranges p").startswith(f"{runs:,} ranges")
    assert len(driver.find_elements("css selector", "#ranges tbody tr")) == 200
    css(driver, "#ranges > button").click()
    assert len(driver.find_elements("css selector", "#ranges tbody tr")) == 400


def test_light_and_dark(show: Callable[..., Any]) -> None:
    driver = show(guests.small())
    background = "return getComputedStyle(document.body).backgroundColor"
    assert driver.execute_script(background) == "rgb(246, 247, 249)"
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    wait(lambda: css(driver, "#theme").text == "Light")
    assert driver.execute_script(background) == "rgb(15, 20, 26)"
    assert color_at(driver, BASE + 256 * UNIT) == (0xF5, 0xB4, 0x33)
    css(driver, "#theme").click()
    assert driver.execute_script(background) == "rgb(246, 247, 249)"
    assert color_at(driver, BASE + 256 * UNIT) == (0xE6, 0x9F, 0x00)


def test_both_dark_palettes_are_one(show: Callable[..., Any]) -> None:
    """The style sheet has to write it twice: for the system's wish and for the button."""
    driver = show(guests.small())
    palettes = driver.execute_script(PALETTES)
    by_button = palettes[':root[data-theme="dark"]:not([data-printing])']
    by_system = palettes[':root:not([data-theme="light"]):not([data-printing])']
    assert len(by_button) > 30 and by_button == by_system


@pytest.mark.skipif(axe() is None, reason="axe-core is not installed (npm install -g axe-core)")
@pytest.mark.parametrize(("width", "dark"), ((1280, False), (480, True)))
def test_axe_finds_nothing(show: Callable[..., Any], width: int, dark: bool) -> None:
    script = axe()
    assert script is not None
    for snapshot in (guests.small(), guests.lists(), guests.hostile()):
        driver = show(snapshot)
        driver.set_window_size(width, 1000)
        if dark:
            css(driver, "#theme").click()
        driver.execute_script("for (const one of document.querySelectorAll('details')) one.open = true")
        driver.execute_script(script.read_text(encoding="utf-8"))
        found = driver.execute_async_script("const done = arguments[0]; axe.run().then(done, (e) => done(String(e)))")
        assert len(found["passes"]) > 30
        assert [(one["impact"], one["id"], one["nodes"][0]["html"]) for one in found["violations"]] == []
        wide = driver.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
        driver.set_window_size(1280, 1000)
        assert wide <= 0, "the page scrolls sideways"


def test_hostile_names_stay_text(show: Callable[..., Any]) -> None:
    driver = show(guests.hostile())
    assert driver.execute_script("return typeof window.pwned") == "undefined"
    assert driver.execute_script("return document.images.length") == 0
    assert driver.execute_script("return document.scripts.length") == 2
    name = "</script><script>window.pwned = 1</script><img src=x onerror=pwned()>"
    for selector in ("#target", "#notes", "#zones", "#accepting", "#efi", "#legend", "#made"):
        assert name in driver.execute_script("return document.querySelector(arguments[0]).textContent", selector), (
            selector
        )
    css(driver, "#map").click()
    point_at(driver, BASE + 25 * UNIT, click=True)
    assert name in text(driver, "#answer").replace("\n", "")
    assert name in text(driver, "#tip").replace("\n", "")
    assert driver.title.startswith(f"Unaccepted memory: {name}")
    assert driver.execute_script("return typeof window.pwned") == "undefined"


def test_nothing_is_loaded(show: Callable[..., Any]) -> None:
    driver = show(guests.small())
    assert driver.execute_script("return performance.getEntriesByType('resource').length") == 0
    refused = driver.execute_async_script(
        "const done = arguments[0]; fetch('data:,x').then(() => done('loaded'), () => done('refused'))"
    )
    assert refused == "refused", "the page's own policy"
    messages = driver.get_log("browser")
    assert len(messages) == 2 and all("Content Security Policy" in one["message"] for one in messages)


@pytest.mark.parametrize("row", ("1 GiB", "64 GiB"))
def test_one_unit_of_ten_tib_is_visible(show: Callable[..., Any], row: str) -> None:
    from selenium.webdriver.support.ui import Select

    nbytes = guests.huge().table.bitmap_bytes
    assert nbytes is not None
    bitmap = bytearray(nbytes)
    bitmap[nbytes // 3] = 1
    driver = show(replace(guests.huge(), table=guests.table(bytes(bitmap))))
    Select(css(driver, "#row-size")).select_by_visible_text(row)
    # Away from the frame around what can be seen.
    driver.execute_script("unaccepted.view.scroller.scrollTop = 0")
    frame(driver)
    strip, marks = driver.execute_script(OVERVIEW_COLORS)
    assert marks == ["230,159,0"], "pointed at from below, in full orange"
    assert "189,191,155" in strip, "a third of the way from blue to orange"
    address = BASE + nbytes // 3 * 8 * UNIT
    keys(driver, "/", hex(address), "\ue007")
    x, y = place_of(driver, address)
    # Beside the frame of the selected unit, above the row: where a unit is less than a pixel a mark points at it.
    script = "unaccepted.view.selected = null; unaccepted.view.draw(); return Array.from("
    script += "unaccepted.view.canvas.getContext('2d').getImageData(arguments[0] - 3, arguments[1], 7, 1).data)"
    style = driver.execute_script("return unaccepted.view.style.state")
    above = driver.execute_script(script, x, y - style / 2 - 2)
    inside = driver.execute_script(script, x, y)
    orange = [0xE6, 0x9F, 0x00, 0xFF]
    where = inside if row == "1 GiB" else above
    assert orange in [where[i : i + 4] for i in range(0, len(where), 4)]


@pytest.mark.parametrize("width", (390, 1280))
def test_labels_are_written_whole(show: Callable[..., Any], width: int) -> None:
    """On a phone too, and for a guest above 64 TiB, whose addresses have twelve digits."""
    base = 100 * TIB
    driver = show(guests.small())
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        e820 = (E820Entry(BASE, BASE + GIB, 1), E820Entry(base, base + GIB, 1))
        snapshot = replace(
            guests.small(), table=guests.table(guests.BITMAP, base), e820=E820Tables(e820, None, None, None), zones=()
        )
        past = history([Sample(0, 0.0, 0.1, snapshot), Sample(1, 27.8, 0.1, snapshot)])
        driver = show(snapshot, past=past)
        driver.execute_script(WATCH_TEXTS + "unaccepted.view.draw(); unaccepted.history.draw();")
        # The page may draw once more by itself, in the same places.
        written = {tuple(one) for one in driver.execute_script("return window.written")}
        assert sum(text == "0x640000000000" for text, *_ in written) == 2
        assert {"accepted a second", "0.0 s", "27.8 s"} <= {text for text, *_ in written}
        for text, left, right, of, _, _ in written:
            assert left >= 0 and right <= of, text
        # Nor does one run into another of its line.
        for line in {(canvas, y) for *_, y, canvas in written}:
            spans = sorted((left, right) for _, left, right, _, y, canvas in written if (canvas, y) == line)
            assert all(right + 4 <= left for (_, right), (left, _) in zip(spans, spans[1:])), line
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_what_the_firmware_said_does_not_look_like_a_state(show: Callable[..., Any]) -> None:
    """All is accepted now; that it was type 15 at boot is not drawn in the orange of what is unaccepted."""
    snapshot = replace(guests.small(), table=guests.table(bytes(64)), zones=())
    driver = show(snapshot)
    lane_colors = driver.execute_script(
        "return unaccepted.view.lanes.flatMap((one) => one.segments.map((s) => unaccepted.view.color(s.color)))"
    )
    states = driver.execute_script("return ['unaccepted', 'accepted'].map((name) => unaccepted.view.color(name))")
    assert lane_colors and not set(states) & set(lane_colors)
    pixels = driver.execute_script(FINDING_PIXELS.replace("0xc2", "0xe6").replace("0x18", "0x9f").replace("0x5b", "0"))
    assert pixels == 0


def test_a_whole_run_is_one_colour_at_any_width(show: Callable[..., Any]) -> None:
    """Where a pixel is no whole number of units or bytes, as on a phone, none of it is taken for a part."""
    driver = show(replace(guests.small(), table=guests.table(b"\xff" * 64)))
    script = """const v = unaccepted.view, y = v.tops[v.rowOf(arguments[0]).index] + 8 - v.scroller.scrollTop;
        v.selected = null; v.draw();
        const line = v.canvas.getContext("2d").getImageData(v.left + 9, y, v.plot - 18, 1).data, colors = new Set();
        for (let i = 0; i < line.length; i += 4) colors.add(Array.from(line.slice(i, i + 3)).join());
        return [v.plot < 512, Array.from(colors)]"""
    try:
        for width in (390, 431, 599):
            metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
            frame(driver)
            assert driver.execute_script(script, BASE) == [True, ["230,159,0"]], width
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_print(show: Callable[..., Any]) -> None:
    driver = show(guests.huge())
    printed = driver.execute_script(PRINTING)
    assert printed == [21, True, "#f6f7f9"]
    pdf = base64.b64decode(driver.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert pdf.startswith(b"%PDF")
    assert text(driver, "#scale").startswith("10,242 rows of 1 GiB"), "as before"


def test_without_any_memory(show: Callable[..., Any]) -> None:
    """Nothing could be captured but that there is a table."""
    missing = dict.fromkeys(
        ("kernel", "efi_map", "e820", "zones", "counters", "accepting", "platform", "pages"), "broken"
    )
    snapshot = Snapshot(target=guests.target(), table=guests.NOT_CAPTURED, missing=missing)
    driver = show(snapshot)
    assert text(driver, "#cards").startswith("Unaccepted\nunknown\nSource\nnone")
    assert text(driver, "#scale").startswith("0 rows")
    css(driver, "#address").send_keys("4G", "\ue007")
    assert answer(driver).startswith("0x100000000 Unknown")
    assert not css(driver, "#recording").is_displayed()


def test_a_recording_over_time(show: Callable[..., Any]) -> None:
    """Bytes of the bitmap are accepted one after the other, one each half second."""
    past = history(sweep(65), columns=256, lines=400)
    driver = show(guests.small(), past=past)
    said = css(driver, "#history").get_attribute("aria-valuetext")
    assert said == "32.0 seconds, 0 bytes unaccepted, 32 MiB accepted a second, bitmap"
    unaccepted, accepted = [0xE6, 0x9F, 0x00], [0xA8, 0xCF, 0xE8]
    for slice_, bin_, color in ((0, 0, unaccepted), (0, 63, unaccepted), (32, 31, accepted), (32, 32, unaccepted)):
        script = """
            const [slice, bin] = arguments, h = unaccepted.history, [x0, x1] = h.span(slice);
            const y = Math.round(((bin + 0.5) / h.recording.bins.length) * 260);
            const pen = h.canvas.getContext("2d");
            return Array.from(pen.getImageData(Math.round((x0 + x1) / 2), y, 1, 1).data).slice(0, 3)"""
        assert driver.execute_script(script, slice_, bin_) == color, (slice_, bin_)
    driver.execute_script("document.getElementById('history').focus()")
    keys(driver, "\ue011")  # Home
    assert text(driver, "#history-said") == "0.0 seconds, 1 GiB unaccepted, bitmap"
    keys(driver, "\ue014", "\ue014")  # right, twice
    assert text(driver, "#history-said") == "1.0 seconds, 992 MiB unaccepted, 32 MiB accepted a second, bitmap"
    assert len(driver.find_elements("css selector", "#samples tbody tr")) == 65
    script = axe()
    if script is not None:
        driver.execute_script(script.read_text(encoding="utf-8"))
        found = driver.execute_async_script("const done = arguments[0]; axe.run().then(done, (e) => done(String(e)))")
        assert [(one["id"], one["nodes"][0]["html"]) for one in found["violations"]] == []


def test_a_real_recording(show: Callable[..., Any]) -> None:
    recording = Recording(str(REAL))
    *_, last = recording
    driver = show(last.snapshot, past=history(Recording(str(REAL)), columns=256, lines=400))
    assert text(driver, "#recording").startswith("Over time\n139 samples in 27.8 seconds; 56 bins of 16 MiB")
    driver.execute_script("document.getElementById('history').focus()")
    keys(driver, "\ue011")  # Home
    assert text(driver, "#history-said") == "0.0 seconds, 596 MiB unaccepted, bitmap"
    assert "live of 2026-" in text(driver, "#target")
    notes = text(driver, "#notes")
    assert "not asked for" not in notes and "without panic, pages, reclaiming" in notes
