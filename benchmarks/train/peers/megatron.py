"""megatron-core: its GPTModel, of its own modules without Transformer Engine, in the bare loop."""

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.train.loop import torch_loop
from benchmarks.train.pace import Job
from benchmarks.train.weights import blocks_of, initial_weights
from foretrain.parallel.groups import destroy_groups, init_groups
from foretrain.parallel.layout import Layout

TIMEOUT_S = 600.0


def bare(job: Job) -> None:
    """The model in the bare loop: the library's optimizer needs Apex or Transformer Engine."""
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.tensor_parallel.random import initialize_rng_tracker
    from megatron.core.transformer.transformer_config import TransformerConfig

    task, config = job.task, job.task.config(job.shared)
    initialize_rng_tracker(inference_rng_tracker=True)  # nothing is random, and its other kinds need CUDA
    init_groups(Layout(), task.device, TIMEOUT_S)  # also what the library needs on a machine without CUDA
    model = GPTModel(
        TransformerConfig(
            num_layers=task.num_layers,
            hidden_size=task.d_model,
            ffn_hidden_size=task.d_ff,
            num_attention_heads=task.num_heads,
            num_query_groups=task.num_kv_heads,
            normalization="RMSNorm",
            layernorm_epsilon=config.model.norm_eps,
            activation_func=F.silu,
            gated_linear_unit=True,
            add_bias_linear=False,
            attention_dropout=0.0,
            hidden_dropout=0.0,
            use_cpu_initialization=True,
            perform_initialization=False,
            gradient_accumulation_fusion=False,
            bias_activation_fusion=False,
            masked_softmax_fusion=False,
            bf16=task.precision == "bf16",
        ),
        get_gpt_layer_local_spec(normalization="RMSNorm"),
        vocab_size=task.vocab_size,
        max_sequence_length=task.seq_len,
        position_embedding_type="rope",
        rotary_base=int(config.model.rope_theta),
        share_embeddings_and_output_weights=False,
    )
    weights = _weights(initial_weights(config), task.num_layers, task.num_kv_heads)
    missing, unknown = model.load_state_dict(weights, strict=False)
    if unknown or any(not name.endswith("_extra_state") for name in missing):
        raise RuntimeError(f"the library's model has other parameters: {missing} are missing, {unknown} are unknown")
    model.to(job.device).train()
    positions_1L = torch.arange(task.seq_len, device=job.device)[None]
    # True is what attention must not see.
    mask_11LL = torch.ones(1, 1, task.seq_len, task.seq_len, dtype=torch.bool, device=job.device).triu(1)

    def loss_of(tokens_BL: Tensor, targets_BL: Tensor) -> Tensor:
        loss_BL: Tensor = model(tokens_BL, positions_1L.expand_as(tokens_BL), mask_11LL, labels=targets_BL)
        return loss_BL.mean()

    torch_loop(job, model, loss_of, has_masters=True)  # its layers have backward passes without autocast
    destroy_groups()


def _weights(theirs: dict[str, Tensor], num_layers: int, num_groups: int) -> dict[str, Tensor]:
    """The weights of transformers' Llama by megatron-core's names: queries, keys and values by the group of heads."""
    found = {
        "embedding.word_embeddings.weight": theirs["model.embed_tokens.weight"],
        "decoder.final_layernorm.weight": theirs["model.norm.weight"],
        "output_layer.weight": theirs["lm_head.weight"],
    }
    for number, block in enumerate(blocks_of(theirs, num_layers)):
        by_group = [block[name].unflatten(0, (num_groups, -1)) for name in ("q_proj", "k_proj", "v_proj")]
        names = {
            "input_layernorm": block["input_layernorm"],
            "pre_mlp_layernorm": block["post_attention_layernorm"],
            "self_attention.linear_qkv": torch.cat(by_group, dim=1).flatten(0, 1),
            "self_attention.linear_proj": block["o_proj"],
            "mlp.linear_fc1": torch.cat([block["gate_proj"], block["up_proj"]]),
            "mlp.linear_fc2": block["down_proj"],
        }
        found |= {f"decoder.layers.{number}.{name}.weight": value for name, value in names.items()}
    return found
