"""Ragged batches by PyTorch, packed."""

from typing import Any

import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from .. import ragged
from .runner import THREADS, answer_all, clock


def answer(request: dict[str, Any]) -> dict[Any, Any]:
    """Return the median seconds of the ragged batch."""
    torch.set_num_threads(THREADS)
    hidden = request["hidden"]
    model = getattr(torch.nn, request["layer"])(hidden, hidden, batch_first=True)
    x, lengths = (torch.from_numpy(a) for a in ragged.arrays(hidden))
    dy = x.clone()
    x.requires_grad_()

    def both() -> None:
        x.grad = None
        model.zero_grad()
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        y, _ = pad_packed_sequence(model(packed)[0], batch_first=True, total_length=ragged.STEPS)
        y.backward(dy)

    return {"ragged": clock(both, request["seconds"])["median"]}


if __name__ == "__main__":
    answer_all(answer)
