"""What torch has as one kernel on CUDA and computes in steps without it: the same memory, and one call each."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from foretrain.scaling.fake_cuda.watch import watch

_attention, _rms_norm = F.scaled_dot_product_attention, F.rms_norm


def install() -> None:
    """Replace torch's functions for the rest of the process."""
    functional: Any = F
    functional.scaled_dot_product_attention, functional.rms_norm = scaled_dot_product_attention, rms_norm


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """One kernel where CUDA has one: in half precision, and in fp32 if each query head has its own key-value head."""
    is_half = query.dtype in (torch.bfloat16, torch.float16)
    is_grouped = query.shape[1] != key.shape[1]
    fuses = attn_mask is None and (is_half or (query.dtype == torch.float32 and not is_grouped))
    if query.device.type == "cuda" and fuses:
        return _FlashAttention.apply(query, key, value)
    return _attention(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)


def rms_norm(x: Tensor, shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    """One kernel if the gain has the precision of the input."""
    if x.device.type == "cuda" and weight is not None and weight.dtype == x.dtype:
        return _RmsNorm.apply(x, weight)
    return _rms_norm(x, shape, weight, eps)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        rstd = torch.empty(*x.shape[:-1], 1, dtype=torch.float32, device=x.device)
        ctx.save_for_backward(x, weight, rstd)
        out = torch.empty_like(x)
        watch().call_kernel("rms_norm", (x, weight), (out, rstd))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x, weight, rstd = ctx.saved_tensors
        out = torch.empty_like(x), torch.empty_like(weight)
        watch().call_kernel("rms_norm_backward", (*grads, x, weight, rstd), out)
        return out


class _FlashAttention(torch.autograd.Function):
    """Keeps the output and one number for each query; its backward pass sums query gradients in fp32."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)
        logsumexp = torch.empty(query.shape[:-1], dtype=torch.float32, device=query.device)
        ctx.save_for_backward(query, key, value, out, logsumexp)
        watch().call_kernel("flash_attention", (query, key, value), (out, logsumexp))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, out, logsumexp = ctx.saved_tensors
        num_heads = query.shape[1]
        key_grad, value_grad = (x.new_empty(x.shape[0], num_heads, *x.shape[2:]) for x in (key, value))
        sums = torch.empty(query.shape, dtype=torch.float32, device=query.device)
        query_grad = torch.empty_like(query)
        reads = (*grads, query, key, value, out, logsumexp)
        watch().call_kernel("flash_attention_backward", reads, (query_grad, key_grad, value_grad, sums))
        if key.shape[1] != num_heads:  # the heads of a group share a key and a value
            key_grad, value_grad = (x.unflatten(1, (key.shape[1], -1)).sum(2) for x in (key_grad, value_grad))
        return query_grad, key_grad, value_grad
