"""What a notebook shows of a model. `Layer.summary` is tested in test_containers.py."""

from html.parser import HTMLParser

import numpy as np

import lamina as lm


class Table(HTMLParser):
    """The cells of a table, row by row."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.open = [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.rows[-1][-1] += data


def test_a_model():
    shared = lm.Linear(3, 3)
    model = lm.Sequential(lm.Linear(4, 3), lm.Residual(shared), lm.ReLU(), shared, rng=0)
    rows = Table(model._repr_html_()).rows
    assert rows[0] == ["", "layer", "shapes", "parameters"]
    assert rows[1] == ["", "Sequential", "", ""]
    assert rows[2] == ["0", "Linear(4, 3)", "weight (4, 3), bias (3,)", "15"]
    assert [row[0] for row in rows[3:6]] == ["1", "1.body", "1.shortcut"]
    assert rows[4][3] == "12"
    assert rows[6] == ["2", "ReLU()", "", ""]
    assert rows[7] == ["3", "Linear(3, 3)", "weight (3, 3), bias (3,)", "0"]  # counted above
    assert rows[8] == ["", "total, float32", "", "27"]


def test_what_a_user_names_is_no_markup():
    class Odd(lm.Layer):
        def __init__(self, note):
            self.params["<b>"] = np.ones(2)

        def forward(self, x, *, training=False):
            return x, None

        def backward(self, dy, cache):
            return dy, {}

    rows = Table(Odd("<script>")._repr_html_()).rows
    assert rows[1] == ["", "Odd('<script>')", "<b> (2,)", "2"]


def test_layers_without_parameters():
    assert Table(lm.ReLU()._repr_html_()).rows[-1] == ["", "total", "", "0"]
