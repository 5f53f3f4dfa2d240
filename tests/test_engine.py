"""The engine against NumPy and against its own twins in plain Python."""

import contextvars
import copy
import ctypes
import itertools
import os
import subprocess
import sys
import threading
from fractions import Fraction

import numpy as np
import pytest

import lamina as lm
from contract import EPS, assert_close, assert_same, random
from lamina.engine import dots, few, jit, matmul, memory, packing, patches, taps, threads, tile
from lamina.engine.jit import Address
from lamina.engine.matmul import contiguous
from lamina.engine.memory import aligned

DTYPES = [np.dtype(np.float32), np.dtype(np.float64)]
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def machine(code, dtype, *arguments):
    """Run machine code on integers, and on arrays by (array, offset in elements)."""
    found = code(dtype)
    kind = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * len(arguments))
    kind(found)(*(a if isinstance(a, int) else _place(*a) for a in arguments))


def _place(array, offset):
    return array.ctypes.data + offset * array.itemsize


def twin(code, dtype, *arguments):
    """Run the twin of machine code on the same arguments."""
    code.twin(
        *(a if isinstance(a, int) else Address(a[0], a[1] * a[0].itemsize) for a in arguments)
    )


def whole(rng, shape, dtype):
    """Small whole numbers, whose sums of products are exact."""
    return rng.integers(-8, 9, shape).astype(dtype)


NOWHERE = (np.zeros(0), 0)
FIRST = (np.zeros(1, np.int64), 0)


def product(run, dtype, a, b, rows, columns, start=None, relu=0, ahead=NOWHERE):
    """C = A B by one tile at the place (rows.start, columns.start), the rest of C being NaN."""
    n = tile.lanes(dtype)
    k = a.shape[1]
    vectors, last = divmod(len(columns) - 1, n)
    c = np.full((len(a), b.shape[1]), np.nan, dtype)
    if start is None:
        start = np.zeros(vectors * n + n, dtype)
    at = rows.start * b.shape[1] + columns.start
    run(
        tile.tile, dtype, len(rows), vectors + 1, (a, rows.start * k), FIRST, k, 1,
        (b, columns.start), FIRST, b.shape[1], 1, k, (start, 0), 0, (c, at), b.shape[1],
        last + 1, relu, ahead, 0,
    )  # fmt: skip
    return c


# The tile


def view(array, first, shape, steps):
    """What lies in an array from its element `first` on, by steps in elements."""
    strides = [step * array.itemsize for step in steps]
    return np.lib.stride_tricks.as_strided(array[first:], shape, strides)


