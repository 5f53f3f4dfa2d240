"""MNIST-1D: four networks beside the published table.

MNIST-1D has 4,000 signals to train and 1,000 to test, each of 40 values, in 10 classes. Its authors
give the accuracy of four networks after 6,000 steps of Adam at a rate of 1e-2 on batches of 100.
Here are the same networks, except that a larger LSTM, with 16 units a direction, stands for their
GRU of 6.

S. Greydanus, D. Kobak, *Scaling Down Deep Learning with MNIST-1D* (2024), table 1.
"""

import lamina as lm

STEPS, BATCH = 6000, 100


def logistic():
    return lm.Sequential(lm.Flatten(), lm.Linear(40, 10))


def mlp():
    return lm.Sequential(
        lm.Flatten(),
        lm.Linear(40, 256),
        lm.ReLU(),
        lm.Residual(lm.Sequential(lm.Linear(256, 256), lm.ReLU())),
        lm.Linear(256, 10),
    )


def cnn():
    return lm.Sequential(
        lm.Conv1d(1, 25, 5, stride=2, padding=1),
        lm.ReLU(),
        lm.Conv1d(25, 25, 3, stride=2, padding=1),
        lm.ReLU(),
        lm.Conv1d(25, 25, 3, stride=2, padding=1),
        lm.ReLU(),
        lm.Flatten(),
        lm.Linear(125, 10),
    )


def lstm():
    return lm.Sequential(
        lm.LSTM(1, 16, bidirectional=True),
        lm.Flatten(),  # the states of all 40 steps, both ways
        lm.Linear(40 * 32, 10),
    )


PUBLISHED = {logistic: 32, mlp: 68, cnn: 94, lstm: 91}


def trained(network, split, steps):
    """Train a network for so many steps; return it and its accuracy in percent."""
    model = network().initialize(0)
    lm.fit(
        model,
        split.train,
        loss=lm.CrossEntropy(),
        optimizer=lm.Adam(1e-2),
        epochs=steps * BATCH // len(split.train[1]),
        batch_size=BATCH,
    )
    return model, 100 * lm.evaluate(model, split.test, metric="accuracy").metric


def main():
    split = lm.data.mnist1d()
    print(f"{'network':<10}{'parameters':>12}{'accuracy':>10}{'published':>11}")
    for network, published in PUBLISHED.items():
        model, accuracy = trained(network, split, STEPS)
        parameters = sum(p.size for p in model.params.values())
        print(
            f"{network.__name__:<10}{parameters:>12,}{accuracy:>10.1f}{published:>11}", flush=True
        )


if __name__ == "__main__":
    main()
