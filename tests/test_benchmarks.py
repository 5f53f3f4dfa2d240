"""The benchmarks, but for the measuring: cases, reference, bars, page and picture."""

import contextlib
import importlib
import signal
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benchmarks import __main__ as main
from benchmarks import (
    accuracy,
    activations,
    bars,
    chart,
    denormals,
    limits,
    losses,
    optimizers,
    reasons,
    reference,
    report,
)
from benchmarks.activations import Activation
from benchmarks.batchnorm import BatchNorm
from benchmarks.case import PASSES
from benchmarks.cases import CASES, find
from benchmarks.convolution import convolution
from benchmarks.dropout import Dropout
from benchmarks.linear import Linear
from benchmarks.losses import Loss
from benchmarks.lstm import LSTM
from benchmarks.networks import Network
from benchmarks.peers import Peer, PeerError, lamina_layers
from benchmarks.peers.runner import Form, Runner
from benchmarks.pooling import Pool
from benchmarks.rnn import RNN

import lamina as lm

LIMITS = {
    "threads": 2,
    "peak": {"float32": {"1": 245e9, "2": 490e9}, "float64": {"1": 122e9, "2": 245e9}},
    "sizes": [2**15, 2**20, 2**28],
    "read": [400e9, 160e9, 80e9],
    "scale": [500e9, 200e9, 80e9],
}
SMALL = [
    Linear(family="small", rows=3, inputs=5, outputs=4),
    convolution("small", 2, (9,), 4, 6, 3, dilation=2, padding="causal"),
    convolution("small", 2, (9, 8), 4, 6, (3, 1), stride=2, groups=2),
    convolution("small", 2, (5, 6, 7), 4, 4, (1, 3, 2), stride=(2, 1, 2), groups=4, bias=False),
    RNN(family="small", batch=3, steps=4, inputs=2, hidden=5, bidirectional=True),
    LSTM(family="small", batch=3, steps=4, inputs=2, hidden=5, layers=2),
    *(Activation(family="small", function=name, x=(3, 4, 5)) for name in activations.LAYERS),
    Pool(family="small", kind="Max", x=(2, 7, 6, 3), window=3, stride=2, padding=1),
    Pool(family="small", kind="Avg", x=(2, 7, 3), window=2),
    Pool(family="small", kind="Avg", x=(2, 3, 4, 5), window=0),
]


def run_with(share, ratio, **more):
    """Return what a run might come to: Lamina at a share of each limit, all others behind."""
    cases = {}
    for case in CASES:
        times = {}
        for which in case.passes:
            seconds = max(bars.seconds_at_least(case, which, LIMITS)) / share
            for peer, form, taken in (
                ("lamina_layers", "layer", seconds),
                ("pytorch", "channels first", 2 * ratio * seconds),
                ("pytorch", "channels last", ratio * seconds),
            ):
                figures = {"medians": [taken, taken], "minima": [taken, taken], "calls": [9, 9]}
                times.setdefault(peer, {}).setdefault(form, {})[which] = figures
        cases[case.name] = {
            "layer": case.layer,
            "times": times,
            "failures": {},
            "workspace": {"forward": 10**6, "both": 10**7},
        }
    return {
        "date": "2026-01-31",
        "machine": {"cpu": "A CPU", "cores": 2, "vector_bits": 512, "system": "L", "python": "3"},
        "threads": 2,
        "versions": {"torch": "2.0"},
        "left_out": {"JAX": "jax is not installed"},
        "titles": {"lamina_layers": "Lamina", "pytorch": "PyTorch"},
        "rounds": 2,
        "seconds": 0.1,
        "limits": LIMITS,
        "cases": cases,
        **more,
    }