@by_dtype
@pytest.mark.parametrize("run", [machine, twin], ids=["machine", "twin"])
def test_every_tile(run, dtype):
    rng, n = np.random.default_rng(0), tile.lanes(dtype)
    turn = itertools.count()
    every = itertools.product((1, n // 2, n) if run is twin else range(1, n + 1), "CBZ", (0, 1))
    lasts_starts_relus = list(every)
    terms = *range(1, 6), tile.TERMS, 2 * tile.TERMS
    for vectors in tile.WIDTHS:
        top = tile.tallest(vectors)
        for rows in (*tile.heights(vectors), top + 1, 2 * top, 3 * top - 1, 4 * tile.ROWS + 3):
            for last, begin, relu in lasts_starts_relus:
                i = next(turn)
                width, segments, k = (vectors - 1) * n + last, 1 + i % 3, terms[i % len(terms)]
                # A (segments, rows, k) with gaps, its rows or its terms side by side.
                row, col = (k + 1, 1) if i % 2 else (1, rows + 3)
                a = whole(rng, 20 + segments * (rows + 1) * (k + 3) * 4, dtype)
                a_at = 7 + np.arange(segments)[::-1] * (rows + 1) * (k + 2)
                ldb = width + i % 4
                b = whole(rng, 5 + segments * k * ldb, dtype)
                b_at = 5 + np.arange(segments) * k * ldb
                ldc = width + (0, 1, 2, n)[i % 4]
                c = whole(rng, 3 + rows * ldc, dtype)
                start, lds = {
                    "C": ((c, 3), ldc),
                    "B": ((whole(rng, width, dtype), 0), 0),
                    "Z": ((np.zeros(width, dtype), 0), 0),
                }[begin]

                expected = c.copy()
                total = view(*start, (rows, width), (lds, 1)).copy()
                for at, bt in zip(a_at, b_at, strict=True):
                    total += view(a, at, (rows, k), (row, col)) @ view(b, bt, (k, width), (ldb, 1))
                if relu:
                    total = np.maximum(total, 0)
                view(expected, 3, (rows, width), (ldc, 1))[...] = total

                run(
                    tile.tile, dtype, rows, vectors, (a, 0), (a_at, 0), row, col, (b, 0),
                    (b_at, 0), ldb, segments, k, start, lds, (c, 3), ldc, last, relu, (b, 0), i,
                )  # fmt: skip
                assert_same(c, expected, f"{rows} x {vectors}, last {last}, {begin}, {relu}")


@by_dtype
@pytest.mark.parametrize("amd", [True, False], ids=["AMD", "others"])
def test_narrow_tiles_of_other_cpus(amd, dtype, monkeypatch):
    """How wide they are depends on who made the CPU; each runs on every CPU, if slowly."""
    for name, value in (("vector_bytes", 64), ("vector_registers", 32), ("is_amd", amd)):
        monkeypatch.setattr(jit, name, lambda value=value: value)
    monkeypatch.setattr(tile, "WIDTHS", (1, 2))
    code = jit.native("", lambda: tile._emit(np.dtype(dtype)), "tile")
    rng, n, rows = np.random.default_rng(0), tile.lanes(dtype), 4 * tile.ROWS + 3
    for width, terms in itertools.product(range(1, 2 * n + 1), (1, 3, 5)):
        relu, k, vectors = width % 2, terms * tile.TERMS, -(-width // n)
        a, b, c = (whole(rng, s, dtype) for s in ((rows, k), (k, width), (rows, 2 * n + 1)))
        expected = c.copy()
        total = c[:, :width] + a @ b
        expected[:, :width] = np.maximum(total, 0) if relu else total
        machine(
            lambda _: code, dtype, rows, vectors, (a, 0), FIRST, k, 1, (b, 0), FIRST, width, 1, k,
            (c, 0), 2 * n + 1, (c, 0), 2 * n + 1, width - (vectors - 1) * n, relu, NOWHERE, 0,
        )  # fmt: skip
        assert_same(c, expected, f"{width} columns, {k} terms")


@by_dtype
@pytest.mark.parametrize("run", [machine, twin], ids=["machine", "twin"])
def test_the_tile_that_packs(run, dtype):
    rng, vectors = np.random.default_rng(0), tile.panel_vectors()
    rows, width = tile.tallest(vectors), vectors * tile.lanes(dtype)
    for k in (1, 2, tile.NEXT, tile.NEXT + 7):
        a, c = whole(rng, (rows, k), dtype), whole(rng, (rows, width), dtype)
        b = whole(rng, (k, width + 3), dtype)
        panel = np.full((k + 1, width), np.nan, dtype)
        expected = c + a @ b[:, 1:-2]
        run(
            tile.tile_packing, dtype, rows, vectors, (a, 0), FIRST, k, 1, (b, 1), FIRST, width + 3,
            1, k, (c, 0), width, (c, 0), width, tile.lanes(dtype), 0, (panel, 0), width,
        )  # fmt: skip
        assert_same(c, expected)
        assert_same(panel[:k], b[:, 1:-2])
        assert np.isnan(panel[k]).all()


def test_the_twin_of_the_tile_that_packs_knows_its_size():
    with pytest.raises(IndexError, match="packs"):
        twin(tile.tile_packing, DTYPES[0], *_arguments(DTYPES[0]).values())


@by_dtype
def test_an_element_is_one_chain_in_rising_order(dtype):
    a, b, start = (random(n, s, dtype) for n, s in (("a", (3, 9)), ("b", (9, 5)), ("s", (5,))))
    expected = np.empty((3, 5), dtype)
    for m, j in np.ndindex(3, 5):
        z = start[j]
        for i in range(9):
            x, y = a[m, i], b[i, j]
            if jit.has_fma():  # one rounding
                z = dtype.type(float(Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))))
            else:
                z = z + x * y
        expected[m, j] = z
    assert_same(product(machine, dtype, a, b, range(3), range(5), start), expected)


@by_dtype
def test_height_width_and_place_change_no_bit(dtype):
    n, tall = tile.lanes(dtype), tile.TALLEST
    a, b = random("a", (tall, 40), dtype), random("b", (40, 8 * n), dtype)
    start = random("start", (8 * n,), dtype)
    ones = np.concatenate(
        [
            product(machine, dtype, a, b, range(tall), range(v * n, v * n + n), start[v * n :])
            [:, v * n : v * n + n]
            for v in range(8)
        ],
        axis=1,
    )  # fmt: skip
    for vectors in tile.WIDTHS:
        for rows in tile.heights(vectors):
            for m in {0, tall - rows}:
                for j in {0, n, 8 * n - vectors * n} - {n if vectors == 8 else None}:
                    columns = range(j, j + vectors * n - (rows % 3))
                    c = product(machine, dtype, a, b, range(m, m + rows), columns, start[j:].copy())
                    part = np.s_[m : m + rows, columns.start : columns.stop]
                    assert_same(c[part], ones[part], f"{rows} x {vectors} at {m}, {j}")
                    c[part] = np.nan
                    assert np.isnan(c).all(), "wrote outside"


@by_dtype
def test_a_sum_in_segments_or_in_parts_is_the_same_sum(dtype):
    n = tile.lanes(dtype)
    width = 2 * n - 1
    a, b = random("a", (3, 12), dtype), random("b", (12, width), dtype)
    expected = product(machine, dtype, a, b, range(3), range(width))
    common = (3, 2, (a, 0))

    by_segments = np.zeros((3, width), dtype)
    starts = (np.arange(0, 12, 4), 0), (np.arange(0, 12, 4) * width, 0)
    machine(
        tile.tile, dtype, *common, starts[0], 12, 1, (b, 0), starts[1], width, 3, 4,
        (by_segments, 0), width, (by_segments, 0), width, n - 1, 0, NOWHERE, 0,
    )  # fmt: skip
    assert_same(by_segments, expected)

    in_parts = np.zeros((3, width), dtype)
    for i in (0, 6):
        machine(
            tile.tile, dtype, 3, 2, (a, i), FIRST, 12, 1, (b, i * width), FIRST, width, 1, 6,
            (in_parts, 0), width, (in_parts, 0), width, n - 1, 0, NOWHERE, 0,
        )  # fmt: skip
    assert_same(in_parts, expected)


@by_dtype
@pytest.mark.parametrize("run", [machine, twin], ids=["machine", "twin"])
def test_relu_passes_nan_and_nothing_below_zero(run, dtype):
    n = tile.lanes(dtype)
    values = np.array([np.nan, -np.inf, -1, -0.0, 0.0, 1, np.inf], dtype)
    for relu in (0, 1):
        for columns in (range(len(values)), range(2 * n)):
            b = np.resize(values, (1, len(columns)))
            c = product(run, dtype, np.ones((1, 1), dtype), b, range(1), columns, relu=relu)
            assert_same(c, np.where(b < 0, 0, b) if relu else b)


@by_dtype
def test_prefetching_from_anywhere_does_nothing(dtype):
    a, b = random("a", (4, 6), dtype), random("b", (6, 3), dtype)
    expected = product(machine, dtype, a, b, range(4), range(3))
    for ahead in (0, 1, -1, 2**62, -(2**63)):
        assert_same(product(machine, dtype, a, b, range(4), range(3), ahead=ahead), expected)


@by_dtype
def test_no_tile_spills_its_sums(dtype):
    assert 1 <= tile.tallest(8) <= tile.tallest(1) == tile.TALLEST
    for vectors in tile.WIDTHS:
        rows = tile.tallest(vectors)
        # Sums, a row of B and an element of A; a single row may read B from memory.
        assert rows == 1 or (rows + 1) * vectors + 1 <= jit.vector_registers()


# Stray addresses


def _arguments(dtype):
    """Arguments of a tile of 3 rows and 2 vectors with nothing to spare."""
    width = tile.lanes(dtype) + 1
    a, b, start, c = (np.ones(s, dtype) for s in ((3, 4), (4, width), (1, width), (3, width)))
    return {
        "rows": 3, "vectors": 2, "a": (a, 0), "a_at": FIRST, "row": 4, "col": 1, "b": (b, 0),
        "b_at": FIRST, "ldb": width, "segments": 1, "k": 4, "start": (start, 0), "lds": 0,
        "c": (c, 0), "ldc": width, "last": 1, "relu": 0, "ahead": NOWHERE, "ahead_step": 0,
    }  # fmt: skip


def test_the_twin_of_the_tile_takes_what_fits():
    twin(tile.tile, DTYPES[0], *_arguments(DTYPES[0]).values())


@pytest.mark.parametrize(
    "wrong",
    [
        *({name: offset} for name in ("a", "b", "start", "c", "a_at") for offset in (1, -1, 0.25)),
        {"row": 5}, {"col": 2}, {"ldb": 100}, {"lds": 1}, {"ldc": 100}, {"row": -1},
        {"last": 2}, {"last": 0}, {"last": 65}, {"k": 5}, {"k": 0}, {"segments": 0},
        {"segments": 2}, {"rows": 4}, {"rows": 0}, {"rows": 15}, {"vectors": 3}, {"vectors": 0},
    ],
    ids=str,
)  # fmt: skip
def test_the_twin_of_the_tile_refuses_a_stray_address(wrong):
    arguments = _arguments(DTYPES[0])
    for name, value in wrong.items():
        if isinstance(arguments[name], tuple):
            array = arguments[name][0]
            arguments[name] = array, value
        else:
            arguments[name] = value
    arguments = [
        a if isinstance(a, int) else Address(a[0], int(a[1] * a[0].itemsize))
        for a in arguments.values()
    ]
    with pytest.raises(IndexError):
        tile.tile.twin(*arguments)


def test_an_address_knows_its_array():
    address = Address(np.arange(6.0).reshape(2, 3)) + 16
    assert_same(address.row(1, 2), np.array([3.0, 4.0]))
    assert_same((address + -16).row(0, 6), np.arange(6.0))
    assert_same(address.row(4, 0), np.empty(0))
    for first, count in ((-3, 1), (3, 2), (5, 0), (0, -1)):
        with pytest.raises(IndexError):
            address.row(first, count)


# Taps


def group_sums(x, w, move, step, terms, segments, outputs):
    """Equation (1) of taps.py by NumPy: x (rows, columns, C), w (segments, terms, c, O)."""
    c, o = w.shape[2:]
    groups = np.arange(o) // outputs * c
    places = (x.shape[1] - (terms - 1) * step - 1) // move + 1
    sums = np.zeros((places, o), w.dtype)
    for m, s, k, i in np.ndindex(places, segments, terms, c):
        sums[m] += x[s, m * move + k * step, groups + i] * w[s, k, i]
    return sums


GROUPS = [(1, 1), (4, 4), (1, 2), (2, 1)]


@by_dtype
@pytest.mark.parametrize("run", [machine, twin], ids=["machine", "twin"])
@pytest.mark.parametrize(("inputs", "outputs"), GROUPS)
def test_tiles_of_taps(inputs, outputs, run, dtype):
    if not taps.serves(inputs, outputs, dtype):
        pytest.skip("vectors of this CPU are too short for the group")
    rng, n = np.random.default_rng(0), tile.lanes(dtype)
    turn = itertools.count()
    most = taps.rows_together(inputs, outputs)
    for terms, rows in itertools.product((1, 2, 3, 6, 8), range(1, most + 1)):
        tallest = taps.tallest(inputs, outputs, rows, 2)
        for height, tiles in ((1, 1), (1, 3), (2, 2), (3, 0), (tallest - 1, 1), (tallest, 2)):
            i = next(turn)
            move, step, segments = ((1, 1), (2, 1), (1, 2), (3, 3))[i % 4] + (i % 4,)
            by = {1: 1, 2: 2}.get(move / step, 0)
            together, rest = taps.split(terms, inputs, by)
            edges = i // 2 % 4 if together == 0 and tiles else 0
            o = outputs * (1, 3 * n // outputs, n // outputs + 1, 2 * n // outputs + 1)[i // 4 % 4]
            c = o // outputs * inputs
            columns = (max(tiles * height, 1) - 1) * move + (terms - 1) * step + 1
            x = whole(rng, (max(segments, 1) + 1, columns, c), dtype)
            w = whole(rng, (max(segments, 1), terms, inputs, o), dtype)
            start = whole(rng, o, dtype) if i % 3 else np.zeros(max(n, o), dtype)
            y = np.full((rows, tiles * height, o + 1), np.nan, dtype)
            vectors, last = divmod(o - 1, n)
            code = taps.taps(inputs, outputs, together, rest, max(by, 1), rows)
            # The lower row meets the rows of x from the second on, or from the first on.
            alone = min(i // 3 % 2, segments)
            counts = (alone, segments - alone, alone) if rows == 2 else (segments, 0, 0)
            w_at = np.arange(4) * terms * inputs * o
            run(
                code, dtype, height, tiles, (x, 0), (np.arange(5) * columns * c, 0), move * c,
                step * c, (w, 0), (w_at, 0), (np.roll(np.append(w_at, 0), alone), 0), inputs * o, o,
                *counts, terms, (start, 0), n if i % 3 else 0, (y, 0), o + 1,
                tiles * height * (o + 1), vectors + 1, last + 1, int(i % 5 == 0), edges, (x, 0),
                i % 3, 1,
            )  # fmt: skip
            for r in range(rows):
                x_r = x[r * alone :].copy()
                sums = group_sums(x_r, w, move, step, terms, segments, outputs)
                sums = sums[: tiles * height] + start[:o]
                for edge, m, k in ((1, 0, 0), (2, -1, terms - 1)):
                    if edges & edge:
                        at = m % len(sums) * move + k * step
                        groups = np.arange(o) // outputs * inputs
                        for s, j in np.ndindex(segments, inputs):
                            sums[m] -= x_r[s, at, groups + j] * w[s, k, j]
                if i % 5 == 0:
                    sums = np.maximum(sums, 0)
                assert_same(y[r, :, :o], sums, str(i))
            assert np.isnan(y[..., o:]).all()


def test_the_twin_of_taps_refuses_a_stray_address():
    def arguments(**wrong):
        x, w, start, y = (np.ones(s, np.float32) for s in ((4, 3), (2, 3), 3, (3, 3)))
        given = {
            "height": 3, "tiles": 1, "x": (x, 0), "x_at": FIRST, "move": 3, "step": 3, "w": (w, 0),
            "w_at": FIRST, "below_at": FIRST, "tap": 3, "line": 3, "upper": 1, "both": 0,
            "lower": 0, "terms": 2, "start": (start, 0), "start_step": 0, "y": (y, 0), "ldy": 3,
            "row": 0, "vectors": 1, "last": 3, "relu": 0, "edges": 0, "ahead": (x, 0), "lines": 1,
            "apart": 1,
        } | {k: (v if isinstance(v, int) else ({"x": x, "w": w, "start": start, "y": y}[k], v[0]))
             for k, v in wrong.items()}  # fmt: skip
        return given.values()

    code = taps.taps(1, 1, *taps.split(2, 1, 1))
    twin(code, DTYPES[0], *arguments())
    for wrong in (
        {"x": (1,)}, {"w": (1,)}, {"start": (1,)}, {"y": (1,)}, {"y": (-1,)}, {"tiles": 2},
        {"terms": 3}, {"upper": 2}, {"both": 1}, {"lower": 1}, {"move": 4}, {"ldy": 4},
        {"last": 4}, {"last": 0}, {"height": 0}, {"height": 13}, {"vectors": 2},
        {"terms": 1},
    ):  # fmt: skip
        with pytest.raises(IndexError):
            twin(code, DTYPES[0], *arguments(**wrong))


def group_gradient(x, dy, move, step, terms, outputs):
    """Equation (2) of taps.py by NumPy: x (rows, columns, C), dy (places, O)."""
    c = x.shape[2] * outputs // dy.shape[1]
    groups = np.arange(dy.shape[1]) // outputs * c
    dw = np.zeros((len(x), terms, c, dy.shape[1]), x.dtype)
    for r, k, i, m in np.ndindex(*dw.shape[:3], len(dy)):
        dw[r, k, i] += x[r, m * move + k * step, groups + i] * dy[m]
    return dw


@by_dtype
@pytest.mark.parametrize("run", [machine, twin], ids=["machine", "twin"])
@pytest.mark.parametrize(("inputs", "outputs"), GROUPS)
def test_gradients_of_taps(inputs, outputs, run, dtype):
    if not taps.serves(inputs, outputs, dtype):
        pytest.skip("vectors of this CPU are too short for the group")
    rng, n = np.random.default_rng(0), tile.lanes(dtype)
    turn, (_, sums) = itertools.count(), taps.sums_abreast(inputs, outputs)
    some = taps.at_once(1)
    for terms in range(1, taps.most_taps(inputs) + 1):
        for rows in range(1, taps.most_rows(terms, inputs, sums) + 1):
            for places in (1, some, 2 * some + 3):
                i = next(turn)
                move, step = ((1, 1), (2, 1), (1, 2), (2, 2), (4, 2))[i % 5]
                code = taps.taps_gradient(inputs, outputs, i % 3)
                edges = i % 4 if terms > 1 < places else 0
                o = (
                    outputs
                    * (1, 3 * n // outputs, n // outputs + 1, 2 * n // outputs + 1)[i % 7 % 4]
                )
                c = o // outputs * inputs
                columns = (places - 1) * move + (terms - 1) * step + 1
                x = whole(rng, (rows, columns, c), dtype)
                dy = whole(rng, (places, o), dtype)
                dw = whole(rng, (rows, terms, inputs, o + 1), dtype)
                expected = dw.copy()
                expected[..., :o] += group_gradient(x, dy, move, step, terms, outputs)
                for edge, m, k in ((1, 0, 0), (2, -1, terms - 1)):
                    if edges & edge:
                        one = np.zeros_like(dy)
                        one[m] = dy[m]
                        alone = group_gradient(x, one, move, step, terms, outputs)
                        expected[:, k, :, :o] -= alone[:, k]
                line = o + 1
                vectors, last = divmod(o - 1, n)
                run(
                    code, dtype, 16 * rows + terms, (x, 0), (np.arange(rows) * columns * c, 0),
                    move * c, step * c, (dy, 0), o, places, edges, (dw, 0),
                    (np.arange(rows) * terms * inputs * line, 0), inputs * line, line,
                    vectors + 1, last + 1, o, (x, 0), i % 3, 1,
                )  # fmt: skip
                assert_same(dw, expected, f"{rows} x {terms} taps, {places} places, turn {i}")


def test_the_twin_of_the_gradient_of_taps_refuses_a_stray_address():
    def arguments(**wrong):
        arrays = {"x": np.ones((4, 3)), "y": np.ones((3, 3)), "w": np.ones((2, 3))}
        given = {
            "size": 16 + 2, "x": 0, "x_at": FIRST, "move": 3, "step": 3, "y": 0, "ldy": 3,
            "places": 3, "edges": 0, "w": 0, "w_at": FIRST, "tap": 3, "line": 3, "vectors": 1,
            "last": 3, "below": 0, "ahead": 0, "lines": 1, "apart": 1,
        } | wrong  # fmt: skip
        return [(arrays[k], v) if k in arrays else v for k, v in given.items()]

    code = taps.taps_gradient(1, 1, 1)
    twin(code, DTYPES[1], *arguments())
    for wrong in (
        {"x": 1}, {"x": -1}, {"y": 1}, {"y": -1}, {"w": 1}, {"w": -1}, {"size": 16 + 3},
        {"size": 32 + 2}, {"size": 16}, {"size": 2}, {"size": 16 + 9}, {"size": 64 + 2},
        {"move": 4}, {"step": 4}, {"ldy": 4}, {"places": 4}, {"tap": 4}, {"vectors": 2},
        {"last": 4}, {"last": 0},
    ):  # fmt: skip
        with pytest.raises(IndexError):
            twin(code, DTYPES[1], *arguments(**wrong))


# Copies


@by_dtype
@pytest.mark.parametrize("run", [machine, twin], ids=["machine", "twin"])
def test_copies_of_every_size(run, dtype):
    n = tile.lanes(dtype)
    for rows, vectors, last, gap in itertools.product(range(4), (1, 2, 3), range(1, n + 1), (0, 3)):
        width = (vectors - 1) * n + last
        source = np.arange(1 + rows * (width + gap), dtype=dtype)
        target = np.full((rows, width + 2), np.nan, dtype)
        run(
            packing.copy, dtype, (source, 1), width + gap, rows, vectors, last, (target, 0),
            width + 2,
        )  # fmt: skip
        assert_same(target[:, :width], source[1:].reshape(rows, width + gap)[:, :width])
        assert np.isnan(target[:, width:]).all()


@by_dtype
@pytest.mark.parametrize("run", [machine, twin], ids=["machine", "twin"])
def test_copies_to_panels(run, dtype):
    n = tile.lanes(dtype)
    widths = {1, 3, n - 1, n, n + 1, 2 * n, 14}
    for many, panels, width, gap in itertools.product((1, 5), (1, 2, 3), widths, (0, 3)):
        lds, room = panels * width + gap, many * width + n
        source = np.arange(1 + many * lds, dtype=dtype)
        target = np.full((panels + 1, room), np.nan, dtype)
        run(packing.spread, dtype, (source, 1), lds, many, panels, width, (target, 0), room)
        held = source[1:].reshape(many, lds)[:, : panels * width]
        expected = held.reshape(many, panels, width).swapaxes(0, 1).reshape(panels, -1)
        assert_same(target[:-1, : many * width], np.ascontiguousarray(expected))
        assert np.isnan(target[-1]).all()


@by_dtype
@pytest.mark.parametrize("run", [machine, twin], ids=["machine", "twin"])
def test_transposes_of_every_size(run, dtype):
    n = tile.lanes(dtype)
    sizes = range(2 * n + 2) if run is machine else (0, 1, n, n + 1)
    for rows, columns in itertools.product(sizes, sizes):
        source = np.arange(1 + columns * (rows + 2), dtype=dtype)
        target = np.full((rows, columns + 1), np.nan, dtype)
        run(
            packing.transpose, dtype, (source, 1), rows + 2, rows, columns, (target, 0), columns + 1
        )
        expected = source[1:].reshape(columns, rows + 2)[:, :rows].T
        assert_same(target[:, :columns], expected, f"{rows} x {columns}")
        assert np.isnan(target[:, columns:]).all()


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (packing.copy, (1, 9, 2, 1, 5, 0, 5)),  # the last row's last element
        (packing.copy, (0, 9, 2, 1, 5, 1, 9)),
        (packing.copy, (0, 9, 2, 1, 5, -1, 5)),
        (packing.transpose, (1, 3, 3, 4, 0, 4)),
        (packing.transpose, (0, 3, 3, 4, 1, 4)),
        (packing.transpose, (-1, 3, 3, 4, 0, 4)),
    ],
)
def test_the_twins_of_copies_refuse_a_stray_address(code, arguments):
    size = 14 if code is packing.copy else 12
    source, target = np.zeros(size, np.float32), np.zeros(size, np.float32)
    first, *numbers, into, ldt = arguments
    with pytest.raises(IndexError):
        twin(code, DTYPES[0], (source, first), *numbers, (target, into), ldt)
    twin(code, DTYPES[0], (source, 0), *numbers, (target, 0), 5 if code is packing.copy else ldt)


# Patches


@by_dtype
@pytest.mark.parametrize("run", [machine, twin], ids=["machine", "twin"])
@pytest.mark.parametrize("relu", [False, True])
def test_maps_of_patches(run, relu, dtype):
    down, along = ((1, 0, -1), (-1, 1, 0.5)), ((0, 1), (1, -0.5), (1, 1))
    code = patches.patches(f"patches_{relu}", down, along, relu)
    n, count, gap = tile.lanes(dtype), 3, 5
    width, rng = 2 * n, np.random.default_rng(0)
    x = whole(rng, (3, 2, count, width + gap), dtype)
    y = np.full((2, 3, count, width + gap), np.nan, dtype)
    steps = count * (width + gap), width + gap
    run(
        code, dtype, count, (x, 0), 2 * steps[0], *steps, (y, 0), 3 * steps[0], *steps, 2
    )  # fmt: skip
    expected = np.einsum("ai,bj,ij...->ab...", down, along, x[..., :width])
    if relu:
        expected = np.maximum(expected, 0)
    assert_same(y[..., :width], expected.astype(dtype))
    assert np.isnan(y[..., width:]).all()
    with pytest.raises(IndexError):
        twin(code, DTYPES[0], 1, (np.zeros(6 * n, np.float32), 1), 2 * n, n, 0,
             (np.zeros(6 * n, np.float32), 0), 3 * n, n, 0, 1)  # fmt: skip


@by_dtype
@pytest.mark.parametrize("run", [machine, twin], ids=["machine", "twin"])
def test_maps_of_patches_of_an_image_in_zeros(run, dtype):
    down, along = ((1, 0), (-1, 1), (0, 1)), ((1, 0, -1), (-1, 1, 0.5))
    code = patches.patches("patches_padded", down, along, padded=True)
    n, (high, across), count = tile.lanes(dtype), (4, 7), 5
    rng = np.random.default_rng(0)
    for wide, top, left in itertools.product((1, n - 1, n, n + 1, 3 * n), range(-3, 5), (-3, 0, 2)):
        x = whole(rng, (high, across, wide), dtype)
        width = -(-wide // n) * n
        y = np.full((3, 2, count, width), np.nan, dtype)
        step = count * width
        first, zeros = (top * across + left) * wide, np.zeros((2 * count + 1) * wide + n, dtype)
        image = top, high, left, across, (zeros, 0)
        run(
            code, dtype, count, (x, first), across * wide, wide, patches.APART * wide,
            (y, 0), 2 * step, step, width, wide, *image,
        )  # fmt: skip
        padded = np.zeros((high + 8, across + 20, wide), dtype)
        padded[3 : 3 + high, 3 : 3 + across] = x
        for p in range(count):
            j = 3 + left + patches.APART * p
            patch = padded[3 + top : 5 + top, j : j + 3]
            expected = np.einsum("ai,bj,ijc->abc", down, along, patch)
            assert_same(y[:, :, p, :wide], expected.astype(dtype))


# A few rows


@by_dtype
@pytest.mark.parametrize("run", [machine, twin], ids=["machine", "twin"])
@pytest.mark.parametrize("columns", [1, 2, 3, 5])
def test_dot_products(columns, run, dtype):
    rng, n = np.random.default_rng(0), dots.chains(dtype)
    code, turn = dots.dots(columns), itertools.count()
    for rows in range(1, dots.tallest(columns) + 1):
        for terms in (1, n - 1, n, n + 1, 3 * n, 3 * n + 1):
            i, vectors = next(turn), -(-terms // n)
            segments, move, line = 1 + i % 3, 1 + i % 5, vectors * n + i % 2
            x = np.full((segments, (rows - 1) * move + vectors * n), np.nan, dtype)
            reached = (rows - 1) * move + terms
            x[:, :reached] = whole(rng, (segments, reached), dtype)
            w = np.zeros((segments, columns, line), dtype)
            w[..., :terms] = whole(rng, (segments, columns, terms), dtype)
            start = whole(rng, -(-rows * columns // n) * n, dtype)
            y = np.full_like(start, np.nan)
            met = np.stack([x[:, m * move :][:, :terms] for m in range(rows)])
            expected = np.einsum("msi,sni->mn", met, w[..., :terms]).ravel()
            run(
                code, dtype, rows, (x, 0), (np.arange(segments) * x.shape[1], 0), move, (w, 0),
                (np.arange(segments) * columns * line, 0), line, segments, vectors,
                terms - (vectors - 1) * n, (start, 0), (y, 0),
            )  # fmt: skip
            expected += start[: rows * columns]
            assert_same(y[: rows * columns], expected, f"{rows} rows of {terms} terms")


def test_the_twin_of_dot_products_refuses_a_stray_address():
    def arguments(**wrong):
        n = dots.chains(DTYPES[1])
        arrays = {"x": np.ones(2 + n), "w": np.ones(n), "start": np.ones(n), "y": np.ones(n)}
        given = {
            "rows": 2, "x": 0, "x_at": FIRST, "move": 2, "w": 0, "w_at": FIRST, "line": n,
            "segments": 1, "vectors": 1, "last": 1, "start": 0, "y": 0,
        } | wrong  # fmt: skip
        return [(arrays[k], v) if k in arrays else v for k, v in given.items()]

    code = dots.dots(1)
    twin(code, DTYPES[1], *arguments())
    for wrong in (
        {"x": 1}, {"x": -1}, {"w": 1}, {"w": -1}, {"start": 1}, {"start": -1}, {"y": 1}, {"y": -1},
        {"rows": 0}, {"rows": 17}, {"last": 0}, {"vectors": 2},
    ):  # fmt: skip
        with pytest.raises(IndexError):
            twin(code, DTYPES[1], *arguments(**wrong))


@by_dtype
@pytest.mark.parametrize(
    "code",
    [few.few_rows, few.few_rows_past, few.few_terms, few.few_turned],
    ids=["rows", "rows past the caches", "terms", "turned"],
)
@pytest.mark.parametrize("run", [machine, twin], ids=["machine", "twin"])
def test_a_few_rows(run, code, dtype):
    rng, n = np.random.default_rng(0), tile.lanes(dtype)
    turn = itertools.count()
    widths = (1, n - 1, n, n + 1, 5 * n + 1) if run is twin else (*range(1, 6 * n), 19 * n - 1)
    terms = (1, 3, 4, 8, 13, 17) if code is few.few_rows else (1, n, 2 * n + 1, 5 * n - 1)
    most = few.MOST
    if code is few.few_rows_past:
        most, terms = 1, range(1, few.MOST + 1)
    if code is few.few_terms:
        most, terms = 5, range(1, few.MOST + 1)
    for m, width, k in itertools.product(range(1, most + 1), widths, terms):
        i = next(turn)
        # Both A and B in any place, and A by any strides.
        row, col = (k + 2, 1) if i % 2 else (1, m + 1)
        a = whole(rng, 20 + 2 * m * (k + 2), dtype)
        b = whole(rng, 40 + (k + 3) * (width + 3), dtype)
        begin, ldc, at, into = whole(rng, width, dtype), width + i % 3, i % 7, 3
        ldb = (k if code is few.few_turned else width) + i % 4
        strides = (1, ldb) if code is few.few_turned else (ldb, 1)
        start_col, relu = i % 2, i // 2 % 2
        start = begin if start_col else np.zeros(n, dtype)
        c = whole(rng, into + m * ldc, dtype)
        expected = c.copy()
        total = view(a, 5, (m, k), (row, col)) @ view(b, at, (k, width), strides)
        total += begin if start_col else 0
        view(expected, into, (m, width), (ldc, 1))[...] = np.maximum(total, 0) if relu else total
        vectors = -(-width // n)
        run(
            code, dtype, m, (a, 5), row, col, (b, at), ldb, k, (start, 0), start_col,
            (c, into), ldc, vectors, width - (vectors - 1) * n, relu,
        )  # fmt: skip
        assert_same(c, expected, f"{m} x {width} x {k}")


@by_dtype
@pytest.mark.parametrize("run", [machine, twin], ids=["machine", "twin"])
def test_sums_of_columns(run, dtype):
    rng, n = np.random.default_rng(0), tile.lanes(dtype)
    turn = itertools.count()
    for width in (1, n - 1, n, n + 1, 8 * n, 8 * n + 1, 9 * n - 1, 17 * n + 3):
        vectors = -(-width // n)
        chunk = few.CHUNK // (n * dtype.itemsize * vectors)
        for k in (1, 2, chunk, chunk + 1, 2 * chunk, 3 * chunk - 1) if run is machine else (1, 5):
            i, at, into = next(turn), 3, 2
            ldb, start_col, relu = width + i % 4, i % 2, i // 2 % 2
            a, b = whole(rng, 9, dtype), whole(rng, at + k * ldb, dtype)
            start = whole(rng, width, dtype) if start_col else np.zeros(n, dtype)
            c = whole(rng, into + width + 1, dtype)
            expected = c.copy()
            total = a[5] * view(b, at, (k, width), (ldb, 1)).sum(axis=0)
            total += start if start_col else 0
            expected[into : into + width] = np.maximum(total, 0) if relu else total
            run(
                few.few_sums, dtype, 1, (a, 5), 0, 0, (b, at), ldb, k, (start, 0), start_col,
                (c, into), width, vectors, width - (vectors - 1) * n, relu,
            )  # fmt: skip
            assert_same(c, expected, f"{width} x {k}")


@by_dtype
@pytest.mark.parametrize("n", [1, 3, 64, matmul.WIDE // 2, matmul.WIDE // 2 + 1, matmul.WIDE])
def test_sums_of_few_columns_and_many_rows(n, dtype):
    least = -(-matmul.LONG // n)
    for rows in (least - 1, least, least + 5, 2 * least):
        a = whole(np.random.default_rng(0), (rows, n), dtype)
        found = matmul.column_sums(a)
        assert_same(found, a.sum(axis=0), f"{rows} x {n}")  # of whole numbers exactly
        with lm.threads(1):
            assert_same(matmul.column_sums(a), found)


@by_dtype
def test_columns_turned_from_whole_lines_sum_to_the_same_bits(dtype):
    rng, n = np.random.default_rng(0), tile.lanes(dtype)
    for m, width, blocks in itertools.product((1, few.MOST), (3 * n, 4 * n + 1), (1, 2, 3)):
        ldb = 64 // dtype.itemsize * blocks
        for k in (1, ldb - 1, ldb):
            a = rng.standard_normal(m * k).astype(dtype)
            b = rng.standard_normal((width, ldb)).astype(dtype)
            zeros, vectors, found = np.zeros(n, dtype), -(-width // n), []
            for at in (0, 1):  # the columns begin on lines of the cache, or one element later
                held, c = aligned(b.size + at, dtype), np.empty(m * width, dtype)
                held[at:] = b.ravel()
                machine(
                    few.few_turned, dtype, m, (a, 0), k, 1, (held, at), ldb, k, (zeros, 0), 0,
                    (c, 0), width, vectors, width - (vectors - 1) * n, 0,
                )  # fmt: skip
                found.append(c)
            assert_same(*found, f"{m} x {width} x {k}")
            expected = a.reshape(m, k) @ b[:, :k].T
            assert_close(found[0], expected.ravel(), dtype)


@by_dtype
@pytest.mark.parametrize("run", [machine, twin], ids=["machine", "twin"])
def test_a_few_rows_by_panels(run, dtype):
    rng, wide = np.random.default_rng(0), tile.panel_vectors() * tile.lanes(dtype)
    turn = itertools.count()
    for m, panels, k in itertools.product((1, 2), range(1, 10), (1, 2, 9)):
        i, width = next(turn), panels * wide
        row, col = (k + 2, 1) if i % 2 else (1, m + 1)
        a, b = whole(rng, 20 + 2 * m * (k + 2), dtype), whole(rng, (k, width), dtype)
        bias, ldc, relu = whole(rng, width, dtype), width + i % 3, i // 2 % 2
        c = whole(rng, m * ldc, dtype)
        expected = c.copy()
        total = view(a, 5, (m, k), (row, col)) @ b + bias
        view(expected, 0, (m, width), (ldc, 1))[...] = np.maximum(total, 0) if relu else total
        b = matmul.pack(b, width, 1, width, k).panels
        run(
            few.few_panels, dtype, m, (a, 5), row, col, (b, 0), 0, k, (bias, 0), 1, (c, 0), ldc,
            width // tile.lanes(dtype), tile.lanes(dtype), relu,
        )  # fmt: skip
        assert_same(c, expected, f"{m} x {width} x {k}")


@pytest.mark.parametrize(
    "wrong",
    [
        *({name: offset} for name in ("a", "b", "start", "c") for offset in (1, -1, 0.25)),
        {"m": 3}, {"m": 0}, {"row": 5}, {"col": 2}, {"ldb": 100}, {"ldc": 100}, {"k": 5}, {"k": 0},
        {"vectors": 0}, {"vectors": 3}, {"last": 0}, {"last": 2}, {"last": 65},
    ],
    ids=str,
)  # fmt: skip
def test_the_twin_of_a_few_rows_refuses_a_stray_address(wrong):
    width = tile.lanes(np.float32) + 1
    a, b, start, c = (np.ones(s, np.float32) for s in ((2, 4), (4, width), (width,), (2, width)))
    arguments = {
        "m": 2, "a": (a, 0), "row": 4, "col": 1, "b": (b, 0), "ldb": width, "k": 4,
        "start": (start, 0), "start_col": 1, "c": (c, 0), "ldc": width, "vectors": 2, "last": 1,
        "relu": 0,
    }  # fmt: skip
    twin(few.few_rows, DTYPES[0], *arguments.values())
    twin(few.few_turned, DTYPES[0], *(arguments | {"ldb": 4}).values())
    for name, value in wrong.items():
        known = arguments[name]
        arguments[name] = (known[0], value) if isinstance(known, tuple) else value
    for code in (few.few_rows, few.few_turned):
        if code is few.few_turned and "ldb" not in wrong:
            arguments["ldb"] = 4
        with pytest.raises(IndexError):
            code.twin(
                *(
                    a if isinstance(a, int) else Address(a[0], int(a[1] * a[0].itemsize))
                    for a in arguments.values()
                )
            )


@pytest.mark.parametrize(
    ("code", "m", "k"), [(few.few_rows, 3, 1), (few.few_terms, 1, 3), (few.few_terms, 0, 1)]
)
def test_the_twin_of_a_few_rows_refuses_more(code, m, k):
    n = tile.lanes(np.float32)
    a, b, c = (np.ones(s, np.float32) for s in ((3, 3), (3, n), (3, n)))
    with pytest.raises(IndexError, match=f"no product of {m} rows, 1 vectors, {k} terms"):
        twin(code, DTYPES[0], m, (a, 0), 3, 1, (b, 0), n, k, (b, 0), 0, (c, 0), n, 1, n, 0)


def test_the_twin_of_a_few_rows_refuses_a_panel_in_part():
    n = tile.lanes(np.float32)
    a, b, c = (np.ones(size, np.float32) for size in (1, 9 * n, 9 * n))
    with pytest.raises(IndexError, match="whole panels"):
        twin(
            few.few_panels,
            DTYPES[0],
            1,
            (a, 0),
            1,
            1,
            (b, 0),
            0,
            1,
            (c, 0),
            1,
            (c, 0),
            9 * n,
            9,
            n,
            0,
        )


# Matrix products


def multiply(a, b, c, bias=None, relu=False, transposed_a=False, transposed_b=False):
    """Run matmul on A (m, k) and B (k, n), each held in memory as it is or transposed."""
    (m, k), n = a.shape, b.shape[1]
    held_a = np.ascontiguousarray(a.T if transposed_a else a)
    held_b = np.ascontiguousarray(b.T if transposed_b else b)
    a_strides = (1, m) if transposed_a else (k, 1)
    b_strides = (1, k) if transposed_b else (n, 1)
    matmul.matmul(held_a, *a_strides, held_b, *b_strides, m, n, k, c, bias, relu)
    return c


ALL_FOUR = list(itertools.product((False, True), repeat=2))


@by_dtype
def test_products_around_every_edge_of_a_tile(dtype):
    rng, n = np.random.default_rng(0), tile.lanes(dtype)
    widths = {w * n + d for w in (1, 2, 4, 8, 12) for d in (-1, 0, 1)} | {1, 2, 3}
    most = {tile.tallest(v) for v in tile.WIDTHS}
    packed = matmul.REUSED * tile.tallest(matmul.machine_of(dtype).wide)
    heights = {h + d for h in most for d in (0, 1)} | {packed, packed + 1, 2 * packed + 3}
    for turn, (m, w) in enumerate(itertools.product(sorted(heights), sorted(widths))):
        k = (1, 2, 17)[turn % 3]
        a, b, bias = (whole(rng, shape, dtype) for shape in ((m, k), (k, w), w))
        for relu, (ta, tb) in enumerate(ALL_FOUR):
            with_bias = bias if (turn + relu) % 2 else None
            expected = a @ b + (0 if with_bias is None else bias)
            if relu % 2:
                expected = np.maximum(expected, 0)
            c = multiply(a, b, np.full((m, w), np.nan, dtype), with_bias, bool(relu % 2), ta, tb)
            assert_same(c, expected, f"{m} x {w} x {k}, {ta}, {tb}")


@by_dtype
@pytest.mark.parametrize(("ta", "tb"), ALL_FOUR)
@pytest.mark.parametrize("parts", [1, 2, 3, 4])
def test_products_around_every_edge_of_a_block(monkeypatch, parts, ta, tb, dtype):
    monkeypatch.setattr(matmul, "SERIAL", 0)
    monkeypatch.setattr(matmul.threads, "count", lambda: parts)
    rng = np.random.default_rng(0)
    terms, rows, columns = matmul.TERMS, matmul.BLOCK, matmul.COLUMNS
    for m, n, k in [
        *((5, 9, terms + d) for d in (-1, 0, 1, terms, terms + 1)),
        *((rows + d, 9, 7) for d in (-1, 0, 1, rows, rows + 1)),
        *((21, columns + d, 3) for d in (-1, 0, 1, columns, columns + 1)),
        (rows + 3, 130, terms + 5), (1, columns + 1, 2), (1, 1, 2 * terms), (2, 1, 1), (1, 2, 1),
    ]:  # fmt: skip
        a, b, bias = (whole(rng, shape, dtype) for shape in ((m, k), (k, n), n))
        c = multiply(a, b, np.full((m, n), np.nan, dtype), bias, True, ta, tb)
        assert_same(c, np.maximum(a @ b + bias, 0), f"{m} x {n} x {k}")


@by_dtype
def test_products_keep_their_bits(monkeypatch, dtype):
    m, n, k = 2 * matmul.BLOCK + 3, 150, 2 * matmul.TERMS + 1
    a, b, bias = (random(name, s, dtype) for name, s in (("a", (m, k)), ("b", (k, n)), ("c", (n,))))
    expected = multiply(a, b, np.empty((m, n), dtype), bias)
    bound = (k + 2) * EPS[dtype] * (np.abs(a).astype(float) @ np.abs(b) + np.abs(bias))
    assert np.all(np.abs(expected - (a.astype(float) @ b + bias)) <= bound)
    for parts in (1, 2, 3, 5, 8):
        monkeypatch.setattr(matmul.threads, "count", lambda parts=parts: parts)
        for ta, tb in ALL_FOUR:  # in place and packed
            c = multiply(a, b, np.empty((m, n), dtype), bias, transposed_a=ta, transposed_b=tb)
            assert_same(c, expected, f"in {parts} parts, {ta}, {tb}")
        for held, strides in ((b, (n, 1)), (np.ascontiguousarray(b.T), (1, k))):
            packed = matmul.pack(held, *strides, n, k)
            c = np.empty((m, n), dtype)
            matmul.matmul(a, k, 1, packed, 0, 0, m, n, k, c, bias)
            assert_same(c, expected, f"packed beforehand, in {parts} parts, {strides}")
    for first, count in ((0, 1), (m - 1, 1), (7, 2), (9, 3), (100, 15), (3, 19), (200, 250)):
        for j, width in ((0, n), (5, 1), (17, 40), (n - 3, 3)):
            some = b[:, j : j + width]
            c = multiply(
                a[first : first + count], some, np.empty((count, width), dtype), bias[j : j + width]
            )
            assert_same(c, expected[first : first + count, j : j + width])


@by_dtype
def test_what_is_packed_beforehand_gives_the_same_bits(dtype):
    lane = tile.lanes(dtype)
    for n, k in itertools.product((1, lane, 3 * lane - 1, 9 * lane + 1), (1, 31)):
        b = random("b", (k, n), dtype)
        packed = matmul.pack(b, n, 1, n, k)
        assert (packed.n, packed.k) == (n, k)
        assert packed.panels.ctypes.data % memory.ALIGNMENT == 0
        for m in (1, 2, 3, 7, 40):
            a = random("a", (m, k), dtype)
            c = np.full((m, n), np.nan, dtype)
            matmul.matmul(a, k, 1, packed, 0, 0, m, n, k, c, relu=True)
            assert_same(c, multiply(a, b, np.empty((m, n), dtype), relu=True))


@by_dtype
def test_what_is_left_of_a_panel_is_zero(dtype):
    machine, k = matmul.machine_of(dtype), 5
    lane = machine.lane
    for columns in (1, lane - 1, lane, lane + 1, 3 * lane - 2):
        b = random("b", (k, columns), dtype)
        width = -(-columns // lane) * lane
        for held, strides in ((b, (columns, 1)), (np.ascontiguousarray(b.T), (1, k))):
            panel = np.full((k + 1, width + lane), np.nan, dtype)
            jit.run(
                matmul.pack_panel, k, columns, machine.size, lane, *machine.codes[1:],
                machine.zeros_at, held.ctypes.data, *strides, panel.ctypes.data, width + lane,
            )  # fmt: skip
            expected = np.full_like(panel, np.nan)
            expected[:k, :width] = np.pad(b, ((0, 0), (0, width - columns)))
            assert_same(panel, expected)


def test_what_is_packed_cannot_be_written_to():
    b = np.ones((3, 5), np.float32)
    packed = matmul.pack(b, 5, 1, 5, 3)
    b[...] = np.nan
    assert packed.panels.max() == 1
    with pytest.raises(ValueError, match="read-only"):
        packed.panels[0] = 1
    with pytest.raises(AttributeError):
        packed.n = 4


@pytest.mark.parametrize(("n", "k"), [(0, 3), (3, 0), (0, 0)])
def test_nothing_can_be_packed(n, k):
    packed = matmul.pack(np.ones((k, n), np.float32), n, 1, n, k)
    c = np.full((2, n), np.nan, np.float32)
    matmul.matmul(np.ones((2, k), np.float32), k, 1, packed, 0, 0, 2, n, k, c)
    assert_same(c, np.zeros((2, n), np.float32))


@by_dtype
@pytest.mark.parametrize("bias", [None, [-1.0, 2.0, np.nan]])
@pytest.mark.parametrize("relu", [False, True])
def test_products_of_nothing(dtype, bias, relu):
    bias = None if bias is None else np.array(bias, dtype)
    for m, n, k in ((0, 3, 4), (4, 0, 3), (0, 0, 0)):
        some = None if bias is None or n == 0 else bias
        assert multiply(
            np.ones((m, k), dtype), np.ones((k, n), dtype), np.empty((m, n), dtype), some, relu
        ).shape == (m, n)
    c = multiply(
        np.ones((2, 0), dtype), np.ones((0, 3), dtype), np.full((2, 3), np.nan, dtype), bias, relu
    )
    expected = np.zeros(3, dtype) if bias is None else np.where(bias < 0, 0, bias) if relu else bias
    assert_same(c, np.stack([expected, expected]))


def test_the_grid_makes_the_largest_part_smallest():
    assert matmul.grid(100, 1, 2) == (2, 1)
    assert matmul.grid(1, 100, 2) == (1, 2)
    assert matmul.grid(1, 1, 4) in ((1, 1), (1, 4), (2, 2), (4, 1))
    for m, vectors, parts in itertools.product((1, 2, 7, 100), (1, 3, 8), (1, 2, 6)):
        rows, cols = matmul.grid(m, vectors, parts)
        assert rows * cols in (1, parts)


def test_contiguous_copies_what_kernels_cannot_read():
    x = random("x", (4, 6), np.float32)
    x.flags.writeable = False
    assert contiguous(x) is x
    memory = np.empty(x.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(x.shape)
    memory[...] = x
    for other in (np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2], memory):
        found = contiguous(other)
        assert found.flags.c_contiguous
        assert found.flags.aligned
        assert_same(found, x)


@pytest.mark.parametrize("writeable", [True, False])
@pytest.mark.parametrize("shape", [(2, 3), (0,), ()])
def test_the_address_of_an_array(shape, writeable):
    x = np.zeros(shape)
    x.flags.writeable = writeable
    assert jit.address(x) == x.ctypes.data


# Threads


@pytest.fixture
def eight(monkeypatch):
    monkeypatch.setattr(threads, "available", lambda: 8)


def test_threads_are_chosen_by_block(eight):
    assert threads.count() == 8
    with threads.threads(3):
        assert threads.count() == 3
        with threads.threads(np.int64(1)):
            assert threads.count() == 1
        assert threads.count() == 3
        with threads.threads(99):
            assert threads.count() == 8
    assert threads.count() == 8
    with pytest.raises(KeyError), threads.threads(2):
        raise KeyError
    assert threads.count() == 8


@pytest.mark.parametrize("n", [0, -1])
def test_threads_refuses_values(n):
    with pytest.raises(ValueError, match=f"threads: n must be at least 1, got {n}"):
        threads.threads(n)


@pytest.mark.parametrize("n", [1.0, True, "2", None])
def test_threads_refuses_types(n):
    with pytest.raises(TypeError, match="threads: n must be an integer, got"):
        threads.threads(n)


@pytest.mark.parametrize("block", [lambda: lm.threads(2), lm.formulas, lm.flush_denormals])
def test_a_block_without_with_warns(block):
    with pytest.warns(
        RuntimeWarning, match=r"lm\.\w+\(2?\) changed nothing: .*, with lm"
    ) as caught:
        block()
    assert caught[0].filename == __file__
    with block() as nothing:
        assert nothing is None


def test_a_block_is_not_copied():
    block = lm.threads(1)
    with block, pytest.raises(TypeError, match="pickle"):
        copy.deepcopy(block)


def test_a_block_holds_for_its_own_thread(eight):
    inside, leave, counts = threading.Event(), threading.Event(), []

    def other():
        with threads.threads(2):
            counts.append(threads.count())
            inside.set()
            leave.wait()

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait()
    assert threads.count() == 8
    with threads.threads(5):
        copied = contextvars.copy_context()
    leave.set()
    thread.join()
    assert counts == [2]
    threading.Thread(target=lambda: counts.append(copied.run(threads.count))).run()
    assert counts == [2, 5]


@pytest.mark.parametrize("copied", [True, False])
def test_a_generator_ends_in_another_context_than_it_began_in(copied):
    def generate():
        with threads.threads(1):
            yield threads.chosen()

    generator = generate()
    begun = contextvars.copy_context()
    assert begun.run(next, generator) == 1
    ended = begun.copy() if copied else contextvars.copy_context()
    assert ended.run(next, generator, None) is None
    assert ended.run(threads.chosen) is None
    assert threads.chosen() is None


@pytest.mark.parametrize("order", [*itertools.permutations(range(3))])
def test_generators_end_in_any_order(order):
    """The innermost block that goes on holds; of other settings they know nothing."""

    def generate(block):
        with block:
            yield

    blocks = threads.threads(1), threads.threads(2), lm.formulas(), threads.threads(3)
    first, second, _, third = generators = [generate(block) for block in blocks]
    for generator in generators:
        next(generator)
    running = {1: first, 2: second, 3: third}
    for i in order:
        running.pop(i + 1).close()
        assert threads.chosen() == max(running, default=None)
        assert lm.kernels.by_formulas()
    generators[2].close()
    assert not lm.kernels.by_formulas()


@pytest.mark.parametrize(("given", "expected"), [("1", 1), ("2", 2), ("4000", 3)])
def test_lamina_threads(monkeypatch, tmp_path, given, expected):
    monkeypatch.setattr(threads, "CONTROL", tmp_path)
    monkeypatch.setenv("LAMINA_THREADS", given)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2}, raising=False)
    assert threads.available.__wrapped__() == expected
    monkeypatch.delenv("LAMINA_THREADS")
    assert threads.available.__wrapped__() == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_fork_counts_its_own_cores():
    script = """if True:
        import os
        from pathlib import Path
        from lamina.engine import threads

        threads.CONTROL = Path("nowhere")
        os.sched_getaffinity = lambda process: {0, 1, 2}
        assert threads.count() == 3
        os.sched_getaffinity = lambda process: {1}
        child = os.fork()
        if child == 0:
            os._exit(threads.count())
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
        assert threads.count() == 3
    """
    environment = {name: v for name, v in os.environ.items() if name != "LAMINA_THREADS"}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "max 100000\n"}, 3),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "5000 100000\n"}, 1),
        ({"cpu.max": "900000 100000\n"}, 3),
        ({"cpu.max": ""}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
    ],
)
def test_a_container_may_use_a_part_of_the_cores(monkeypatch, tmp_path, files, expected):
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(threads, "CONTROL", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2}, raising=False)
    monkeypatch.delenv("LAMINA_THREADS", raising=False)
    assert threads.available.__wrapped__() == expected
    monkeypatch.setenv("LAMINA_THREADS", "3")  # who asks for more gets it
    assert threads.available.__wrapped__() == 3


@pytest.mark.parametrize("given", ["0", "-1", "1.5", "two", "", "²"])
def test_lamina_threads_refuses(monkeypatch, given):
    monkeypatch.setenv("LAMINA_THREADS", given)
    with pytest.raises(ValueError, match="LAMINA_THREADS must be a positive integer, got"):
        threads.available.__wrapped__()


def test_lamina_threads_of_a_process():
    script = "from lamina.engine import threads; print(threads.count())"
    for given, expected in (("1", "1"), ("none", "LAMINA_THREADS must be a positive integer")):
        done = subprocess.run(
            [sys.executable, "-c", script],
            env=os.environ | {"LAMINA_THREADS": given},
            capture_output=True,
            text=True,
            check=False,
        )
        assert expected in done.stdout + done.stderr


def test_a_grid_knows_that_panels_differ():
    assert matmul.grid(12, 8, 2, 8, wide=4) == (1, 2)
    assert matmul.grid(127, 5, 2, 8, wide=4) == (2, 1)  # a panel of four vectors, one of one
