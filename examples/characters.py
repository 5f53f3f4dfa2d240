"""A model of text, a character at a time: trained on windows, sampled step by step.

The text is Python's own manual, the chapters that `help("topics")` lists. It is cut into 32 streams
that are read side by side. Each is far too long to be differentiated at once, so `fit(...,
bptt=50)` goes through them in windows of 50 characters: the state is carried on, the gradient
stops. Afterwards the model writes: `step` gives the odds of the next character, one is drawn, and
is the next input.

A. Karpathy, *The Unreasonable Effectiveness of Recurrent Neural Networks* (2015), made it popular.
"""

from pydoc_data.topics import topics

import numpy as np

import lamina as lm

STREAMS, WINDOW, EPOCHS = 32, 50, 8

text = "\n\n".join(topics[name] for name in sorted(topics))
alphabet, codes = np.unique(list(text), return_inverse=True)
held_out = len(codes) // 10


def streams(codes):
    """Cut a text into streams; the target of a character is the next one."""
    steps = (len(codes) - 1) // STREAMS
    x, y = (codes[start : start + STREAMS * steps] for start in (0, 1))
    return x.reshape(STREAMS, steps), y.reshape(STREAMS, steps)


train, test = streams(codes[:-held_out]), streams(codes[-held_out:])
updates = EPOCHS * -(-train[0].shape[1] // WINDOW)
model = lm.Sequential(
    lm.Embedding(len(alphabet), 32),
    lm.LSTM(32, 128),
    lm.Linear(128, len(alphabet)),
    rng=0,
)
loss = lm.CrossEntropy()
history = lm.fit(
    model,
    train,
    loss=loss,
    optimizer=lm.Adam(lm.Cosine(5e-3, updates), clip_norm=1.0),
    epochs=EPOCHS,
    batch_size=STREAMS,
    bptt=WINDOW,
)

share = np.bincount(codes) / len(codes)
single = -np.sum(share * np.log2(share))
read = lm.evaluate(model, test, loss=loss).loss / np.log(2)
print(f"{len(text):,} characters, {len(alphabet)} different ones")
print(
    f"bits a character, of text held out: {read:.2f}; by the characters' frequencies {single:.2f}"
)
print()


def code(character):
    return np.searchsorted(alphabet, [character])


rng = np.random.default_rng(0)
written = "The "
state = model.initial_state(1)
for character in written:
    logits, state = model.step(code(character), state)
for _ in range(400):
    odds = np.exp((logits[0] - logits.max()) / 0.5)  # a temperature below 1: less daring
    written += alphabet[rng.choice(len(alphabet), p=odds / odds.sum())]
    logits, state = model.step(code(written[-1]), state)
print(written)
