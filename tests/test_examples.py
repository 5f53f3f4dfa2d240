"""The examples run for minutes, by `make examples`; here, that their page is theirs."""

from pathlib import Path

from examples.__main__ import EXAMPLES, PAGE, explanation

ROOT = Path(__file__).parent.parent


def test_the_page_has_every_example():
    scripts = {path.stem for path in (ROOT / "examples").glob("*.py")}
    assert set(EXAMPLES) == scripts - {"__main__"}
    page = PAGE.read_text()
    for name, figure in EXAMPLES.items():
        title, text = explanation(name)
        assert f"## {title}\n\n{text}" in page, name
        if figure:
            assert f"]({figure})" in page
            assert (ROOT / "docs" / figure).exists()
