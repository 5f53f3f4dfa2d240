import gzip
import hashlib
import random
import struct
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import lamina as lm
from contract import assert_same


def digest(*arrays):
    """A short hash of what arrays hold, the same on every machine."""
    content = b"".join(a.astype(a.dtype.newbyteorder("<")).tobytes() for a in arrays)
    return hashlib.sha256(content).hexdigest()[:16]


def test_digits_are_the_published_images_in_two_parts():
    split = lm.data.digits()
    for (x, y), n in ((split.train, 1438), (split.test, 359)):
        assert (x.shape, x.dtype) == ((n, 8, 8, 1), np.float32)
        assert (y.shape, y.dtype) == ((n,), np.int64)
        assert (x.min(), x.max()) == (0, 1)
        assert set(y) == set(range(10))
    of_class = [np.bincount(y) for _, y in (split.train, split.test)]
    assert of_class[0].sum() + of_class[1].sum() == 1797
    assert np.all(np.abs(of_class[1] - 0.2 * (of_class[0] + of_class[1])) <= 0.5)
    assert digest(*split.train, *split.test) == "be593785573c51a4"


def test_vowels_are_the_published_parts():
    split = lm.data.vowels()
    for ((x, lengths), y), n, T in ((split.train, 270, 26), (split.test, 370, 29)):
        assert (x.shape, x.dtype) == ((n, T, 12), np.float32)
        assert (y.shape, y.dtype) == ((n,), np.int64)
        assert (lengths.min(), lengths.max()) == (7, T)
        assert not x[np.arange(T) >= lengths[:, None]].any()
    assert np.bincount(split.train[1]).tolist() == [30] * 9
    assert np.bincount(split.test[1]).tolist() == [31, 35, 88, 44, 29, 24, 40, 50, 29]
    assert (
        digest(*split.train[0], split.train[1], *split.test[0], split.test[1]) == "0a519a363bc16a69"
    )


@pytest.mark.parametrize("load", [lm.data.digits, lm.data.vowels])
def test_sets_are_read_anew(load):
    x = load().test[0]
    (x[0] if isinstance(x, tuple) else x)[:] = -1
    x = load().test[0]
    assert (x[0] if isinstance(x, tuple) else x).max() > 0


def test_a_split_unpacks():
    split = lm.data.vowels()
    train, test = split
    assert train is split.train
    assert test is split.test


def test_a_split_cannot_change():
    with pytest.raises(AttributeError, match="cannot assign"):
        lm.data.digits().train = None


class TestStratified:
    def test_divides_every_class_alike(self):
        y = np.array([7] * 10 + [3] * 25 + [5] * 2)
        train, test = lm.data.stratified(y, 0.2, seed=3)
        assert sorted([*train, *test]) == list(range(37))
        assert np.all(np.diff(train) > 0)
        assert np.all(np.diff(test) > 0)
        assert {c: int(np.sum(y[test] == c)) for c in (7, 3, 5)} == {7: 2, 3: 5, 5: 0}

    def test_is_decided_by_the_seed(self):
        y = np.arange(400) % 4
        assert_same(lm.data.stratified(y)[1], lm.data.stratified(y, 0.2, seed=0)[1])
        assert not np.array_equal(lm.data.stratified(y)[1], lm.data.stratified(y, seed=1)[1])
        assert digest(lm.data.stratified(y)[1]) == "c1fa50a1dc2e82ed"

    @pytest.mark.parametrize(("share", "tests"), [(0, 0), (1, 8)])
    def test_all_or_nothing(self, share, tests):
        assert len(lm.data.stratified([0, 1] * 4, share)[1]) == tests

    def test_refuses(self):
        with pytest.raises(ValueError, match=r"stratified: share must lie in \[0, 1\], got 20"):
            lm.data.stratified([0, 1], 20)
        with pytest.raises(ValueError, match=r"y has shape \(2, 1\), expected \(N,\)"):
            lm.data.stratified([[0], [1]])
        with pytest.raises(ValueError, match="stratified: seed must be at least 0, got -1"):
            lm.data.stratified([0, 1], seed=-1)
        with pytest.raises(TypeError, match=r"stratified: seed must be an integer, got 1\.5"):
            lm.data.stratified([0, 1], seed=1.5)
        with pytest.raises(TypeError, match="stratified: y is a masked array"):
            lm.data.stratified(np.ma.masked_array([0, 1]))


