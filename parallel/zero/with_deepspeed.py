"""ZeRO 3: DeepSpeed's engine, under tensor and context parallelism, with updates of the project.

DeepSpeed shards and gathers weights, and averages gradients over the replicas. The gradient norm and the updates are
those of `deepspeed_waits.py`.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn

from foretrain.configs.schema import Config
from foretrain.parallel.groups import ModelParallelUnit
from foretrain.parallel.placement import Fill
from foretrain.parallel.zero.base import Piece, Zero, free
from foretrain.parallel.zero.deepspeed_waits import OrderedSteps


class DeepSpeedZero(Zero):
    """A DeepSpeed engine around the stage of this rank and torch's optimizer. It has no pipeline."""

    def build(self, stages: Sequence[nn.Module], config: Config, fill: Fill) -> None:
        import deepspeed
        from deepspeed.utils import logger

        logger.setLevel(logging.ERROR)
        self.divisor = float(self.groups.replicas.size())
        self._bf16 = config.train.precision == "bf16"
        settings, unit = self._settings(config), ModelParallelUnit(self.groups)
        with redirect_stdout(StringIO()):  # its bf16 optimizer prints how much memory is used
            self._partition(fill, settings, unit)
            engine, _, _, _ = deepspeed.initialize(
                model=self.module, optimizer=self.optimizer, mpu=unit, dist_init_required=False, config=settings
            )
        self._engine: Any = engine
        self.module = engine
        self._steps = OrderedSteps(engine.optimizer, self.groups, config.optimizer.clip_norm)

    @property
    def _dtype(self) -> torch.dtype:
        return torch.bfloat16 if self._bf16 else torch.float32

    def _partition(self, fill: Fill, settings: dict[str, Any], unit: ModelParallelUnit) -> None:
        """Partition the parameters over the replicas, one at a time; each replica fills its own partition."""
        from deepspeed.runtime.zero.partition_parameters import Init

        class Partition(Init):
            def _set_dtype(self, ds_config: Any, dtype: torch.dtype) -> None:
                """DeepSpeed's own replaces `dtype` by bf16 on a processor that does not compute in fp16."""
                self.dtype = dtype

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
            "stage": 3,
            "overlap_comm": parallel.overlap_comm,
            "contiguous_gradients": True,
        }
        if parallel.offload_optimizer:
            zero["offload_optimizer"] = {"device": "cpu", "pin_memory": self.groups.device.type == "cuda"}
        if parallel.offload_params:
            zero["offload_param"] = {"device": "cpu", "pin_memory": self.groups.device.type == "cuda"}
        settings: dict[str, Any] = {
            "train_micro_batch_size_per_gpu": train.micro_batch_size,
            "gradient_accumulation_steps": self.groups.layout.num_microbatches(train),
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
        self._steps.start(is_trial=False)

    def start_trial(self) -> None:
        self._steps.start(is_trial=True)

    def end_trial(self) -> None:
        self._steps.end_trial()
        self._engine.step()

    def observe_gradients(self, observer: Callable[[Tensor], None] | None) -> None:
        self._steps.observer = observer

    def backward(self, loss: Tensor) -> None:
        """The backward pass of each micro-batch also reduces its gradients."""
        self._engine.backward(loss, scale_wrt_gas=False)
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()

    def accumulate_assigned(self, parameters: Iterable[nn.Parameter]) -> None:
        raise AssertionError("ZeRO 3 has no pipeline")

    def reduce_gradients(self) -> None:
        pass

    def squared_grad_norm(self) -> Tensor:
        return self._steps.squared_grad_norm()

    def update(self, norm: float) -> None:
        self._steps.accept(norm)
        self._engine.step()

    def skip_update(self) -> None:
        self._steps.reject()
        self._engine.step()

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
        free((*parameters, *parts, *flat, *states, *(master.grad for master in flat)))

    # ---- a rank's own state ----

    def piece(self, parameter: Any) -> Piece | None:
        """A replica's part of a parameter; the last ones may be padded, or nothing but padding."""
        optimizer, size = self._engine.optimizer, len(parameter.ds_tensor)
        start = size * parameter.ds_zero_partition_rank
        num_elements = min(size, parameter.ds_numel - start)
        if num_elements <= 0:
            return None
        group, offset, _ = optimizer.grad_position[optimizer.get_param_id(parameter)]
        master = optimizer.fp32_partitioned_groups_flat[group]
        tensors = {"weight": master.data, **{key: self.optimizer.state[master][key] for key in self.moments}}
        return Piece(start, {key: each.narrow(0, offset, num_elements) for key, each in tensors.items()})

    def take_pieces(self) -> None:
        self._steps.take_masters()

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
        with GatheredParameters([parameter], modifier_rank=0):  # the module's own copy
            parameter.data.copy_(value)
        safe_set_full_fp32_param(parameter, value)
        self._steps.order_gathers()

    def updated_tensors(self) -> list[Tensor]:
        return list(self._engine.optimizer.fp32_partitioned_groups_flat)
