import math

import numpy as np
import pytest

import lamina as lm
from lamina.train.schedules import rate


def test_step_decay():
    schedule = lm.StepDecay(1.0, every=3, factor=0.5)
    assert [schedule(t) for t in range(8)] == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]
    assert lm.StepDecay(0.5, every=1)(1) == pytest.approx(0.05)


def test_cosine():
    schedule = lm.Cosine(0.9, steps=60, end=0.1)
    assert schedule(0) == pytest.approx(0.9)
    assert schedule(20) == pytest.approx(0.1 + 0.4 * (1 + math.cos(math.pi / 3)))
    assert schedule(30) == pytest.approx(0.5)
    assert schedule(60) == schedule(10**9) == 0.1


def test_warm_up_of_a_schedule_and_of_a_number():
    schedule = lm.WarmUp(lm.StepDecay(1.0, every=2, factor=0.1), steps=3)
    assert [schedule(t) for t in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 0.1]
    assert [lm.WarmUp(1.0, 1)(t) for t in range(3)] == [0.5, 1.0, 1.0]


@pytest.mark.peers
def test_like_torch():
    torch = pytest.importorskip("torch")
    ours = {
        "step": lm.StepDecay(0.1, every=4, factor=0.3),
        "cosine": lm.Cosine(0.1, steps=20, end=0.01),
    }
    for name, schedule in ours.items():
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
        kind = torch.optim.lr_scheduler
        theirs = (
            kind.StepLR(optimizer, 4, 0.3)
            if name == "step"
            else kind.CosineAnnealingLR(optimizer, 20, 0.01)
        )
        for t in range(20):
            assert schedule(t) == pytest.approx(theirs.get_last_lr()[0]), (name, t)
            optimizer.step()
            theirs.step()


def test_any_function_is_a_schedule():
    assert rate(lambda t: 1 / (1 + t), 3) == 0.25
    assert rate(np.float32(0.5), 3) == 0.5
    with pytest.raises(ValueError, match=r"lr: the learning rate of update 7 must lie in \[0, inf"):
        rate(lambda t: -1.0, 7)
    for bad in (math.nan, math.inf, 10**400):
        with pytest.raises(ValueError, match="update 7 must be finite, got"):
            rate(lambda t, bad=bad: bad, 7)
    with pytest.raises(TypeError, match="must be a number, got None"):
        rate(lambda t: None, 7)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: lm.StepDecay(-1, 5), ValueError, "StepDecay: lr must lie in"),
        (lambda: lm.StepDecay(1, every=0), ValueError, "StepDecay: every must be at least 1"),
        (lambda: lm.StepDecay(1, 5, factor=-1), ValueError, "StepDecay: factor must lie in"),
        (lambda: lm.Cosine("1", 5), TypeError, "Cosine: lr must be a number, got '1'"),
        (lambda: lm.Cosine(1, 2.5), TypeError, "Cosine: steps must be an integer, got 2.5"),
        (lambda: lm.Cosine(1, 5, end=-1), ValueError, "Cosine: end must lie in"),
        (lambda: lm.WarmUp(-1, 5), ValueError, "the learning rate of update 0 must lie in"),
        (lambda: lm.Cosine(0.1), TypeError, r"'steps'; it takes \(lr, steps, end=0.0\)$"),
        (lambda: lm.EarlyStopping(delta=1), TypeError, r"^EarlyStopping: got .*; it takes \(moni"),
        (lambda: lm.WarmUp(1, 0), ValueError, "WarmUp: steps must be at least 1"),
    ],
)
def test_refuses(make, error, message):
    with pytest.raises(error, match=message):
        make()
