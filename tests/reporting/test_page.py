"""The page in headless Chromium: nothing is loaded, nothing fails, and the plots can be used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pygpt.reporting.build import build
from pygpt.reporting.language import Language
from pygpt.reporting.page.html import render
from pygpt.reporting.runlog import Facts
from tests.reporting.logs import healthy, write_csv

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

HOSTILE = "</script><script>document.title='pwned'</script>"


@pytest.fixture
def page(browser: Chrome, tmp_path: Path, seed: int) -> Chrome:
    """The report of two runs, one of which has a name that would end a script, opened."""
    hostile = tmp_path / "a<b>&.csv"
    logs = (write_csv(hostile, healthy(seed)), write_csv(tmp_path / "b.csv", healthy(seed + 1)))
    facts = Facts(batch_tokens=65536, n_layer=6, n_head=6, n_embd=384)
    facts.sources = dict.fromkeys(facts.known(), "test")
    reports = build(logs, facts)
    reports[1].log.name = HOSTILE
    text = render(reports, Language())
    assert len(text.encode()) < 1_000_000
    path = tmp_path / "report.html"
    path.write_text(text, encoding="utf-8")
    browser.get_log("browser"), browser.get_log("performance")  # type: ignore[no-untyped-call]
    browser.get(path.as_uri())
    return browser


def script(page: Chrome, text: str, *arguments: Any) -> Any:
    return page.execute_script(text, *arguments)  # type: ignore[no-untyped-call]


def test_nothing_fails_and_nothing_is_requested(page: Chrome) -> None:
    import json

    assert page.get_log("browser") == []  # type: ignore[no-untyped-call]
    events = [json.loads(e["message"])["message"] for e in page.get_log("performance")]  # type: ignore[no-untyped-call]
    urls = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert urls
    assert all(url.startswith(("file:", "data:")) for url in urls)
    assert page.title != "pwned"
    assert HOSTILE in script(page, "return document.querySelector('h1').textContent")


def test_the_plots_have_their_points(page: Chrome) -> None:
    drawn = script(
        page,
        "return [...document.querySelectorAll('#plot-loss path[data-points]')]"
        ".map(p => [Number(p.dataset.points), p.getAttribute('d').match(/[ML]/g).length])",
    )
    assert len(drawn) == 6  # training, validation and projection of two runs
    assert all(points == vertices for points, vertices in drawn)
    assert drawn[1][0] == 21  # evaluations


def test_the_keyboard_zooms_reads_and_resets(page: Chrome) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    ticks = "return [...document.querySelectorAll('#plot-loss svg text')].map(t => t.textContent)"
    svg = page.find_element(By.CSS_SELECTOR, "#plot-loss svg")
    before = script(page, ticks)
    svg.send_keys("+")
    assert script(page, ticks) != before
    assert "step" in page.find_element(By.CSS_SELECTOR, "#plot-loss .readout").text
    svg.send_keys(Keys.ESCAPE)
    assert script(page, ticks) == before


def test_dragging_zooms_and_the_legend_hides_a_curve(page: Chrome) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    svg = page.find_element(By.CSS_SELECTOR, "#plot-loss svg")
    count = "return document.querySelectorAll('#plot-loss path[data-points]').length"
    ticks = "return [...document.querySelectorAll('#plot-loss svg text')].map(t => t.textContent)"
    before = script(page, ticks)
    drag = ActionChains(page).move_to_element_with_offset(svg, -200, 0).click_and_hold()
    drag.move_by_offset(250, 0).release().perform()
    assert script(page, ticks) != before
    button = page.find_element(By.CSS_SELECTOR, "#plot-loss .legend button")
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert script(page, count) == 5


def test_every_plot_and_control_has_a_name(page: Chrome) -> None:
    from selenium.webdriver.common.by import By

    for element in page.find_elements(
        By.CSS_SELECTOR, "svg[role=img], button, section[aria-label]"
    ):
        assert element.accessible_name
    assert script(page, "return document.documentElement.lang") == "en"


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_both_themes_fit_narrow_and_wide(page: Chrome, theme: str, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    assert script(page, "return document.documentElement.scrollWidth") <= width
    colors = script(
        page,
        "const style = getComputedStyle(document.body); return [style.color, style.backgroundColor]"
        ".map(c => c.match(/\\d+/g).slice(0, 3).map(Number))",
    )
    ink, paper = (_luminance(color) for color in colors)
    assert (ink < paper) == (theme == "light")
    contrast = (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05)
    assert contrast >= 7  # WCAG 2.2, AAA
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def _luminance(color: list[int]) -> float:
    """Relative luminance, as WCAG defines it."""
    linear = [
        c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in color
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