class TestCases:
    cases = CASES

    def test_names_are_unique(self):
        names = [case.name for case in CASES]
        assert len(set(names)) == len(names)
        assert all(find(name).name == name for name in names)

    def test_counts(self, case):
        for which in case.passes:
            again = 2 if which == "both" or case.layer == "batchnorm" else 1  # reads some twice
            assert case.flops(which) > 0
            assert 0 < sum(case.bytes(which)) <= again * case.working_set(which)
        if case.passes == PASSES:
            assert case.flops("forward") < case.flops("both")
            assert sum(case.bytes("forward")) < sum(case.bytes("both"))
        assert min(min(shape) for shape in case.shapes.values()) > 0

    def test_of_a_linear(self):
        case = Linear(family="", rows=32, inputs=8, outputs=4, dtype="float64")
        assert case.flops("forward") == 2 * 32 * 8 * 4
        assert case.flops("both") == 3 * case.flops("forward")
        x, weight, bias, y = 256, 32, 4, 128
        assert case.bytes("forward") == (8 * (x + weight + bias), 8 * y)
        assert case.bytes("both") == (
            8 * (x + weight + bias + y + x + weight),
            8 * (y + x + weight + bias),
        )

    def test_of_a_convolution_that_steps_over_some_of_x(self):
        case = convolution("", 1, 8, 3, 5, 1, stride=2, bias=False)
        assert case.shapes["y"] == (1, 4, 4, 5)
        assert case.bytes("forward") == (4 * (16 * 3 + 15), 4 * 80)

    def test_resnet_has_23_convolutions(self):
        assert sum(case.family == "ResNet-50" for case in CASES) == 23

    def test_a_quick_run_has_some_of_each_layer(self):
        assert {case.layer for case in CASES if case.quick} == {
            "linear",
            "convolution",
            "batchnorm",
            "dropout",
            "rnn",
            "lstm",
            "gru",
            "activations",
            "pooling",
            "losses",
            "optimizers",
            "networks",
        }


def test_workspace_is_what_a_pass_takes_beside_its_results():
    y = np.ones(10**6)

    def call():
        np.ones(10**6)
        return y * 1

    form = Form({"forward": call}, lambda name, array: array)
    assert 0 <= lamina_layers.workspace(form, "forward") < 10**5

    def call_with_more():
        more = np.ones(10**6)
        return y * more

    form = Form({"forward": call_with_more}, lambda name, array: array)
    assert 0.95 * y.nbytes < lamina_layers.workspace(form, "forward") < 1.05 * y.nbytes


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.title)
def test_reference_and_layer_agree(case):
    case = replace(case, dtype="float64")
    given = reference.inputs(case)
    exact = reference.results(case, given)
    forms = lamina_layers.forms(case, given)
    assert set(forms) == {"layer", "for_inference"}
    for form in forms.values():
        for which in form.passes:
            found = form.compute(case, which)
            assert set(found) == ({"y"} if which == "forward" else set(exact))
            for name, array in found.items():
                assert reference.distance(array, exact[name]) < reference.TOLERANCE["float64"]


@pytest.mark.parametrize(
    "case",
    [
        BatchNorm(family="", x=(20, 3), dtype="float64"),
        BatchNorm(family="", x=(2, 3, 4, 5), dtype="float64"),
        Dropout(family="", x=(50, 40), dtype="float64"),
    ],
    ids=lambda case: case.title,
)
def test_passes_of_training_agree(case):
    given = reference.inputs(case)
    exact = reference.results(case, given)
    (form,) = lamina_layers.forms(case, given).values()
    for which in form.passes:
        for name, array in form.compute(case, which).items():
            assert reference.distance(array, exact[name]) < reference.TOLERANCE["float64"]


@pytest.mark.parametrize(
    "case",
    [
        *(Loss(family="", kind=case.kind, x=(4, 3)) for case in losses.CASES),
        *(replace(case, arrays="a few") for case in optimizers.CASES if case.arrays == "ResNet-20"),
    ],
    ids=lambda case: case.title,
)
def test_losses_and_updates_agree(case, monkeypatch):
    monkeypatch.setitem(optimizers.ARRAYS, "a few", {"weight": (3, 4), "bias": (4,)})
    case = replace(case, dtype="float64")
    given = reference.inputs(case)
    exact = reference.results(case, given)
    (form,) = lamina_layers.forms(case, given).values()
    for name, array in form.compute(case, "both").items():
        assert reference.distance(array, exact[name]) < reference.TOLERANCE["float64"]
    assert lamina_layers.workspace(form, "both") >= 0


@pytest.mark.parametrize("kind", ["mlp", "convnet", "lstm", "tagger"])
@pytest.mark.parametrize("which", PASSES)
def test_networks_agree_with_the_reference(kind, which):
    case = Network(family="", kind=kind, batch=3, which=which)
    given = reference.inputs(case)
    exact = reference.results(case, given)
    assert set(exact) == set(case.names(which))
    (form,) = lamina_layers.forms(case, given).values()
    for name, array in form.compute(case, which).items():
        assert reference.distance(array, exact[name]) < reference.tolerance(case)
    form.passes[which]()


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's account of a process")
def test_peak_is_what_a_case_takes():
    class Library:
        def release(self):
            pass

    kept = [np.ones(5 * 10**6)]
    runner = Runner(Library())
    runner.forms = {"": Form({"forward": lambda kept=kept: kept[0] + 1}, None), "other": None}
    del kept
    assert runner.peak("", "forward") == pytest.approx(80e6, rel=0.1)
    assert runner.forms == {}


