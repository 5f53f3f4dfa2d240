r"""The complementary error function, in array code: the array API has none.

    erfc(x) = 1 − erf(x) = 2/√π ∫_x^∞ exp(−t²) dt

With a = |x| and rational functions R that minimise the largest error on their range:

    erf(x)  = x R₁(x²)                            a ≤ 15/32                     (1)
    erfc(a) = exp(−a²) R₂(a)                      15/32 < a ≤ 4                 (2)
    erfc(a) = exp(−a²) (1/√π − R₃(1/a²)/a²)/a     4 < a                         (3)
    erfc(−a) = 2 − erfc(a)                                                      (4)

The relative error is below 1e-15 in float64 and below 1e-6 in float32, wherever erfc(x) is a normal
number.

References
----------
W. J. Cody, *Rational Chebyshev Approximations for the Error Function*, Mathematics of Computation
23 (1969), tables II to IV: the coefficients.
"""

import math
from collections.abc import Sequence

from ..arrays import Array, namespace

# Numerator and denominator, the highest power first.
_R1 = (
    (
        1.85777706184603153e-1,
        3.16112374387056560e0,
        1.13864154151050156e2,
        3.77485237685302021e2,
        3.20937758913846947e3,
    ),
    (
        1.0,
        2.36012909523441209e1,
        2.44024637934444173e2,
        1.28261652607737228e3,
        2.84423683343917062e3,
    ),
)
_R2 = (
    (
        2.15311535474403846e-8,
        5.64188496988670089e-1,
        8.88314979438837594e0,
        6.61191906371416295e1,
        2.98635138197400131e2,
        8.81952221241769090e2,
        1.71204761263407058e3,
        2.05107837782607147e3,
        1.23033935479799725e3,
    ),
    (
        1.0,
        1.57449261107098347e1,
        1.17693950891312499e2,
        5.37181101862009858e2,
        1.62138957456669019e3,
        3.29079923573345963e3,
        4.36261909014324716e3,
        3.43936767414372164e3,
        1.23033935480374942e3,
    ),
)
_R3 = (
    (
        1.63153871373020978e-2,
        3.05326634961232344e-1,
        3.60344899949804439e-1,
        1.25781726111229246e-1,
        1.60837851487422766e-2,
        6.58749161529837803e-4,
    ),
    (
        1.0,
        2.56852019228982242e0,
        1.87295284992346725e0,
        5.27905102951428412e-1,
        6.05183413124413191e-2,
        2.33520497626869185e-3,
    ),
)


def erfc(x: Array) -> Array:
    """Return erfc(x) in x's dtype; NaN where x is NaN."""
    xp = namespace(x)
    # Each formula is evaluated everywhere, at an argument moved into the range where it holds.
    near = xp.clip(x, min=-0.46875, max=0.46875)
    erf = near * _ratio(_R1, near * near)  # (1)

    a = xp.clip(xp.abs(x), max=28.0)  # erfc(28) is 0 in float64
    middle = _ratio(_R2, xp.clip(a, max=4.0))  # (2)
    far = xp.clip(a, min=4.0)
    z = 1 / (far * far)
    tail = (1 / math.sqrt(math.pi) - z * _ratio(_R3, z)) / far  # (3)

    # exp turns the rounding of a² into a relative error of a² eps; the square of `coarse` is exact.
    coarse = xp.floor(16 * a) / 16
    gauss = xp.exp(-coarse * coarse) * xp.exp(-(a - coarse) * (a + coarse))
    outer = gauss * xp.where(a <= 4.0, middle, tail)
    outer = xp.where(x < 0, 2 - outer, outer)  # (4)
    return xp.where(a <= 0.46875, 1 - erf, outer)


def _ratio(coefficients: tuple[Sequence[float], Sequence[float]], x: Array) -> Array:
    """Return numerator over denominator at x, both by Horner's rule."""
    top, bottom = coefficients
    p, q = top[0] * x + top[1], bottom[0] * x + bottom[1]
    for a, b in zip(top[2:], bottom[2:], strict=True):
        p, q = p * x + a, q * x + b
    return p / q
