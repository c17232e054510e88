"""The least that trains the model: a Llama written with torch alone, and a loop of torch's own parts.

Legend: B batch, L sequence, D model width, N heads, K key-value heads, H head width, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.train.loop import torch_loop
from benchmarks.train.pace import Job
from benchmarks.train.task import Task
from benchmarks.train.weights import blocks_of, initial_weights

EPS = 1e-5
THETA = 10000.0


def bare(job: Job, *, is_compiled: bool = False) -> None:
    """The hand-written model in the bare loop."""
    model = Llama(job.task)
    model.load(initial_weights(job.task.config(job.shared)))
    model.to(job.device)
    run = torch.compile(model) if is_compiled else model

    def loss_of(tokens_BL: Tensor, targets_BL: Tensor) -> Tensor:
        logits_BLV = run(tokens_BL)
        return F.cross_entropy(logits_BLV.flatten(0, 1).float(), targets_BL.flatten())

    torch_loop(job, model, loss_of)


class Llama(nn.Module):
    """Llama (arXiv 2302.13971) with grouped queries; matrices that share an input are one."""

    cos: Tensor
    sin: Tensor

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.embed = nn.Embedding(task.vocab_size, task.d_model)
        self.blocks = nn.ModuleList(Block(task) for _ in range(task.num_layers))
        self.norm = nn.RMSNorm(task.d_model, EPS)
        self.head = nn.Linear(task.d_model, task.vocab_size, bias=False)
        head_dim = task.d_model // task.num_heads
        frequency = THETA ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
        angle_LH = torch.outer(torch.arange(task.seq_len, dtype=torch.float64), frequency).repeat(1, 2)
        self.register_buffer("cos", angle_LH.cos().float(), persistent=False)
        self.register_buffer("sin", angle_LH.sin().float(), persistent=False)

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """Logits (B, L, V)."""
        x_BLD = self.embed(tokens_BL)
        for block in self.blocks:
            x_BLD = block(x_BLD, self.cos, self.sin)
        return self.head(self.norm(x_BLD))

    @torch.no_grad()
    def load(self, weights: dict[str, Tensor]) -> None:
        """Take the weights of a LlamaForCausalLM."""
        self.embed.weight.copy_(weights["model.embed_tokens.weight"])
        self.norm.weight.copy_(weights["model.norm.weight"])
        self.head.weight.copy_(weights["lm_head.weight"])
        for block, of_block in zip(self.blocks, blocks_of(weights, len(self.blocks)), strict=True):
            assert isinstance(block, Block)
            block.load(of_block)


class Block(nn.Module):
    """Attention and a feed-forward layer, each behind a norm."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        head_dim = task.d_model // task.num_heads
        self._heads = (task.num_heads, task.num_kv_heads, task.num_kv_heads)
        self.attn_norm, self.mlp_norm = nn.RMSNorm(task.d_model, EPS), nn.RMSNorm(task.d_model, EPS)
        self.qkv = nn.Linear(task.d_model, sum(self._heads) * head_dim, bias=False)
        self.out = nn.Linear(task.num_heads * head_dim, task.d_model, bias=False)
        self.gate_up = nn.Linear(task.d_model, 2 * task.d_ff, bias=False)
        self.down = nn.Linear(task.d_ff, task.d_model, bias=False)

    def forward(self, x_BLD: Tensor, cos_LH: Tensor, sin_LH: Tensor) -> Tensor:
        """Activations (B, L, D)."""
        qkv_BNLH = self.qkv(self.attn_norm(x_BLD)).unflatten(-1, (sum(self._heads), -1)).transpose(1, 2)
        q_BNLH, k_BKLH, v_BKLH = qkv_BNLH.split(self._heads, dim=1)
        q_BNLH, k_BKLH = rotate(q_BNLH, cos_LH, sin_LH), rotate(k_BKLH, cos_LH, sin_LH)
        is_grouped = self._heads[0] != self._heads[1]
        y_BNLH = F.scaled_dot_product_attention(q_BNLH, k_BKLH, v_BKLH, is_causal=True, enable_gqa=is_grouped)
        h_BLD = x_BLD + self.out(y_BNLH.transpose(1, 2).flatten(2))
        gate, up = self.gate_up(self.mlp_norm(h_BLD)).chunk(2, dim=-1)
        return h_BLD + self.down(F.silu(gate) * up)

    @torch.no_grad()
    def load(self, weights: dict[str, Tensor]) -> None:
        """Take the weights of a LlamaDecoderLayer."""
        self.attn_norm.weight.copy_(weights["input_layernorm"])
        self.mlp_norm.weight.copy_(weights["post_attention_layernorm"])
        self.qkv.weight.copy_(torch.cat([weights[name] for name in ("q_proj", "k_proj", "v_proj")]))
        self.out.weight.copy_(weights["o_proj"])
        self.gate_up.weight.copy_(torch.cat([weights["gate_proj"], weights["up_proj"]]))
        self.down.weight.copy_(weights["down_proj"])


def rotate(x_BNLH: Tensor, cos_LH: Tensor, sin_LH: Tensor) -> Tensor:
    """Rotary embedding (arXiv 2104.09864) of queries or keys, in fp32."""
    low, high = x_BNLH.chunk(2, dim=-1)
    return (x_BNLH * cos_LH + torch.cat((-high, low), dim=-1) * sin_LH).to(x_BNLH.dtype)
