"""Real data sets, ragged sequences as padded batches, and data cut to batches.

Every set is a `Split`: ``train`` and ``test``, each as `lamina.fit` takes it.
"""

from .batching import batches
from .embedded import digits, vowels
from .idxfiles import idx
from .sequences import pad
from .signals import mnist1d
from .splits import Split, stratified

__all__ = ["Split", "batches", "digits", "idx", "mnist1d", "pad", "stratified", "vowels"]
