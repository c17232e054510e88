"""litgpt: its GPT in the bare loop."""

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.train.loop import torch_loop
from benchmarks.train.pace import Job
from benchmarks.train.weights import blocks_of, initial_weights


def bare(job: Job, *, is_compiled: bool = False) -> None:
    """The model in the bare loop; its own loop needs a data module that reads litdata's files."""
    from litgpt.config import Config
    from litgpt.model import GPT

    task, config = job.task, job.task.config(job.shared)
    model = GPT(
        Config(
            block_size=task.seq_len,
            vocab_size=task.vocab_size,
            padded_vocab_size=task.vocab_size,
            n_layer=task.num_layers,
            n_head=task.num_heads,
            n_query_groups=task.num_kv_heads,
            n_embd=task.d_model,
            head_size=task.d_model // task.num_heads,
            intermediate_size=task.d_ff,
            rotary_percentage=1.0,
            parallel_residual=False,
            bias=False,
            norm_class_name="RMSNorm",
            norm_eps=config.model.norm_eps,
            mlp_class_name="LLaMAMLP",
            rope_base=int(config.model.rope_theta),
        )
    )
    model.load_state_dict(_weights(initial_weights(config), task.num_layers))
    model.to(job.device).train()
    run = torch.compile(model) if is_compiled else model

    def loss_of(tokens_BL: Tensor, targets_BL: Tensor) -> Tensor:
        logits_BLV = run(tokens_BL)
        return F.cross_entropy(logits_BLV.flatten(0, 1).float(), targets_BL.flatten())

    torch_loop(job, model, loss_of)


def _weights(theirs: dict[str, Tensor], num_layers: int) -> dict[str, Tensor]:
    """The weights of transformers' Llama by litgpt's names."""
    found = {
        "transformer.wte.weight": theirs["model.embed_tokens.weight"],
        "transformer.ln_f.weight": theirs["model.norm.weight"],
        "lm_head.weight": theirs["lm_head.weight"],
    }
    for number, block in enumerate(blocks_of(theirs, num_layers)):
        names = {
            "norm_1": block["input_layernorm"],
            "norm_2": block["post_attention_layernorm"],
            "attn.qkv": torch.cat([block["q_proj"], block["k_proj"], block["v_proj"]]),
            "attn.proj": block["o_proj"],
            "mlp.fc_1": block["gate_proj"],
            "mlp.fc_2": block["up_proj"],
            "mlp.proj": block["down_proj"],
        }
        found |= {f"transformer.h.{number}.{name}.weight": value for name, value in names.items()}
    return found
