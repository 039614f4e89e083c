# SPDX-License-Identifier: LGPL-2.1-or-later
"""The page of ``report`` in a real Chromium, with pointer, keyboard and axe-core."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any, Callable

import pytest

from drgn_unaccepted.answer.history import history
from drgn_unaccepted.record.file import Recording
from drgn_unaccepted.snapshot import Sample, Snapshot
from tests.views import guests
from tests.views.guests import BASE, GIB, MIB, TIB, UNIT
from tests.views.pages import (
    BLUE,
    FINDING,
    NEEDS_BROWSER,
    ORANGE,
    answer,
    assert_accessible,
    color_at,
    colors,
    css,
    frame,
    keys,
    place_of,
    point_at,
    text,
    value_text,
    wait,
    width_of,
)
from tests.views.test_history import REAL, sweep

pytestmark = NEEDS_BROWSER

LEFT, UP, RIGHT, DOWN, HOME, END, TAB, ENTER = "\ue012\ue013\ue014\ue015\ue011\ue010\ue004\ue007"

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
    driver = show(guests.small())
    # Byte 3 of the bitmap is 0b1110: its units 1 to 3 are set.
    for unit, wanted in ((22, BLUE), (26, ORANGE), (30, BLUE), (256, ORANGE)):
        assert color_at(driver, BASE + unit * UNIT) == wanted, unit
    # Reserved, and no RAM: neither looks accepted.
    assert color_at(driver, 500 * MIB) == (0xA9, 0xB0, 0xB9)
    assert color_at(driver, 800 * MIB) not in (ORANGE, BLUE)
    assert text(driver, "#cards").split("\n")[:3] == ["Unaccepted", "456 MiB", "22% of 1.98 GiB RAM"]


def test_unknown_does_not_look_accepted(show: Callable[..., Any]) -> None:
    driver = show(guests.lists())
    assert color_at(driver, BASE) == BLUE
    assert {color_at(driver, BASE + 192 * MIB + unit * UNIT) for unit in range(8)}.isdisjoint((BLUE, ORANGE))
    assert "page-lists" in text(driver, "#cards") and "not exact" in text(driver, "#cards")


def test_hover_and_click(show: Callable[..., Any]) -> None:
    driver = show(guests.small())
    point_at(driver, BASE + 25 * UNIT)
    assert text(driver, "#tip").split("\n") == [
        "0x103200000, Unaccepted",
        "unit 25, 0x103200000-0x103400000",
        "EFI: Unaccepted",
        "e820: RAM",
        "zone: node 0, Normal, listed",
        "source: the bitmap, exact",
    ]
    for address, said in ((500 * MIB, "0x1f400000, Reserved"), (700 * MIB, "0x2bc00000, No RAM")):
        point_at(driver, address)
        wait(lambda said=said: text(driver, "#tip").split("\n")[0] == said)  # type: ignore[misc]
    point_at(driver, BASE + 4 * UNIT, click=True)
    shown = answer(driver)
    assert shown.startswith("0x100800000 Accepted")
    for words in ("its bit is 0", "4, bit 0", "Unaccepted (type 15)", "0x100000000-0x138000000", "being accepted"):
        assert words in shown
    assert driver.execute_script("return location.hash") == "#0x100800000"


def test_search(show: Callable[..., Any]) -> None:
    driver = show(guests.huge())
    before = driver.execute_script("return unaccepted.view.scroller.scrollTop")
    keys(driver, "/", "0x60000000000", ENTER)
    # 0x60000000000 is in node 1; its unit is bit 0 of a byte of which only bit 4 is set.
    assert answer(driver).startswith("0x60000000000 Accepted")
    assert text(driver, "#search-status").startswith("0x60000000000, Accepted; unit 3143680, 0x60000000000-")
    assert driver.execute_script("return unaccepted.view.scroller.scrollTop") > before
    assert 0 <= place_of(driver, 0x60000000000)[1] < css(driver, "#canvas").size["height"]
    field = css(driver, "#address")
    beyond = "beyond the last physical address"
    for wrong, why in (("5368709120", "or hexadecimal?"), ("five", "not an address"), ("0x10000000000000", beyond)):
        field.clear()
        field.send_keys(wrong, ENTER)
        assert why in text(driver, "#search-status") and field.get_attribute("aria-invalid") == "true"
    field.clear()
    field.send_keys("2T", ENTER)
    assert answer(driver).startswith("0x20000000000 Accepted") and field.get_attribute("aria-invalid") is None


def test_keyboard(show: Callable[..., Any]) -> None:
    driver = show(guests.small(), place="#0x120000000")
    assert answer(driver).startswith("0x120000000 Unaccepted")
    driver.execute_script("document.getElementById('map').focus()")
    keys(driver, HOME)
    assert value_text(driver) == "0x0, Reserved; EFI: Conventional; e820: Reserved; source: the bitmap, exact"
    for key, address in (
        (RIGHT, UNIT),
        (DOWN, BASE + UNIT),  # over the hole
        (DOWN, BASE + GIB + UNIT),
        (UP, BASE + UNIT),
        (LEFT, BASE),
        (LEFT, GIB - UNIT),  # over the hole
        (RIGHT, BASE),
        ("n", BASE + 9 * UNIT),  # the first set bit, of byte 1
        ("n", BASE + 10 * UNIT),
        ("n", BASE + 16 * UNIT),
        ("p", BASE + 10 * UNIT),
        (END, BASE + 2 * GIB - UNIT),
    ):
        keys(driver, key)
        assert value_text(driver).startswith(f"{address:#x}, "), (key, hex(address))
        assert answer(driver).startswith(f"{address:#x} ")
    assert int(css(driver, "#map").get_attribute("aria-valuenow")) == (BASE + 2 * GIB) // UNIT - 1


def test_tab_reaches_everything_and_shows_where_it_is(show: Callable[..., Any]) -> None:
    driver = show(guests.small())
    seen = set()
    for _ in range(14):
        keys(driver, TAB)
        seen.add(driver.execute_script("return document.activeElement.id"))
        assert driver.execute_script("return getComputedStyle(document.activeElement).outlineStyle") != "none", seen
    assert {"theme", "address", "previous", "next", "row-size", "map"} <= seen


def test_findings_highlight_their_ranges(show: Callable[..., Any]) -> None:
    ranges = [[BASE + 64 * MIB, BASE + 96 * MIB], [BASE + GIB, BASE + GIB + UNIT]]
    finding = {"rule": "bits-within-firmware-ram", "status": "critical", "message": "m", "ranges": ranges, "needs": []}
    passed = {"rule": "table-captured", "status": "pass", "message": "fine", "ranges": [], "needs": []}
    driver = show(guests.small(), checks={"status": "critical", "findings": [passed, finding]})
    assert text(driver, "#verdict").startswith("critical")
    assert text(driver, "#findings").startswith("critical bits-within-firmware-ram")
    assert text(driver, "#others summary") == "1 passed, 0 skipped"
    pressed = css(driver, "#findings button.show")
    assert pressed.text == "Show 2 ranges (34 MiB) on the map"
    pressed.click()
    frame(driver)
    assert pressed.get_attribute("aria-pressed") == "true"
    assert colors(driver).count(FINDING) > 100
    assert answer(driver).startswith("0x104000000 ")
    pressed.click()
    frame(driver)
    assert FINDING not in colors(driver)
    css(driver, "#findings details summary").click()
    assert "Why:" in text(driver, "#findings details")


def test_tables_sort(show: Callable[..., Any]) -> None:
    driver = show(guests.small())

    def sizes() -> list[str]:
        return [cell.text for cell in driver.find_elements("css selector", "#ranges td:nth-child(3)")]

    assert sizes() == ["2 MiB", "4 MiB", "6 MiB", "8 MiB", "10 MiB", "12 MiB", "30 MiB", "384 MiB"]
    header = css(driver, "#ranges th:nth-child(3) button")
    header.click()
    header.click()
    assert sizes()[0] == "384 MiB" and sizes()[-1] == "2 MiB"
    assert css(driver, "#ranges th:nth-child(3)").get_attribute("aria-sort") == "descending"
    css(driver, "#ranges td button").click()
    assert answer(driver).startswith("0x120000000 Unaccepted")
    assert "dd" in text(driver, "#accepting") and "812" in text(driver, "#accepting")
    assert "0x800000000000000f" in text(driver, "#efi"), "all 64 bits of an attribute"


def test_long_tables_are_shown_in_parts(show: Callable[..., Any]) -> None:
    driver = show(guests.huge())
    assert text(driver, "#ranges p").startswith(f"{1 + 5 * TIB // UNIT // 8:,} ranges")
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
    assert color_at(driver, BASE + 256 * UNIT) == ORANGE
    # The style sheet has to write the dark palette twice: for the system's wish and for the button.
    palettes = driver.execute_script(PALETTES)
    by_button = palettes[':root[data-theme="dark"]:not([data-printing])']
    assert len(by_button) > 30 and by_button == palettes[':root:not([data-theme="light"]):not([data-printing])']


@pytest.mark.parametrize(("width", "dark"), ((1280, False), (480, True)))
def test_everybody_can_use_it(show: Callable[..., Any], width: int, dark: bool) -> None:
    for snapshot in (guests.small(), guests.lists(), guests.hostile()):
        driver = show(snapshot)
        with width_of(driver, width):
            if dark:
                css(driver, "#theme").click()
            driver.execute_script("for (const one of document.querySelectorAll('details')) one.open = true")
            assert_accessible(driver)
            wide = driver.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
            assert wide <= 0, "the page scrolls sideways"


def test_hostile_names_stay_text(show: Callable[..., Any]) -> None:
    driver = show(guests.hostile())
    assert driver.execute_script("return [document.images.length, document.scripts.length]") == [0, 2]
    name = "</script><script>window.pwned = 1</script><img src=x onerror=pwned()>"
    for selector in ("#target", "#notes", "#zones", "#accepting", "#efi", "#legend", "#made"):
        said = driver.execute_script("return document.querySelector(arguments[0]).textContent", selector)
        assert name in said, selector
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

    driver = show(guests.one_unlike_all_others(b"\0"))
    Select(css(driver, "#row-size")).select_by_visible_text(row)
    # Away from the frame around what can be seen.
    driver.execute_script("unaccepted.view.scroller.scrollTop = 0")
    frame(driver)
    width = css(driver, "#overview").size["width"]
    assert set(colors(driver, 0, 24, width, 1, canvas="#overview")) == {ORANGE}, "pointed at from below"
    strip = colors(driver, 0, 11, width, 1, canvas="#overview")
    assert (189, 191, 155) in strip, "a third of the way from blue to orange"
    address = BASE + 10 * TIB // UNIT // 8 // 3 * 8 * UNIT
    keys(driver, "/", hex(address), ENTER)
    x, y = place_of(driver, address)
    # Without the frame of the selected unit. Where a unit is less than a pixel a mark above the row points at it.
    driver.execute_script("unaccepted.view.selected = null; unaccepted.view.draw()")
    style = driver.execute_script("return unaccepted.view.style.state")
    assert ORANGE in colors(driver, x - 3, y if row == "1 GiB" else y - style // 2 - 2, 7, 1)


@pytest.mark.parametrize("width", (390, 1280))
def test_labels_are_written_whole(show: Callable[..., Any], width: int) -> None:
    """On a phone too, and for a guest above 64 TiB, whose addresses have twelve digits."""
    base = 100 * TIB
    e820 = guests.e820((BASE, BASE + GIB), (base, base + GIB))
    snapshot = replace(guests.small(), table=guests.table(guests.BITMAP, base), e820=e820, zones=())
    past = history([Sample(0, 0.0, 0.1, snapshot), Sample(1, 27.8, 0.1, snapshot)])
    with width_of(show(guests.small()), width):
        driver = show(snapshot, past=past)
        driver.execute_script(WATCH_TEXTS + "unaccepted.view.draw(); unaccepted.history.draw();")
        # The page may draw once more by itself, in the same places.
        written = {tuple(one) for one in driver.execute_script("return window.written")}
    assert sum(text == "0x640000000000" for text, *_ in written) == 2
    assert {"accepted a second", "0.0 s", "27.8 s"} <= {text for text, *_ in written}
    assert all(left >= 0 and right <= of for _, left, right, of, _, _ in written)
    # Nor does one run into another of its line.
    for line in {(canvas, y) for *_, y, canvas in written}:
        spans = sorted((left, right) for _, left, right, _, y, canvas in written if (canvas, y) == line)
        assert all(right + 4 <= left for (_, right), (left, _) in zip(spans, spans[1:])), line


def test_what_the_firmware_said_does_not_look_like_a_state(show: Callable[..., Any]) -> None:
    """All is accepted now; that it was type 15 at boot is not drawn in the orange of what is unaccepted."""
    driver = show(replace(guests.small(), table=guests.table(bytes(64)), zones=()))
    lane_colors = driver.execute_script(
        "return unaccepted.view.lanes.flatMap((one) => one.segments.map((s) => unaccepted.view.color(s.color)))"
    )
    states = driver.execute_script("return ['unaccepted', 'accepted'].map((name) => unaccepted.view.color(name))")
    assert lane_colors and not set(states) & set(lane_colors)
    assert ORANGE not in colors(driver)


@pytest.mark.parametrize("width", (390, 431, 599))
def test_a_whole_run_is_one_colour_at_any_width(show: Callable[..., Any], width: int) -> None:
    """Where a pixel is no whole number of units or bytes, as on a phone, none of it is taken for a part."""
    driver = show(replace(guests.only_bitmap(guests.small()), table=guests.table(b"\xff" * 64)))
    with width_of(driver, width):
        driver.execute_script("unaccepted.view.selected = null; unaccepted.view.draw()")
        left, plot = driver.execute_script("return [unaccepted.view.left, unaccepted.view.plot]")
        _, y = place_of(driver, BASE)
        assert plot < 512 and set(colors(driver, left + 9, y, plot - 18, 1)) == {ORANGE}


def test_print(show: Callable[..., Any]) -> None:
    driver = show(guests.huge())
    assert driver.execute_script(PRINTING) == [21, True, "#f6f7f9"]
    assert base64.b64decode(driver.execute_cdp_cmd("Page.printToPDF", {})["data"]).startswith(b"%PDF")
    assert text(driver, "#scale").startswith("10,242 rows of 1 GiB"), "as before"


def test_without_any_memory(show: Callable[..., Any]) -> None:
    """Nothing could be captured but that there is a table."""
    parts = ("kernel", "efi_map", "e820", "zones", "counters", "accepting", "platform", "pages")
    target = guests.small().target
    driver = show(Snapshot(target=target, table=guests.NOT_CAPTURED, missing=dict.fromkeys(parts, "broken")))
    assert text(driver, "#cards").startswith("Unaccepted\nunknown\nSource\nnone")
    assert text(driver, "#scale").startswith("0 rows")
    css(driver, "#address").send_keys("4G", ENTER)
    assert answer(driver).startswith("0x100000000 Unknown")
    assert not css(driver, "#recording").is_displayed()


def test_a_recording_over_time(show: Callable[..., Any]) -> None:
    """Bytes of the bitmap are accepted one after the other, one each half second."""
    driver = show(guests.small(), past=history(sweep(65), columns=256, lines=400))
    assert value_text(driver, "#history") == "32.0 seconds, 0 bytes unaccepted, 32 MiB accepted a second, bitmap"
    for slice_, bin_, color in ((0, 0, ORANGE), (0, 63, ORANGE), (32, 31, BLUE), (32, 32, ORANGE)):
        left, right = driver.execute_script("return unaccepted.history.span(arguments[0])", slice_)
        y = round((bin_ + 0.5) / 64 * 260)
        assert colors(driver, (left + right) // 2, y, 1, 1, canvas="#history canvas") == [color], (slice_, bin_)
    driver.execute_script("document.getElementById('history').focus()")
    keys(driver, HOME)
    assert text(driver, "#history-said") == "0.0 seconds, 1 GiB unaccepted, bitmap"
    keys(driver, RIGHT, RIGHT)
    assert text(driver, "#history-said") == "1.0 seconds, 992 MiB unaccepted, 32 MiB accepted a second, bitmap"
    assert len(driver.find_elements("css selector", "#samples tbody tr")) == 65
    assert_accessible(driver)


def test_a_real_recording(show: Callable[..., Any]) -> None:
    *_, last = Recording(str(REAL))
    driver = show(last.snapshot, past=history(Recording(str(REAL)), columns=256, lines=400))
    assert text(driver, "#recording").startswith("Over time\n139 samples in 27.8 seconds; 56 bins of 16 MiB")
    driver.execute_script("document.getElementById('history').focus()")
    keys(driver, HOME)
    assert text(driver, "#history-said") == "0.0 seconds, 596 MiB unaccepted, bitmap"
    assert "live of 2026-" in text(driver, "#target")
    notes = text(driver, "#notes")
    assert "not asked for" not in notes and "without panic, pages, reclaiming" in notes
