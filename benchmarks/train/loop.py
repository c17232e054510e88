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


class MissingError(Exception):
    """A contestant cannot run here; the message says what is missing."""


def loop(job: Job, step: TakeStep, weights_norm: Callable[[], float]) -> None:
    """Take steps on the batches of the task until no more are wanted."""
    batches_S2BL = torch.from_numpy(read_batches(job.shared).copy())
    with suppress(FinishedError):
        job.pace.report_ready(weights_norm)
        for number in range(len(batches_S2BL)):
            tokens_BL, targets_BL = batches_S2BL[number]
            job.pace.end_step(*step(tokens_BL, targets_BL))


def torch_loop(job: Job, model: nn.Module, loss_of: Callable[[Tensor, Tensor], Tensor]) -> None:
    """What a good loop of torch's own parts does: autocast, the fused AdamW, clipping, gradients set to None.

    `loss_of(tokens, targets)` is the mean loss of the model, which is in fp32 on the device.
    """
    task, device = job.task, job.device
    optimizer = torch.optim.AdamW(
        decay_groups(model.parameters(), task), lr=task.lr, betas=(task.beta1, task.beta2), eps=task.eps, fused=True
    )
    parameters = list(model.parameters())

    def step(tokens_BL: Tensor, targets_BL: Tensor) -> tuple[Tensor, Tensor]:
        tokens_BL, targets_BL = (x.to(device, non_blocking=True) for x in (tokens_BL, targets_BL))
        with torch.autocast(device.type, torch.bfloat16, enabled=task.precision == "bf16"):
            loss = loss_of(tokens_BL, targets_BL)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, task.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach(), norm

    loop(job, step, partial(norm_of, parameters))


def decay_groups(parameters: Iterable[nn.Parameter], task: Task) -> list[dict[str, Any]]:
    """Groups of torch.optim: matrices, which decay, and gains, which do not."""
    all_of_them = list(parameters)
    return [
        {"params": [each for each in all_of_them if each.dim() >= 2], "weight_decay": task.weight_decay},
        {"params": [each for each in all_of_them if each.dim() < 2], "weight_decay": 0.0},
    ]
