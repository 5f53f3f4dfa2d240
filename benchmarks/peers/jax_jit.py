"""JAX: functions under `jit`, channels last."""

import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..batchnorm import BatchNorm
from ..case import Case, Pass
from ..convolution import Convolution
from ..dropout import Dropout
from ..networks import Network
from ..parts import Part
from ..recurrent import Recurrence
from . import network_jax, normal_jax, parts_jax, recurrent_jax, runner
from .runner import Form, NDArray

_AXES = ("W", "HW", "DHW")


def versions() -> dict[str, str]:
    """Return the version of JAX."""
    import jaxlib

    return {"jax": jax.__version__, "jaxlib": jaxlib.__version__}


def release() -> None:
    """Give back the memory that is kept for calls to come: none is."""


def forms(case: Case, given: Mapping[str, NDArray]) -> dict[str, Form]:
    """Return the function, and its value with its gradients."""
    # With float64 allowed, what is drawn for an x of float32 would be drawn in 64 bits.
    jax.config.update("jax_enable_x64", case.dtype == "float64")
    if isinstance(case, Network):
        return network_jax.forms(case, given)
    if isinstance(case, Part):
        return parts_jax.forms(case, given)
    if isinstance(case, (BatchNorm, Dropout)):
        return normal_jax.forms(case, given)
    if isinstance(case, Recurrence):
        return recurrent_jax.forms(case, given)

    def function(x: jax.Array, weight: jax.Array, bias: jax.Array | None = None) -> jax.Array:
        if isinstance(case, Convolution):
            axes = _AXES[case.rank - 1]
            y = jax.lax.conv_general_dilated(
                x,
                weight,
                case.stride,
                case.padding,
                rhs_dilation=case.dilation,
                dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
                feature_group_count=case.groups,
            )
        else:
            y = x @ weight
        return y if bias is None else y + bias

    def gradients(dy: jax.Array, *arguments: jax.Array) -> tuple[jax.Array, ...]:
        y, pull = jax.vjp(function, *arguments)
        return (y, *pull(dy))

    arguments = [jnp.asarray(given[name]) for name in ("x", "weight", "bias") if name in given]
    dy = jnp.asarray(given["dy"])
    forward, both = jax.jit(function), jax.jit(gradients)
    passes: dict[Pass, Callable[[], Any]] = {
        "forward": lambda: jax.block_until_ready(forward(*arguments)),
        "both": lambda: jax.block_until_ready(both(dy, *arguments)),
    }
    return {"": Form(passes, lambda name, array: np.asarray(array))}


if __name__ == "__main__":
    runner.serve(sys.modules[__name__])
