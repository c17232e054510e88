"""Kinds of feed-forward layers, by the name that `model.feed_forward` takes."""

from foretrain.registry import Registry
from foretrain.trainer.model.feed_forward.dense import Dense
from foretrain.trainer.model.layer import LayerKind

FEED_FORWARD: Registry[LayerKind] = Registry("feed-forward layer", "model.feed_forward")
FEED_FORWARD.register("dense", Dense())
