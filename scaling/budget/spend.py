"""A budget in FLOPs, GPU hours or money, and what it is in the others. Pure.

FLOPs are those of `trainer/model/size.py`, and MFU is that of `trainer/utilization.py`, which counts the same FLOPs:

    FLOPs = GPU hours * 3600 * peak * MFU,    cost = GPU hours * price
"""

import math
from dataclasses import dataclass

from foretrain.trainer.utilization import PEAK_TFLOPS, peak_tflops

DEFAULT_MFU = 0.4
"""MFU that is assumed unless the user gives one: large runs that are tuned well reach 0.3 to 0.5."""
MOST_FLOPS = 1e30
"""The largest budget: a thousand times more than any run so far has had, and its shape takes long to find."""


@dataclass(frozen=True)
class Spend:
    """A budget. What is None cannot be known without a GPU or a price."""

    flops: float
    gpu: str | None = None
    """The GPU as the user calls it."""
    peak_tflops: float | None = None
    """Its dense bf16 peak in the datasheet, TFLOP/s."""
    mfu: float | None = None
    is_mfu_assumed: bool = False
    """Whether the MFU is the default."""
    price: float | None = None
    """USD for an hour of one GPU."""

    @property
    def flops_per_hour(self) -> float | None:
        """FLOPs that one GPU does in an hour."""
        return None if self.peak_tflops is None or self.mfu is None else 3600.0 * self.peak_tflops * 1e12 * self.mfu

    def gpu_hours(self, flops: float) -> float | None:
        """GPU hours for these FLOPs."""
        return None if self.flops_per_hour is None else flops / self.flops_per_hour

    def cost(self, flops: float) -> float | None:
        """USD for these FLOPs."""
        hours = self.gpu_hours(flops)
        return None if hours is None or self.price is None else hours * self.price


def spend_of(
    *,
    flops: float | None = None,
    gpu_hours: float | None = None,
    cost: float | None = None,
    price: float | None = None,
    gpu: str | None = None,
    mfu: float | None = None,
) -> Spend:
    """The budget that the options name. Raises ValueError, which says what to change, in one line."""
    spend = _spend(flops=flops, gpu_hours=gpu_hours, cost=cost, price=price, gpu=gpu, mfu=mfu)
    if not 0 < spend.flops <= MOST_FLOPS:
        change = "give less" if spend.flops > 0 else "give more"
        raise ValueError(f"the budget is {spend.flops:.3g} FLOPs, and plans are for {MOST_FLOPS:g} at most: {change}")
    return spend


def _spend(
    *,
    flops: float | None,
    gpu_hours: float | None,
    cost: float | None,
    price: float | None,
    gpu: str | None,
    mfu: float | None,
) -> Spend:
    given = {"--flops": flops, "--gpu-hours": gpu_hours, "--cost": cost}
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1:
        what = "no budget is given" if not named else f"{' and '.join(named)} are budgets, and one is needed"
        raise ValueError(f"{what}: give --flops C, or --gpu-hours H --gpu NAME, or --cost USD --price USD --gpu NAME")
    _check_positive({**given, "--price": price, "--mfu": mfu})
    if mfu is not None and mfu > 1:
        raise ValueError(f"--mfu {mfu:g} is a share of the peak, and more than 1: give one such as {DEFAULT_MFU}")
    if gpu is None:
        if flops is None:
            raise ValueError(f"{named[0]} needs the peak of a GPU: give --gpu, one of {', '.join(PEAK_TFLOPS)}")
        for name, value in (("--mfu", mfu), ("--price", price)):
            if value is not None:
                raise ValueError(f"{name} is of a GPU, and none is given: give --gpu, or leave {name} out")
        return Spend(flops)
    peak = peak_tflops(gpu)
    if peak is None:
        known = ", ".join(PEAK_TFLOPS)
        raise ValueError(f"--gpu {gpu}: its peak is not known: use one of {known}, or give the budget as --flops")
    if cost is not None and price is None:
        raise ValueError("--cost needs the price of an hour of one GPU: give --price, such as 2.5")
    spend = Spend(flops or 0.0, gpu, peak, mfu or DEFAULT_MFU, mfu is None, price)
    if flops is None:
        hours = gpu_hours if gpu_hours is not None else (cost or 0.0) / (price or math.nan)
        flops = hours * (spend.flops_per_hour or 0.0)
    return Spend(flops, gpu, peak, spend.mfu, spend.is_mfu_assumed, price)


def _check_positive(options: dict[str, float | None]) -> None:
    for name, value in options.items():
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} {value:g} is not a positive number: give one greater than 0")
