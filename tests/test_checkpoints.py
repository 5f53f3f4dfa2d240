import copy
import json
import math
import os
import pickle
import struct
import warnings

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

import lamina as lm
from contract import assert_same, random
from lamina.train.architecture import own_classes


class Scale(lm.Layer):
    """A user's layer, with arguments of many kinds and a buffer of integers."""

    def __init__(self, features, *sizes, names=("a",), table=None, limit=math.inf, rng=None):
        rng = np.random.default_rng(rng)
        self.params["scale"] = rng.standard_normal(features).astype(np.float32)
        self.buffers["seen"] = np.zeros((), np.int64)

    def forward(self, x, *, training=False):
        if training:
            self.buffers["seen"] += 1
        return x * self.params["scale"], x

    def backward(self, dy, cache):
        return dy * self.params["scale"], {"scale": (dy * cache).sum(axis=0)}


class Block(lm.Sequential):
    """A user's container, built from numbers."""

    def __init__(self, features):
        super().__init__(lm.Linear(features, features), lm.ReLU(), Scale(features))


OWN = {"Scale": Scale, "Block": Block}

MODELS = {
    "linear": lambda: lm.Linear(3, 2, bias=False, init="torch", rng=0),
    "sequential": lambda: lm.Sequential(
        lm.Linear(4, 5), lm.BatchNorm(5), lm.ReLU(), lm.Dropout(0.3), lm.Linear(5, 3), rng=0
    ),
    "nothing": lambda: lm.Sequential(),
    "no arrays": lambda: lm.Sequential(lm.ReLU(), lm.Flatten()),
    "nested": lambda: lm.Sequential(
        lm.Residual(lm.Sequential(lm.Linear(4, 4), lm.Tanh())),
        lm.Residual(lm.Linear(4, 2), shortcut=lm.Linear(4, 2, bias=False)),
        lm.Concat(lm.Linear(2, 3), lm.Sequential(lm.Linear(2, 1), lm.Sigmoid())),
        rng=0,
    ),
    "recurrent": lambda: lm.Sequential(
        lm.Embedding(7, 3, padding_index=0),
        lm.LSTM(3, 4, layers=2, bidirectional=True, dropout=0.2),
        lm.RNN(8, 2),
        lm.LastStep(),
        rng=0,
    ),
    "float64": lambda: lm.Sequential(lm.Linear(2, 2), lm.BatchNorm(2), rng=0).astype(np.float64),
    "options": lambda: lm.Sequential(
        lm.BatchNorm(2, momentum=None, unbiased=False),
        lm.Dropout(0.5, shared_axes=(1,), always=True, rng=0),
        lm.LeakyReLU(0.2),
        lm.SELU(),
        lm.Dropout(0.1, mode="alpha", rng=0),
        lm.GELU(),
        lm.Softmax(),
    ),
    "user's": lambda: lm.Sequential(
        Scale(3, 1, 2, names=("b", ["c", 2.5]), table={"layer": 0, "d": (None, True)}, rng=0),
        Scale(3, limit=-math.inf, table=np.int8),
        Block(3),
    ),
    "user's in float64": lambda: lm.Sequential(Scale(3), Block(3)).astype(np.float64),
}


def arrays(model):
    return {**model.params, **model.buffers}


def assert_same_model(one, two):
    assert repr(one) == repr(two)
    assert arrays(one).keys() == arrays(two).keys()
    for name, a in arrays(one).items():
        assert_same(a, arrays(two)[name], name)
        assert arrays(two)[name].flags.writeable


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


