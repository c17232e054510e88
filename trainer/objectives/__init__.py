"""Objectives by the name that `objective.kind` takes, one file each: what a model learns from a sample."""

from foretrain.trainer.objectives import next_token  # noqa: F401  (it registers its objective)
