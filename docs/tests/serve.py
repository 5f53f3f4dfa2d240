"""Serve the built site on this machine: `make site-serve`."""

import argparse
import contextlib
import functools
import http.server
from pathlib import Path

SITE = Path(__file__).parents[2] / "site"


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files, with the types that browsers ask for, and without a line for each."""

    extensions_map = {
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".wasm": "application/wasm",
        ".mjs": "text/javascript",
    }

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def server(port: int) -> http.server.ThreadingHTTPServer:
    """Return a server of the site that listens on localhost; port 0 takes a free one."""
    handler = functools.partial(Handler, directory=str(SITE))
    return http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    with server(parser.parse_args().port) as found:
        print(f"http://127.0.0.1:{found.server_port}/  (Ctrl-C ends it)")
        with contextlib.suppress(KeyboardInterrupt):
            found.serve_forever()
