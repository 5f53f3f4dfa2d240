import errno
import io
import os
import struct
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import lamina as lm
from contract import assert_same
from lamina import cli, models, selfcheck
from lamina.cli import main
from lamina.train.architecture import own_classes


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(capsys, *arguments):
    """Run a command that refuses; return its one line."""
    try:
        code = main(arguments)
    except SystemExit as exit:
        code = exit.code
    captured = capsys.readouterr()
    assert code == 2
    assert captured.err.count("\n") == 1
    return captured.err


class TestTrain:
    def test_trains_tests_and_saves(self, here, capsys):
        assert main(["train", "vowels", "--epochs", "2", "--seed", "3"]) == 0
        out = capsys.readouterr().out
        assert "LSTM(12, 32, bidirectional=True)" in out
        assert "total" in out
        model = lm.load("vowels-lstm.safetensors")
        found = lm.evaluate(model, lm.data.vowels().test, metric="accuracy").metric
        assert f"vowels: test accuracy {found:.3f}\n" in out
        assert out.endswith("saved vowels-lstm.safetensors\n")

    def test_the_same_seed_gives_the_same_file(self, here):
        for out, seed in (("a", "1"), ("b", "1"), ("c", "2")):
            command = ["train", "digits", "--model", "mlp", "--epochs", "1", "--out", out]
            assert main([*command, "--seed", seed, "--batch-size", "100"]) == 0
        a, b, c = ((here / name).read_bytes() for name in "abc")
        assert a == b
        assert a != c

    @pytest.mark.parametrize(
        ("name", "model"),
        [(name, model) for name, some in models.RECIPES.items() for model in some],
    )
    def test_every_network_takes_its_set(self, name, model):
        shapes = {
            "digits": (2, 8, 8, 1),
            "vowels": (2, 9, 12),
            "fashion-mnist": (2, 28, 28, 1),
            "mnist1d": (2, 40, 1),
        }
        classes = 9 if name == "vowels" else 10
        network = models.RECIPES[name][model].network().initialize(0)
        x = np.random.default_rng(0).standard_normal(shapes[name]).astype(np.float32)
        y, _ = network.forward(x, training=True)
        assert y.shape == (2, classes)

    def test_files_in_a_folder_of_ones_own(self, here):
        rng = np.random.default_rng(0)
        for part, n in (("train", 12), ("t10k", 4)):
            for kind, shape in (("images-idx3", (n, 28, 28)), ("labels-idx1", (n,))):
                values = rng.integers(0, 10, shape, np.uint8)
                header = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)
                (here / f"{part}-{kind}-ubyte").write_bytes(header + values.tobytes())
        command = ["train", "fashion-mnist", "--data-dir", ".", "--epochs", "1", "--out", "m"]
        assert main(command) == 0
        assert lm.load("m").output_shape((2, 28, 28, 1)) == (2, 10)

    def test_plot(self, here):
        pytest.importorskip("matplotlib")
        command = ["train", "digits", "--model", "mlp", "--epochs", "2", "--plot", "history.PNG"]
        assert main(command) == 0
        assert (here / "history.PNG").read_bytes().startswith(b"\x89PNG")
        assert (here / "digits-mlp.safetensors").exists()

    def test_saves_though_nobody_reads_what_it_prints(self, here, monkeypatch):
        def broken(*said):
            raise BrokenPipeError

        monkeypatch.setattr(cli, "print", broken, raising=False)
        command = ["train", "digits", "--model", "mlp", "--epochs", "1"]
        with pytest.raises(BrokenPipeError):
            cli.train(cli.parser().parse_args(command))
        assert lm.load("digits-mlp.safetensors").output_shape((1, 8, 8, 1)) == (1, 10)

    def test_refuses_one_name_for_model_and_image(self, here, capsys):
        pytest.importorskip("matplotlib")
        line = refusal(capsys, "train", "digits", "--out", "same.png", "--plot", "./same.png")
        assert line == (
            "lamina: ./same.png: is the name of two files of this command; name another one\n"
        )

    def test_refuses_an_image_that_cannot_be_drawn(self, here, capsys, monkeypatch):
        pytest.importorskip("matplotlib")
        line = refusal(capsys, "train", "digits", "--plot", "history.txt")
        assert line.startswith("lamina: history.txt: Format 'txt' is not supported (supported")
        monkeypatch.setenv("PATH", "")
        line = refusal(capsys, "train", "digits", "--plot", "history.pgf")
        assert line.startswith("lamina: history.pgf: 'xelatex' not found")
        assert not any(here.iterdir())

    def test_says_what_a_plot_needs(self, here, capsys, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        line = refusal(capsys, "train", "digits", "--plot", "history.png")
        assert "--plot needs matplotlib, pip install matplotlib" in line

    def test_says_what_mnist1d_needs(self, here, capsys, monkeypatch):
        monkeypatch.setitem(sys.modules, "mnist1d", None)
        assert "install it: pip install mnist1d" in refusal(capsys, "train", "mnist1d")

    def test_says_where_files_are_missing(self, here, capsys):
        line = refusal(capsys, "train", "fashion-mnist", "--data-dir", "nowhere")
        assert "found neither train-images-idx3-ubyte nor" in line
        assert "--data-dir" in line

    def test_refuses_a_folder_that_is_not_read(self, here, capsys):
        line = refusal(capsys, "train", "digits", "--data-dir", "nowhere")
        assert line == ("lamina: --data-dir is for fashion-mnist; digits is read from a package\n")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["mnist"], "argument set: invalid choice: 'mnist'"),
            (["digits", "--model", "lstm"], "no model 'lstm' for digits; there are conv, mlp"),
            (["digits", "--epochs", "0"], "'0' is not an integer of 1 or more"),
            (["digits", "--batch-size", "many"], "'many' is not an integer of 1 or more"),
            (["digits", "--seed", "-1"], "'-1' is not an integer of 0 or more"),
            (["digits", "--out", "no/such/folder"], "no/such/folder: there is no folder "),
            (["digits", "--out", "."], "is a folder, expected the name of a file"),
            (["digits", "--out", "x" * 300], "xxx: File name too long"),
            (
                ["digits", "--lr", "1"],
                "lamina train: unrecognized arguments: --lr 1 (see lamina train --help",
            ),
        ],
    )
    def test_refuses(self, here, capsys, arguments, message):
        assert message in refusal(capsys, "train", *arguments)

    def test_the_rate_falls_over_all_updates(self):
        x, y = lm.data.digits().train
        split = lm.data.Split((x[:9], y[:9]), (x[:9], y[:9]))
        recipe = models.RECIPES["digits"]["mlp"]
        _, history = cli.learn(recipe, split, seed=0, epochs=1, batch_size=4)  # 4 and 5 samples
        assert history.lr == [pytest.approx(recipe.lr / 2)]

    @pytest.mark.skipif(os.name != "posix", reason="links and devices")
    def test_refuses_a_folder_that_may_not_be_written(self, here, capsys, monkeypatch):
        kept = here / "kept"  # root may write anywhere
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != kept)
        kept.mkdir()
        (kept / "old").touch()
        (here / "link").symlink_to(kept / "new")
        for out in "kept/new", "kept/old", "link":  # save writes a file beside, and moves it
            line = refusal(capsys, "train", "digits", "--out", out)
            assert line == f"lamina: {out}: may not be written; name a file in another folder\n"
        cli.refuse_target(Path("kept/old"))  # which is opened
        cli.refuse_target(Path(os.devnull), beside=True)

    def test_a_training_that_diverges(self, here, capsys, monkeypatch):
        recipe = replace(models.RECIPES["digits"]["mlp"], lr=1e38)
        monkeypatch.setitem(models.RECIPES["digits"], "mlp", recipe)
        line = refusal(capsys, "train", "digits", "--model", "mlp", "--epochs", "1")
        assert "lamina: fit: epoch 1, update " in line


