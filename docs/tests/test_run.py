"""The programs of the pages, in the browser's Python: they print what they printed when built."""

import pytest

from conftest import pages, serve

PROGRAMS = [p for p in pages() if "<lamina-run>" in (serve.SITE / p[1:]).read_text()]


@pytest.mark.parametrize("path", PROGRAMS)
def test_programs_print_the_same(page, base_url, path):
    page.goto(base_url + path)
    for program in page.locator("lamina-run").all():
        expected = program.locator(".lr-out").text_content().strip()
        program.evaluate("e => { e.querySelector('.lr-out').textContent = ''; }")
        program.get_by_role("button", name="Run").click()
        page.wait_for_function("e => e.dataset.done", arg=program.element_handle())
        found = program.locator(".lr-out").text_content().strip()
        assert program.get_attribute("data-done") == "ok", found
        assert found == expected


def test_a_program_can_be_changed(page, base_url):
    page.goto(base_url + PROGRAMS[0])
    program = page.locator("lamina-run").first
    program.get_by_role("button", name="Edit").click()
    program.locator("textarea").fill("print(6 * 7)\n1 / 0")
    program.get_by_role("button", name="Run").click()
    page.wait_for_function("e => e.dataset.done", arg=program.element_handle())
    found = program.locator(".lr-out").text_content()
    assert found.startswith("42")
    assert "ZeroDivisionError" in found
    assert program.get_attribute("data-done") == "error"


def test_a_program_can_be_stopped(page, base_url):
    page.goto(base_url + PROGRAMS[0])
    program = page.locator("lamina-run").first
    program.get_by_role("button", name="Edit").click()
    for text, button in (("while True: pass", "Stop"), ("print(6 * 7)", None)):
        program.locator("textarea").fill(text)
        program.evaluate("e => { delete e.dataset.done; }")
        program.get_by_role("button", name="Run").click()
        if button:
            program.get_by_role("button", name=button).click()
        page.wait_for_function("e => e.dataset.done", arg=program.element_handle())
    assert program.locator(".lr-out").text_content() == "42\n"


def test_nothing_is_loaded_before_it_is_asked_for(page, base_url):
    asked = []
    page.on("request", lambda r: asked.append(r.url))
    page.goto(base_url + PROGRAMS[0], wait_until="networkidle")
    assert not [url for url in asked if "/python/" in url]
