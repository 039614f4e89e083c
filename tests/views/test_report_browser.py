# SPDX-License-Identifier: LGPL-2.1-or-later
"""The page of ``report`` in a real Chromium: without scripts, with pointer and keyboard, and with axe-core."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any, Callable

import pytest

from drgn_unaccepted.answer.best_source import judge
from drgn_unaccepted.answer.history import history
from drgn_unaccepted.commands.resolve import resolve
from drgn_unaccepted.model.addresses import Query
from drgn_unaccepted.record.file import Recording
from tests.views import guests
from tests.views.guests import BASE, GIB, MIB, UNIT
from tests.views.pages import NEEDS_BROWSER, answer, assert_accessible, css, keys, point_at, text, width_of
from tests.views.test_history import REAL
from tests.waiting import wait_for

pytestmark = NEEDS_BROWSER

LEFT, RIGHT, HOME, END, TAB, ENTER, PAGE_DOWN = "\ue012\ue014\ue011\ue010\ue004\ue007\ue00f"

#: The width of the widest bar of each kind.
WIDEST = """
const width = (one) => one.getBoundingClientRect().width;
const widest = (name) => Math.max(...Array.from(document.querySelectorAll(`#strip .${name}`), width));
return ["unknown", "guard", "unaccepted"].map(widest);
"""

#: How far the page, and what scrolls on it, are wider than what can be seen.
BEYOND = """
const scrolls = Array.from(document.querySelectorAll(".scroll"), (one) => one.scrollWidth - one.clientWidth);
return [document.documentElement.scrollWidth - window.innerWidth, ...scrolls];
"""


def test_without_scripts(show: Callable[..., Any]) -> None:
    driver = show(replace(guests.small(), panic="Cannot accept memory"), scripts=False)
    assert text(driver, ".died").startswith("Died in accept") and "table-in-acpi-memory" in text(driver, "#findings")
    assert css(driver, "#map svg").size["width"] > 700 and not css(driver, "#closeup").is_displayed()
    # The filter needs none either.
    assert "Conventional (7)" not in text(driver, "#efi table")
    driver.find_element("xpath", "//section[@id='efi']//label[contains(., 'all')]").click()
    assert "Conventional (7)" in text(driver, "#efi table")


def test_pointer(show: Callable[..., Any]) -> None:
    driver = show(guests.small())
    assert answer(driver)["address"] == "0x100800000", "the accept in flight"
    point_at(driver, BASE + 26 * UNIT)
    wait_for(css(driver, "#tip").is_displayed, lambda: "no tip")
    first, *words = text(driver, "#tip").split("\n")
    assert BASE + 25 * UNIT <= int(first, 16) < BASE + 28 * UNIT
    assert words == [
        "state: unaccepted: its bit is 1",
        "page lists: on zone->unaccepted_pages",
        "EFI: Unaccepted",
        "e820: RAM",
        "zone: node 0 Normal",
    ]
    point_at(driver, 0x130000000, click=True)
    assert answer(driver)["state"] == "unaccepted: its bit is 1"
    assert driver.execute_script("return location.hash").startswith("#0x1")
    assert driver.find_elements("css selector", "#map .cursor")
    point_at(driver, 500 * MIB, click=True, where="#strip")
    assert answer(driver)["EFI"] == "Runtime Data"


def test_search_and_addresses_in_tables(show: Callable[..., Any]) -> None:
    driver = show(guests.huge(), "#0x60000000000")
    # 0x60000000000 is in node 1; its unit is bit 0 of a byte of which only bit 4 is set.
    assert answer(driver)["address"] == "0x60000000000" and answer(driver)["state"] == "accepted: its bit is 0"
    field = css(driver, "#address")
    beyond = "beyond the last physical address"
    for wrong, why in (("5368709120", "or hexadecimal?"), ("five", "not an address"), ("0x10000000000000", beyond)):
        keys(driver, "/")
        field.clear()
        field.send_keys(wrong, ENTER)
        assert why in text(driver, "#status") and field.get_attribute("aria-invalid") is not None
    field.clear()
    field.send_keys("2T", ENTER)
    assert answer(driver)["address"] == "0x20000000000" and field.get_attribute("aria-invalid") is None
    driver.execute_script("document.querySelector('#ranges td button').click()")
    assert answer(driver)["address"] == text(driver, "#ranges td")


def test_keyboard(show: Callable[..., Any]) -> None:
    driver = show(guests.small(), "#0x120000000")
    driver.execute_script("document.getElementById('strip').focus()")
    for key, address in (
        (HOME, 0),
        (RIGHT, UNIT),
        (PAGE_DOWN, UNIT + BASE + 2 * GIB),  # what is shown is everything
        (END, BASE + 2 * GIB - UNIT),
        (LEFT, BASE + 2 * GIB - 2 * UNIT),
        ("p", BASE + GIB + GIB // 2),  # the end of RAM
        ("p", BASE + GIB),
        ("p", 0x138000000),
        ("p", 0x120000000),
        ("n", 0x138000000),
    ):
        keys(driver, key)
        assert answer(driver)["address"] == f"{address:#x}", key
        strip = css(driver, "#strip")
        assert strip.get_attribute("aria-valuetext").startswith(f"{address:#x}\nstate: ")
        assert int(strip.get_attribute("aria-valuenow")) == address // UNIT
    seen = []
    for _ in range(12):
        keys(driver, TAB)
        seen.append(driver.execute_script("return getComputedStyle(document.activeElement).outlineStyle"))
    assert "none" not in seen, "where the focus is can be seen"


def test_the_script_finds_what_python_packed(show: Callable[..., Any]) -> None:
    for snapshot in (guests.lists(), guests.uneven(), guests.huge()):
        driver = show(snapshot)
        places = (0, 6 * MIB, 64 * MIB, BASE, 0x10C000000, 0x138000000)
        addresses = [place + off for place in places for off in (0, UNIT - 1, UNIT)]
        said = driver.execute_script("return arguments[0].map((one) => said(closeup.tracks, one)[0][1])", addresses)
        answers = resolve(snapshot, judge(snapshot), [Query(address, None) for address in addresses])["addresses"]
        for got, one in zip(said, answers or ()):
            state, reason = got.split(": ", 1)
            assert one["state"] == state and one["reason"].startswith(reason)


def test_nothing_is_lost_by_zooming_out(show: Callable[..., Any]) -> None:
    """A unit that is perhaps accepted, one that is unknown, one that is unaccepted: visible at each zoom."""
    driver = show(guests.lists(), "#0x10c000000")
    widths = []
    for _ in range(5):
        assert all(width >= 2 for width in driver.execute_script(WIDEST))
        widths.append(driver.execute_script("return closeup.width"))
        css(driver, "[data-key='+']").click()
    assert widths[0] == BASE + 2 * GIB and widths[-1] == 16 * UNIT
    driver = show(guests.one_unlike_all_others(b"\0"))
    assert driver.execute_script("return closeup.width") > 10 << 40
    assert driver.execute_script(WIDEST)[2] >= 2


def test_tables_sort(show: Callable[..., Any]) -> None:
    driver = show(guests.small())
    sizes = "return Array.from(document.querySelectorAll('#ranges td:nth-child(3)'), (cell) => cell.textContent)"
    in_order = ["2 MiB", "4 MiB", "6 MiB", "8 MiB", "10 MiB", "12 MiB", "30 MiB", "384 MiB"]
    assert driver.execute_script(sizes) == in_order
    header = css(driver, "#ranges th:nth-child(3)")
    header.find_element("css selector", "button").click()
    header.find_element("css selector", "button").click()
    assert driver.execute_script(sizes) == in_order[::-1]
    assert header.get_attribute("aria-sort") == "descending"
    compared = driver.execute_script("return ['9 KiB', 'x', '0x10', '1.5 MiB', '3'].sort(compare)")
    assert compared == ["3", "0x10", "9 KiB", "1.5 MiB", "x"]


@pytest.mark.parametrize(("width", "dark"), ((390, True), (1280, False), (1920, True)))
def test_everybody_can_use_it(show: Callable[..., Any], width: int, dark: bool) -> None:
    for snapshot in (guests.small(), guests.lists(), guests.hostile()):
        driver = show(snapshot, dark=dark)
        with width_of(driver, width):
            driver.execute_script("for (const one of document.querySelectorAll('details')) one.open = true")
            assert_accessible(driver)
            page, *tables = driver.execute_script(BEYOND)
            assert page <= 0, "the page scrolls sideways"
            assert width < 1280 or snapshot.zones[0].name == guests.HOSTILE or max(tables) <= 0
    background = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(15, 20, 26)" if dark else "rgb(246, 247, 249)")


def test_hostile_names_stay_text_and_nothing_is_loaded(show: Callable[..., Any]) -> None:
    driver = show(guests.hostile())
    assert driver.execute_script("return [document.images.length, document.scripts.length]") == [0, 2]
    name = "</script><script>window.pwned = 1</script><img src=x onerror=pwned()>"
    point_at(driver, BASE + 25 * UNIT, click=True)
    assert name in answer(driver)["zone"] and name in text(driver, "#tip").replace("\n", "")
    assert driver.title.startswith(f"Unaccepted memory: {name}")
    assert driver.execute_script("return typeof window.pwned") == "undefined"
    assert driver.execute_script("return performance.getEntriesByType('resource').length") == 0
    fetch = "const done = arguments[0]; fetch('data:,x').then(() => done('loaded'), () => done('refused'))"
    assert driver.execute_async_script(fetch) == "refused", "the page's own policy"
    messages = driver.get_log("browser")
    assert len(messages) == 2 and all("Content Security Policy" in one["message"] for one in messages)


def test_print(show: Callable[..., Any]) -> None:
    driver = show(guests.small(), dark=True)
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert not css(driver, "#closeup").is_displayed() and css(driver, "#map svg").is_displayed()
    fill = driver.execute_script("return getComputedStyle(document.querySelector('#map .accepted')).fill")
    assert fill == "rgb(168, 207, 232)", "light on paper"
    folded = driver.execute_script("return document.querySelector('details p').getBoundingClientRect().height")
    assert folded > 0, "nobody can open it on paper"
    with width_of(driver, 718):  # A4 within Chromium's margins
        assert max(driver.execute_script(BEYOND)) <= 0
    assert base64.b64decode(driver.execute_cdp_cmd("Page.printToPDF", {})["data"]).startswith(b"%PDF")


def test_a_recording_over_time(show: Callable[..., Any]) -> None:
    *_, last = Recording(str(REAL))
    driver = show(last.snapshot, past=history(Recording(str(REAL)), columns=256, lines=400))
    said = text(driver, "#recording")
    assert said.startswith("Over time\n139 samples in 27.8 seconds") and "at most 596 MiB" in said
    assert len(driver.find_elements("css selector", "#recording g title")) == 139
    assert_accessible(driver)