def test_undropped_sees_a_wrong_rate_and_a_wrong_scale():
    case, x = Dropout(family="", x=(100, 100)), np.ones((100, 100))
    keep = np.random.default_rng(0).random(x.shape) < 0.5
    assert reference.distance(case.undropped(np.where(keep, 2, 0), x), x) == 0
    assert reference.distance(case.undropped(np.where(keep, 1.9, 0), x), x) > 0.01
    assert np.isnan(case.undropped(2 * x, x)).all()


def test_jax_draws_for_float32_in_32_bits():
    jax = pytest.importorskip("jax")
    jax_jit = importlib.import_module("benchmarks.peers.jax_jit")
    before = jax.config.jax_enable_x64
    try:
        for dtype in ("float64", "float32"):
            case = Dropout(family="", x=(8, 4), dtype=dtype)
            (form,) = jax_jit.forms(case, reference.inputs(case)).values()
            assert form.passes["forward"]().dtype == dtype
            assert jax.random.uniform(jax.random.key(0)).dtype == dtype
    finally:
        jax.config.update("jax_enable_x64", before)


def test_operations_of_ragged_sequences_are_of_their_steps():
    case = Network(family="", kind="tagger", batch=4, which="forward")
    lengths = reference.inputs(case)["lengths"]
    assert sorted(lengths) == [5, 23, 41, 60]
    whole = case.layer_of(reference.inputs(case)).flops(case.shapes["x"])
    assert case.flops("forward") == whole * sum(lengths) // (4 * 60)


def test_distance_sees_one_wrong_element():
    exact = np.ones((100, 100))
    wrong = exact.copy()
    wrong[0, 0] = 0
    assert reference.distance(wrong, exact) > reference.TOLERANCE["float32"]
    assert not reference.distance(np.full_like(exact, np.nan), exact) <= 1
    assert reference.distance(exact[:1], exact) == np.inf


class TestLoops:
    """The machine code behind the limits computes what it says."""

    lanes = limits._lanes("float32")

    def run(self, name, array, blocks, turns):
        sink = np.zeros(1, array.dtype)
        limits.loop(name, str(array.dtype))(array.ctypes.data, blocks, turns, sink.ctypes.data)
        return sink[0]

    def test_fma(self):
        n = limits.chains()
        array = np.repeat(np.arange(n + 2, dtype=np.float32), self.lanes)
        array[-2 * self.lanes :] = 0.5  # x -> x / 2 + 1 / 2
        starts = np.arange(n)
        assert self.run("fma", array, 1, 2) == np.sum(starts / 4 + 0.75)

    def test_read(self):
        array = np.arange(3 * limits.UNROLLED * self.lanes, dtype=np.float32)
        assert self.run("read", array, 3, 2) == 2 * array[:: self.lanes].sum()

    def test_scale(self):
        array = np.arange(3 * limits.UNROLLED * self.lanes, dtype=np.float32)
        before = array.copy()
        self.run("scale", array, 2, 3)
        end = 2 * limits.UNROLLED * self.lanes
        assert (array[:end] == -before[:end]).all()
        assert (array[end:] == before[end:]).all()


