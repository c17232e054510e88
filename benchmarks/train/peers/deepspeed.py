"""DeepSpeed: its engine, ZeRO 1, with transformers' LlamaForCausalLM."""

import logging
from functools import partial

import torch
from torch import Tensor

from benchmarks.train.loop import decay_groups, loop
from benchmarks.train.pace import Job
from benchmarks.train.peers.transformers import model_of
from benchmarks.train.weights import norm_of
from foretrain.parallel.groups import ModelParallelUnit, destroy_groups, init_groups
from foretrain.parallel.layout import Layout

TIMEOUT_S = 600.0


def engine(job: Job) -> None:
    """The engine with torch's fused AdamW, whose fp32 masters it keeps in bf16 runs."""
    groups = init_groups(Layout(), job.task.device, TIMEOUT_S)  # also what the library needs without CUDA
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel(logging.ERROR)
    task, model = job.task, model_of(job)
    optimizer = torch.optim.AdamW(
        decay_groups(model.parameters(), task), lr=task.lr, betas=(task.beta1, task.beta2), eps=task.eps, fused=True
    )
    settings = {
        "train_micro_batch_size_per_gpu": task.batch_size,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": task.clip_norm,
        "steps_per_print": None,
        "bf16": {"enabled": task.precision == "bf16"},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {"stage": 1},
    }
    built, zero, _, _ = deepspeed.initialize(
        model=model, optimizer=optimizer, mpu=ModelParallelUnit(groups), dist_init_required=False, config=settings
    )

    def step(tokens_BL: Tensor, targets_BL: Tensor) -> tuple[Tensor, float]:
        tokens_BL, targets_BL = (x.to(job.device, non_blocking=True) for x in (tokens_BL, targets_BL))
        loss: Tensor = built(input_ids=tokens_BL, labels=targets_BL, shift_labels=targets_BL).loss
        built.backward(loss)
        built.step()
        return loss.detach(), float(built.get_global_grad_norm())

    loop(job, step, partial(norm_of, zero.single_partition_of_fp32_groups))
    destroy_groups()
