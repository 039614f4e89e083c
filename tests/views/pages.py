# SPDX-License-Identifier: LGPL-2.1-or-later
"""A headless Chromium, and the hands and eyes of tests on the page of ``report``; the fixture ``show`` opens it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional

import pytest

#: Those of the second line keep it from looking for its maker's hosts.
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-device-scale-factor=1"),
    *("--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update"),
    "--disable-sync",
)


def lacking() -> Optional[str]:
    """Why no browser can be driven here; None where one can."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium is not installed (pip install selenium)"
    for program in ("chromium", "chromedriver"):
        if shutil.which(program) is None:
            return f"{program} is not installed (apt-get install chromium chromium-driver)"
    return None


def axe() -> Optional[Path]:
    """axe-core's script, as ``npm install -g axe-core`` lays it; None where it is missing."""
    npm = shutil.which("npm")
    if npm is None:
        return None
    root = subprocess.run([npm, "root", "-g"], capture_output=True, text=True, check=True).stdout.strip()
    script = Path(root) / "axe-core" / "axe.min.js"
    return script if script.exists() else None


@contextmanager
def chromium(profile: Path, width: int = 1280, height: int = 1000) -> Iterator[Any]:
    """The driver of a new browser with an empty profile."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


#: For ``pytestmark``.
NEEDS_BROWSER = [
    pytest.mark.browser,
    pytest.mark.long,
    pytest.mark.skipif(lacking() is not None, reason=f"no browser: {lacking()}"),
]


def css(driver: Any, selector: str) -> Any:
    return driver.find_element("css selector", selector)


def text(driver: Any, selector: str) -> str:
    shown: str = css(driver, selector).text
    return shown


def answer(driver: Any) -> dict[str, str]:
    """What the page says of the selected address."""
    words = text(driver, "#answer").split("\n")
    return dict(zip(words[::2], words[1::2]))


def point_at(driver: Any, address: int, click: bool = False, where: str = "#map") -> None:
    """Move the pointer to an address on a drawing."""
    from selenium.webdriver import ActionChains

    rows = driver.find_elements("css selector", f"{where} [data-start]")
    ends = [(int(row.get_attribute("data-start")), int(float(row.get_attribute("data-end")))) for row in rows]
    row, (start, end) = next(one for one in zip(rows, ends) if one[1][0] <= address < one[1][1])
    box = driver.execute_script("const b = arguments[0].getBoundingClientRect(); return [b.width, b.height]", row)
    x = round((address - start) / (end - start) * box[0] - box[0] / 2)
    actions = ActionChains(driver).move_to_element_with_offset(row, x, 0)
    (actions.click() if click else actions).perform()


def keys(driver: Any, *pressed: str) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(driver).send_keys(*pressed).perform()


@contextmanager
def width_of(driver: Any, width: int) -> Iterator[None]:
    """The window of another device."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
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
