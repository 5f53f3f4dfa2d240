import copy
import dataclasses
import json
import math
import pickle

import numpy as np
import pytest

import lamina as lm
from contract import assert_close, assert_same, random


def moons(n=200, seed=0):
    """Two half circles that reach into one another; each point belongs to one."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    angle = rng.uniform(0, np.pi, n)
    x = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    x = np.where(y[:, None] == 0, x, [1, 0.5] - x) + rng.normal(0, 0.1, (n, 2))
    return x, y


def rising(n=120, seed=0):
    """Sequences of noise: does the larger half of a sequence come first or last?"""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 8, n)
    y = np.arange(n) % 2
    x = rng.normal(0, 0.1, (n, 8, 1))
    for i, length in enumerate(lengths):
        x[i, :length, 0] += np.linspace(-1, 1, length) * (1 if y[i] else -1)
        x[i, length:] = np.nan
    return (x, lengths), y


def mlp(dtype=np.float32, rng=0):
    return lm.Sequential(
        lm.Linear(2, 16, dtype=dtype), lm.ReLU(), lm.Linear(16, 2, dtype=dtype), rng=rng
    )


def frozen():
    """A network whose first layers are read-only."""
    model = lm.Sequential(lm.Linear(2, 4), lm.BatchNorm(4, frozen=True), lm.Linear(4, 2), rng=0)
    for layer in (model[0], model[1]):
        for a in (*layer.params.values(), *layer.buffers.values()):
            a.flags.writeable = False
    return model


def train(model, data, **options):
    settings = {"loss": lm.CrossEntropy(), "optimizer": lm.Adam(0.02), "epochs": 3} | options
    return lm.fit(model, data, **settings)


def state(model):
    return copy.deepcopy({**model.params, **model.buffers})


def assert_same_state(one, two):
    assert one.keys() == two.keys()
    for name in one:
        assert_same(one[name], two[name], name)


def differs(one, two):
    return {name for name in one if not np.array_equal(one[name], two[name])}


class TestLearning:
    def test_two_moons(self):
        model = mlp()
        history = train(model, moons(), epochs=60, metric="accuracy", validation=moons(seed=1))
        assert history.metric[-1] > 0.97
        assert history.val_metric[-1] > 0.95
        assert history.loss[-1] < 0.2 * history.loss[0]
        assert lm.evaluate(model, moons(seed=1), metric="accuracy").metric == history.val_metric[-1]

    def test_sequences_with_padding(self):
        model = lm.Sequential(lm.LSTM(1, 8), lm.LastStep(), lm.Linear(8, 2), rng=0)
        history = train(model, rising(), epochs=15, metric="accuracy")
        assert history.metric[-1] > 0.95
        (x, lengths), y = rising(seed=1)
        assert lm.accuracy(lm.predict(model, x, lengths=lengths), y) > 0.95

    def test_a_target_at_every_step(self):
        (x, lengths), _ = rising()
        y = (np.nan_to_num(x[..., 0]) > 0).astype(int)
        y[:, -1] = 99  # padding for all but a few
        y[lengths == 8, -1] = (x[lengths == 8, -1, 0] > 0).astype(int)
        model = lm.Sequential(lm.Linear(1, 2), rng=0)
        history = train(model, ((x, lengths), y), epochs=20, metric="accuracy")
        assert history.metric[-1] > 0.97

    def test_embedded_words(self):
        words = np.random.default_rng(0).integers(0, 10, (100, 4))
        y = (words.sum(axis=1) > 18).astype(int)
        model = lm.Sequential(lm.Embedding(10, 4), lm.Flatten(), lm.Linear(16, 2), rng=0)
        assert train(model, (words, y), epochs=30, metric="accuracy").metric[-1] > 0.95

    def test_regression(self):
        x = random("x", (64, 3))
        model = lm.Linear(3, 1, dtype=np.float64, rng=0)
        weight = np.array([[1.0], [-2.0], [3.0]])
        train(model, (x, x @ weight), loss=lm.MeanSquaredError(), optimizer=lm.SGD(0.1), epochs=60)
        np.testing.assert_allclose(model.weight, weight, atol=1e-3)

    def test_fine_tuning_leaves_the_rest_alone(self):
        model = lm.Sequential(
            lm.Linear(2, 8), lm.BatchNorm(8, frozen=True), lm.ReLU(), lm.Linear(8, 2), rng=0
        )
        before = state(model)
        train(model, moons(), trainable="3.*", optimizer=lm.AdamW(0.02))
        assert differs(before, state(model)) == {"3.weight", "3.bias"}
        before = state(model)
        train(model, moons(), trainable=["1.gamma", "*.bias"])
        assert differs(before, state(model)) == {"0.bias", "1.gamma", "3.bias"}


class TestSameBits:
    def test_of_two_runs_with_one_seed(self):
        def run(seed):
            model = lm.Sequential(
                lm.Linear(2, 8), lm.BatchNorm(8), lm.Dropout(0.2), lm.Linear(8, 2), rng=3
            )
            history = train(model, moons(), seed=seed, metric="accuracy", validation=moons(seed=1))
            return state(model), dataclasses.asdict(history) | {"seconds": None}

        one, two, other = run(0), run(0), run(1)
        assert_same_state(one[0], two[0])
        assert one[1] == two[1]
        assert differs(one[0], other[0])

    def test_progress_validation_and_metric_change_nothing(self):
        plain, watched = mlp(), mlp()
        train(plain, moons())
        train(watched, moons(), progress=True, validation=moons(seed=1), metric="accuracy")
        assert_same_state(state(plain), state(watched))

    def test_float64_data_is_cast_once(self):
        one, two = mlp(), mlp()
        x, y = moons()
        train(one, (x, y))
        train(two, (x.astype(np.float32), y))
        assert_same_state(state(one), state(two))


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_training_goes_on_as_if_it_had_not_been_stopped(stop, tmp_path):
    def begin():
        layers = lm.Linear(2, 8), lm.BatchNorm(8), lm.ReLU(), lm.Dropout(0.3), lm.Linear(8, 2)
        return lm.Sequential(*layers, rng=0), lm.AdamW(lm.Cosine(0.02, 12), clip_norm=1.0)

    model, optimizer = begin()
    whole = train(model, moons(), optimizer=optimizer, batch_size=32)
    expected = state(model)
    model, optimizer = begin()
    first = train(model, moons(), optimizer=optimizer, batch_size=32, epochs=stop)
    lm.save(model, tmp_path / "model")
    saved = pickle.dumps(optimizer)
    model, optimizer = lm.load(tmp_path / "model"), pickle.loads(saved)
    rest = train(model, moons(), optimizer=optimizer, batch_size=32, first_epoch=stop)
    assert_same_state(state(model), expected)
    assert first.loss + rest.loss == whole.loss


class TestAccumulation:
    """The gradient of k batches together is that of their union."""

    def agree(self, make, data, **options):
        small, large = make(), make()
        settings = {"optimizer": lm.SGD(0.1), "epochs": 2} | options
        one = train(
            small, data, **copy.deepcopy(settings), batch_size=8, accumulate=4, metric="accuracy"
        )
        two = train(large, data, **copy.deepcopy(settings), batch_size=32, metric="accuracy")
        for name, p in state(small).items():
            assert_close(p, state(large)[name], np.float64, what=name)
        assert one.loss == pytest.approx(two.loss, rel=1e-12)
        assert one.metric == pytest.approx(two.metric, rel=1e-12)

    @pytest.mark.parametrize("n", [64, 65, 70])
    def test_of_samples(self, n):
        self.agree(lambda: mlp(np.float64), moons(n))

    def test_of_weighted_classes(self):
        loss = lm.CrossEntropy(weights=(0.3, 2.0), label_smoothing=0.1)
        self.agree(lambda: mlp(np.float64), moons(70), loss=loss)

    def test_of_steps_to_ignore(self):
        def make():
            layers = lm.LSTM(1, 4, dtype=np.float64), lm.Linear(4, 2, dtype=np.float64)
            return lm.Sequential(*layers, rng=0)

        (x, lengths), y = rising(70)
        y = np.where(np.random.default_rng(1).random((70, 8)) < 0.6, 255, y[:, None])
        self.agree(make, ((x, lengths), y), loss=lm.CrossEntropy(ignore=255))

    def test_of_sequences(self):
        def make():
            layers = lm.LSTM(1, 4, dtype=np.float64), lm.Linear(4, 2, dtype=np.float64)
            return lm.Sequential(*layers, rng=0)

        (x, lengths), y = rising(70)
        self.agree(make, ((x, lengths), np.repeat(y[:, None], 8, axis=1)))

    def test_of_batches_of_an_iterable(self):
        x, y = moons(64)
        small = [(x[i : i + 8], y[i : i + 8]) for i in range(0, 64, 8)]
        large = [(x[i : i + 32], y[i : i + 32]) for i in (0, 32)]
        one, two = mlp(np.float64), mlp(np.float64)
        train(one, small, accumulate=4, optimizer=lm.SGD(0.1))
        train(two, large, optimizer=lm.SGD(0.1))
        for name, p in state(one).items():
            assert_close(p, state(two)[name], np.float64, what=name)


class TestBatches:
    def seen(self, n, **options):
        """The samples of each batch, by their number."""
        batches = []

        def loss(y, target):
            batches.append(target[:, 0].astype(int).tolist())
            return 0.0, np.zeros_like(y)

        model = lm.Linear(1, 1, rng=0)
        data = np.zeros((n, 1)), np.arange(n, dtype=float)[:, None]
        lm.fit(model, data, loss=loss, optimizer=lm.SGD(0.1), **options)
        return batches

    def test_every_sample_once_an_epoch_in_a_new_order(self):
        batches = self.seen(10, epochs=2, batch_size=4)
        assert [len(b) for b in batches] == [4, 4, 2, 4, 4, 2]
        first, second = np.concatenate(batches[:3]).tolist(), np.concatenate(batches[3:]).tolist()
        assert sorted(first) == sorted(second) == list(range(10))
        assert first != second
        assert first == np.random.default_rng([0, 0]).permutation(10).tolist()

    @pytest.mark.parametrize(
        ("n", "size", "expected"),
        [(9, 4, [4, 5]), (1, 4, [1]), (3, 1, [1, 1, 1]), (8, 4, [4, 4]), (3, 4, [3])],
    )
    def test_a_single_sample_left_over_joins_the_batch_before(self, n, size, expected):
        assert [len(b) for b in self.seen(n, epochs=1, batch_size=size)] == expected

    def test_batch_statistics_live_with_what_is_left_over(self):
        model = lm.Sequential(lm.Linear(2, 4), lm.BatchNorm(4), lm.Linear(4, 2), rng=0)
        train(model, moons(33), batch_size=32)

    def test_an_iterable_in_its_own_order_and_sizes(self):
        (x, lengths), y = rising(12)
        data = [((x[:5], lengths[:5]), y[:5]), ((x[5:, :7], np.minimum(lengths[5:], 7)), y[5:])]
        model = lm.Sequential(lm.LSTM(1, 3), lm.LastStep(), lm.Linear(3, 2), rng=0)
        history = train(model, data, validation=data, metric="accuracy")
        assert history.epochs == 3
        expected = lm.evaluate(model, data, loss=lm.CrossEntropy(), metric="accuracy")
        assert (history.val_loss[-1], history.val_metric[-1]) == expected

    def test_an_iterator_serves_one_epoch(self):
        batches = [moons(16), moons(16, seed=1)]
        train(mlp(), iter(batches), epochs=1)
        with pytest.raises(ValueError, match="fit: an iterator can be gone through once only, not"):
            train(mlp(), iter(batches), epochs=2)


class TestWhatIsNotFinite:
    def test_a_loss_that_runs_away_leaves_the_last_finite_parameters(self):
        model = lm.Sequential(lm.Linear(3, 1, rng=0))
        x = random("x", (64, 3), np.float32)
        with pytest.raises(
            FloatingPointError, match=r"fit: epoch \d+, update \d+: .*; lower the learning rate"
        ):
            train(
                model,
                (x, x[:, :1]),
                loss=lm.MeanSquaredError(),
                optimizer=lm.SGD(1e12),
                epochs=50,
            )
        assert all(np.isfinite(p).all() for p in model.params.values())
        assert math.isfinite(lm.evaluate(model, (x, x[:, :1]), loss=lm.MeanSquaredError()).loss)

    def test_an_update_beyond_the_numbers_is_undone(self):
        model = lm.Linear(3, 1, rng=0)
        before = state(model)
        x = random("x", (8, 3), np.float32)
        with pytest.raises(FloatingPointError, match="update 1: weight became infinite; lower"):
            train(
                model,
                (x, x[:, :1]),
                loss=lm.MeanSquaredError(),
                optimizer=lm.SGD(1e39),
                epochs=1,
            )
        assert_same_state(state(model), before)

    def test_nan_in_the_data_does_not_reach_the_model(self):
        model = lm.Sequential(lm.Linear(2, 4), lm.BatchNorm(4), lm.Linear(4, 2), rng=0)
        before = state(model)
        x, y = moons(64)
        x[5, 0] = np.nan
        with pytest.raises(
            FloatingPointError, match=r"fit: epoch 1, update 1: the loss is nan; .* NaN in the data"
        ):
            train(model, (x, y), batch_size=64)
        assert_same_state(state(model), before)

    def test_it_is_said_where_arrays_are_read_only(self):
        model = frozen()
        x, y = moons(64)
        x[5, 0] = np.nan
        with pytest.raises(FloatingPointError, match="update 1: the loss is nan"):
            train(model, (x, y), batch_size=64, trainable="2.*")

    def test_a_gradient_names_its_parameter(self):
        def loss(y, target):
            return 1.0, np.full_like(y, np.inf)

        with pytest.raises(
            FloatingPointError, match=r"update 1: Adam: the gradient of 0.weight holds"
        ):
            train(mlp(), moons(), loss=loss)


class TestEarlyStopping:
    def scripted(self, values, rule, **options):
        """Train under a metric that says what it is told, one value an epoch."""
        script = iter(values)
        model = lm.Sequential(lm.Linear(2, 4), lm.BatchNorm(4), lm.Linear(4, 2), rng=0)
        states = []
        history = train(
            model,
            moons(32),
            metric=lambda y, target, lengths: next(script),
            callbacks=[lambda history, model: states.append(state(model))],
            early_stopping=rule,
            epochs=len(values),
            **options,
        )
        return history, model, states

    def test_restores_the_parameters_and_buffers_of_the_best_epoch(self):
        rule = lm.EarlyStopping("metric", patience=2)
        history, model, states = self.scripted([0.1, 0.5, 0.4, 0.5, 0.9], rule)
        assert (history.epochs, history.best_epoch) == (4, 2)
        assert_same_state(state(model), states[1])
        assert "1.running_mean" in states[1]
        assert differs(states[1], states[3])

    def test_restores_beside_arrays_that_are_read_only(self):
        model, values = frozen(), iter([0.5, 0.4, 0.3])
        states = []
        train(
            model,
            moons(32),
            metric=lambda y, target, lengths: next(values),
            callbacks=[lambda history, model: states.append(state(model))],
            early_stopping=lm.EarlyStopping("metric"),
            trainable="2.*",
        )
        assert differs(states[0], states[2]) == {"2.weight", "2.bias"}
        assert_same_state(state(model), states[0])

    def test_restores_where_the_training_ran_to_its_end(self):
        rule = lm.EarlyStopping("metric", patience=10)
        history, model, states = self.scripted([0.1, 0.5, 0.4], rule)
        assert (history.epochs, history.best_epoch) == (3, 2)
        assert_same_state(state(model), states[1])

    def test_need_not_restore(self):
        rule = lm.EarlyStopping("metric", patience=1, restore_best=False)
        history, model, states = self.scripted([0.5, 0.4, 0.9], rule)
        assert (history.epochs, history.best_epoch) == (2, 1)
        assert_same_state(state(model), states[1])

    def test_asks_for_an_improvement_that_counts(self):
        rule = lm.EarlyStopping("metric", patience=2, min_delta=0.1)
        history, *_ = self.scripted([0.5, 0.55, 0.59, 0.9], rule)
        assert (history.epochs, history.best_epoch) == (3, 1)

    def test_a_metric_that_is_to_fall(self):
        rule = lm.EarlyStopping("metric", patience=2, mode="min")
        history, *_ = self.scripted([0.5, 0.3, 0.4, 0.6, 0.1], rule)
        assert (history.epochs, history.best_epoch) == (4, 2)

    def test_values_that_are_no_numbers_are_no_improvement(self):
        rule = lm.EarlyStopping("metric", patience=2)
        history, model, states = self.scripted([math.nan] * 4, rule)
        assert (history.epochs, history.best_epoch) == (2, None)
        assert_same_state(state(model), states[-1])

    def test_watches_the_validation_loss(self):
        history = train(
            mlp(),
            moons(40),
            validation=moons(400, seed=1),
            early_stopping=lm.EarlyStopping(patience=2),
            optimizer=lm.Adam(0.5),
            epochs=200,
        )
        assert history.epochs < 200
        assert history.best_epoch == 1 + np.argmin(history.val_loss)
        assert history.epochs == history.best_epoch + 2

    @pytest.mark.parametrize(
        ("make", "error", "message"),
        [
            (lambda: lm.EarlyStopping("accuracy"), ValueError, "monitor must be one of 'loss', 'm"),
            (lambda: lm.EarlyStopping(patience=0), ValueError, "patience must be at least 1"),
            (lambda: lm.EarlyStopping(min_delta=-1), ValueError, "min_delta must lie in"),
            (lambda: lm.EarlyStopping(mode="up"), ValueError, "mode must be one of 'min', 'max'"),
            (lambda: lm.EarlyStopping(restore_best=2), ValueError, "restore_best must be one of"),
        ],
    )
    def test_refuses_settings(self, make, error, message):
        with pytest.raises(error, match=message):
            make()

    def test_refuses_to_watch_what_is_not_there(self):
        with pytest.raises(ValueError, match="stopping watches val_loss; give validation="):
            train(mlp(), moons(), early_stopping=lm.EarlyStopping())
        with pytest.raises(ValueError, match="stopping watches metric; give metric="):
            train(mlp(), moons(), early_stopping=lm.EarlyStopping("metric"))


class TestHistory:
    def test_has_an_entry_an_epoch(self):
        history = train(mlp(), moons(), validation=moons(seed=1), metric="accuracy")
        columns = dataclasses.asdict(history)
        assert columns.pop("best_epoch") is None
        assert {len(values) for values in columns.values()} == {3}
        assert lm.History(**json.loads(json.dumps(dataclasses.asdict(history)))) == history

    def test_leaves_out_what_was_not_asked_for(self):
        history = train(mlp(), moons())
        assert (history.metric, history.val_loss, history.val_metric) == ([], [], [])
        assert str(history).splitlines()[0].split() == ["epoch", "loss", "lr", "seconds"]

    def test_has_the_learning_rate_of_the_last_update(self):
        schedule = lm.StepDecay(0.1, every=2, factor=0.5)
        history = train(mlp(), moons(64), optimizer=lm.SGD(schedule), batch_size=16)
        assert history.lr == [0.05, 0.0125, 0.003125]

    def test_reads_as_a_table_with_the_best_epoch_marked(self):
        text = str(lm.History(loss=[1, 0.5], seconds=[1, 2], best_epoch=2))
        assert [line.split() for line in text.splitlines()] == [
            ["epoch", "loss", "seconds"],
            ["1", "1", "1"],
            ["*2", "0.5", "2"],
        ]

    def test_loss_is_the_mean_over_samples(self):
        model = mlp(np.float64)
        data = moons(37)
        expected = lm.evaluate(model, data, loss=lm.CrossEntropy())
        history = train(model, data, batch_size=8, optimizer=lm.SGD(0.0), epochs=1)
        assert history.loss == pytest.approx([expected.loss])


class TestCallbacks:
    def test_see_history_and_model_and_may_end_the_training(self):
        model, seen = mlp(), []

        def callback(history, given):
            assert given is model
            seen.append(history.epochs)
            return history.epochs == 2

        history = train(model, moons(), epochs=9, callbacks=[callback, lambda h, m: seen.append(0)])
        assert history.epochs == 2
        assert seen == [1, 0, 2, 0]

    @pytest.mark.parametrize("returned", [None, False, np.False_])
    def test_go_on(self, returned):
        assert train(mlp(), moons(), epochs=2, callbacks=lambda h, m: returned).epochs == 2

    @pytest.mark.parametrize("returned", [3, 0, (None, 0.5), np.ones(2), ""])
    def test_that_return_something_else_are_refused(self, returned):
        said = f"fit: a callback returned {type(returned).__name__}; return True to end the train"
        with pytest.raises(TypeError, match=said):
            train(mlp(), moons(), epochs=2, callbacks=lambda h, m: returned)

    def test_may_keep_the_best(self, tmp_path):
        def keep(history, model):
            if history.best_epoch == history.epochs:
                lm.save(model, tmp_path / "best.safetensors")

        model = mlp()
        rule = lm.EarlyStopping("loss", patience=50)
        train(model, moons(), epochs=10, callbacks=keep, early_stopping=rule)
        assert_same_state(state(lm.load(tmp_path / "best.safetensors")), state(model))

    def test_may_put_new_parameters_in_place(self):
        model, drawn = mlp(), lm.Linear(16, 2, rng=7)

        def anew(history, model):
            if history.epochs == 1:
                model[2].initialize(7)

        train(model, moons(), callbacks=anew)
        assert differs(state(drawn), state(model[2])) == {"weight", "bias"}

    def test_an_interrupt_passes_through(self):
        def interrupt(history, model):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(mlp(), moons(), callbacks=[interrupt])


class TestBar:
    def test_says_loss_metric_and_pace(self, capsys):
        train(mlp(), moons(), metric="accuracy", progress=True)
        shown = capsys.readouterr().err
        for part in ("epoch 3/3", "600/600", "loss=", "metric=", "samples/s"):
            assert part in shown

    def test_says_that_the_first_update_compiles(self, capsys):
        train(mlp(), moons(), progress=True)
        before, _, after = capsys.readouterr().err.partition("loss=")
        assert "compiling" in before
        assert "compiling" not in after
        with lm.formulas():
            train(mlp(), moons(), progress=True)
        assert "compiling" not in capsys.readouterr().err

    @pytest.mark.parametrize("progress", [None, False])
    def test_is_silent_without_a_terminal_or_on_request(self, capsys, progress):
        train(mlp(), moons(), progress=progress)
        assert capsys.readouterr() == ("", "")


class TestPredictAndEvaluate:
    def test_predict_joins_the_batches(self):
        model = mlp()
        x = moons(37)[0].astype(np.float32)
        whole = model(x)
        for size in (1, 9, 37, 256):
            assert_close(lm.predict(model, x, batch_size=size), whole, np.float32)
        assert lm.predict(model, x.astype(np.float64)).dtype == np.float32
        assert lm.predict(lm.ReLU(), x).dtype == x.dtype
        assert lm.predict(model, x[:0]).shape == (0, 2)

    def test_predict_sequences(self):
        model = lm.Sequential(lm.LSTM(1, 3), rng=0)
        (x, lengths), _ = rising(20)
        y = lm.predict(model, x, lengths=lengths, batch_size=7)
        assert_close(y, model(x.astype(np.float32), lengths=lengths), np.float32)

    def test_evaluate_weighs_every_sample_and_step_alike(self):
        (x, lengths), _ = rising(20)
        lengths[3] = 0
        target = np.repeat(np.arange(20)[:, None] % 2, 8, axis=1)
        model = lm.Sequential(lm.LSTM(1, 2, dtype=np.float64), rng=0)
        y = model(x, lengths=lengths)
        expected, _ = lm.CrossEntropy()(y, target, lengths)
        for size in (3, 20):
            loss, metric = lm.evaluate(
                model,
                ((x, lengths), target),
                loss=lm.CrossEntropy(),
                metric="accuracy",
                batch_size=size,
            )
            assert loss == pytest.approx(expected)
            assert metric == pytest.approx(lm.accuracy(y, target, lengths))

    def test_evaluate_leaves_out_what_the_loss_ignores(self):
        (x, lengths), y = rising(20)
        target = np.where(np.random.default_rng(1).random((20, 8)) < 0.6, -100, y[:, None])
        model = lm.Sequential(lm.LSTM(1, 2, dtype=np.float64), rng=0)
        real = (np.arange(8) < lengths[:, None]) & (target >= 0)
        rows, classes = model(x, lengths=lengths)[real], target[real]
        expected, _ = lm.CrossEntropy()(rows, classes)
        loss, metric = lm.evaluate(
            model,
            ((x, lengths), target),
            loss=lm.CrossEntropy(ignore=-100),
            metric="accuracy",
            batch_size=3,
        )
        assert loss == pytest.approx(expected)
        assert metric == pytest.approx(lm.accuracy(rows, classes))

    def test_evaluate_needs_a_question(self):
        with pytest.raises(ValueError, match="evaluate: nothing to evaluate"):
            lm.evaluate(mlp(), moons())

    def test_accuracy(self):
        y = np.array([[0.1, 0.9], [0.8, 0.2]])
        assert lm.accuracy(y, [1, 1]) == 0.5
        assert lm.accuracy(y, [[0.3, 0.7], [0.2, 0.8]]) == 0.5
        assert lm.accuracy([[0.5], [-0.5], [2.0]], [[1], [1], [1]]) == pytest.approx(2 / 3)
        assert lm.accuracy([[0.5], [-0.5], [2.0]], [1, 1, 1]) == pytest.approx(2 / 3)
        assert lm.accuracy([0.5, -0.5], [1, 0]) == 1.0
        steps = np.array([[[1, 0], [1, 0]], [[0, 1], [0, 1]]])
        assert lm.accuracy(steps, [[0, 1], [1, 0]], [1, 2]) == pytest.approx(2 / 3)
        assert math.isnan(lm.accuracy(steps, [[0, 1], [1, 0]], [0, 0]))
        with pytest.raises(ValueError, match=r"accuracy: lengths go with x of shape \(N, T, ...\)"):
            lm.accuracy(y, [1, 1], [1, 1])
        with pytest.raises(ValueError, match=r"accuracy: y has shape \(2, 2\) and target \(3,\)"):
            lm.accuracy(y, [1, 0, 1])

    def test_accuracy_of_answers(self):
        y, answers = [[1.0, -1.0, 2.0], [3.0, 2.0, -1.0]], [[1, 0, 1], [1, 1, 1]]
        y = np.array(y)[..., None]
        assert lm.accuracy(y, answers) == pytest.approx(5 / 6)
        assert lm.accuracy(y, answers, [3, 2]) == 1.0
        assert lm.accuracy(y, [[1, 0, 1], [1, 1, 99]], [3, 2]) == 1.0
        assert lm.accuracy([0.5, -0.5, 2.0], [0.95, 0.05, 0.1]) == pytest.approx(2 / 3)
        assert lm.accuracy([0.5, -0.5], [True, False]) == 1.0
        assert lm.accuracy([1, 0, 1], [1, 1, 1]) == pytest.approx(2 / 3)
        assert math.isnan(lm.accuracy([], []))

    @pytest.mark.parametrize(
        ("y", "target", "message"),
        [
            ([1, 2, 1], [2, 1, 1], r"target holds 1 \.\.\. 2, .*itself: np.mean\(y == target\)"),
            (np.zeros((3, 1)), [0, 1, 2], r"target holds 0 \.\.\. 2, expected answers, 0 or 1"),
            ([0.5, 2.0], [math.nan, 1], "target holds nan"),
            ([1, 2, 0], [1, 1, 0], r"y holds integers, 0 \.\.\. 2, .*; if they are classes: np"),
            (
                np.eye(3)[:2],
                [[1, 0, 1], [1, 0, 0]],
                r"target .* the sums are 1 \.\.\. 2; .*: accuracy\(y\[\.\.\., None\], target\)",
            ),
            (np.eye(2), [[2, -1], [0, 1]], "target has y's shape, expected shares .* at least 0"),
            (np.eye(2), [1, 255], r"target holds 1 \.\.\. 255, expected classes, .*\(ignore="),
        ],
    )
    def test_accuracy_refuses_what_it_would_misread(self, y, target, message):
        with pytest.raises(ValueError, match=f"accuracy: {message}"):
            lm.accuracy(y, target)

    def test_accuracy_of_shares_looks_at_real_steps_alone(self):
        y = np.array([[[1, 0], [1, 0]], [[0, 1], [0, 1]]])
        target = np.array([[[0.9, 0.1], [9, 9]], [[0.2, 0.8], [1, 0]]])
        assert lm.accuracy(y, target, [1, 2]) == pytest.approx(2 / 3)

    def test_accuracy_is_of_each_answer_with_binary_cross_entropy(self):
        """Also in a batch whose rows of answers might be shares."""
        x = random("x", (40, 4), np.float64)
        model = lm.Linear(4, 3, dtype=np.float64, rng=0)
        target = (random("t", (40, 3)) > 0).astype(float)
        target[:4] = np.eye(3)[[0, 1, 2, 0]]
        expected = np.mean((model(x) > 0) == target)
        options = {"loss": lm.BinaryCrossEntropy(), "metric": "accuracy", "batch_size": 4}
        assert lm.evaluate(model, (x, target), **options).metric == pytest.approx(expected)
        history = train(
            model, (x, target), optimizer=lm.SGD(0), validation=(x, target), epochs=1, **options
        )
        assert history.metric == pytest.approx([expected])
        assert history.val_metric == pytest.approx([expected])
        with pytest.raises(ValueError, match="accuracy: target has y's shape, expected shares"):
            lm.evaluate(model, (x, target), metric="accuracy", batch_size=4)

    def test_accuracy_of_the_steps_answers(self):
        (x, lengths), _ = rising(20)
        model = lm.Linear(1, 1, rng=0)
        target = np.where(np.isnan(x), 99, x > 0)
        options = {"loss": lm.BinaryCrossEntropy(), "metric": "accuracy"}
        found = lm.evaluate(model, ((x, lengths), target), **options).metric
        real = np.arange(8) < lengths[:, None]
        y = lm.predict(model, x, lengths=lengths)
        assert found == pytest.approx(np.mean((y[real] > 0) == (x[real] > 0)))

    def test_accuracy_of_a_regression_is_none(self):
        data = random("x", (16, 4)), np.full((16, 1), 7.0)
        with pytest.raises(ValueError, match=r"target holds 7 \.\.\. 7, expected answers"):
            train(lm.Linear(4, 1), data, loss=lm.MeanSquaredError(), metric="accuracy")


X, Y = moons(8)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ((X, Y[:7]), ValueError, r"fit: x has 8 samples \(shape \(8, 2\)\) and y 7"),
        ((X[:0], Y[:0]), ValueError, "fit: x has no samples"),
        ([], ValueError, "fit: the data has no batches"),
        (X, TypeError, r"data must be \(x, y\), .* or an iterable of such batches; got ndarray"),
        (5, TypeError, r"data must be \(x, y\), .*; got int"),
        ([X, Y], TypeError, r"data must be \(x, y\), a tuple; got a list of these two"),
        ([(X, [2] * 8), Y], TypeError, r"data must be \(x, y\), a tuple; got a list of these two"),
        ({"x": X, "y": Y}, TypeError, r"data must be \(x, y\), .*; got dict"),
        ((X, Y, Y), TypeError, r"data must be \(x, y\), .*; got tuple of 3 entries$"),
        (
            lm.data.Split((X, Y), (X, Y)),
            TypeError,
            r"got Split; give it one of its parts, split\.train say",
        ),
        (((X, Y), (X, Y)), TypeError, "x and y must be arrays; put several batches in a list"),
        ((X, (X, [2] * 8)), TypeError, r"padded targets, .*, give the array alone: pad\(y\)\[0\]"),
        ((X, Y.astype(str)), TypeError, "y must be .* got dtype <U21; number the classes: np.uni"),
        (([[1.0], [1.0, 2.0]], [0, 1]), ValueError, "fit: x is no array, .*; join .*data.pad"),
        (
            (np.array([[1], [1, 2]], object), [0, 1]),
            TypeError,
            "x must be .* dtype object, holds list; .* lamina.data.pad",
        ),
        ((X, np.array(["no", "yes"], object)), TypeError, "holds str, 'no'; number the classes: n"),
        ((np.array([[1, "a"]], object), [0]), TypeError, "got dtype object, holds str, 'a'$"),
        (
            (np.array([[1.0, None]], object), [0]),
            TypeError,
            r"object; .*\(x, np.float32\), missing",
        ),
        (
            (X, np.array([True, 1], object)),
            TypeError,
            r"object; make .*np.asarray\(y, np.float32\)",
        ),
        ((np.array([[1, object()]]), [0]), TypeError, "got dtype object, holds object$"),
        ((X + 1j, Y), TypeError, "x must be an array of real numbers, got dtype complex128"),
        ((np.ma.masked_array(X), Y), TypeError, "x is a masked array, whose mask would be lost"),
        ((1.0, Y), ValueError, "x must have samples along its first axis, got 1.0"),
        (
            (X[:, 0], Y),
            ValueError,
            r"x has shape \(8,\), .*; x\[:, None\] has .*, x\[None\] is one",
        ),
        (([1.0] * 8, Y), ValueError, r"; np\.asarray\(x\)\[:, None\] has one feature a sample"),
        (((X, [2] * 7), Y), ValueError, r"fit: lengths has shape \(7,\), expected \(8,\)"),
        (((X, [9] * 8), Y), ValueError, r"fit: lengths must lie in 0 \.\.\. 2"),
    ],
)
def test_refuses_data(data, error, message):
    with pytest.raises(error, match=message):
        train(mlp(), data)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (np.eye(3)[[0, 1, 2, 0]], r"weights has 2 entries, but y \(shape \(4, 3\)\) has 3 classes"),
        ([0, 1, 2, 0], r"weights has 2 entries, but y \(shape \(4, 3\)\) has 3 classes"),
        ([0.0, 1.0, 2.0, 0.0], "if it holds classes, make them integers"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_the_loss_itself(target, message):
    loss, data = lm.CrossEntropy(weights=[1, 2]), (np.ones((4, 2)), target)
    with pytest.raises(ValueError, match=message):
        train(lm.Linear(2, 3), data, loss=loss)


@pytest.mark.parametrize("options", [{}, {"ignore": 255}, {"weights": np.ones(5)}])
def test_a_class_for_a_sequence_is_refused_by_the_loss_itself(options):
    model = lm.Sequential(lm.LSTM(3, 4), lm.Linear(4, 5), rng=0)
    data = (np.zeros((4, 6, 3), np.float32), [6, 2, 3, 1]), np.array([0, 1, 2, 3])
    with pytest.raises(ValueError, match=r"target has shape \(4,\), expected \(4, 6\)"):
        train(model, data, loss=lm.CrossEntropy(**options))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epochs": 0}, ValueError, "fit: epochs must be at least 1, got 0"),
        ({"first_epoch": -1}, ValueError, "fit: first_epoch must be at least 0, got -1"),
        (
            {"first_epoch": 4},
            ValueError,
            "fit: first_epoch is 4, expected at most epochs, 3, which",
        ),
        ({"batch_size": 0}, ValueError, "fit: batch_size must be at least 1, got 0"),
        ({"batch_size": 2.5}, TypeError, "fit: batch_size must be an integer, got 2.5"),
        ({"accumulate": 0}, ValueError, "fit: accumulate must be at least 1"),
        ({"seed": -1}, ValueError, "fit: seed must be at least 0"),
        ({"metric": "auc"}, ValueError, "metric must be \"accuracy\" or a function .* got 'auc'"),
        (
            {"metric": lambda y, target: 1.0},
            TypeError,
            r"fit: metric is called as metric\(y, target,",
        ),
        ({"trainable": "7.*"}, ValueError, r"fit: trainable '7.\*' fits no parameter; .* 0.weight"),
        ({"trainable": []}, ValueError, "fit: trainable has no pattern, so nothing would change"),
        ({"trainable": None}, TypeError, "fit: trainable must be a pattern .*, got None"),
        ({"trainable": [3]}, TypeError, r"fit: trainable must be a pattern of names .*, got \[3\]"),
        ({"trainable": ["0.*", "b"]}, ValueError, "fit: trainable 'b' fits no parameter"),
        ({"optimizer": lm.Adam}, TypeError, r"must be an optimizer, Adam\(1e-3\) say, got <"),
        ({"loss": lm.CrossEntropy}, TypeError, r"fit: loss must be a loss, CrossEntropy\(\) say"),
        ({"loss": "mse"}, TypeError, r"fit: loss must be a loss, .* got 'mse'"),
        ({"callbacks": [print, 3]}, TypeError, r"fit: callbacks must be functions .* 3\)$"),
        (
            {"callbacks": lambda history: True},
            TypeError,
            r"fit: a callback is called as callback\(history, model\); <.*: too many positional",
        ),
        ({"callbacks": lm.EarlyStopping()}, TypeError, "; give EarlyStopping as early_stopping=$"),
        ({"early_stopping": True}, TypeError, "fit: early_stopping must be an EarlyStopping, .* T"),
        ({"validation": (X, Y[:7])}, ValueError, "fit: validation: x has 8 samples"),
        ({"validation": iter([(X, Y)])}, ValueError, "validation: an iterator can be gone through"),
    ],
)
def test_refuses_arguments(options, error, message):
    with pytest.raises(error, match=message):
        train(mlp(), moons(), **options)


def test_refuses_what_is_no_model():
    with pytest.raises(
        TypeError, match=r"predict: model must be .*, got an array of shape \(8, 2\)$"
    ):
        lm.predict(X, mlp())
    with pytest.raises(TypeError, match="fit: model must be a Layer, Sequential"):
        train(lm.Linear, moons())
    for name, call in {
        "predict": lambda: lm.predict(None, X),
        "evaluate": lambda: lm.evaluate(None, (X, Y), metric="accuracy"),
        "mc": lambda: lm.mc(None, X, 2),
        "check": lambda: lm.check(None, X),
        "recalibrate": lambda: lm.recalibrate(None, (X, Y)),
    }.items():
        with pytest.raises(TypeError, match=rf"^{name}: model must be a Layer, .* got None"):
            call()
    with pytest.raises(ValueError, match=r"trainable '\*' fits no parameter; the .* are none"):
        train(lm.ReLU(), moons())


def test_refuses_x_and_y_side_by_side():
    message = r"^{}: too many positional .*; it takes \(model, data, \*, .*; data is one argument"
    with pytest.raises(TypeError, match=message.format("fit")):
        lm.fit(mlp(), X, Y, loss=lm.CrossEntropy(), optimizer=lm.Adam(), epochs=1)
    with pytest.raises(TypeError, match=message.format("evaluate")):
        lm.evaluate(mlp(), X, Y, metric="accuracy")


def test_refuses_a_loss_without_a_gradient():
    def loss(y, target):
        return float(np.square(y - target[:, None]).mean())

    for call in (
        lambda: train(mlp(), moons(), loss=loss),
        lambda: lm.evaluate(mlp(), (X, Y), loss=loss),
    ):
        with pytest.raises(TypeError, match=r"must return its value and dy, .* returned float$"):
            call()


def test_refuses_a_loss_that_takes_too_little():
    def loss(y, target):
        return 0.0, np.zeros_like(y)

    x, said = (
        np.ones((4, 3, 2)),
        r"^a loss is called as loss\(y, target, lengths=, normalizer=\); <",
    )
    for call in (
        lambda: train(mlp(), moons(), loss=loss, accumulate=2),
        lambda: lm.evaluate(lm.RNN(2, 2), ((x, [3] * 4), x), loss=loss),
    ):
        with pytest.raises(TypeError, match=said):
            call()


def test_an_error_within_a_loss_passes_through():
    def loss(y, target):
        raise TypeError("its own")

    with pytest.raises(TypeError, match=r"^its own$"):
        train(mlp(), moons(), loss=loss)


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (np.float64, r"shape \(8, 2\) and dtype float64; cast it: dy.astype\(y.dtype\)$"),
        (lambda dy: dy[0], r"shape \(2,\) and dtype float32$"),
        (lambda dy: None, "NoneType$"),
    ],
)
def test_refuses_a_loss_whose_dy_is_not_like_y(change, got):
    def loss(y, target):
        return 0.0, change(np.zeros_like(y))

    said = r"a loss must return dy as an array of y's shape \(8, 2\) and dtype float32; <function "
    with pytest.raises(TypeError, match=f"{said}.*loss.* returned {got}"):
        train(mlp(), (X, Y), loss=loss)


@pytest.mark.parametrize("value", [None, 1j, "low", np.ones(2)])
def test_refuses_a_loss_or_a_metric_that_is_no_number(value):
    def loss(y, target):
        return value, np.zeros_like(y)

    def metric(y, target, lengths):
        return value

    for options, message in (
        ({"loss": loss}, "a loss must return its value as a number; .*loss.* returned "),
        ({"metric": metric}, "a metric must return a number, .*metric.* returned "),
    ):
        with pytest.raises(TypeError, match=message):
            train(mlp(), moons(), **options)
        with pytest.raises(TypeError, match=message):
            lm.evaluate(mlp(), (X, Y), **options)


def test_evaluate_and_accuracy_refuse():
    for loss in ("mse", lm.CrossEntropy):
        with pytest.raises(TypeError, match="evaluate: loss must be a loss, CrossEntropy"):
            lm.evaluate(mlp(), (X, Y), loss=loss)
    with pytest.raises(TypeError, match="accuracy: y is a masked array"):
        lm.accuracy(np.ma.masked_array([[1.0, 2.0]]), [0])
    with pytest.raises(ValueError, match="accuracy: target is no array, its rows differ"):
        lm.accuracy([[1.0, 2.0]], [[1], [1, 2]])
    with pytest.raises(TypeError, match="accuracy: target must be an array of real numbers, got"):
        lm.accuracy([[1.0, 2.0]], ["b"])


def test_predict_refuses():
    with pytest.raises(ValueError, match="predict: batch_size must be at least 1"):
        lm.predict(mlp(), X, batch_size=0)
    with pytest.raises(TypeError, match=r"predict: x must be an array of real numbers, .* <U1$"):
        lm.predict(mlp(), ["a"])
    with pytest.raises(TypeError, match=r"predict: x is a tuple; give .* beside it, by lengths="):
        lm.predict(lm.LSTM(2, 3), (np.ones((2, 3, 2)), np.array([3, 1])))


# Truncated backpropagation through time


def echo(n=12, T=20, seed=0):
    """Signs, and at each step the one of two steps before."""
    x = np.random.default_rng(seed).choice([-1.0, 1.0], (n, T, 1))
    return x, np.concatenate([np.zeros((n, 2, 1)), x[:, :-2]], axis=1)


def echoing(layer=lm.LSTM, **options):
    return lm.Sequential(layer(1, 8, dtype=float, **options), lm.Linear(8, 1, dtype=float), rng=0)


def test_bptt_learns_and_is_by_hand():
    x, y = echo()
    model, other = echoing(), echoing()
    loss, optimizer, settings = lm.MeanSquaredError(), lm.Adam(0.05), {"batch_size": 12}
    lm.fit(model, (x, y), loss=loss, optimizer=lm.Adam(0.05), epochs=1, bptt=8, **settings)
    order, carried = np.random.default_rng([0, 0]).permutation(12), None
    x_, y_ = x[order], y[order]
    for start in (0, 8, 16):  # the last window has 4 steps
        out, carried, cache = other.run(x_[:, start : start + 8], carried, training=True)
        _, dy = loss(out, y_[:, start : start + 8])
        optimizer.step(other.params, other.run_backward(dy, None, cache)[2])
    assert_same_state(state(model), state(other))
    history = lm.fit(
        model, (x, y), loss=loss, optimizer=lm.Adam(0.02), epochs=40, bptt=8, **settings
    )
    assert history.loss[-1] < 0.15 < history.loss[0]


def test_bptt_spares_the_dx_of_the_first_layer(monkeypatch):
    def refuse(dy, cache):
        raise AssertionError

    x, _ = echo()
    model = lm.Sequential(lm.Residual(lm.Linear(1, 1, dtype=float)), *echoing())
    monkeypatch.setattr(model[0].children()["body"], "backward", refuse)
    train(model, (x, x), loss=lm.MeanSquaredError(), epochs=1, bptt=8)


def test_bptt_goes_back_through_layers_with_windows_of_their_own():
    x, _ = echo(T=8)
    model = lm.Sequential(lm.Conv1d(1, 2, 3, padding="causal"), lm.RNN(2, 1), rng=0).astype(float)
    other, loss = copy.deepcopy(model), lm.MeanSquaredError()
    lm.fit(model, (x, x), loss=loss, optimizer=lm.SGD(0.1), epochs=1, batch_size=12, bptt=4)
    x, carried, optimizer = x[np.random.default_rng([0, 0]).permutation(12)], None, lm.SGD(0.1)
    for part in np.split(x, 2, axis=1):
        y, carried, cache = other.run(part, carried, training=True)
        optimizer.step(other.params, other.run_backward(loss(y, part)[1], None, cache)[2])
    assert_same_state(state(model), state(other))


def test_bptt_carries_the_state():
    x, y = echo(T=8)
    whole, cut = echoing(), echoing()
    settings = {"loss": lm.MeanSquaredError(), "epochs": 1, "batch_size": 12}
    # At a rate of 0 the windows' losses are those of the whole: each starts where the last ended.
    one = lm.fit(whole, (x, y), optimizer=lm.SGD(0.0), **settings)
    two = lm.fit(cut, (x, y), optimizer=lm.SGD(0.0), bptt=2, **settings)
    assert two.loss[0] == pytest.approx(one.loss[0], rel=1e-12)


def test_bptt_with_lengths():
    x, y = echo()
    lengths = np.array([20, 3, 0, 8, 9, 20, 1, 2, 16, 17, 5, 4])
    spoilt = x.copy()
    for n, length in enumerate(lengths):
        spoilt[n, length:] = np.nan
    model, short = echoing(), echoing()
    settings = {"loss": lm.MeanSquaredError(), "epochs": 2, "batch_size": 5, "bptt": 8}
    history = lm.fit(model, ((spoilt, lengths), y), optimizer=lm.Adam(0.02), **settings)
    assert np.isfinite(history.loss).all()
    # Windows in which no sequence has a step are none.
    settings |= {"batch_size": 12, "epochs": 1}
    optimizer = lm.Adam(0.02)
    lm.fit(short, ((x, np.minimum(lengths, 8)), y), optimizer=optimizer, **settings)
    assert optimizer.steps == 1


@pytest.mark.parametrize(
    ("lengths", "steps"),
    [((5, 4), [2, 3]), ((5,), [2, 3]), ((5, 5), [2, 2, 1]), ((7, 3, 1), [2, 2, 3]), ((1, 0), [1])],
)
def test_bptt_takes_a_single_step_left_over_into_the_window_before(lengths, steps):
    """Batch statistics of one value are none."""
    x, seen = random("x", (len(lengths), 7, 1)), []

    def loss(y, target, lengths=None):
        seen.append(y.shape[1])
        return lm.MeanSquaredError()(y, target, lengths)

    norm = [lm.BatchNorm(1, dtype=float)] * (sum(lengths) > 1)
    model = lm.Sequential(*norm, lm.RNN(1, 1, dtype=float), rng=0)
    train(model, ((x, np.array(lengths)), x), loss=loss, epochs=1, bptt=2)
    assert seen == steps
    if min(lengths) == max(lengths):
        seen.clear()
        T = lengths[0]
        train(model, (x[:, :T], x[:, :T]), loss=loss, epochs=1, bptt=2)
        assert seen == steps


def test_bptt_takes_patterns_that_can_be_gone_through_once():
    model, (x, _) = echoing(), echo()
    before = state(model)
    settings = {"loss": lm.MeanSquaredError(), "optimizer": lm.SGD(0.1), "epochs": 1}
    lm.fit(model, (x, x), bptt=8, trainable=(name for name in ["1.*"]), **settings)
    assert differs(before, state(model)) == {"1.weight", "1.bias"}


def test_bptt_by_single_steps():
    x, optimizer = random("x", (1, 5, 1)), lm.SGD(0.1)
    lm.fit(echoing(), (x, x), loss=lm.MeanSquaredError(), optimizer=optimizer, epochs=1, bptt=1)
    assert optimizer.steps == 5


@pytest.mark.parametrize(
    ("model", "data", "options", "error", "message"),
    [
        (echoing(), echo(), {"bptt": 0}, ValueError, "fit: bptt must be at least 1, got 0"),
        (
            echoing(),
            echo(),
            {"bptt": 2, "accumulate": 2},
            ValueError,
            "bptt makes an update a window; leave accumulate out",
        ),
        (
            lm.Sequential(lm.LSTM(1, 2, bidirectional=True, dtype=float), lm.Linear(4, 1)),
            echo(),
            {"bptt": 2},
            TypeError,
            "Sequential has a layer that needs whole sequences; leave bptt out",
        ),
        (
            echoing(),
            (echo()[0], np.zeros(12)),
            {"bptt": 2},
            ValueError,
            r"a target a step: .* got \(12, 20, 1\) and \(12,\)",
        ),
        (
            echoing(),
            (np.zeros((2, 0, 1)), np.zeros((2, 0, 1))),
            {"bptt": 2},
            ValueError,
            "the sequences of a batch have no steps",
        ),
    ],
)
def test_bptt_refuses(model, data, options, error, message):
    with pytest.raises(error, match=message):
        train(model, data, loss=lm.MeanSquaredError(), **options)


def test_a_target_that_is_refused_leaves_the_model_as_it_is():
    model = lm.Sequential(lm.BatchNorm(4), lm.Dropout(0.5), lm.Linear(4, 2), rng=0)
    before = {name: a.copy() for name, a in (model.params | model.buffers).items()}
    data = np.ones((8, 4), np.float32), np.full(8, 7)
    with pytest.raises(ValueError, match="7"):
        lm.fit(model, data, loss=lm.CrossEntropy(), optimizer=lm.SGD(0.1), epochs=1)
    for name, a in (model.params | model.buffers).items():
        np.testing.assert_array_equal(a, before[name], err_msg=name)
