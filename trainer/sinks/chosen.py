"""The sinks that a config names: checked before a run starts, and made with their settings. Imports no library."""

from collections.abc import Mapping

from foretrain.configs.schema import TrainConfig
from foretrain.trainer.sinks import SINKS
from foretrain.trainer.sinks.base import Sink


def check_sinks(train: TrainConfig) -> None:
    """Raise ValueError, with what to change, if a sink or an option does not exist, or a sink cannot work here."""
    for name, options in train.sink_options.items():
        known = getattr(SINKS.get(name), "options", {})
        for option in options:
            if option not in known:
                takes = f"it takes {', '.join(known)}" if known else "it takes none"
                raise ValueError(f"train.sink_options.{name}.{option}: the sink '{name}' has no such option: {takes}")
    for name in train.sinks:
        maker = SINKS.get(name)
        if isinstance(maker, type) and issubclass(maker, Sink):
            try:
                maker.check(settings_of(train, name))
            except ValueError as error:
                raise ValueError(f"train.sinks has '{name}': {error}") from error


def make_sinks(train: TrainConfig) -> list[Sink]:
    """The sinks that a config names, in its order, each with its settings."""
    sinks = []
    for name in train.sinks:
        sink = SINKS.get(name)()
        sink.settings = settings_of(train, name)
        sinks.append(sink)
    return sinks


def settings_of(train: TrainConfig, name: str) -> Mapping[str, str]:
    """Every option of a sink by name: its default, or the value of the config."""
    return {**getattr(SINKS.get(name), "options", {}), **train.sink_options.get(name, {})}
