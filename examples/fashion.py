"""Fashion-MNIST: a small residual network, sixteen times through the images.

60,000 gray images of clothes, 28 x 28, to train on and 10,000 to test, in 10 classes; the files are
those of Debian's package dataset-fashion-mnist. Images are shifted by a pixel and mirrored at
random; the learning rate rises, then falls along a cosine. The best of the paper's benchmarks is
89.7, by support vectors.

H. Xiao, K. Rasul, R. Vollgraf, *Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine
Learning Algorithms* (2017), table 3.
"""

import numpy as np

import lamina as lm

FOLDER = "/usr/share/datasets/fashion-mnist"
EPOCHS, BATCH, SHIFT = 16, 128, 1


def convolution(inputs, outputs, size, stride=1):
    return [
        lm.Conv2d(
            inputs, outputs, size, stride=stride, padding=size // 2, bias=False, init="he_normal"
        ),
        lm.BatchNorm(outputs),
    ]


def block(inputs, outputs, stride=1):
    shortcut = None
    if inputs != outputs:
        shortcut = lm.Sequential(*convolution(inputs, outputs, 1, stride))
    body = [*convolution(inputs, outputs, 3, stride), lm.ReLU(), *convolution(outputs, outputs, 3)]
    return [lm.Residual(lm.Sequential(*body), shortcut), lm.ReLU()]


def network():
    return lm.Sequential(
        *convolution(1, 32, 5, stride=2),
        lm.ReLU(),
        *block(32, 32),
        *block(32, 64, stride=2),
        *block(64, 128, stride=2),
        lm.GlobalAvgPool(),
        lm.Dropout(0.2),
        lm.Linear(128, 10),
    )


def data():
    """Return images and classes to train on, and to test on, scaled by those to train on."""
    split = lm.data.idx(FOLDER)
    mean, deviation = split.train[0].mean(), split.train[0].std()
    return (((x - mean) / deviation, y) for x, y in (split.train, split.test))


LOSS = lm.CrossEntropy(label_smoothing=0.1)


def optimizer(samples):
    updates = EPOCHS * -(-samples // BATCH)
    rise = updates // 6
    schedule = lm.WarmUp(lm.Cosine(0.2, updates - rise), rise)
    return lm.SGD(schedule, momentum=0.9, nesterov=True, weight_decay=5e-4)


class Augmented:
    """Batches of shifted and mirrored images, drawn anew each time."""

    def __init__(self, x, y, rng):
        self.x = np.pad(x, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)))
        self.y, self.size, self.rng = y, x.shape[1:3], rng

    def __iter__(self):
        cut = np.lib.stride_tricks.sliding_window_view(self.x, self.size, axis=(1, 2))
        order = self.rng.permutation(len(self.y))
        for first in range(0, len(order), BATCH):
            rows = order[first : first + BATCH]
            down, right = self.rng.integers(0, 2 * SHIFT + 1, (2, len(rows)))
            x = cut[rows, down, right, 0]
            mirrored = self.rng.random(len(rows)) < 0.5
            x[mirrored] = x[mirrored, :, ::-1]
            yield x[..., None], self.y[rows]


def said(history, model):
    print(
        f"epoch {len(history.loss):>2}: loss {history.loss[-1]:.3f}, "
        f"accuracy {100 * history.val_metric[-1]:.2f}",
        flush=True,
    )


if __name__ == "__main__":
    (x, y), test = data()
    model = network().initialize(0)
    lm.fit(
        model,
        Augmented(x, y, np.random.default_rng(0)),
        loss=LOSS,
        optimizer=optimizer(len(y)),
        epochs=EPOCHS,
        metric="accuracy",
        validation=test,
        callbacks=[said],
    )
    parameters = sum(p.size for p in model.params.values())
    accuracy = 100 * lm.evaluate(model, test, metric="accuracy").metric
    print(f"{parameters:,} parameters: accuracy {accuracy:.2f}")
