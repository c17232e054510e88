"""The loops around a step that the benchmark writes itself, and the optimizer of those that have none of their own."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.train.pace import FinishedError, Job
from benchmarks.train.task import Task, read_batches
from benchmarks.train.weights import norm_of

TakeStep = Callable[[Tensor, Tensor], tuple[Tensor | float, Tensor | float | None]]
"""One optimizer step on tokens and targets (B, L) in host memory: its loss, and the norm of its gradients."""


def loop(job: Job, step: TakeStep, weights_norm: Callable[[], float]) -> None:
    """Take steps on the batches of the task until no more are wanted."""
    batches_S2BL = torch.from_numpy(read_batches(job.shared).copy())
    with suppress(FinishedError):
        job.pace.report_ready(weights_norm)
        for number in range(len(batches_S2BL)):
            tokens_BL, targets_BL = batches_S2BL[number]
            job.pace.end_step(*step(tokens_BL, targets_BL))


def torch_loop(
    job: Job, model: nn.Module, loss_of: Callable[[Tensor, Tensor], Tensor], *, has_masters: bool = False
) -> None:
    """What a good loop of torch's own parts does: autocast, the fused AdamW, clipping, gradients set to None.

    `loss_of(tokens, targets)` is the mean loss of the model, which is in fp32 on the device. With `has_masters`, bf16
    runs have weights in bf16 and fp32 masters in the place of autocast.
    """
    task, device, is_bf16 = job.task, job.device, job.task.precision == "bf16"
    parameters = list(model.parameters())
    updated = parameters
    if has_masters and is_bf16:
        updated = [nn.Parameter(each.detach().clone()) for each in parameters]
        model.to(torch.bfloat16)
    optimizer = torch.optim.AdamW(
        decay_groups(updated, task), lr=task.lr, betas=(task.beta1, task.beta2), eps=task.eps, fused=True
    )

    def step(tokens_BL: Tensor, targets_BL: Tensor) -> tuple[Tensor, Tensor]:
        tokens_BL, targets_BL = (x.to(device, non_blocking=True) for x in (tokens_BL, targets_BL))
        with torch.autocast(device.type, torch.bfloat16, enabled=is_bf16 and not has_masters):
            loss = loss_of(tokens_BL, targets_BL)
        loss.backward()
        if updated is not parameters:
            for master, parameter in zip(updated, parameters, strict=True):
                assert parameter.grad is not None
                master.grad, parameter.grad = parameter.grad.float(), None
        norm = nn.utils.clip_grad_norm_(updated, task.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if updated is not parameters:
            with torch.no_grad():
                torch._foreach_copy_(tuple(parameters), tuple(updated))
        return loss.detach(), norm

    loop(job, step, partial(norm_of, updated))


def decay_groups(parameters: Iterable[nn.Parameter], task: Task) -> list[dict[str, Any]]:
    """Groups of torch.optim: matrices, which decay, and gains, which do not."""
    all_of_them = list(parameters)
    return [
        {"params": [each for each in all_of_them if each.dim() >= 2], "weight_decay": task.weight_decay},
        {"params": [each for each in all_of_them if each.dim() < 2], "weight_decay": 0.0},
    ]
