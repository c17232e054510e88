"""The ways to do the task. A new one is a function and a line here. Imports no torch."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.train.pace import Job

CPU, CUDA = "cpu", "cuda"


@dataclass(frozen=True)
class Contestant:
    """One way to do the task."""

    function: str
    """A module and its function, "module:function", which takes a Job and the options. It takes steps on the batches of
    the task in their order, from the weights of `weights.initial_weights`, at the pace of the job. It raises
    ModuleNotFoundError if it cannot run here."""
    options: dict[str, Any] = field(default_factory=dict)
    devices: tuple[str, ...] = (CPU, CUDA)
    note: str = ""

    def load(self) -> "Callable[[Job], None]":
        """The function, without its options. Raises ModuleNotFoundError if a library is missing."""
        module, _, name = self.function.partition(":")
        function: Callable[..., None] = getattr(importlib.import_module(module), name)
        return lambda job: function(job, **self.options)


HERE = "benchmarks.train"
OURS, PEERS = f"{HERE}.ours", f"{HERE}.peers"
COMPILED = {"is_compiled": True}
ENGINE, ENGINE_COMPILED, TRAINER = "foretrain, engine", "foretrain, engine, compiled", "foretrain"
TRAINER_COMPILED = "foretrain, compiled"
BARE, BARE_COMPILED = "bare loop", "bare loop, compiled"
TRANSFORMERS = "transformers, bare loop"

CONTESTANTS = {
    TRAINER: Contestant(f"{OURS}:trainer", note="the complete run: data, metrics, checks, sinks, display"),
    TRAINER_COMPILED: Contestant(f"{OURS}:trainer", COMPILED),
    ENGINE: Contestant(f"{OURS}:engine", note="its engine in a loop that does nothing else"),
    ENGINE_COMPILED: Contestant(f"{OURS}:engine", COMPILED),
    BARE: Contestant(f"{HERE}.bare:bare", note="a Llama written with torch alone, fused AdamW"),
    BARE_COMPILED: Contestant(f"{HERE}.bare:bare", COMPILED),
    TRANSFORMERS: Contestant(f"{PEERS}.transformers:bare", note="LlamaForCausalLM in the same loop"),
    "transformers, bare loop, compiled": Contestant(f"{PEERS}.transformers:bare", COMPILED),
    "transformers, Trainer": Contestant(f"{PEERS}.transformers:trainer", note="its own loop, with accelerate"),
    "litgpt, bare loop": Contestant(f"{PEERS}.litgpt:bare", note="its GPT in the same loop"),
    "litgpt, bare loop, compiled": Contestant(f"{PEERS}.litgpt:bare", COMPILED),
    "torchtitan, bare loop": Contestant(f"{PEERS}.torchtitan:bare", note="its Llama 3 in the same loop"),
    "torchtitan, bare loop, compiled": Contestant(f"{PEERS}.torchtitan:bare", COMPILED),
    "megatron-core, bare loop": Contestant(f"{PEERS}.megatron:bare", note="its GPTModel in the same loop"),
    "DeepSpeed": Contestant(f"{PEERS}.deepspeed:engine", note="its engine with transformers' model, ZeRO 1"),
}
"""Every contestant by the name in the results. The bare loop is the one that all others must agree with."""
