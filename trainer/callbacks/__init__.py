"""Callbacks: what acts at fixed points of a run, such as evaluation and checkpoints."""

from foretrain.trainer.callbacks.base import CALLBACKS, Callback, HeldOutLoss, Outcome, Step, StopReason

__all__ = ["CALLBACKS", "Callback", "HeldOutLoss", "Outcome", "Step", "StopReason"]