class TestRoundTrip:
    @pytest.mark.parametrize("name", MODELS)
    def test_keeps_everything_to_the_bit(self, path, name):
        model = MODELS[name]()
        for i, a in enumerate(arrays(model).values()):
            if a.dtype.kind == "f":
                a[...] = random(f"{name} {i}", a.shape)
                a.flat[:1] = [math.nan, math.inf, -0.0, 1e-310][i % 4]
            else:
                a[...] = np.iinfo(a.dtype).max - i
        lm.save(model, path)
        again = lm.load(path, layers=OWN)
        assert_same_model(model, again)
        for name, a in arrays(model).items():
            assert a.tobytes() == arrays(again)[name].tobytes()

    def test_of_all_of_laminas_layers_by_name(self):
        named = {name for name in lm.__all__ if name[0].isupper()}
        assert {"Linear", "LSTM", "Sequential", "ReLU"} < set(own_classes()) < named
        assert "Layer" not in own_classes()

    def test_a_layer_used_twice_stays_one(self, path):
        shared = lm.Linear(3, 3, rng=0)
        model = lm.Sequential(shared, lm.ReLU(), lm.Residual(shared), rng=0)
        lm.save(model, path)
        again = lm.load(path)
        assert_same_model(model, again)
        assert again.children()["0"] is again.children()["2"].children()["body"]

    def test_a_model_that_was_trained(self, path):
        model = MODELS["sequential"]()
        data = random("x", (64, 4)), np.arange(64) % 3
        options = {"loss": lm.CrossEntropy(), "optimizer": lm.Adam(), "epochs": 2}
        lm.fit(model, data, **options)
        lm.save(model, path)
        again = lm.load(path)
        assert_same_model(model, again)
        x = data[0].astype(np.float32)
        assert_same(again(x), model(x))
        y, _ = model.forward(x, training=True)  # Dropout goes on where it was
        assert_same(again.forward(x, training=True)[0], y)

    def test_options_that_were_set_anew(self, path):
        model = lm.Sequential(lm.Linear(4, 3), lm.BatchNorm(3), lm.Dropout(0.5), rng=0)
        model[1].frozen, model[2].rate = True, 0.25
        lm.save(model, path)
        _, norm, dropout = lm.load(path)
        assert (norm.frozen, dropout.rate) == (True, 0.25)
        assert (repr(norm), repr(dropout)) == ("BatchNorm(3, frozen=True)", "Dropout(rate=0.25)")
        with pytest.raises(ValueError, match=r"rate must lie in \[0, 1\], got 2"):
            model[2].rate = 2
        assert model[2].rate == 0.25

    def test_a_layer_of_the_user_from_check_to_load(self, path):
        lm.check(Scale(3, rng=0), random("x", (4, 3)))
        model = lm.Sequential(lm.Linear(3, 3), Scale(3, rng=1), lm.Linear(3, 2), rng=0)
        data = random("x", (64, 3)), np.arange(64) % 2
        options = {"loss": lm.CrossEntropy(), "optimizer": lm.Adam(), "epochs": 2}
        before = model.params["1.scale"].copy()
        lm.fit(model, data, **options)
        assert not np.array_equal(model.params["1.scale"], before)
        lm.save(model, path)
        assert_same_model(model, lm.load(path, layers=OWN))

    def test_any_path_and_any_working_folder(self, path, monkeypatch):
        monkeypatch.chdir(path.parent)
        for name in ("model.safetensors", str(path), path):
            lm.save(lm.ReLU(), name)
            assert repr(lm.load(name)) == "ReLU()"

    def test_numbers_of_numpy_come_back_as_plain_ones(self, path):
        lm.save(lm.Linear(np.int64(3), 2), path)
        assert repr(lm.load(path)) == "Linear(3, 2)"

    def test_arrays_in_any_layout_and_byte_order(self, path):
        model = lm.Linear(3, 2, rng=0)
        weight = model.weight.copy()
        model.params["weight"] = np.asfortranarray(weight).astype(">f4")
        lm.save(model, path)
        assert_same(lm.load(path).weight, weight)

    def test_draws_nothing(self, path, monkeypatch):
        lm.save(MODELS["recurrent"](), path)

        def refuse(*args):
            raise AssertionError

        monkeypatch.setattr(np.random, "default_rng", refuse)
        lm.load(path)

    def test_warnings_are_not_said_again(self, path):
        with pytest.warns(UserWarning, match="momentum"):
            model = lm.BatchNorm(2, momentum=0.1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            lm.save(model, path)
            lm.load(path)

    def test_pickle_and_deepcopy_of_what_was_loaded(self, path):
        lm.save(MODELS["nested"](), path)
        model = lm.load(path)
        assert_same_model(model, pickle.loads(pickle.dumps(model)))
        assert_same_model(model, copy.deepcopy(model))

    def test_other_programs_read_the_arrays(self, path):
        model = MODELS["sequential"]()
        lm.save(model, path)
        found = safetensors.numpy.load_file(path)
        assert found.keys() == arrays(model).keys()
        for name, a in arrays(model).items():
            assert_same(found[name], a)


class TestSaving:
    def test_replaces_the_old_file_at_once_and_leaves_nothing_else(self, path):
        for features in (2, 3):
            lm.save(lm.Linear(features, 1), path)
            assert os.listdir(path.parent) == [path.name]
            assert repr(lm.load(path)) == f"Linear({features}, 1)"

    @pytest.mark.parametrize("step", ["fsync", "replace"])
    @pytest.mark.parametrize("error", [OSError("the disk is full"), KeyboardInterrupt()])
    def test_an_error_leaves_the_old_file_and_nothing_else(self, path, monkeypatch, step, error):
        lm.save(lm.Linear(2, 1), path)
        before = path.read_bytes()

        def fail(*args):
            raise error

        monkeypatch.setattr(os, step, fail)
        with pytest.raises(type(error)):
            lm.save(lm.Linear(3, 1), path)
        assert path.read_bytes() == before
        assert os.listdir(path.parent) == [path.name]

    def test_a_link_stays_a_link(self, path):
        link = path.with_name("link")
        link.symlink_to(path)
        lm.save(lm.ReLU(), link)
        assert link.is_symlink()
        assert path.exists()

    @pytest.mark.skipif(os.name != "posix", reason="needs modes of files")
    def test_who_may_read_a_file_stays_as_it_is(self, path):
        lm.save(lm.ReLU(), path)
        path.chmod(0o600)
        lm.save(lm.Tanh(), path)
        assert path.stat().st_mode & 0o777 == 0o600

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
    def test_a_pipe_stays_a_pipe(self, path):
        pipe = path.with_name("pipe")
        os.mkfifo(pipe)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        try:
            lm.save(lm.ReLU(), pipe)
            path.write_bytes(os.read(reader, 2**16))
        finally:
            os.close(reader)
        assert pipe.is_fifo()
        assert repr(lm.load(path)) == "ReLU()"

    @pytest.mark.skipif(os.name != "posix", reason="needs devices")
    def test_names_what_is_no_file(self):
        with pytest.raises(OSError, match=r"not a file, .*'/dev/null'"):
            lm.load("/dev/null")

    def test_a_new_file_has_the_usual_permissions(self, path):
        lm.save(lm.ReLU(), path)
        usual = path.with_name("usual")
        usual.touch()
        assert path.stat().st_mode == usual.stat().st_mode

    def test_errors_of_the_file_system_are_its_own(self, path):
        with pytest.raises(FileNotFoundError, match=r"no.where'$"):
            lm.save(lm.ReLU(), path.parent / "no" / "where")
        with pytest.raises(IsADirectoryError):
            lm.save(lm.ReLU(), path.parent)
        with pytest.raises(TypeError, match=r"os\.PathLike object, not int"):
            lm.save(lm.ReLU(), 2)  # to open, standard error
        with pytest.raises(FileNotFoundError):
            lm.load(path)
        with pytest.raises(IsADirectoryError):
            lm.load(path.parent)

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (
                lambda: Scale(3, table=np.ones(2)),
                r"Scale.*: argument table is array\(\[1., 1.\]\), which cannot be saved",
            ),
            (lambda: Scale(3, table=len), "argument table is <built-in function len>, which"),
            (lambda: Scale(3, table=Scale), "argument table is <class .*Scale'>, which"),
            (lambda: Scale(3, table={1: 2}), r"argument table is {1: 2}, which cannot be saved"),
            (lambda: Scale(3, table=np.dtype("O")), r"argument table is dtype\('O'\), which"),
            (lambda: Scale(3, table=np.str_), "argument table is <class 'numpy.str_'>, which"),
            (lambda: Scale(3, table=1j), "argument table is 1j, which"),
            (lambda: lm.Sequential(lm.Linear(2, 2), Scale(2, table=b"")), "argument table is b''"),
            (lambda: Scale(3, table=_deep(101)), "argument table is nested deeper than 100"),
            (lambda: _nest(101), "layers are nested deeper than 100"),
            (lambda: _nest(1000), "layers are nested too deep"),
        ],
    )
    def test_refuses_arguments_before_anything_is_written(self, path, make, message):
        with pytest.raises(ValueError, match=message):
            lm.save(make(), path)
        assert os.listdir(path.parent) == []

    def test_refuses_what_could_not_be_loaded(self, path):
        tied = lm.Sequential(lm.Linear(3, 3), lm.Linear(3, 3))
        tied.children()["1"].params["weight"] = tied.children()["0"].params["weight"]
        with pytest.raises(ValueError, match=r"saved: 0\.weight and 1\.weight are one array"):
            lm.save(tied, path)
        grown = Scale(3)
        grown.params["scale"] = np.ones(4, np.float32)
        with pytest.raises(ValueError, match=r"the array scale has shape \(4,\) and .* \(3,\)"):
            lm.save(grown, path)
        grown.params["scale"] = np.array(["a", "b", "c"])
        with pytest.raises(ValueError, match="the format has no array 'scale' of <U1"):
            lm.save(grown, path)
        renamed = type("Linear", (Scale,), {})
        with pytest.raises(ValueError, match="there are two classes of the name Linear; rename"):
            lm.save(renamed(3), path)
        assert os.listdir(path.parent) == []

    @pytest.mark.parametrize("kind", [lm.RNN, lm.LSTM, lm.GRU])
    def test_options_of_dropouts_inside_are_kept_or_refused(self, path, kind):
        layer = kind(3, 2, layers=3, dropout=0.5, recurrent_dropout=0.5, rng=0)
        inside = layer.children()
        for name, child in inside.items():
            child.rate = 0.25 if name.startswith("recurrent") else 0.125
        assert "dropout=0.125, recurrent_dropout=0.25" in repr(layer)
        lm.save(layer, path)
        again = lm.load(path)
        assert list(map(repr, again.children().values())) == list(map(repr, inside.values()))
        before = path.read_bytes()
        for name, option, value in [
            ("dropout_1", "rate", 0.75),
            ("dropout_0", "rate", 0.0),
            ("recurrent_dropout_2", "rate", 0.75),
            ("dropout_0", "always", True),
        ]:
            other = copy.deepcopy(layer)
            setattr(other.children()[name], option, value)
            with pytest.raises(ValueError, match=rf"0\.{name} is Dropout\(.*, and would be"):
                lm.save(lm.Sequential(other), path)
        assert path.read_bytes() == before

    def test_refuses_what_is_no_layer(self, path):
        with pytest.raises(TypeError, match=r"save: model must be a Layer, .* got 3"):
            lm.save(3, path)