class TestPad:
    def test_steps_then_zeros(self):
        sequences = [np.full((n, 2), n, np.float32) for n in (2, 0, 3)]
        x, lengths = lm.data.pad(sequences)
        assert (x.shape, x.dtype, lengths.tolist()) == ((3, 3, 2), np.float32, [2, 0, 3])
        for row, sequence, n in zip(x, sequences, lengths, strict=True):
            assert_same(row[:n], sequence)
            assert not row[n:].any()

    def test_an_empty_list_fits_anything(self):
        x, lengths = lm.data.pad([[], np.ones((2, 3), np.float32)])
        assert (x.shape, x.dtype, lengths.tolist()) == ((2, 2, 3), np.float32, [0, 2])
        x, lengths = lm.data.pad([[], []])
        assert (x.shape, lengths.tolist()) == ((2, 0), [0, 0])

    def test_a_generator(self):
        assert lm.data.pad(range(n) for n in (1, 3))[0].tolist() == [[0, 0, 0], [0, 1, 2]]

    def test_refuses(self):
        with pytest.raises(ValueError, match="pad: needs at least one sequence, got none"):
            lm.data.pad([])
        with pytest.raises(ValueError, match="pad: sequence 1 is the single value 3"):
            lm.data.pad([[1], 3])
        with pytest.raises(ValueError, match=r"sequence 1 has shape \(2, 4\), expected \(T, 3\)"):
            lm.data.pad([np.ones((1, 3)), np.ones((2, 4))])
        masked = np.ma.masked_array([1.0, 2.0], [0, 1])
        with pytest.raises(TypeError, match="pad: sequence 1 is a masked array, whose mask would"):
            lm.data.pad([[1.0], masked])


def write_idx(path, array):
    content = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture
def folder(tmp_path):
    """A small set in the manner of MNIST, two files plain and two gzipped."""
    rng = np.random.default_rng(0)
    for part, n, ends in (("train", 5, ("", ".gz")), ("t10k", 3, (".gz", ""))):
        images = rng.integers(0, 256, (n, 4, 6), np.uint8)
        write_idx(tmp_path / f"{part}-images-idx3-ubyte{ends[0]}", images)
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte{ends[1]}", np.arange(n, dtype=np.uint8))
    return tmp_path


class TestIdx:
    def test_plain_and_gzipped(self, folder):
        split = lm.data.idx(folder)
        rng = np.random.default_rng(0)
        for (x, y), n in ((split.train, 5), (split.test, 3)):
            expected = rng.integers(0, 256, (n, 4, 6, 1), np.uint8)
            assert_same(x, expected.astype(np.float32) / 255)
            assert_same(y, np.arange(n))
        assert lm.data.idx(str(folder)).train[0].shape == (5, 4, 6, 1)

    def test_says_what_it_looked_for(self, folder):
        (folder / "t10k-labels-idx1-ubyte").unlink()
        with pytest.raises(
            FileNotFoundError,
            match=r"idx: found neither t10k-labels-idx1-ubyte nor t10k-labels-idx1-ubyte\.gz in ",
        ):
            lm.data.idx(folder)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "begins with the bytes , expected 00 00 08 03"),
            (b"PK\x03\x04 and so on", "begins with the bytes 50 4b 03 04, expected 00 00 08 03"),
            (struct.pack(">HBB3I", 0, 13, 3, 5, 4, 6), "IDX of unsigned bytes with 3 axes"),
            (struct.pack(">HBB2I", 0, 8, 3, 5, 4), "is cut short within its header"),
            (
                struct.pack(">HBB3I", 0, 8, 3, 5, 4, 6) + bytes(119),
                r"holds 119 bytes of data, but its header's shape \(5, 4, 6\) needs 120",
            ),
            (struct.pack(">HBB3I", 0, 8, 3, 5, 4, 6) + bytes(121), "holds 121 bytes"),
            (struct.pack(">HBB3I", 0, 8, 3, *[2**32 - 1] * 3), "holds 0 bytes"),
        ],
    )
    def test_refuses_foreign_and_truncated_files(self, folder, content, message):
        (folder / "train-images-idx3-ubyte").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            lm.data.idx(folder)

    @pytest.mark.parametrize("keep", [0, 5, -9, -1])
    def test_refuses_damaged_gzip(self, folder, keep):
        path = folder / "t10k-images-idx3-ubyte.gz"
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(ValueError, match=r"idx: .*t10k-images-idx3-ubyte\.gz "):
            lm.data.idx(folder)
        path.write_bytes(b"not gzip at all")
        with pytest.raises(ValueError, match="is damaged or not gzip"):
            lm.data.idx(folder)

    def test_refuses_images_without_labels(self, folder):
        write_idx(folder / "t10k-labels-idx1-ubyte", np.zeros(4, np.uint8))
        with pytest.raises(ValueError, match="has 3 t10k images but 4 labels"):
            lm.data.idx(folder)


