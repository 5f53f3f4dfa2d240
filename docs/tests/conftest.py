"""What the tests of the built site share: a server, a browser, and a page that forgives nothing."""

import threading
from pathlib import Path

import pytest
import serve

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


PATIENCE = 120_000
"""Milliseconds; machines may be busy."""


@pytest.fixture(scope="session")
def base_url():
    with serve.server(0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args):
    return {**browser_type_launch_args, "executable_path": "/usr/bin/chromium", "args": FLAGS}


@pytest.fixture(scope="session")
def browser_context_args(browser_context_args):
    """Pictures stand still unless a test wants to see them move."""
    return {**browser_context_args, "reduced_motion": "reduce"}


def watched(context, base_url, bad):
    """Return a page that writes into `bad` whatever should not happen."""

    def route(r):
        url = r.request.url
        if url.startswith((base_url, "data:", "blob:")):
            r.continue_()
        else:
            bad.append(f"another host: {url}")
            r.abort()

    context.route("**/*", route)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.on("console", lambda m: bad.append(f"console: {m.text}") if m.type == "error" else None)
    page.on("pageerror", lambda e: bad.append(f"error: {e}"))
    page.on("response", lambda r: bad.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    return page


@pytest.fixture
def page(context, base_url):
    """A page on which no request leaves this host or fails, and no error reaches the console."""
    bad = []
    yield watched(context, base_url, bad)
    assert not bad


def pages():
    """Return the path of every page of the site but those that list its contents.

    Of the pages of source files, which are made alike, it is one.
    """
    found = (path.relative_to(serve.SITE) for path in serve.SITE.rglob("*.html"))
    aside = {"genindex.html", "search.html", "py-modindex.html"}
    of_site = [p for p in found if p.parts[0][0] != "_" and p.name not in aside]
    return sorted(f"/{p}" for p in [*of_site, Path("_modules/lamina/linear/formula.html")])


AXE = (Path(__file__).parents[1] / "node_modules" / "axe-core" / "axe.min.js").read_text()
