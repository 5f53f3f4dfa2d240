"""The figures: their numbers beside the library's, for every setting; keyboard, address, motion."""

import math
import sys
from pathlib import Path

import pytest

from conftest import PATIENCE, pages, serve

sys.path.insert(0, str(Path(__file__).parents[1] / "_ext"))
import live

FIGURES = sorted(path.stem for path in live.FIGURES.glob("*.py"))


def on_pages():
    """Return each figure with the pages that it is on."""
    found = {}
    for path in pages():
        text = (serve.SITE / path[1:]).read_text()
        for name in FIGURES:
            if f'<lamina-figure name="{name}"' in text:
                found.setdefault(name, []).append(path)
    return found


PLACES = on_pages()


def open_figure(page, base_url, name, query=""):
    page.goto(f"{base_url}{PLACES[name][0]}{query}")
    figure = page.locator(f'lamina-figure[name="{name}"]').first
    figure.scroll_into_view_if_needed()
    return figure


def distance(found, expected):
    """Return the largest difference between two structures, relative where numbers are large."""
    if isinstance(expected, dict):
        return max(distance(found[k], v) for k, v in expected.items())
    if isinstance(expected, list):
        assert len(found) == len(expected)
        return max((distance(f, e) for f, e in zip(found, expected, strict=True)), default=0.0)
    return abs(found - expected) / max(1.0, abs(expected))


def test_every_figure_is_on_a_page():
    assert sorted(PLACES) == FIGURES


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_says_what_the_library_computes(page, base_url, name):
    checks = live.module(name).checks()
    assert checks
    if "variant" in checks[0][0]:
        for state, expected in checks:
            place = next(p for p in PLACES[name] if p.endswith(f"/{state['variant']}.html"))
            page.goto(base_url + place)
            found = page.evaluate(
                "name => Lamina.figures[name].values("
                "document.querySelector(`lamina-figure[name=${name}]`).D, {})",
                name,
            )
            assert distance(found, expected) == 0
        return
    open_figure(page, base_url, name)
    found = page.evaluate(
        "([name, states]) => { const f = Lamina.figures[name], D ="
        " document.querySelector(`lamina-figure[name=${name}]`).D;"
        " return states.map(s => f.values(D, {...f.state, ...s})); }",
        [name, [state for state, _ in checks]],
    )
    worst = max(distance(f, e) for f, (_, e) in zip(found, checks, strict=True))
    assert math.isfinite(worst)
    assert worst < 1e-12


@pytest.mark.parametrize("name", FIGURES)
def test_every_control_draws(page, base_url, name):
    """Every end of every control gives a picture without NaN and undefined, and an address."""
    figure = open_figure(page, base_url, name)
    box = figure.bounding_box()
    addresses = []

    def look():
        html = figure.locator(".lf-picture").inner_html() + figure.locator(".lf-say").inner_text()
        for spoiled in ("NaN", "undefined", "Infinity"):
            assert spoiled not in html
        addresses.append(page.evaluate("location.search"))

    def sweep():
        for slider in figure.locator("input[type=range]:visible").all():
            for end in ("min", "max"):
                slider.evaluate(
                    "(e, end) => { e.value = e[end]; e.dispatchEvent(new Event('input')); }", end
                )
                look()

    sweep()
    for select in figure.locator("select").all():
        for index in range(select.locator("option").count()):
            select.select_option(index=index)
            look()
            sweep()
    for press in figure.locator("input[type=checkbox], button:not(.lf-play)").all():
        if press.is_visible():
            press.click()
            look()
    assert any(f"{name}=" in address for address in addresses)
    assert figure.bounding_box()["width"] == box["width"]


def test_the_address_holds_the_state(page, base_url):
    figure = open_figure(page, base_url, "convolution")
    figure.locator("input[name=stride]").fill("2")
    figure.locator("select[name=kernel]").select_option("sharpen")
    said = figure.locator(".lf-say").inner_text()
    page.reload()
    assert figure.locator("input[name=stride]").input_value() == "2"
    assert figure.locator(".lf-say").inner_text() == said


@pytest.mark.parametrize(
    "state",
    [
        "nonsense",
        "null",
        "[]",
        '{"stride": "x", "toString": 1}',
        '{"stride": 0, "padding": 99, "kernel": "none", "image": "<b>", "i": -1}',
        '{"stride": 1.5}',
        '{"view": "backward", "r": 99}',
    ],
)
def test_a_spoiled_address_does_no_harm(page, base_url, state):
    figure = open_figure(page, base_url, "convolution", f"?convolution={state}")
    assert figure.locator("input[name=stride]").input_value() == "1"


def test_arrow_keys_go_from_cell_to_cell(page, base_url):
    figure = open_figure(page, base_url, "convolution")
    figure.locator("[data-at='y 0 0']").click()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.dataset.at") == "y 1 1"
    assert "y in row 2, column 2" in figure.locator(".lf-say").inner_text()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")  # the edge
    assert page.evaluate("document.activeElement.dataset.at") == "y 0 1"


def test_controls_are_reached_by_tab(page, base_url):
    figure = open_figure(page, base_url, "linear")
    figure.locator(".lf-play").focus()
    reached = []
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("document.activeElement.name || document.activeElement.dataset.at")
        )
    assert reached == ["view", "x1", "x2", "y 0 1"]


def test_enter_changes_a_cell(page, base_url):
    figure = open_figure(page, base_url, "convolution")
    figure.locator("input, select, button").last.focus()
    for _ in range(9):  # by Tab, as without a mouse
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.dataset.at") == "x 0 0":
            break
    page.keyboard.press("Enter")
    assert figure.locator("[data-at='x 0 0'] text").text_content() == "1"


def test_a_figure_moves_by_itself_until_it_is_touched(browser, base_url):
    context = browser.new_context(reduced_motion="no-preference")
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    figure = open_figure(page, base_url, "convolution")
    first = figure.locator(".lf-say").inner_text()
    page.wait_for_function(
        "first => document.querySelector('lamina-figure .lf-say').innerText !== first", arg=first
    )
    assert figure.locator(".lf-play").inner_text() == "❚❚ Pause"
    figure.locator("input[name=stride]").fill("2")
    assert figure.locator(".lf-play").inner_text() == "▶ Play"
    still = figure.locator(".lf-say").inner_text()
    page.wait_for_timeout(1500)
    assert figure.locator(".lf-say").inner_text() == still
    context.close()


def test_a_figure_that_moves_does_not_get_lower(page, base_url):
    page.set_viewport_size({"width": 390, "height": 844})
    for name in ("axes", "rnn"):
        figure = open_figure(page, base_url, name)
        for part in ("pictures", "said"):
            heights = figure.evaluate(
                f"f => Array.from({{length: 40}}, () => {{ f.go(); return f.{part}.offsetHeight }})"
            )
            assert heights == sorted(heights), (name, part)
        figure.evaluate("f => f.set({})")
        assert figure.locator(".lf-say").evaluate("e => e.style.minHeight") == ""


def test_a_figure_stands_still_for_those_who_ask(page, base_url):
    figure = open_figure(page, base_url, "convolution")
    first = figure.locator(".lf-say").inner_text()
    page.wait_for_timeout(1500)
    assert figure.locator(".lf-say").inner_text() == first
    figure.locator(".lf-play").click()  # it can be started all the same
    page.wait_for_function(
        "first => document.querySelector('lamina-figure .lf-say').innerText !== first", arg=first
    )