class TestBars:
    def test_reading_and_writing_have_their_own_bandwidths(self):
        case = Linear(family="", rows=1, inputs=1, outputs=1)  # reads x, weight, bias; writes y
        compute, memory = bars.seconds_at_least(case, "forward", LIMITS)
        assert compute == pytest.approx(2 / 490e9)
        assert memory == pytest.approx(8 / 500e9 + 8 / 400e9)

    def test_best_form_counts(self):
        (result, *_) = bars.results(run_with(0.9, 3), "forward")
        assert result.ratio == pytest.approx(3)
        assert result.share(result.lamina) == pytest.approx(0.9)
        assert result.fastest == "pytorch"

    def test_packed_weights_are_held_against_packed_weights(self):
        times = {"lamina_layers": 6.0, "pytorch": 9.0, "onnx_runtime": 5.0}
        result = bars.Result(CASES[0], "forward", times, None, 0, {}, 1.0, 1.0)
        assert (result.ratio, result.hardest) == (pytest.approx(5 / 6), "onnx_runtime")
        result = replace(result, packed=3.0)
        assert (result.ratio, result.hardest) == (1.5, "pytorch")
        assert result.fastest == "onnx_runtime"

    def test_misses(self):
        for which in PASSES:
            slow = [m for r in bars.results(run_with(0.5, 0.9), which) for m in bars.misses(r)]
            assert any(m.startswith("ratio 0.90") for m in slow)
            assert any(m.startswith("50% of the limit") for m in slow)
            fast = [m for r in bars.results(run_with(0.95, 10), which) for m in bars.misses(r)]
            assert fast == []

    def test_workspace(self):
        run = run_with(0.95, 10)
        case = next(case for case in CASES if case.layer == "convolution")
        run["cases"][case.name]["workspace"]["both"] = 40 * 2**20
        missed = {r.case.name: list(bars.misses(r)) for r in bars.results(run, "both")}
        assert missed.pop(case.name) == ["40 MiB beside its arrays, bar 32 MiB"]
        assert not any(missed.values())

    def test_memory(self):
        run = run_with(0.95, 10)
        case = next(case for case in CASES if case.layer == "networks")
        run["cases"][case.name]["peaks"] = {"lamina_layers": 3 * 2**20, "pytorch": 2**20}
        missed = {r.case.name: list(bars.misses(r)) for r in bars.results(run, case.which)}
        assert missed.pop(case.name) == ["3.0 MiB at its peak, bar 1.0 MiB"]
        assert not any(missed.values())
        page = report.page(run)
        assert f"| {case.name} | 3.0 | 1.0 |" in page
        assert "## Networks, training\n" in page
        assert "## Networks, inference\n" in page

    def test_of_parts_beside_a_library_at_the_limit(self):
        case = next(case for case in CASES if case.layer == "losses")
        for share, ratio, missed in (
            (0.95, 1.15, "ratio 1.15, bar 1.2"), (1.0, 1.05, None), (0.9, 0.98, "ratio 0.98, bar 1")
        ):  # fmt: skip
            found = {r.case.name: r for r in bars.results(run_with(share, ratio), "both")}
            assert list(bars.misses(found[case.name])) == [missed] * (missed is not None)

    def test_beside_a_library_at_the_limit_a_little_less_is_enough(self):
        result = next(bars.results(run_with(0.99, 0.98), "forward"))
        assert list(bars.misses(result)) == []
        result = next(bars.results(run_with(0.9, 0.98), "forward"))
        assert list(bars.misses(result)) == ["ratio 0.98, bar 1"]


class TestRun:
    """A run that ends before its time."""

    titles = {"lamina_layers": "Lamina"}

    @pytest.fixture
    def run(self, monkeypatch, tmp_path):
        """A run of two cases, in the second of which `place` raises `error`."""

        def run(place, error):
            present = [Peer(name, title, ()) for name, title in self.titles.items()]

            @contextlib.contextmanager
            def started(threads):
                yield present, {"lamina": "1"}, {}

            def turns(case, present, rounds, seconds, threads):
                done.append(case.name)
                times = run_with(0.5, 2.0)["cases"][case.name]["times"]
                return {name: times[name] for name in self.titles}, {}

            def count(case, *_):
                return dict.fromkeys(case.passes, 0)

            def ends(case, *rest):
                if len(done) == 2:
                    raise error
                return parts[place](case, *rest)

            done, parts = [], {"turns": turns, "workspace": count, "peaks": lambda *_: {}}
            monkeypatch.setattr(main, "started", started)
            monkeypatch.setattr(limits, "measure", lambda threads: LIMITS)
            for name, part in parts.items():
                monkeypatch.setattr(main, name, ends if name == place else part)
            monkeypatch.setattr(sys, "argv", ["benchmarks", "--layer", "linear", "--quick"])
            monkeypatch.chdir(tmp_path)
            handler = signal.getsignal(signal.SIGTERM)
            try:
                with pytest.raises(SystemExit) as ended:
                    main.main()
            finally:
                signal.signal(signal.SIGTERM, handler)
            out = tmp_path / "build/benchmarks"
            ElementTree.parse(out / "benchmarks.svg")
            return str(ended.value), done, (out / "benchmarks.md").read_text(encoding="utf-8")

        return run

    @pytest.mark.parametrize("place", ["workspace", "peaks"])
    def test_is_written(self, run, place):
        said, (first, _), page = run(place, KeyboardInterrupt())
        assert f"| {first} |" in page
        assert "| Stopped | after 1 of " in page
        assert said.endswith("cases")

    def test_names_an_accident(self, run):
        said, (first, _), page = run("peaks", PeerError("its process ended (-9)"))
        assert f"| {first} |" in page
        assert said.endswith("cases, by PeerError: its process ended (-9)")


