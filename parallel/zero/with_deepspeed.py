"""ZeRO 3, and ZeRO 1 and 2 with states in host memory: DeepSpeed's engine, under tensor and pipeline parallelism.

DeepSpeed averages gradients over dp. It clips by one norm over dp, tp and pp in which a replicated parameter counts
once.
"""

import logging
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from foretrain.configs.schema import Config
from foretrain.parallel.groups import ModelParallelUnit
from foretrain.parallel.placement import Fill, allocate
from foretrain.parallel.zero import grad_norm
from foretrain.parallel.zero.base import Piece, Zero, free
from foretrain.parallel.zero.deepspeed_decision import decision_of


class DeepSpeedZero(Zero):
    """A DeepSpeed engine around the stages of this rank and torch's optimizer."""

    def build(self, stages: Sequence[nn.Module], config: Config, fill: Fill) -> None:
        import deepspeed
        from deepspeed.utils import logger

        logger.setLevel(logging.ERROR)
        self.divisor = float(self.groups.replicas.size())
        self._stage = self.groups.layout.zero_stage
        self._in_pipeline = self.groups.layout.pp > 1
        self._clip_norm = config.optimizer.clip_norm
        self._bf16 = config.train.precision == "bf16"
        settings, unit = self._settings(config), ModelParallelUnit(self.groups)
        with redirect_stdout(StringIO()):  # its bf16 optimizer prints how much memory is used
            if self._stage == 3:
                self._partition(fill, settings, unit)
            else:
                allocate(self.module.parameters(), fill, self.groups.device, self._dtype)
            engine, _, _, _ = deepspeed.initialize(
                model=self.module, optimizer=self.optimizer, mpu=unit, dist_init_required=False, config=settings
            )
        self._engine: Any = engine
        self.module = engine
        if self._in_pipeline:
            grad_norm.patch_grad_norm(engine.optimizer)
        self._decision = decision_of(engine.optimizer)

    @property
    def _dtype(self) -> torch.dtype:
        return torch.bfloat16 if self._bf16 else torch.float32

    def _partition(self, fill: Fill, settings: dict[str, Any], unit: ModelParallelUnit) -> None:
        """Partition the parameters over the replicas, one at a time; each replica fills its own partition."""
        from deepspeed.runtime.zero.partition_parameters import Init

        class Partition(Init):  # type: ignore[misc]
            def _convert_to_zero_parameters(self, parameters: Iterable[Any]) -> None:
                """DeepSpeed's own broadcasts all values of the first replica, and keeps a part of them."""
                for parameter in parameters:
                    num_elements = parameter.numel()
                    parameter.data = torch.empty(parameter.shape, dtype=self.dtype, device=self.local_device)
                    self._convert_to_deepspeed_param(parameter)
                    parameter.partition()
                    own = parameter.ds_tensor.zero_()
                    start = len(own) * parameter.ds_zero_partition_rank
                    fill(parameter, own[: max(0, num_elements - start)], start)

        Partition(
            module=self.module,
            data_parallel_group=self.groups.replicas,
            config_dict_or_path=settings,
            dtype=self._dtype,
            mpu=unit,
        )

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
            zero["offload_optimizer"] = {"device": "cpu", "pin_memory": self.groups.device.type == "cuda"}
        if parallel.offload_params:
            zero["offload_param"] = {"device": "cpu", "pin_memory": self.groups.device.type == "cuda"}
        settings: dict[str, Any] = {
            "train_micro_batch_size_per_gpu": train.micro_batch_size,
            "gradient_accumulation_steps": self.groups.layout.num_microbatches(train),
            "gradient_clipping": self._clip_norm,
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

    def start_step(self) -> None:
        if self._in_pipeline:  # backward passes accumulate, and nothing is reduced
            self._engine.set_gradient_accumulation_boundary(False)

    def backward(self, loss: Tensor) -> None:
        """The backward pass of the last micro-batch of a step also reduces the gradients."""
        self._engine.backward(loss, scale_wrt_gas=False)
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()

    def accumulate_assigned(self, parameters: Iterable[nn.Parameter]) -> None:
        if not self._bf16:
            return
        for parameter in parameters:
            if parameter.grad is not None:  # DeepSpeed would do so by a hook on the accumulation
                self._engine.optimizer._fill_param_grad_accum_attribute(parameter)

    def reduce_gradients(self) -> None:
        if not self._in_pipeline:
            return
        self._engine.set_gradient_accumulation_boundary(True)
        for parameter in self.tied:
            gradient = getattr(parameter, "grad_accum" if self._bf16 else "grad")
            dist.all_reduce(gradient, group=self.groups.embedding)
        self._engine.optimizer.setup_buckets()  # DeepSpeed does so in hooks, which assigned gradients do not call
        self._engine.allreduce_gradients()

    def grad_norm(self) -> Tensor:
        return self._decision.grad_norm().to(device=self.groups.device, dtype=torch.float64)

    def update(self, *, is_applied: bool = True) -> None:
        with self._decision.made(is_applied=is_applied):
            self._engine.step()
        for parameter in self.tied:  # each end sums over dp in its own order, so the last bits of the copies may differ
            dist.broadcast(parameter.data, group=self.groups.embedding, group_src=0)

    def await_weights(self) -> None:
        pass

    def destroy(self) -> None:
        parameters = list(self._engine.module.parameters())
        flat = self.updated_tensors()
        states = [value for state in self.optimizer.state.values() for value in state.values()]
        with redirect_stdout(StringIO()):  # it prints what it removes
            self._engine.destroy()
        # Hooks of ZeRO-3 keep their tensors alive, in cycles that Python's garbage collector does not see.
        parts = [parameter.ds_tensor for parameter in parameters if hasattr(parameter, "ds_tensor")]
        free((*parameters, *parts, *flat, *states))

    # ---- a rank's own state ----

    def piece(self, parameter: nn.Parameter) -> Piece | None:
        if self._stage == 3:
            return self._partition_of(parameter)
        mapping = parameter._hp_mapping  # type: ignore[attr-defined]
        if mapping is None:
            return None
        states = {key: mapping.get_hp_fragment(key) for key in self.moments}
        return Piece(mapping.lp_fragment_address.start, {"weight": mapping.get_hp_fragment(), **states})

    def _partition_of(self, parameter: Any) -> Piece | None:
        """A replica's part of a parameter under ZeRO 3; the last ones may be padded, or nothing but padding."""
        optimizer, size = self._engine.optimizer, len(parameter.ds_tensor)
        start = size * parameter.ds_zero_partition_rank
        num_elements = min(size, parameter.ds_numel - start)
        if num_elements <= 0:
            return None
        group, offset, _ = optimizer.grad_position[optimizer.get_param_id(parameter)]
        master = optimizer.fp32_partitioned_groups_flat[group]
        tensors = {"weight": master.data, **{key: self.optimizer.state[master][key] for key in self.moments}}
        return Piece(start, {key: each.narrow(0, offset, num_elements) for key, each in tensors.items()})

    @torch.no_grad()
    def take_pieces(self) -> None:
        optimizer = self._engine.optimizer
        if self._stage == 3:
            for group in range(len(optimizer.fp16_groups)):
                optimizer._reassign_or_swap_out_partitioned_parameters(group)
            if optimizer.persistent_parameters:  # small ones, of which every rank keeps a copy
                optimizer.persistent_parameters[0].partition(optimizer.persistent_parameters)
                optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)
            return
        optimizer.update_lp_params()

    # ---- full state ----

    def get(self, parameter: nn.Parameter, key: str) -> Tensor:
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        if key == "weight":
            return safe_get_full_fp32_param(parameter)
        return safe_get_full_optimizer_state(parameter, key)

    def set(self, parameter: nn.Parameter, key: str, value: Tensor) -> None:
        from deepspeed.runtime.zero.partition_parameters import GatheredParameters
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        if key != "weight":
            safe_set_full_optimizer_state(parameter, value, key)
            return
        # The module's own copy; the fp32 master is set below. Without ZeRO-3 there is nothing to gather.
        with GatheredParameters([parameter], modifier_rank=0, enabled=self._stage == 3):
            parameter.data.copy_(value)
        safe_set_full_fp32_param(parameter, value)

    def init_moments(self) -> None:
        """Also link each parameter to its part of the states.

        DeepSpeed 0.19 does so once, after the first step of the first group. The state of the other groups does not
        exist then, and would never be found.
        """
        super().init_moments()
        link = getattr(self._engine.optimizer, "_lazy_init_hp_params_optimizer_state", None)
        if link is not None:  # not at stage 3
            link()

    def updated_tensors(self) -> list[Tensor]:
        if self._stage == 3:
            return list(self._engine.optimizer.fp32_partitioned_groups_flat)
        return super().updated_tensors()
