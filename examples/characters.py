"""A model of text, a character at a time: trained on windows, sampled step by step.

The text is Python's own manual, the chapters that `help("topics")` lists. It is cut into 32 streams
that are read side by side. Each is far too long to be differentiated at once, so `fit(...,
bptt=50)` goes through them in windows of 50 characters: the state is carried on, the gradient
stops. Afterwards the model writes: `step` gives the odds of the next character, one is drawn, and
is the next input.

A. Karpathy, *The Unreasonable Effectiveness of Recurrent Neural Networks* (2015), made it popular.
"""

import textwrap
from pydoc_data.topics import topics

import numpy as np

import lamina as lm

STREAMS, EPOCHS, RATE = 32, 8, 5e-3
WINDOW = 50

text = "\n\n".join(topics[name] for name in sorted(topics))
alphabet, codes = np.unique(list(text), return_inverse=True)


def streams(codes, n):
    """Cut a text into n streams; the target of a character is the next one."""
    steps = (len(codes) - 1) // n
    x, y = (codes[start : start + n * steps] for start in (0, 1))
    return x.reshape(n, steps), y.reshape(n, steps)


def network():
    return lm.Sequential(
        lm.Embedding(len(alphabet), 32),
        lm.LSTM(32, 128),
        lm.Linear(128, len(alphabet)),
        rng=0,
    )


def train(model, data, epochs, rate):
    """Go through the streams window by window, the state carried on."""
    n, steps = data[0].shape
    updates = epochs * -(-steps // WINDOW)
    return lm.fit(
        model,
        data,
        loss=lm.CrossEntropy(),
        optimizer=lm.Adam(lm.Cosine(rate, updates), clip_norm=1.0),
        epochs=epochs,
        batch_size=n,
        bptt=WINDOW,
    )


def bits(model, data):
    """Return the bits that the model needs for a character; and those by frequencies alone."""
    share = np.bincount(codes) / len(codes)
    single = -np.sum(share * np.log2(share))
    return lm.evaluate(model, data, loss=lm.CrossEntropy()).loss / np.log(2), single


def write(model, start, n, temperature, rng):
    """Let the model go on for n characters; a temperature below 1 makes it less daring."""

    def read(character, state):
        return model.step(np.searchsorted(alphabet, [character]), state)

    state = model.initial_state(1)
    for character in start:
        logits, state = read(character, state)
    written = start
    for _ in range(n):
        odds = np.exp((logits[0] - logits.max()) / temperature)
        written += alphabet[rng.choice(len(alphabet), p=odds / odds.sum())]
        logits, state = read(written[-1], state)
    return written


def main():
    held_out = len(codes) // 10
    model = network()
    train(model, streams(codes[:-held_out], STREAMS), EPOCHS, RATE)
    read, single = bits(model, streams(codes[-held_out:], STREAMS))
    print(f"{len(text):,} characters, {len(alphabet)} different ones")
    print(
        f"bits a character, of text held out: {read:.2f}; "
        f"by the characters' frequencies {single:.2f}"
    )
    print()
    for line in write(model, "The ", 400, 0.5, np.random.default_rng(0)).splitlines():
        print(textwrap.fill(line, 80, replace_whitespace=False))


if __name__ == "__main__":
    main()
