# SPDX-License-Identifier: LGPL-2.1-or-later
"""The hands and eyes of tests on the page of ``report``; the fixture ``show`` opens it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable

import pytest

from tests.views.chromium import axe, lacking
from tests.views.guests import UNIT

#: For ``pytestmark``.
NEEDS_BROWSER = [
    pytest.mark.browser,
    pytest.mark.long,
    pytest.mark.skipif(lacking() is not None, reason=f"no browser: {lacking()}"),
]

Color = tuple[int, int, int]
ORANGE, BLUE, FINDING = (0xE6, 0x9F, 0x00), (0xA8, 0xCF, 0xE8), (0xC2, 0x18, 0x5B)


def wait(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the page did not get there"
        time.sleep(0.02)


def frame(driver: Any) -> None:
    """Let the page draw."""
    driver.execute_async_script("const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done))")


def css(driver: Any, selector: str) -> Any:
    return driver.find_element("css selector", selector)


def text(driver: Any, selector: str) -> str:
    shown: str = css(driver, selector).text
    return shown


def answer(driver: Any) -> str:
    """What the page says of the selected address, as one line."""
    return " ".join(text(driver, "#answer").split())


def place_of(driver: Any, address: int) -> tuple[int, int]:
    """Where the middle of the unit of an address is drawn, from the left and top of the canvas."""
    x, y = driver.execute_script(
        """const [address, unit] = arguments, v = unaccepted.view, row = v.rowOf(address).index;
        const y = v.tops[row] + v.style.state / 2 - v.scroller.scrollTop;
        return [v.x(v.rows[row], address + unit / 2), y]""",
        address,
        UNIT,
    )
    return round(x), round(y)


def colors(driver: Any, *where: int, canvas: str = "#canvas") -> list[Color]:
    """The colours of the pixels of ``x, y, width, height`` on a canvas; by default of all of it."""
    data = driver.execute_script(
        """const [selector, ...where] = arguments, canvas = document.querySelector(selector);
        const box = where.length ? where : [0, 0, canvas.width, canvas.height];
        return Array.from(canvas.getContext("2d").getImageData(...box).data)""",
        canvas,
        *where,
    )
    # Nothing was drawn on pixels that are not opaque.
    return [(r, g, b) for r, g, b, a in zip(*(data[i::4] for i in range(4))) if a == 255]


def color_at(driver: Any, address: int) -> Color:
    place = place_of(driver, address)
    frame(driver)
    return colors(driver, *place, 1, 1)[0]


def point_at(driver: Any, address: int, click: bool = False) -> None:
    from selenium.webdriver import ActionChains

    canvas = css(driver, "#canvas")
    x, y = place_of(driver, address)
    actions = ActionChains(driver).move_to_element_with_offset(
        canvas, x - canvas.size["width"] // 2, y - canvas.size["height"] // 2
    )
    (actions.click() if click else actions).perform()
    frame(driver)


def keys(driver: Any, *pressed: str) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(driver).send_keys(*pressed).perform()
    frame(driver)


def value_text(driver: Any, selector: str = "#map") -> str:
    said: str = css(driver, selector).get_attribute("aria-valuetext")
    return said


@contextmanager
def width_of(driver: Any, width: int) -> Iterator[None]:
    """The window of another device."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        frame(driver)
        yield
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def assert_accessible(driver: Any) -> None:
    """axe-core finds nothing, if it is installed."""
    script = axe()
    if script is not None:
        driver.execute_script(script.read_text(encoding="utf-8"))
        found = driver.execute_async_script("const done = arguments[0]; axe.run().then(done, (e) => done(String(e)))")
        assert len(found["passes"]) > 30
        assert [(one["impact"], one["id"], one["nodes"][0]["html"]) for one in found["violations"]] == []
