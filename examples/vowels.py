"""Japanese Vowels: who is speaking? A bidirectional LSTM over sequences of 7 to 29 steps.

Nine men say /ae/; an utterance is a sequence of 12 numbers a step. 270 utterances are for training
and 370 for testing. The sequences are padded to one array, and `lengths` go with them: padding
changes nothing.

M. Kudo, J. Toyama, M. Shimbo, *Multidimensional Curve Classification Using Passing-Through Regions*
(1999), reach 94.1 by their own method and up to 96.2 by a hidden Markov model.
"""

import lamina as lm

EPOCHS, BATCH = 40, 30

split = lm.data.vowels()
(x, lengths), speakers = split.train
print(f"{len(x)} utterances of {lengths.min()} to {lengths.max()} steps")
updates = EPOCHS * len(x) // BATCH
for seed in range(3):
    model = lm.Sequential(
        lm.BatchNorm(12),
        lm.LSTM(12, 32, bidirectional=True),
        lm.MeanSteps(),
        lm.Dropout(0.3),
        lm.Linear(64, 9),
        rng=seed,
    )
    lm.fit(
        model,
        split.train,
        loss=lm.CrossEntropy(),
        optimizer=lm.AdamW(lm.Cosine(5e-3, updates), weight_decay=0.01),
        epochs=EPOCHS,
        batch_size=BATCH,
        seed=seed,
    )
    accuracy = 100 * lm.evaluate(model, split.test, metric="accuracy").metric
    print(f"seed {seed}: accuracy {accuracy:.1f}", flush=True)