def seed_all(seed):
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002


def draw_from_all():
    return random.random(), np.random.random()  # noqa: NPY002


class TestMnist1d:
    def test_says_what_to_install(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "mnist1d", None)
        with pytest.raises(ImportError, match=r"mnist1d: .* install it: pip install mnist1d"):
            lm.data.mnist1d()

    def test_leaves_the_global_generators_alone(self, monkeypatch):
        """With a stand-in for the package, so that this runs without it."""

        def make_dataset(args):
            seed_all(args.seed)
            x, y = np.zeros((10, 40)), np.arange(10)
            return {"x": x[:8], "y": y[:8], "x_test": x[8:], "y_test": y[8:]}

        stand_in = ModuleType("mnist1d.data")
        stand_in.make_dataset = make_dataset
        stand_in.get_dataset_args = lambda: SimpleNamespace(seed=42)
        monkeypatch.setitem(sys.modules, "mnist1d", ModuleType("mnist1d"))
        monkeypatch.setitem(sys.modules, "mnist1d.data", stand_in)

        seed_all(1)
        expected = draw_from_all()
        seed_all(1)
        split = lm.data.mnist1d()
        assert draw_from_all() == expected
        for (x, y), n in ((split.train, 8), (split.test, 2)):
            assert (x.shape, x.dtype) == ((n, 40, 1), np.float32)
            assert (y.shape, y.dtype) == ((n,), np.int64)

    @pytest.mark.peers
    def test_the_real_package(self):
        pytest.importorskip("mnist1d")
        split = lm.data.mnist1d()
        assert split.train[0].shape == (4000, 40, 1)
        assert split.test[0].shape == (1000, 40, 1)
        assert np.bincount(split.train[1]).min() > 300


class TestBatches:
    data = np.arange(14.0).reshape(7, 2), np.arange(7)

    def test_in_order(self):
        found = list(lm.data.batches(self.data, 3))
        assert [y.tolist() for _, y in found] == [[0, 1, 2], [3, 4, 5, 6]]
        np.testing.assert_array_equal(np.concatenate([x for x, _ in found]), self.data[0])

    def test_shuffled(self):
        def order(rng):
            return [y for _, ys in lm.data.batches(self.data, 2, shuffle=True, rng=rng) for y in ys]

        assert sorted(order(0)) == list(range(7))
        assert order(0) == order(0)
        assert order(0) != order(1)

    def test_lengths_go_with_their_sequences(self):
        x, lengths = lm.data.pad([[1.0], [2.0, 2.0], [3.0] * 3])
        for (some, their), y in lm.data.batches(((x, lengths), [1, 2, 3]), 2, shuffle=True, rng=3):
            np.testing.assert_array_equal(their, y)
            np.testing.assert_array_equal(some[:, 0], y)

    def test_refuses_before_the_first_batch(self):
        with pytest.raises(ValueError, match="batches: batch_size must be at least 1, got 0"):
            lm.data.batches(self.data, 0)
        with pytest.raises(ValueError, match=r"batches: x has 7 samples .* and y 6"):
            lm.data.batches((self.data[0], self.data[1][1:]))
        with pytest.raises(TypeError, match="rng"):
            lm.data.batches(self.data, shuffle=True, rng="0")
        with pytest.raises(ValueError, match=r"batches: rng draws the order .* set shuffle=True"):
            lm.data.batches(self.data, rng=0)
        for several in ([self.data], list(self.data)):  # which fit takes for batches already cut
            with pytest.raises(TypeError, match=r"^batches: data must be .* got (a )?list"):
                lm.data.batches(several)
