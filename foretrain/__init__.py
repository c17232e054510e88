"""Foretrain pretrains language models: one loss curve, whatever the layout, the launcher, or the machine that died.

The names below are the public Python interface; docs/python.md shows how to use them. They are imported when they are
first used, so that `import foretrain` is quick and changes nothing in the process.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foretrain.configs.load import load as load_config
    from foretrain.configs.schema import Config
    from foretrain.data_pipeline.stream.data import open_data
    from foretrain.registry import Registry
    from foretrain.trainer.api import build_model, process_groups
    from foretrain.trainer.build import build_engine
    from foretrain.trainer.callbacks.base import Callback, HeldOutLoss, Outcome, Step
    from foretrain.trainer.metrics import read_metrics
    from foretrain.trainer.run.setup import Run, prepare_run
    from foretrain.trainer.sinks.base import Session, Sink
    from foretrain.trainer.text.inference import load_model
    from foretrain.trainer.trainer import Trainer

_MODULES = {
    "Callback": "trainer.callbacks.base",
    "Config": "configs.schema",
    "HeldOutLoss": "trainer.callbacks.base",
    "Outcome": "trainer.callbacks.base",
    "Registry": "registry",
    "Run": "trainer.run.setup",
    "Session": "trainer.sinks.base",
    "Sink": "trainer.sinks.base",
    "Step": "trainer.callbacks.base",
    "Trainer": "trainer.trainer",
    "build_engine": "trainer.build",
    "build_model": "trainer.api",
    "load_config": "configs.load:load",
    "load_model": "trainer.text.inference",
    "open_data": "data_pipeline.stream.data",
    "prepare_run": "trainer.run.setup",
    "process_groups": "trainer.api",
    "read_metrics": "trainer.metrics",
}
"""The module of each public name, as `module` or `module:other_name`."""

__all__ = [
    "Callback",
    "Config",
    "HeldOutLoss",
    "Outcome",
    "Registry",
    "Run",
    "Session",
    "Sink",
    "Step",
    "Trainer",
    "build_engine",
    "build_model",
    "load_config",
    "load_model",
    "open_data",
    "prepare_run",
    "process_groups",
    "read_metrics",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, other_name = _MODULES[name].partition(":")
    value = getattr(importlib.import_module(f"{__name__}.{module}"), other_name or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