def _deep(levels):
    value = 0
    for _ in range(levels):
        value = [value]
    return value


def _nest(levels):
    model = lm.ReLU()
    for _ in range(levels):
        model = lm.Sequential(model)
    return model


def write(path, architecture, tensors=None, key="lamina"):
    """A file with any text for its architecture."""
    text = architecture if isinstance(architecture, str) else json.dumps(architecture)
    path.write_bytes(safetensors.numpy.save(tensors or {}, {key: text}))


def one(cls, config, **more):
    return {"version": 1, "layers": [{"class": cls, "config": config, **more}]}


def chain(count):
    layers = [{"class": "ReLU", "config": {}}]
    for i in range(count):
        config = {"layers": {"tuple": [{"layer": i}]}}
        layers.append({"class": "Sequential", "config": config})
    return {"version": 1, "layers": layers}


def doubling(count):
    both = chain(count)
    for layer in both["layers"][1:]:
        layer["config"]["layers"]["tuple"] *= 2
    return both


LINEAR = {"in_features": 3, "out_features": 2}
WEIGHTS = {"weight": np.ones((3, 2), np.float32), "bias": np.ones(2, np.float32)}
HUGE = {"in_features": 10**12, "out_features": 10**12}


class TestLoading:
    def test_reads_what_it_should(self, path):
        write(path, one("Linear", LINEAR), WEIGHTS)
        assert repr(lm.load(path)) == "Linear(3, 2)"

    @pytest.mark.parametrize(
        ("architecture", "message"),
        [
            ("{", "the architecture is not JSON"),
            ("[" * 100_000, "the architecture is not JSON"),
            ('{"version": ' + "1" * 10_000 + "}", "the architecture is not JSON"),
            ([], "the architecture has no version"),
            ({"layers": []}, "the architecture has no version"),
            ({"version": 2, "layers": []}, "the format has version 2, and this Lamina reads 1"),
            ({"version": "1"}, "the format has version '1'"),
            ({"version": True}, "the format has version True"),
            ({"version": 1}, "the architecture has no list of layers"),
            ({"version": 1, "layers": []}, "the architecture has no list of layers"),
            ({"version": 1, "layers": [1]}, "layer 0 is not of this format"),
            ({"version": 1, "layers": [{"class": "ReLU"}]}, "layer 0 is not of this format"),
            (one(["ReLU"], {}), "layer 0 is not of this format"),
            (one("ReLU", [], dtype="float32"), "layer 0 is not of this format"),
            (one("ReLU", {}, dtype="object"), "layer 0 is not of this format"),
            (one("os.system", {}), r"of the class 'os.system', which is none of Lamina's; if it"),
            (one("Layer", {}), "of the class 'Layer', which is none of Lamina's"),
            (one("CrossEntropy", {}), "of the class 'CrossEntropy', which is none of Lamina's"),
            (one("Linear", {}), "layer 0 cannot be built: "),
            (one("Linear", LINEAR | {"rng": 0, "x": 1}), "Linear takes no argument x"),
            (one("Linear", LINEAR | {"in_features": "3"}), "in_features must be an integer"),
            (one("Linear", LINEAR | {"in_features": -3}), "in_features must be at least 1"),
            (one("Linear", LINEAR | {"dtype": {"dtype": "int8"}}), "dtype must be float32 or fl"),
            (one("Linear", LINEAR | {"dtype": {"dtype": "O"}}), "dtype of layer 0, Linear is no v"),
            (one("Linear", LINEAR | {"init": {"float": "1"}}), "init of layer 0, Linear is no val"),
            (one("Linear", LINEAR | {"init": {"a": 1, "b": 2}}), "is an object of 2 keys"),
            (one("Linear", LINEAR | {"init": {}}), "is an object of 0 keys"),
            (one("Linear", LINEAR | {"init": {"tuple": 1}}), "is no value of this format"),
            (one("Linear", LINEAR | {"init": _deep(102)}), "is nested deeper than 100"),
            (one("Linear", LINEAR | {"bias": False}), "the array bias belongs to no layer"),
            (one("Linear", {"in_features": 500, "out_features": 200}), "no room for an array of"),
            (
                one("Linear", {"in_features": 2, "out_features": 2}),
                r"weight has shape \(3, 2\) and",
            ),
            (one("Linear", LINEAR | {"dtype": {"dtype": "float64"}}), "but its layer .* float64"),
            (one("BatchNorm", {"features": 2}), "belongs to no layer|is missing"),
            (one("Linear", HUGE), "in_features 1000000000000, more than the file has numbers"),
            (one("BatchNorm", {"features": 2**40, "gamma": False}), "more than the file has numb"),
            (one("LSTM", {"in_features": 60_000, "hidden": 60_000}), "no room for an array of sha"),
            (
                one(
                    "Conv1d",
                    {"in_channels": 1, "out_channels": 1, "kernel_size": {"tuple": [2**62]}},
                ),
                "more than the file has numbers",
            ),
            (one("Sequential", {"layers": {"tuple": [{"layer": 0}]}}), "does not stand before it"),
            (one("Sequential", {"layers": {"tuple": [{"layer": -1}]}}), "does not stand before it"),
            (one("Sequential", {"layers": {"tuple": [{"layer": "0"}]}}), "does not stand before"),
            (one("Sequential", {"layers": 7}), "layer 0 cannot be built"),
            (one("Sequential", {"layers": {"tuple": [1]}}), "argument 0 must be a Layer, got 1"),
            (chain(100), "layers are nested deeper than 100"),
            (doubling(40), "there are more than 100,000 layers"),
            (
                {"version": 1, "layers": [{"class": "ReLU", "config": {}}] * 100_001},
                "there are more than 100,000 layers",
            ),
            (
                {"version": 1, "layers": one("BatchNorm", {"features": 9999})["layers"] * 3},
                "the layers hold more numbers than the file",
            ),
        ],
        ids=lambda value: None if isinstance(value, str) else "architecture",
    )
    def test_refuses_a_hostile_architecture(self, path, architecture, message):
        write(path, architecture, WEIGHTS)
        with pytest.raises(lm.FormatError, match=message) as info:
            lm.load(path)
        assert str(info.value).startswith(f"{path}: ")

    @pytest.mark.parametrize(
        ("tensors", "message"),
        [
            ({}, "the array (weight|bias) is missing"),
            ({"weight": np.ones((3, 2), np.float32)}, "the array bias is missing"),
            (WEIGHTS | {"more": np.ones(1)}, "the array more belongs to no layer"),
            (
                {"weights": WEIGHTS["weight"], "bias": WEIGHTS["bias"]},
                "the array weights? (is missing|belongs to no layer)",
            ),
            (
                WEIGHTS | {"weight": np.ones((2, 3), np.float32)},
                r"weight has shape \(2, 3\) and dtype float32, but its layer has \(3, 2\) and flo",
            ),
            (
                WEIGHTS | {"bias": np.ones(2)},
                r"bias has shape \(2,\) and dtype float64, but its layer has \(2,\) and float32",
            ),
        ],
    )
    def test_refuses_other_arrays_than_its_layers_have(self, path, tensors, message):
        write(path, one("Linear", LINEAR), tensors)
        with pytest.raises(lm.FormatError, match=message):
            lm.load(path)

    def test_refuses_dtypes_that_numpy_does_not_have(self, path):
        header = {
            "__metadata__": {"lamina": json.dumps(one("Linear", LINEAR))},
            "weight": {"dtype": "BF16", "shape": [3, 2], "data_offsets": [0, 12]},
            "bias": {"dtype": "BF16", "shape": [2], "data_offsets": [12, 16]},
        }
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(16))
        with pytest.raises(lm.FormatError, match="and dtype BF16, but its layer"):
            lm.load(path)

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"PK\x03\x04 a zip",
            b"\x80\x04K\x01.",
            b"\xff" * 100,
            struct.pack("<Q", 2**63) + b"{}",
            struct.pack("<Q", 2) + b"{}",
            struct.pack("<Q", 2) + b"[]",
            struct.pack("<Q", 4) + b"null",
        ],
    )
    def test_refuses_foreign_files(self, path, content):
        path.write_bytes(content)
        with pytest.raises(lm.FormatError, match=r"not a whole safetensors file|without an arch"):
            lm.load(path)

    def test_refuses_arrays_without_an_architecture(self, path):
        safetensors.numpy.save_file(WEIGHTS, path)
        with pytest.raises(lm.FormatError, match=r"without an architecture of Lamina's; .*assign"):
            lm.load(path)
        write(path, one("Linear", LINEAR), WEIGHTS, key="other")
        with pytest.raises(lm.FormatError, match="without an architecture of Lamina's"):
            lm.load(path)

    def test_builds_layers_of_the_user_only_where_named(self, path):
        lm.save(Scale(3, rng=0), path)
        with pytest.raises(
            lm.FormatError, match=r"it is yours, name it: load\(path, {'Scale': ..."
        ):
            lm.load(path)
        with pytest.raises(TypeError, match=r"layers\['Scale'\] must be a class of layers, got 3"):
            lm.load(path, {"Scale": 3})
        with pytest.raises(TypeError, match="layers must be a dict of your classes by name"):
            lm.load(path, [Scale])

        class Failing(Scale):
            def __init__(self, features, *sizes, names, table, limit):
                raise KeyError("anything")

        with pytest.raises(lm.FormatError, match="layer 0 cannot be built: 'anything'"):
            lm.load(path, {"Scale": Failing})

    def test_a_format_error_is_a_value_error(self):
        assert issubclass(lm.FormatError, ValueError)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a saved model of many kinds of layers, and a place to spoil them."""
    path = tmp_path_factory.mktemp("fuzz") / "model.safetensors"
    model = lm.Sequential(
        lm.Embedding(5, 3, padding_index=0),
        lm.LSTM(3, 2, layers=2, dropout=0.1),
        lm.BatchNorm(2),
        lm.Residual(lm.Linear(2, 2)),
        lm.Dropout(0.2, shared_axes=(1,)),
        lm.LastStep(),
        rng=0,
    )
    lm.save(model, path)
    return path.read_bytes(), path


def assert_whole_or_refused(content, path):
    """A changed file is refused, or it is a model that has the file's arrays, no more, no less."""
    path.write_bytes(content)
    try:
        model = lm.load(path)
    except lm.FormatError:
        return
    expected = safetensors.numpy.load(content)
    assert arrays(model).keys() == expected.keys()
    for name, a in arrays(model).items():
        assert_same(a, expected[name], name)


