"""Data parallelism and the optimizer step: DeepSpeed's ZeRO 0 to 3 under tensor and pipeline parallelism.

DeepSpeed averages gradients over dp; the loss must already contain every other factor. It clips by one norm over dp, tp
and pp in which a replicated parameter counts once. At stage 0 in fp32 it would leave out the norm gains of later
pipeline ranks, so `parallel/grad_norm.py` computes that norm.
"""

import logging
from collections.abc import Collection, Iterable, Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from foretrain.configs.schema import Config
from foretrain.parallel import grad_norm
from foretrain.parallel.groups import Groups, ModelParallelUnit


class Zero:
    """A DeepSpeed engine around a module and torch's optimizer, and access to the fp32 state of each parameter.

    `moments` are the names of the fp32 tensors that the optimizer keeps for each parameter.
    """

    def __init__(
        self,
        groups: Groups,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        moments: Sequence[str],
        config: Config,
    ) -> None:
        import deepspeed
        from deepspeed.utils import logger

        logger.setLevel(logging.ERROR)
        self._groups = groups
        self._stage = groups.layout.zero_stage
        self._clip_norm = config.optimizer.clip_norm
        self.moments = tuple(moments)
        self._bf16 = config.train.precision == "bf16"
        self._offloads = config.parallel.offload_optimizer
        self.optimizer = optimizer
        with redirect_stdout(StringIO()):  # its bf16 optimizer prints how much memory is used
            self.engine, _, _, _ = deepspeed.initialize(
                model=module,
                optimizer=optimizer,
                mpu=ModelParallelUnit(groups),
                dist_init_required=False,
                config=self._settings(config),
            )
        if groups.layout.pp > 1 and self._stage in (1, 2):
            grad_norm.patch_grad_norm(self.engine.optimizer)
        self._init_moments()
        self._places = {
            parameter: (group, index)
            for group, parameters in enumerate(getattr(self.engine.optimizer, "bf16_groups", ()))
            for index, parameter in enumerate(parameters)
        }

    def _settings(self, config: Config) -> dict[str, Any]:
        """DeepSpeed's own config."""
        parallel, train = config.parallel, config.train
        zero: dict[str, Any] = {
            "stage": self._stage,
            "overlap_comm": parallel.overlap_comm,
            # zero-bubble schedules finish weight gradients out of order, which contiguous_gradients does not allow
            "contiguous_gradients": self._stage >= 2 or parallel.overlap_comm,
        }
        if parallel.offload_optimizer:
            zero["offload_optimizer"] = {"device": "cpu", "pin_memory": self._groups.device.type == "cuda"}
        if parallel.offload_params:
            zero["offload_param"] = {"device": "cpu", "pin_memory": self._groups.device.type == "cuda"}
        settings: dict[str, Any] = {
            "train_micro_batch_size_per_gpu": train.micro_batch_size,
            "gradient_accumulation_steps": self._groups.layout.num_microbatches(train),
            "gradient_clipping": self._clip_norm if self._stage > 0 else 0.0,
            "steps_per_print": None,
            "timers": {"throughput": {"enabled": False}},  # they wait for the device twice in each microbatch
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,  # DeepSpeed's own is compiled when first used, and needs a compiler
            "zero_optimization": zero,
        }
        if self._bf16:
            settings["bf16"] = {"enabled": True, "immediate_grad_update": True}
            settings["data_types"] = {"grad_accum_dtype": "fp32"}
            # Otherwise the fp32 gradients would be rounded to bf16 for their sum over the replicas.
            settings["communication_data_type"] = "fp32"
        return settings

    # ---- one step ----

    def backward(self, loss: Tensor) -> None:
        """Backward of one microbatch's loss; the last one of a step also reduces the gradients over dp."""
        self.engine.backward(loss, scale_wrt_gas=False)

    def after_microbatch(self) -> float | None:
        """End a microbatch. After the last one of the step: clip, update, and return the global gradient norm."""
        if not self.engine.is_gradient_accumulation_boundary():
            self.engine.step()
            return None
        return self._update()

    def accumulate_only(self) -> None:
        """Before a pipeline schedule runs: backward passes accumulate, and nothing is reduced."""
        self.engine.set_gradient_accumulation_boundary(False)

    def accumulate_assigned(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add gradients that were assigned, not accumulated by autograd, to the fp32 ones.

        DeepSpeed does so by hooks on the accumulation; zero-bubble schedules assign weight gradients without it.
        """
        if not self._bf16:
            return
        for parameter in parameters:
            if parameter.grad is None:
                continue
            if self._places:
                self.engine.optimizer.accumulate_hp_grads_and_remove_lp(parameter, *self._places[parameter])
            else:  # with offload, DeepSpeed has another optimizer for bf16
                self.engine.optimizer._fill_param_grad_accum_attribute(parameter)

    def reduce_and_update(self, tied: Collection[nn.Parameter]) -> float:
        """After a pipeline schedule: sum tied gradients, reduce over dp, clip, update. Returns the gradient norm."""
        self.engine.set_gradient_accumulation_boundary(True)
        for parameter in tied:
            dist.all_reduce(self.gradient(parameter), group=self._groups.embedding)
        if self._offloads:  # DeepSpeed does so in hooks, which assigned gradients do not call
            self.engine.optimizer.setup_buckets()
        self.engine.allreduce_gradients()
        grad_norm = self._update()
        for parameter in tied:  # each end sums over dp in its own order, so the last bits of the copies may differ
            dist.broadcast(parameter.data, group=self._groups.embedding, group_src=0)
        return grad_norm

    def gradient(self, parameter: nn.Parameter) -> Tensor:
        """The fp32 gradient that the backward passes of a step have accumulated (ZeRO 0 and 1)."""
        if not self._bf16:
            return parameter.grad  # type: ignore[return-value]
        return parameter._hp_grad if self._places else parameter.grad_accum  # type: ignore[attr-defined]

    def _update(self) -> float:
        total = None
        if self._stage == 0:
            total = grad_norm.clip_grad_norm(self.engine.module.parameters(), self._clip_norm, self._groups)
        self.engine.step()
        return float(self.engine.get_global_grad_norm() if total is None else total)

    def destroy(self) -> None:
        """Give the memory of parameters and optimizer back. The engine cannot be used any more."""
        parameters = list(self.engine.module.parameters())
        flat = self._flat_params()
        states = [value for state in self.optimizer.state.values() for value in state.values()]
        with redirect_stdout(StringIO()):  # it prints what it removes
            self.engine.destroy()
        # Hooks of ZeRO-3 keep their tensors alive, in cycles that Python's garbage collector does not see.
        parts = [parameter.ds_tensor for parameter in parameters if hasattr(parameter, "ds_tensor")]
        for tensor in (*parameters, *parts, *flat, *filter(torch.is_tensor, states)):
            storage = tensor.untyped_storage()
            if storage.resizable():  # a plugin's tensor may be memory of something else
                storage.resize_(0)

    # ---- full state, for checkpoints; all ranks of the dp group must call these together ----

    def get(self, parameter: nn.Parameter, key: str) -> Tensor:
        """The fp32 "weight", or one of `moments`, of a module's parameter: all of this tp rank's shard."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        if self._stage == 0:
            return parameter.data if key == "weight" else self.optimizer.state[parameter][key]
        if key == "weight":
            return safe_get_full_fp32_param(parameter)
        return safe_get_full_optimizer_state(parameter, key)

    def set(self, parameter: nn.Parameter, key: str, value: Tensor) -> None:
        """Overwrite what `get` returns."""
        from deepspeed.runtime.zero.partition_parameters import GatheredParameters
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        if key == "weight":
            # The module's own copy; the fp32 master is set below. Without ZeRO-3 there is nothing to gather.
            with GatheredParameters([parameter], modifier_rank=0, enabled=self._stage == 3):
                parameter.data.copy_(value)
            if self._stage > 0:
                safe_set_full_fp32_param(parameter, value)
        elif self._stage > 0:
            safe_set_full_optimizer_state(parameter, value, key)
        else:
            self.optimizer.state[parameter][key].copy_(value)

    def set_step(self, step: int) -> None:
        """Set the number of steps that the optimizer has done, for its bias correction."""
        for flat in self._flat_params():
            self.optimizer.state[flat]["step"].fill_(step)

    def _init_moments(self) -> None:
        """Make the state that the optimizer would make at its first step.

        DeepSpeed 0.19 links each parameter to its part of the state once, after the first step of the first group. The
        state of the other groups does not exist then, and would never be found.
        """
        for flat in self._flat_params():
            moments = {key: torch.zeros_like(flat, memory_format=torch.preserve_format) for key in self.moments}
            self.optimizer.state[flat] = {"step": torch.tensor(0.0), **moments}
        link = getattr(self.engine.optimizer, "_lazy_init_hp_params_optimizer_state", None)
        if link is not None:  # stages 1 and 2
            link()

    def _flat_params(self) -> list[Tensor]:
        """The tensors that the optimizer updates: parameters at stage 0, flat fp32 partitions above."""
        if self._stage == 3:
            return list(self.engine.optimizer.fp32_partitioned_groups_flat)
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