def test_compiles_where_it_is_asked_to(monkeypatch):
    present = [Peer(name, name, ()) for name in ("lamina_layers", main.COMPILED)]
    met = {}

    @contextlib.contextmanager
    def started(threads):
        yield present, {}, {}

    def turns(case, here, *_):
        met[case.layer] = [peer.name for peer in here]
        return {}, {}

    for name, part in {"started": started, "turns": turns, "workspace": lambda *_: {}}.items():
        monkeypatch.setattr(main, name, part)
    monkeypatch.setattr(limits, "measure", lambda threads: LIMITS)
    cases = [find("1x16 -> 16"), find("BatchNorm 32x128")]
    run = main.measure(cases, 1, 0.1, compiled=["batchnorm"])
    assert met == {"linear": ["lamina_layers"], "batchnorm": ["lamina_layers", main.COMPILED]}
    assert run["left_out"]["torch.compile"].startswith("for want of time: linear, convolution, d")
    assert main.measure(cases, 1, 0.1)["left_out"] == {}


class TestPage:
    PAGES = Path(__file__).parent.parent / "docs"

    def test_has_the_data_of_its_run(self):
        assert (self.PAGES / "benchmarks.json").exists()

    @pytest.mark.parametrize("data", sorted(PAGES.glob("benchmarks*.json")), ids=lambda p: p.stem)
    def test_is_of_its_run(self, data, tmp_path, monkeypatch):
        written = tmp_path / data.name
        written.write_bytes(data.read_bytes())
        monkeypatch.setattr(sys, "argv", ["benchmarks", "--again", str(written)])
        main.main()
        for suffix in (".md", ".svg"):
            assert written.with_suffix(suffix).read_text() == data.with_suffix(suffix).read_text()

    def test_tables(self):
        run = run_with(0.5, 2.0)
        name = CASES[0].name
        run["cases"][name]["failures"] = {"pytorch": "it broke"}
        assert "| Stopped |" not in report.page(run)
        page = report.page({**run, "stopped": "after 1 of 2 cases"})
        assert "| Stopped | after 1 of 2 cases |" in page
        assert "| Left out | JAX (jax is not installed) |" in page
        assert f"- PyTorch, {name}: it broke" in page
        limits = [result.limit for result in bars.results(run, "both")]
        work = [limit >= bars.WORK for limit in limits[:30]]
        most = 2 ** (1 + sum(work) / 30)  # twice that of cases with work, at half of their limits
        assert f"| Linear | forward + backward | 30 | 2.00 | {most:.2f} | 1.8 |" in page
        assert 2 < most < 4
        assert f"- Linear {name}, forward: 50% of the limit, bar 77%" in page
        lines = page.splitlines()
        for case in CASES:
            rows = [line for line in lines if line.startswith(f"| {case.name} |")]
            assert len(rows) == len(case.passes)
            assert all("| 2.00 |" in row and row.endswith("| 50% | 25% |") for row in rows)

    def test_means_and_starts(self):
        page = report.page(run_with(0.95, 1.1, starts={"import": 0.31, "compiled": 14.9}))
        assert "- Linear, forward + backward, geometric mean: ratio 1.10, bar 1.8" in page
        assert "- Convolution, forward, geometric mean: ratio 1.10, bar 1.15" in page
        assert "- `import lamina`, beyond the import of NumPy: 0.31 s, bar 0.3 s" in page
        assert "yet: " not in page
        page = report.page(run_with(0.95, 10, starts={"import": 0.1}))
        assert page.endswith("\n\nNone.\n")
        page = report.page(run_with(0.95, 10, starts={"step": 12.34e-6, "RNN again": 0.4}))
        assert "an LSTM of 128 features and units: 12.3 µs, bar 8 µs" in page
        assert "| the same, all compiled before | 0.40 s | 0.5 s |" in page

    def test_every_miss_has_a_reason(self):
        run = run_with(0.3, 0.5, starts={"import": 1.0})
        missed = [r for which in PASSES for r in bars.results(run, which) if any(bars.misses(r))]
        assert len(missed) > len(CASES)
        below = report.page(run).split("## Below the bars\n")[1].split("\n### ")[1:]
        listed = dict(part.split("\n\n", 1) for part in below)
        for result in missed:
            reason = reasons.reason_of(result)
            assert f"{reason.text}\n\n- " in listed[reason.title]
            assert f"{result.case.name}, " in listed[reason.title]
        assert listed["Starts"].endswith(", bar 0.3 s\n")
        assert sum(part.count("\n- ") for part in below) == len(missed) + len(report.MEANS) + 1

    def test_a_bar_beyond_the_limit(self):
        near = "The others are near the limit"
        for share, ratio, fits in ((0.95, 0.95, True), (0.6, 0.98, False), (0.9, 1.1, False)):
            found = bars.results(run_with(share, ratio), "both")
            result = next(r for r in found if r.case.name == "16x27x27x64 -> 192, 5x5")
            assert (reasons.reason_of(result).title == near) == fits

    def test_ragged_batches(self):
        times = {"Lamina, full": 0.1, "Lamina, ragged": 0.06, "PyTorch, ragged": 0.24}
        found = {"RNN": {"share": 0.5, "times": times}, "LSTM": {"share": 0.6, "times": times}}
        page = report.page(run_with(0.95, 10, ragged=found))
        assert "| RNN | 100.0 | 60.0 | 1.20 | 240.0 | 4.00 |" in page
        assert "- Ragged RNN: 1.20 times the share of the real steps, bar 1.1" in page
        assert "- Ragged LSTM: ratio 4.00, bar 5" in page
        assert "LSTM: 1.00 times" not in page
        del times["PyTorch, ragged"]
        assert "| LSTM | 100.0 | 60.0 | 1.00 | | |" in report.page(run_with(0.95, 10, ragged=found))

    def test_time_to_an_accuracy(self):
        times = {
            "lamina": {"step": 0.1, "image": 1e-4},
            "channels last": {"step": 0.14, "image": 1e-4},
            "channels first": {"step": 0.3, "image": 1e-4},
        }
        found = {"times": times, "failures": {"compiled": "no compiler"}}
        assert accuracy.epoch(times["lamina"]) == pytest.approx(47.9)
        page = report.page(run_with(0.95, 10, accuracy=found))
        assert "| Lamina | 100.0 | 47.9 | 12.8 |" in page
        assert "| The arithmetic of the definition, at the peak | 16.1 | 8.0 | 2.1 |" in page
        assert "| torch.compile, channels last: no compiler |" in page
        assert "takes 1.39 times as long as Lamina; the bar is 1.5." in page
        assert "- Time to an accuracy: ratio 1.39, bar 1.5" in page
        fashion = importlib.import_module("examples.fashion")
        assert fashion.network().flops((1, 28, 28, 1)) == pytest.approx(accuracy.FLOPS, rel=0.01)
        assert (fashion.EPOCHS, fashion.BATCH) == (accuracy.EPOCHS, accuracy.BATCH)
        times["lamina"]["step"] = 0.05
        assert list(accuracy.misses(found)) == list(accuracy.misses(None)) == []
        assert accuracy.ratio({"times": {"lamina": times["lamina"]}}) is None

    def test_denormals(self):
        y, dx = denormals.passes_of(denormals.SMALL)()
        least = np.finfo(np.float32).smallest_normal
        for a in (y, dx):
            assert 0 < a.max() < least
        with lm.flush_denormals():
            assert not denormals.passes_of(denormals.SMALL)()[0].any()
        assert denormals.passes_of(1.0)()[0].min() >= least
        times = dict.fromkeys(denormals.TITLES, 0.0025)
        page = report.page(run_with(0.95, 10, denormals=times))
        assert "| denormal numbers, within `flush_denormals()` | 2.50 |" in page

    def test_without_other_libraries(self):
        run = run_with(0.5, 2.0)
        for case in run["cases"].values():
            del case["times"]["pytorch"]
        page = report.page(run)
        assert "PyTorch |" not in page
        ElementTree.fromstring(chart.draw(run))

    def test_picture(self):
        root = ElementTree.fromstring(chart.draw(run_with(0.5, 2.0)))
        kinds = [element.get("class") for element in root.iter() if element.tag.endswith("rect")]
        bars_drawn = sum(len(case.passes) for case in CASES)
        assert kinds.count("lamina") == kinds.count("peer") == bars_drawn + 1  # the key's own
        texts = {element.text for element in root.iter() if element.tag.endswith("text")}
        assert {case.name for case in CASES} <= texts
