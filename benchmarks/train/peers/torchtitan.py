"""torchtitan 0.2: its Llama 3 in the bare loop."""

import importlib.util
import sys
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.train.loop import torch_loop
from benchmarks.train.pace import Job
from benchmarks.train.weights import initial_weights
from foretrain.configs.schema import Config

KERNELS = "torchtitan.models.moe.kernels"
"""Its module that needs Triton."""


def bare(job: Job, *, is_compiled: bool = False) -> None:
    """The model in the bare loop; the library's own loop reads data sets of Hugging Face."""
    model = _model(job.task.config(job.shared)).to(job.device).train()
    run = torch.compile(model) if is_compiled else model

    def loss_of(tokens_BL: Tensor, targets_BL: Tensor) -> Tensor:
        logits_BLV = run(tokens_BL)
        return F.cross_entropy(logits_BLV.flatten(0, 1).float(), targets_BL.flatten())

    torch_loop(job, model, loss_of)


def _model(config: Config) -> nn.Module:
    """The model with the weights of the task. It rotates other pairs, for which the library's adapter permutes rows."""
    titan, shape = _library(), config.model.block_shape
    arguments = titan.TransformerModelArgs(
        dim=shape.d_model,
        n_layers=config.model.num_layers,
        n_heads=shape.num_heads,
        n_kv_heads=shape.num_kv_heads,
        vocab_size=config.model.vocab_size,
        # Its width is int(factor * int(8 dim / 3)), rounded up to a multiple.
        multiple_of=1,
        ffn_dim_multiplier=(shape.d_ff + 0.5) / int(8 * shape.d_model / 3),
        norm_eps=config.model.norm_eps,
        rope_theta=config.model.rope_theta,
        rope_scaling_args=titan.model.args.RoPEScalingArgs(scaling_factor=1.0),
        max_seq_len=config.model.seq_len,
        attn_type="sdpa",
    )
    model: nn.Module = titan.Transformer(arguments)
    weights = titan.Llama3StateDictAdapter(arguments, None).from_hf(initial_weights(config))
    model.load_state_dict(weights, strict=False)
    missing = {name for name, _ in model.named_parameters()} - weights.keys()
    if missing or any(value.shape != model.get_parameter(name).shape for name, value in weights.items()):
        raise RuntimeError(f"the library's model has other parameters: {missing or 'other shapes'}")
    return model


def _library() -> Any:
    """torchtitan.models.llama3. It imports kernels for experts, which this model has none of; where there is no Triton,
    as beside a torch for CPUs, functions that refuse to be called take their place."""
    if importlib.util.find_spec("triton") is None:
        sys.modules.setdefault(KERNELS, _WithoutTriton(KERNELS))
    import torchtitan.models.llama3 as library

    return library


class _WithoutTriton(ModuleType):
    """A module of kernels that can be imported, and of which none can be called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what the import system asks a module for
            raise AttributeError(name)

        def refuse(*arguments: Any, **options: Any) -> None:
            raise RuntimeError(f"{self.__name__}.{name} needs Triton")

        return refuse
