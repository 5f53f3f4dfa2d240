"""Weights of Keras give the same values here; docs/from/keras.md shows how to take them along."""

import os

import numpy as np
import pytest

import lamina as lm

os.environ["KERAS_BACKEND"] = "numpy"
keras = pytest.importorskip("keras")
K = keras.layers
pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

RNG = np.random.default_rng(0)


def draw(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def made(layer, x):
    """Return a layer of Keras for inputs like x, all weights random and unequal."""
    layer.build(x.shape)
    weights = [draw(*w.shape) for w in layer.get_weights()]
    if isinstance(layer, K.BatchNormalization):
        weights[3] = np.abs(weights[3])
    layer.set_weights(weights)
    return layer


def close(ours, theirs, **options):
    theirs = keras.ops.convert_to_numpy(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5, **options)


def test_weights_along():
    table, images, steps = draw(5, 4), draw(2, 7, 8, 4), draw(3, 6, 4)
    dense = made(K.Dense(3), table)
    conv2d = made(K.Conv2D(8, 3, strides=2, padding="same"), images)
    depthwise = made(K.DepthwiseConv2D(3, depth_multiplier=2), images)
    conv2d_transpose = made(K.Conv2DTranspose(6, 3, strides=2, padding="same"), images)
    batchnorm = made(K.BatchNormalization(), images)
    keras_lstm = made(K.LSTM(8, return_sequences=True), steps)
    both = made(K.Bidirectional(K.LSTM(8, return_sequences=True)), steps)
    simple_rnn = made(K.SimpleRNN(8, return_sequences=True), steps)
    keras_gru = made(K.GRU(8, return_sequences=True), steps)

    linear, conv = lm.Linear(4, 3), lm.Conv2d(4, 8, 3, stride=2, padding="same")
    grouped = lm.Conv2d(4, 8, 3, groups=4)
    transposed = lm.ConvTranspose2d(4, 6, 3, stride=2, padding="same")
    norm = lm.BatchNorm(4, momentum=0.99, eps=1e-3, unbiased=False)
    lstm, lstm_both = lm.LSTM(4, 8), lm.LSTM(4, 8, bidirectional=True)
    rnn, gru = lm.RNN(4, 8), lm.GRU(4, 8)

    # Take weights along
    linear.weight, linear.bias = dense.get_weights()
    conv.weight, conv.bias = conv2d.get_weights()  # (K, K, C, O) in both
    kernel, grouped.bias = depthwise.get_weights()  # (K, K, C, M): the outputs of each input
    grouped.weight = kernel.reshape(3, 3, 1, -1)
    transposed.weight, transposed.bias = conv2d_transpose.get_weights()  # (K, K, O, C) in both
    norm.gamma, norm.beta, norm.running_mean, norm.running_var = batchnorm.get_weights()
    lstm.weight_x, lstm.weight_h, lstm.bias = keras_lstm.get_weights()  # i, f, g (c), o in both
    for name, weight in zip(lstm_both.params, both.get_weights(), strict=True):
        lstm_both.params[name][...] = weight
    rnn.weight_x, rnn.weight_h, rnn.bias = simple_rnn.get_weights()

    def gates(a):  # z, r, n there and r, z, n here
        z, r, n = np.split(a, 3, axis=-1)
        return np.concatenate([r, z, n], axis=-1)

    weight_x, weight_h, (bias, bias_h) = keras_gru.get_weights()
    gru.weight_x, gru.weight_h = gates(weight_x), gates(weight_h)
    bias[:16] += bias_h[:16]  # of both gates the sum counts
    gru.bias, gru.bias_h = gates(bias), bias_h[16:]
    # What came of it

    close(linear(table), dense(table))
    close(conv(images), conv2d(images))
    close(grouped(images), depthwise(images))
    close(transposed(images), conv2d_transpose(images))
    close(norm(images), batchnorm(images))
    close(norm.forward(images, training=True)[0], batchnorm(images, training=True))
    _, _, running_mean, running_var = batchnorm.get_weights()
    close(norm.running_mean, running_mean)
    close(norm.running_var, running_var)
    close(lstm(steps), keras_lstm(steps))
    close(lstm_both(steps), both(steps))
    close(rnn(steps), simple_rnn(steps))
    close(gru(steps), keras_gru(steps))


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_same_padding(size, stride):
    x = draw(2, size, size, 3)
    for theirs, ours in (
        (K.Conv2D(5, 3, stride, padding="same"), lm.Conv2d(3, 5, 3, stride=stride, padding="same")),
        (K.AveragePooling2D(3, stride, "same"), lm.AvgPool2d(3, stride=stride, padding="same")),
        (K.MaxPooling2D(3, stride, "same"), lm.MaxPool2d(3, stride=stride, padding="same")),
    ):
        if ours.params:
            ours.weight, ours.bias = made(theirs, x).get_weights()
        close(ours(x), theirs(x))


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 2), (2, 2), (2, 3), (3, 1), (4, 2), (5, 3)])
def test_sizes_of_transposed_convolutions(kernel, stride, padding):
    x = draw(2, 4, 5, 3)
    theirs = made(K.Conv2DTranspose(4, kernel, stride, padding), x)
    more = max(stride - kernel, 0) if padding == "valid" else 0  # Keras: no less than S s
    ours = lm.ConvTranspose2d(3, 4, kernel, stride=stride, padding=padding, output_padding=more)
    ours.weight, ours.bias = theirs.get_weights()
    close(ours(x), theirs(x))


