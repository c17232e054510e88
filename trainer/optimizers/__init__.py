"""Optimizers by the name that `optimizer.kind` takes, one file for each, and the parameter groups of all."""

from foretrain.trainer.optimizers import adamw, sgd  # noqa: F401  (each registers its entry)