class TestPredict:
    @pytest.fixture
    def model(self, here):
        layers = lm.BatchNorm(12), lm.MeanSteps(), lm.Linear(12, 9)
        model = lm.Sequential(*layers, rng=0)
        lm.save(model, "model")
        (x, lengths), _ = lm.data.vowels().test
        np.save("x.npy", x)
        np.save("lengths.npy", lengths)
        self.expected = lm.predict(model, x, lengths=lengths).argmax(axis=1)
        return model

    @pytest.mark.usefixtures("model")
    def test_prints_classes(self, capsys):
        assert main(["predict", "model", "x.npy", "--lengths", "lengths.npy"]) == 0
        assert [int(line) for line in capsys.readouterr().out.split("\n")[:-1]] == [*self.expected]

    @pytest.mark.usefixtures("model")
    @pytest.mark.skipif(os.name != "posix", reason="pipes with a name")
    def test_reads_a_pipe(self, here, capsys):
        os.mkfifo("pipe")
        writing = threading.Thread(
            target=lambda: (here / "pipe").write_bytes((here / "x.npy").read_bytes())
        )
        writing.start()
        assert main(["predict", "model", "pipe", "--lengths", "lengths.npy"]) == 0
        writing.join()
        assert [int(line) for line in capsys.readouterr().out.split()] == [*self.expected]

    @pytest.mark.usefixtures("model")
    def test_writes_classes(self, capsys):
        command = ["predict", "model", "x.npy", "--lengths", "lengths.npy", "--out", "classes.npy"]
        assert main(command) == 0
        assert not capsys.readouterr().out
        assert_same(np.load("classes.npy"), self.expected)

    @pytest.mark.usefixtures("model")
    @pytest.mark.skipif(os.name != "posix", reason="pipes with a name")
    def test_writes_classes_into_a_pipe(self, here):
        os.mkfifo("pipe")
        found = []
        reading = threading.Thread(target=lambda: found.append((here / "pipe").read_bytes()))
        reading.start()
        assert main(["predict", "model", "x.npy", "--lengths", "lengths.npy", "--out", "pipe"]) == 0
        reading.join()
        assert_same(np.load(io.BytesIO(found[0])), self.expected)

    @pytest.mark.usefixtures("model")
    def test_classes_are_written_whole_or_not_at_all(self, here, capsys, monkeypatch):
        (here / "classes.npy").write_bytes(b"of before")

        def full(file):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        command = ["predict", "model", "x.npy", "--lengths", "lengths.npy", "--out", "classes.npy"]
        assert "classes.npy: No space left on device" in refusal(capsys, *command)
        assert (here / "classes.npy").read_bytes() == b"of before"

    @pytest.mark.usefixtures("model")
    def test_refuses_to_name_a_class_by_nan(self, capsys):
        x = np.load("x.npy")
        x[[5, 7]] = np.nan
        np.save("x.npy", x)
        assert "model gives NaN for 2 samples of x.npy, the first of them sample 5" in refusal(
            capsys, "predict", "model", "x.npy"
        )

    @pytest.mark.usefixtures("model")
    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
    def test_names_the_file_that_takes_nothing(self, capsys):
        command = ["predict", "model", "x.npy", "--lengths", "lengths.npy", "--out", "/dev/full"]
        assert "lamina: /dev/full: No space left on device" in refusal(capsys, *command)

    @pytest.mark.usefixtures("model")
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["nowhere", "x.npy"], "lamina: nowhere: No such file or directory"),
            (["model", "nowhere.npy"], "lamina: nowhere.npy: No such file or directory"),
            (["x.npy", "x.npy"], "lamina: x.npy: "),
            (["empty", "x.npy"], "lamina: empty: "),
            (["model", "empty"], "lamina: empty: not a whole .npy file: "),
            (["model", "model"], "lamina: model: not a whole .npy file: "),
            (["model", "cut.npy"], "lamina: cut.npy: not a whole .npy file: "),
            (
                ["model", "objects.npy"],
                "lamina: objects.npy: holds Python objects; save an array of n",
            ),
            (["model", "damaged.npy"], "lamina: damaged.npy: not a whole .npy file: "),
            (["model", "huge.npy"], "lamina: huge.npy: not a whole .npy file: "),
            (["model", "wide.npy"], "x has 13 features in its last axis (shape (2, 5, 13))"),
            (["model", "x.npy", "--lengths", "x.npy"], "lengths"),
            (["model", "x.npy", "--out", "no/classes.npy"], "no/classes.npy: there is no folder "),
            (["model", "x.npy", "--out", "./model"], "lamina: ./model: is the name of two files"),
            (["model", "x.npy", "--out", "x.npy"], "lamina: x.npy: is the name of two files of"),
            (["model", "x.npy", "--lengths", "l", "--out", "l"], "lamina: l: is the name of two"),
            (["steps", "x.npy"], "gives y of shape (370, 29, 12), expected (samples, classes)"),
            (["mine", "x.npy"], "lamina: mine: "),
        ],
    )
    def test_refuses(self, here, capsys, arguments, message):
        (here / "empty").touch()
        (here / "cut.npy").write_bytes((here / "x.npy").read_bytes()[:-5])
        (here / "damaged.npy").write_bytes((here / "x.npy").read_bytes().replace(b")", b"(", 1))
        np.save("objects.npy", np.array([{}]))
        header = str({"descr": "<f4", "fortran_order": False, "shape": (2**70,)}).encode()
        (here / "huge.npy").write_bytes(
            b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
        )
        np.save("wide.npy", np.zeros((2, 5, 13), np.float32))
        lm.save(lm.ReLU(), "steps")
        lm.save(Mine(), "mine")
        assert message in refusal(capsys, "predict", *arguments)

    @pytest.mark.usefixtures("model")
    def test_a_damaged_model(self, here, capsys):
        content = (here / "model").read_bytes()
        (here / "model").write_bytes(content[: len(content) // 2])
        assert "lamina: model: not a whole safetensors file" in refusal(
            capsys, "predict", "model", "x.npy"
        )


class Mine(lm.ReLU):
    """A layer that only this file knows."""


class TestCheck:
    def test_one_layer(self, capsys):
        assert main(["check", "linear"]) == 0
        out = capsys.readouterr().out
        assert out.startswith("Linear(5, 3)\n  ok    gradient of x ")
        assert out.endswith("\nall hold\n")
        assert "LSTM" not in out

    def test_all(self, capsys):
        assert main(["check"]) == 0
        out = capsys.readouterr().out
        for name in ("Linear", "Conv1d", "Conv2d", "Conv3d", "BatchNorm", "Dropout", "RNN", "LSTM"):
            assert f"\n{name}(" in f"\n{out}"

    def test_every_layer_has_an_example(self):
        layers = [example.layer() for some in selfcheck.EXAMPLES.values() for example in some]
        named = {type(inside).__name__ for layer in layers for _, inside in layer.walk()}
        assert named == set(own_classes())

    def test_a_failure(self, capsys, monkeypatch):
        class Wrong(lm.Linear):
            def backward(self, dy, cache):
                dx, grads = super().backward(dy, cache)
                return 2 * dx, grads

        example = selfcheck.Example(lambda: Wrong(5, 3, rng=0), (4, 5))
        monkeypatch.setitem(selfcheck.EXAMPLES, "linear", [example])
        assert main(["check", "linear"]) == 1
        out = capsys.readouterr().out
        assert "FAIL  gradient of x" in out
        assert out.endswith("\n1 failed\n")

    def test_refuses(self, capsys):
        assert "invalid choice: 'transformer'" in refusal(capsys, "check", "transformer")


def test_info(capsys):
    assert main(["info"]) == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["lamina"] == lm.__version__
    assert rows["numpy"] == np.__version__
    assert int(rows["threads"]) >= 1
    assert "cpu" in rows


def test_info_without_numba(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "lamina.engine.jit", None)
    monkeypatch.delattr(lm.engine, "jit", raising=False)
    assert main(["info"]) == 0
    assert "none without numba" in capsys.readouterr().out


def test_info_with_bad_threads(capsys, monkeypatch):
    from lamina.engine import threads

    threads.available.cache_clear()
    monkeypatch.setenv("LAMINA_THREADS", "many")
    assert main(["info"]) == 2
    assert "LAMINA_THREADS must be a positive integer, got 'many'" in capsys.readouterr().err


class TestDemo:
    @pytest.fixture(autouse=True)
    def quick(self, monkeypatch):
        for some in models.RECIPES.values():
            first = next(iter(some))
            monkeypatch.setitem(some, first, replace(some[first], epochs=1))

    def test_trains_saves_and_loads(self, here, capsys, monkeypatch):
        monkeypatch.setattr(cli, "DEMO", {"digits": 0.1, "vowels": 0.1})
        assert main(["demo"]) == 0
        lines = capsys.readouterr().out.splitlines()[-2:]
        for line, name in zip(lines, ("digits", "vowels"), strict=True):
            split = getattr(lm.data, name)()
            model = lm.load(here / f"{name}.safetensors")
            found = lm.evaluate(model, split.test, metric="accuracy").metric
            assert line == f"{name}: test accuracy {found:.3f}"

    def test_says_what_was_not_reached(self, here, capsys, monkeypatch):
        monkeypatch.setattr(cli, "DEMO", {"vowels": 1.0})
        (here / "models").mkdir()
        assert main(["demo", "--out-dir", "models"]) == 1
        assert capsys.readouterr().err.endswith("vowels: expected at least 1.0\n")
        assert (here / "models" / "vowels.safetensors").exists()


def test_an_interrupt(here, capsys, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "fit", interrupted)
    assert main(["train", "vowels"]) == 130
    assert capsys.readouterr().err == "lamina: interrupted\n"
    assert not list(here.iterdir())


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    out = capsys.readouterr().out
    for name in ("train", "predict", "check", "info", "demo"):
        assert f"\n    {name}" in out
    assert "required" in refusal(capsys)


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "lamina", *arguments], capture_output=True, text=True, **options
    )


def test_as_a_module():
    found = run("--version")
    assert (found.returncode, found.stdout) == (0, f"lamina {lm.__version__}\n")
    found = run("predict", "nowhere", "nowhere")
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == "lamina: nowhere: No such file or directory\n"


def test_a_reader_that_has_had_enough():
    command = [sys.executable, "-m", "lamina", "check", "linear"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 1


def test_a_terminal_without_the_lines_of_a_table(tmp_path):
    command = ("train", "digits", "--model", "mlp", "--epochs", "1")
    found = run(*command, cwd=tmp_path, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("buffered", ["", "1"])
def test_an_output_that_takes_nothing(buffered):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "lamina", "info"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": buffered},
            check=False,
        )
    assert (done.returncode, done.stderr) == (2, "lamina: No space left on device\n")


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_outputs(closed, tmp_path):
    command = f'exec "$0" -m lamina train digits --model mlp --epochs 1 {closed}'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert ("test accuracy" in done.stdout) == (closed == "2>&-")
    assert (tmp_path / "digits-mlp.safetensors").exists()