class TestDamage:
    def test_cut_short_anywhere(self, whole):
        content, path = whole
        for size in range(0, len(content), 7):
            path.write_bytes(content[:size])
            with pytest.raises(lm.FormatError):
                lm.load(path)

    def test_any_byte_of_the_header_changed(self, whole):
        content, path = whole
        header = 8 + struct.unpack("<Q", content[:8])[0]
        rng = np.random.default_rng(0)
        for place in range(header):
            spoiled = bytearray(content)
            spoiled[place] ^= int(rng.integers(1, 256))
            assert_whole_or_refused(bytes(spoiled), path)

    @settings(max_examples=300, deadline=None)
    @given(data=st.data())
    def test_several_changes_at_once(self, whole, data):
        content, path = whole
        spoiled = bytearray(content)
        header = 8 + struct.unpack("<Q", content[:8])[0]
        for _ in range(data.draw(st.integers(1, 4))):
            place = data.draw(st.integers(0, header))
            new = data.draw(st.sampled_from([b"0", b"9", b'"', b"{", b"]", b",", b"-", b"e9", b""]))
            spoiled[place : place + 1] = new
        if data.draw(st.booleans()):  # as one who knows the format would do it
            spoiled[:8] = struct.pack("<Q", header - 8 + len(spoiled) - len(content))
        assert_whole_or_refused(bytes(spoiled), path)