@pytest.mark.parametrize(
    ("kernel", "stride", "more"), [(2, 2, 0), (2, 2, 1), (3, 2, 1), (4, 2, 1), (5, 3, 2)]
)
def test_same_padding_with_an_output_padding(kernel, stride, more):
    x = draw(2, 5, 3)
    theirs = made(K.Conv1DTranspose(4, kernel, stride, "same", output_padding=more), x)
    padding = ((kernel // 2 - (more + 1) // 2, kernel // 2 - more // 2),)
    ours = lm.ConvTranspose1d(3, 4, kernel, stride=stride, padding=padding)
    ours.weight, ours.bias = theirs.get_weights()
    close(ours(x), theirs(x))


def test_masks_and_lengths():
    x, lengths = draw(3, 6, 4), np.array([6, 3, 1])
    real = np.arange(6) < lengths[:, None]
    mask = keras.ops.convert_to_tensor(real)
    for wrap, options in ((lambda layer: layer, {}), (K.Bidirectional, {"bidirectional": True})):
        every = made(wrap(K.LSTM(8, return_sequences=True)), x)
        last = wrap(K.LSTM(8))
        last.build(x.shape)
        last.set_weights(every.get_weights())
        lstm = lm.LSTM(4, 8, **options)
        for name, weight in zip(lstm.params, every.get_weights(), strict=True):
            lstm.params[name][...] = weight
        y, state, _ = lstm.run(x, lengths=lengths)
        theirs = keras.ops.convert_to_numpy(every(x, mask=mask))
        close(y[real], theirs[real])
        assert not y[~real].any()
        close(np.concatenate([h for h, _ in state], axis=1), last(x, mask=mask))


def test_settings():
    """What the page says differs, and what it says does not."""
    logits, classes = draw(7, 10), RNG.integers(0, 10, 7)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    close(lm.CrossEntropy()(logits, classes)[0], loss(classes, logits))
    close(lm.LeakyReLU(0.3)(logits), K.LeakyReLU()(logits))
    close(lm.LeakyReLU(0.2)(logits), keras.activations.leaky_relu(logits))
    close(np.clip(logits / 6 + 0.5, 0, 1), keras.activations.hard_sigmoid(logits))
    close(np.clip(logits / 5 + 0.5, 0, 1), lm.cells.ACTIVATIONS["hard_sigmoid"](logits))
    assert K.BatchNormalization().epsilon == 1e-3
    assert keras.optimizers.Adam().epsilon == 1e-7
    y = keras.ops.convert_to_numpy(K.SpatialDropout2D(0.5)(np.ones((2, 4, 4, 6)), training=True))
    assert (y == y[:, :1, :1]).all()


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (keras.optimizers.Adam(0.1, weight_decay=0.1), lm.AdamW(0.1, weight_decay=0.1)),
        (keras.optimizers.AdamW(0.1, weight_decay=0.1), lm.AdamW(0.1, weight_decay=0.1)),
        (keras.optimizers.RMSprop(0.1), lm.RMSprop(0.1, alpha=0.9)),
        (keras.optimizers.SGD(0.1, 0.9, nesterov=True), lm.SGD(0.1, 0.9, nesterov=True)),
        (keras.optimizers.SGD(0.1, global_clipnorm=1.0), lm.SGD(0.1, clip_norm=1.0)),
    ],
    ids=["Adam", "AdamW", "RMSprop", "SGD", "clipped"],
)
def test_optimizers(theirs, ours):
    """With decay of all parameters and the epsilons of the page, which hardly show."""
    params = {"weight": draw(3, 4), "bias": draw(4)}
    variables = [keras.Variable(a) for a in params.values()]
    theirs.build(variables)
    ours.no_decay = ()
    for _ in range(5):
        grads = {name: np.sign(a) + 0.1 * draw(*a.shape) for name, a in params.items()}
        theirs.apply([keras.ops.convert_to_tensor(g) for g in grads.values()])
        ours.step(params, grads)
    for a, variable in zip(params.values(), variables, strict=True):
        close(a, variable.value)


def test_layers_without_scale_and_offset_and_with_other_activations():
    images, steps = draw(2, 7, 8, 4), draw(3, 6, 4)
    norm = lm.BatchNorm(4, momentum=0.99, eps=1e-3, unbiased=False, gamma=False, beta=False)
    batchnorm = K.BatchNormalization(scale=False, center=False)
    batchnorm.build(images.shape)
    batchnorm.set_weights([draw(4), np.abs(draw(4))])
    norm.running_mean, norm.running_var = batchnorm.get_weights()
    close(norm(images), batchnorm(images))
    close(lm.GlobalAvgPool()(images), K.GlobalAveragePooling2D()(images))
    theirs = made(K.LSTM(8, activation="relu", return_sequences=True), steps)
    ours = lm.LSTM(4, 8, activations=("sigmoid", "relu", "relu"))
    ours.weight_x, ours.weight_h, ours.bias = theirs.get_weights()
    close(ours(steps), theirs(steps))
