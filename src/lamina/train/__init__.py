"""Training: optimizers, schedules, the loop, its history, and models on disk."""

from .checkpoints import FormatError, load, save
from .evaluation import Evaluation, accuracy, evaluate, predict
from .fit import fit
from .history import History
from .optimizers import SGD, Adam, AdamW, Optimizer, RMSprop
from .recalibration import recalibrate
from .schedules import Cosine, StepDecay, WarmUp
from .stopping import EarlyStopping

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Cosine",
    "EarlyStopping",
    "Evaluation",
    "FormatError",
    "History",
    "Optimizer",
    "RMSprop",
    "StepDecay",
    "WarmUp",
    "accuracy",
    "evaluate",
    "fit",
    "load",
    "predict",
    "recalibrate",
    "save",
]
