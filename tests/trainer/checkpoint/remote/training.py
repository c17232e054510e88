"""Trains on ranks with the timeouts of these tests. Not a test module: each rank imports it."""

from typing import Any

import fsspec.config

from foretrain.trainer.run.rank import train_rank


def train_with_short_timeouts(run: Any) -> None:
    """Train with the configuration of fsspec in the environment of the rank.

    The fork server imported fsspec before there was one, so a request that stalls would wait half a minute.
    """
    fsspec.config.set_conf_env(fsspec.config.conf)
    train_rank(run)
