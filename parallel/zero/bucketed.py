"""ZeRO 0 to 2: gradients reduced in buckets during the backward pass, weights gathered during the next forward pass.

Gradients of all micro-batches are summed in fp32, and reduced in fp32. Under ZeRO 1 each replica owns a contiguous part
of every bucket (arXiv 1910.02054): it receives that part of the gradients, updates it, and sends it to the others.
Under ZeRO 2 it also keeps no more than that part of the gradients, which are reduced in every micro-batch.

With `parallel.offload_optimizer`, masters and moments are in host memory, and the host updates them.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from foretrain.configs.schema import Config
from foretrain.parallel.placement import Fill, allocate
from foretrain.parallel.zero import grad_norm
from foretrain.parallel.zero.base import Piece, Zero, free
from foretrain.parallel.zero.buckets import plan_buckets
from foretrain.parallel.zero.gradients import Gradients
from foretrain.parallel.zero.host_memory import pinned_like
from foretrain.parallel.zero.sharded_gradients import ShardedGradients
from foretrain.parallel.zero.weights import Weights

BUCKET_ELEMENTS = 40_000_000
"""A bucket is full with this many elements: enough for NCCL to reach its bandwidth, few enough to overlap."""
BUCKET_ELEMENTS_PER_REPLICA = 1_000_000
"""More replicas need larger buckets, since each sends and receives a share of one."""


class BucketedZero(Zero):
    """The project's own engine of ZeRO 0 to 2, with and without tensor and, but for ZeRO 2, pipeline parallelism."""

    def build(self, stages: Sequence[nn.Module], config: Config, fill: Fill) -> None:
        groups, self.divisor = self.groups, 1.0
        self._clip_norm = config.optimizer.clip_norm
        uses = Counter(each for stage in stages for each in stage.parameters() if each.requires_grad)
        # The backward pass meets parameters roughly in the reverse of their order.
        parameters = list(reversed(uses))
        replicas = groups.replicas
        self._buckets = plan_buckets(
            [parameter.numel() for parameter in parameters],
            [index for index, parameter in enumerate(parameters) if parameter in set(self.tied)],
            replicas.size(),
            max(BUCKET_ELEMENTS, BUCKET_ELEMENTS_PER_REPLICA * replicas.size()),
        )
        self._weights: Weights | None = None
        if groups.layout.zero_stage >= 1:
            dtype = torch.bfloat16 if config.train.precision == "bf16" else torch.float32
            offload = config.parallel.offload_optimizer
            self._weights = Weights(groups, stages, parameters, self._buckets, dtype, fill, offload=offload)
        else:
            allocate(self.module.parameters(), fill, groups.device, torch.float32)
            self.module.to(groups.device)  # its buffers
        self._gradients: Gradients
        if groups.layout.zero_stage == 2:
            self._gradients = ShardedGradients(groups, parameters, self._buckets, [uses[each] for each in parameters])
        else:
            num_microbatches = groups.layout.num_microbatches(config.train)
            self._gradients = Gradients(
                groups,
                parameters,
                self._buckets,
                [uses[each] * num_microbatches for each in parameters],
                shards=self._weights is not None,
                num_held_back=len(self.tied),
            )
        self._on_host: list[Tensor] = []
        """With masters in host memory, the reduced gradients of each bucket there."""
        if config.parallel.offload_optimizer:
            self._on_host = [pinned_like(reduced) for reduced in self._gradients.reduced]
        self._hand_out(parameters)

    def _hand_out(self, parameters: Sequence[nn.Parameter]) -> None:
        """Give the optimizer what this rank owns of each parameter, and find the gradient of each."""
        self._owned: dict[nn.Parameter, tuple[Tensor, Tensor]] = {}
        self._reduced: dict[nn.Parameter, Tensor] = {}
        """The gradient of what this rank owns of each parameter, on the device."""
        for number, (bucket, reduced) in enumerate(zip(self._buckets, self._gradients.reduced, strict=True)):
            if self._weights is None:
                for slot in bucket.slots:
                    parameter = parameters[slot.index]
                    self._reduced[parameter] = reduced[slot.place].view(parameter.shape)
                    self._owned[parameter] = parameter, self._reduced[parameter]
            else:
                used = self._on_host[number] if self._on_host else reduced
                for piece in bucket.pieces(self.groups.replicas.rank()):
                    parameter = parameters[piece.index]
                    master, _ = self._weights.pieces[parameter]
                    self._reduced[parameter] = reduced[piece.in_shard]
                    self._owned[parameter] = master, used[piece.in_shard]
        if self._weights is not None:  # under ZeRO 0, these are the parameters, to whose `grad` backward passes add
            for tensor, gradient in self._owned.values():
                tensor.grad = gradient
        for group in self.optimizer.param_groups:
            group["params"] = [self._owned[each][0] for each in group["params"] if each in self._owned]
        counts = self._weights is not None or self.groups.replicas.rank() == 0  # under ZeRO 0, all have all gradients
        self._counted = [
            gradient for each, gradient in self._reduced.items() if counts and grad_norm.is_counted(each, self.groups)
        ]
        """The gradients that this rank counts in the global norm."""

    # ---- one step ----

    def start_step(self) -> None:
        self._gradients.start()

    def start_trial(self) -> None:
        self._gradients.start(reduces=False)

    def end_trial(self) -> None:
        self._gradients.finish()

    def observe_gradients(self, observer: Callable[[Tensor], None] | None) -> None:
        self._gradients.observer = observer

    def backward(self, loss: Tensor) -> None:
        loss.backward()
        self._gradients.end_micro_batch()

    def accumulate_assigned(self, parameters: Iterable[nn.Parameter]) -> None:
        for parameter in parameters:
            if parameter.requires_grad:
                self._gradients.take(parameter)

    def reduce_gradients(self) -> None:
        self._gradients.finish()
        for reduced in self._gradients.reduced[len(self._buckets) - len(self.tied) :]:
            # After the sum over replicas: both ends add the same two numbers then, and stay equal to the last bit.
            dist.all_reduce(reduced, group=self.groups.embedding)

    @torch.no_grad()
    def squared_grad_norm(self) -> Tensor:
        for on_host, reduced in zip(self._on_host, self._gradients.reduced, strict=False):
            on_host.copy_(reduced, non_blocking=True)  # before the host reads the norm, for which it waits anyway
        return grad_norm.sum_of_squares(self._counted, self.groups.device)

    @torch.no_grad()
    def update(self, norm: float) -> None:
        grad_norm.clip(self._on_host or self._gradients.reduced, norm, self._clip_norm)
        if self._weights is not None:
            self.optimizer.step()
            self._weights.gather()
            return
        for tensor, gradient in self._owned.values():
            tensor.grad = gradient
        try:
            self.optimizer.step()
        finally:  # otherwise the next backward pass would add to the sums
            for tensor, _ in self._owned.values():
                tensor.grad = None

    def _await_device(self) -> None:
        """Let the host wait for the device, before it reads or writes memory that they exchange."""
        if self.groups.device.type == "cuda":
            torch.cuda.current_stream().synchronize()

    def skip_update(self) -> None:
        pass  # the next step begins with empty sums

    def await_weights(self) -> None:
        if self._weights is not None:
            self._weights.await_buckets()

    def destroy(self) -> None:
        self.await_weights()
        self._gradients.destroy()
        free(value for state in self.optimizer.state.values() for value in state.values())
        free(self.updated_tensors())
        free(self._on_host)
        free(self.module.parameters())

    # ---- a rank's own state ----

    def piece(self, parameter: nn.Parameter) -> Piece | None:
        self.await_weights()
        if parameter not in self._gradients:  # it is not trained: every replica has it
            zeros = {key: torch.zeros(parameter.numel(), device=parameter.device) for key in self.moments}
            return Piece(0, {"weight": parameter.data.view(-1), **zeros})
        if self._weights is None:
            return Piece(0, self._states(parameter))
        if parameter not in self._weights.pieces:
            return None
        master, part = self._weights.pieces[parameter]
        return Piece(part.start, self._states(master))

    def _states(self, updated: Tensor) -> dict[str, Tensor]:
        state = self.optimizer.state[updated]
        return {"weight": updated.data.view(-1), **{key: state[key].view(-1) for key in self.moments}}

    def take_pieces(self) -> None:
        if self._weights is not None:
            self._await_device()
            self._weights.gather()
            self.await_weights()

    # ---- full state ----

    def get(self, parameter: nn.Parameter, key: str) -> Tensor:
        self.await_weights()
        if parameter not in self._gradients:  # it is not trained
            return parameter.data.float() if key == "weight" else torch.zeros_like(parameter, dtype=torch.float32)
        if self._weights is None or (key == "weight" and parameter.dtype == torch.float32):
            return parameter.data if key == "weight" else self.optimizer.state[parameter][key]
        full = torch.zeros(parameter.numel(), dtype=torch.float32, device=parameter.device)
        if parameter in self._weights.pieces:
            master, part = self._weights.pieces[parameter]
            full[part] = master if key == "weight" else self.optimizer.state[master][key]
        if self.groups.replicas.size() > 1:
            # As integers, of which all but one are 0, so that the sum has the owner's bits.
            dist.all_reduce(full.view(torch.int32), group=self.groups.replicas)
        return full.view(parameter.shape)

    @torch.no_grad()
    def set(self, parameter: nn.Parameter, key: str, value: Tensor) -> None:
        self.await_weights()
        if key == "weight":
            parameter.copy_(value)
        if parameter not in self._gradients:
            return
        if self._weights is None:
            if key != "weight":
                self.optimizer.state[parameter][key].copy_(value)
        elif parameter in self._weights.pieces:
            master, part = self._weights.pieces[parameter]
            (master if key == "weight" else self.optimizer.state[master][key]).copy_(value.flatten()[part])
