"""The chat page in headless Chromium: a reply appears, nothing fails, nothing leaves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("uvicorn", reason="waits for the extra serve")

from tests.helpers.chat_model import writes
from tests.helpers.chat_server import ChatServer, eventually, serving
from tests.inference.server.test_api import CONFIG

if TYPE_CHECKING:
    from selenium.webdriver import Chrome
    from selenium.webdriver.remote.webelement import WebElement

HTML = "<img src=x onerror=\"document.title='pwned'\">"


@pytest.fixture(scope="module")
def server() -> Iterator[ChatServer]:
    with serving(writes(ord("<"), CONFIG), max_new_tokens=12) as started:
        yield started


@pytest.fixture
def page(browser: Chrome, server: ChatServer) -> Chrome:
    browser.get_log("browser"), browser.get_log("performance")  # type: ignore[no-untyped-call]
    browser.get(server.url)
    eventually(lambda: find(browser, "#model").text == "tiny")
    return browser


def find(page: Chrome, selector: str) -> WebElement:
    from selenium.webdriver.common.by import By

    return page.find_element(By.CSS_SELECTOR, selector)


def texts(page: Chrome) -> list[str]:
    found: list[str] = script(
        page, "return [...document.querySelectorAll('#messages .text')].map(e => e.textContent)"
    )
    return found


def script(page: Chrome, text: str) -> Any:
    return page.execute_script(text)  # type: ignore[no-untyped-call]


def test_a_reply_appears_and_is_text(page: Chrome, server: ChatServer) -> None:
    from selenium.webdriver.common.keys import Keys

    find(page, "#text").send_keys(HTML, Keys.ENTER)
    eventually(lambda: texts(page) == [HTML, "<" * 12])
    eventually(lambda: find(page, "#send").is_enabled())
    find(page, "#text").send_keys("and", Keys.SHIFT, Keys.ENTER, Keys.NULL, "now?")
    find(page, "#send").click()
    eventually(lambda: texts(page)[2:] == ["and\nnow?", "<" * 12])
    assert script(page, "return document.querySelectorAll('#messages img').length") == 0
    assert page.title == "pygpt chat"
    assert "cut at the longest reply" in find(page, "#messages").text
    assert page.get_log("browser") == []  # type: ignore[no-untyped-call]
    events = [json.loads(e["message"])["message"] for e in page.get_log("performance")]  # type: ignore[no-untyped-call]
    urls = {
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    }
    paths = ("/", "/chat.css", "/chat.js", "/v1/models", "/v1/chat/completions")
    # chrome: is the browser's own page of a new tab
    outside = {url for url in urls if not url.startswith(("data:", "chrome:"))}
    assert outside == {server.url + path for path in paths}


def test_escape_stops_and_a_new_dialogue_begins(page: Chrome, server: ChatServer) -> None:
    from selenium.webdriver.common.keys import Keys

    server.engine.seconds = 0.05
    try:
        find(page, ".row ~ details summary").click()
        find(page, "#tokens").send_keys("200")
        find(page, "#text").send_keys("hi", Keys.ENTER)
        eventually(lambda: texts(page)[1:] != [""])
        assert not find(page, "#send").is_enabled()
        find(page, "#text").send_keys(Keys.ESCAPE)
        eventually(lambda: "stopped" in find(page, "#messages").text)
        eventually(lambda: server.engine.active == 0)
        find(page, "#reset").click()
        assert texts(page) == []
    finally:
        server.engine.seconds = 0.0


def test_an_error_is_shown(page: Chrome) -> None:
    from selenium.webdriver.common.keys import Keys

    find(page, "#text").send_keys("x" * 300, Keys.ENTER)
    eventually(lambda: "write a shorter message" in find(page, "#error").text)
    assert find(page, "#error").get_attribute("role") == "alert"
    assert texts(page) == []
    assert find(page, "#text").get_attribute("value") == "x" * 300


def test_every_control_has_a_name_and_the_keyboard_reaches_it(page: Chrome) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    for element in page.find_elements(By.CSS_SELECTOR, "button, textarea, input, #messages"):
        if element.is_displayed():
            assert element.accessible_name
    assert script(page, "return document.documentElement.lang") == "en"
    reached = set()
    for _ in range(8):
        reached.add(page.switch_to.active_element.get_attribute("id"))
        page.switch_to.active_element.send_keys(Keys.TAB)
    assert {"text", "send", "reset"} <= reached


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_both_themes_fit_narrow_and_wide(page: Chrome, theme: str, width: int) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    assert script(page, "return document.documentElement.scrollWidth") <= width
    colors = script(
        page,
        "const rgb = c => c.match(/\\d+/g).slice(0, 3).map(Number);"
        "return ['body', '#send'].map(s => getComputedStyle(document.querySelector(s)))"
        ".map(s => [rgb(s.color), rgb(s.backgroundColor)])",
    )
    for (ink, paper), least in zip(colors, (7, 4.5), strict=True):  # WCAG 2.2: AAA, AA
        light, dark = sorted((_luminance(ink), _luminance(paper)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= least
    assert (_luminance(colors[0][0]) < _luminance(colors[0][1])) == (theme == "light")
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def _luminance(color: list[int]) -> float:
    """Relative luminance, as WCAG defines it."""
    linear = [
        c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in color
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
