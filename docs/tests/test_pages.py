"""Every page of the built site."""

import re

import pytest

from conftest import AXE, PATIENCE, pages, watched

PAGES = pages()


def opened(page, url):
    """Go to a page and wait until it is whole."""
    page.goto(url)
    page.wait_for_function(
        "[...document.querySelectorAll('lamina-figure, lamina-run')].every(e => e.dataset.ready)"
    )
    page.evaluate("document.fonts.ready.then(() => 0)")


def axe(page):
    """Return what hinders readers with disabilities: the rules of WCAG 2 A and AA."""
    found = page.evaluate("axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa']})")
    return [(v["id"], [n["html"][:200] for n in v["nodes"][:3]]) for v in found["violations"]]


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_whole_and_readable(page, base_url, path):
    page.set_viewport_size({"width": 1280, "height": 900})
    opened(page, base_url + path)
    assert page.locator("h1").count() == 1
    assert page.locator(".katex-error").count() == 0
    maths = page.locator(".katex").count()
    assert page.locator(".katex math").count() == maths  # MathML, for those who listen
    cut = page.evaluate(
        "[...document.querySelectorAll('div.math')].filter(e => e.scrollWidth > e.clientWidth + 1)"
        ".map(e => e.textContent.slice(0, 80))"
    )
    assert not cut
    # Of a table, the first rows: there are tables of hundreds, all made alike.
    page.evaluate("document.querySelectorAll('.katex, tr:nth-child(n+5)').forEach(e => e.remove())")
    page.evaluate(AXE)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert not axe(page), scheme


@pytest.mark.parametrize("path", PAGES)
def test_a_phone_does_not_scroll_sideways(page, base_url, path):
    page.set_viewport_size({"width": 375, "height": 800})
    opened(page, base_url + path)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    shrunk = page.evaluate(
        "[...document.querySelectorAll('.cell-figure svg, article p > img[src$=\".svg\"]')]"
        ".map(e => e.clientWidth / (e.naturalWidth || e.viewBox.baseVal.width * 4 / 3))"
        ".filter(scale => scale < 0.66)"
    )
    assert not shrunk  # labels of 11 pixels and more stay legible


@pytest.mark.parametrize("path", PAGES)
def test_without_javascript(browser, base_url, path):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(base_url + path)
    assert page.locator("h1").is_visible()
    for figure in page.locator("lamina-figure").all():
        assert figure.locator("svg").first.is_visible()
        assert len(figure.locator(".lf-say").inner_text()) > 20
    for program in page.locator("lamina-run").all():
        assert program.locator(".highlight").is_visible()
        assert program.locator(".lr-out").is_visible()
    context.close()


def test_links_lead_somewhere(page, base_url):
    seen, ids = {}, {}
    for path in PAGES:
        page.goto(base_url + path, wait_until="domcontentloaded")
        links, found = page.evaluate(
            "[[...document.querySelectorAll('a[href]')].map(a => a.href),"
            " [...document.querySelectorAll('[id]')].map(e => e.id)]"
        )
        ids[base_url + path] = set(found)
        for link in links:
            if link.startswith(base_url):
                seen.setdefault(link, path)
    for link, source in seen.items():
        target, _, anchor = link.partition("#")
        if target not in ids:  # a source file, or a picture
            answer = page.request.get(target)
            assert answer.ok, f"{source}: {link}"
            text = answer.text() if target.endswith(".html") else ""
            ids[target] = set(re.findall(r'\bid="([^"]*)"', text))
        assert not anchor or anchor in ids[target], f"{source}: {link}"


def test_the_guard_sees_what_it_should(context, base_url):
    """A request to another host, a missing file and an error are all noticed."""
    bad = []
    page = watched(context, base_url, bad)
    page.goto(base_url + PAGES[0])
    page.evaluate("fetch('http://example.invalid/').catch(() => 0)")
    page.evaluate("fetch('/no-such-file')")
    page.evaluate("setTimeout(() => { throw Error('on purpose') })")
    for sign in ("another host: http://example.invalid/", "404", "on purpose"):
        for _ in range(600):  # a minute: machines may be busy
            if any(sign in b for b in bad):
                break
            page.wait_for_timeout(100)
        else:
            pytest.fail(f"{sign} is not among {bad}")


def test_mathematics_has_its_fonts(page, base_url):
    page.goto(f"{base_url}/layers/lstm.html")
    page.wait_for_function(
        "[...document.fonts].some(f => f.family.includes('KaTeX') && f.status === 'loaded')"
    )
