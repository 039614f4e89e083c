# SPDX-License-Identifier: LGPL-2.1-or-later
"""The hands and eyes of tests on the page of ``report``; the fixture ``show`` opens it."""

from __future__ import annotations

import time
from typing import Any, Callable

import pytest

from tests.views.chromium import lacking
from tests.views.guests import UNIT

#: For ``pytestmark``.
NEEDS_BROWSER = [
    pytest.mark.browser,
    pytest.mark.long,
    pytest.mark.skipif(lacking() is not None, reason=f"no browser: {lacking()}"),
]


def wait(condition: Callable[[], bool], seconds: float = 20) -> None:
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


def color_at(driver: Any, address: int) -> tuple[int, int, int]:
    x, y = place_of(driver, address)
    frame(driver)
    script = (
        "return Array.from(unaccepted.view.canvas.getContext('2d').getImageData(arguments[0], arguments[1], 1, 1).data)"
    )
    red, green, blue, _ = driver.execute_script(script, x, y)
    return red, green, blue


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


def value_text(driver: Any) -> str:
    said: str = css(driver, "#map").get_attribute("aria-valuetext")
    return said
