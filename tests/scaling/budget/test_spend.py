"""A budget in FLOPs, GPU hours or money is one budget, and a wrong one is refused in one line."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretrain.scaling.budget.spend import DEFAULT_MFU, spend_of


def test_gpu_hours_are_flops_by_the_peak_of_the_datasheet_and_the_mfu() -> None:
    spend = spend_of(gpu_hours=1000, gpu="A100", mfu=0.5)
    assert spend.flops == pytest.approx(1000 * 3600 * 312e12 * 0.5)
    assumed = spend_of(gpu_hours=1000, gpu="A100")
    assert assumed.is_mfu_assumed and not spend.is_mfu_assumed
    assert assumed.flops / spend.flops == pytest.approx(DEFAULT_MFU / 0.5)


@given(st.floats(1, 1e7), st.floats(0.1, 100), st.sampled_from(["H100", "a100", "B200"]), st.floats(0.01, 1))
def test_a_cost_buys_the_flops_that_cost_as_much(cost: float, price: float, gpu: str, mfu: float) -> None:
    spend = spend_of(cost=cost, price=price, gpu=gpu, mfu=mfu)
    assert spend.cost(spend.flops) == pytest.approx(cost)
    assert spend.gpu_hours(spend.flops) == pytest.approx(cost / price)
    again = spend_of(flops=spend.flops, price=price, gpu=gpu, mfu=mfu)
    assert again.cost(again.flops) == pytest.approx(cost)


def test_flops_alone_say_nothing_of_hours_and_cost() -> None:
    spend = spend_of(flops=1e21)
    assert (spend.gpu_hours(1e21), spend.cost(1e21)) == (None, None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "no budget is given: give --flops C, or --gpu-hours H --gpu NAME, or --cost"),
        ({"flops": 1e20, "cost": 5}, "--flops and --cost are budgets, and one is needed"),
        ({"flops": 0}, "--flops 0 is not a positive number"),
        ({"flops": -1e20}, "--flops -1e+20 is not a positive number"),
        ({"flops": float("nan")}, "--flops nan is not a positive number"),
        ({"gpu_hours": 0, "gpu": "H100"}, "--gpu-hours 0 is not a positive number"),
        ({"gpu_hours": 10}, "--gpu-hours needs the peak of a GPU: give --gpu, one of H200"),
        ({"gpu_hours": 10, "gpu": "Tesla T4"}, "--gpu Tesla T4: its peak is not known"),
        ({"gpu_hours": 10, "gpu": "H100", "mfu": 0}, "--mfu 0 is not a positive number"),
        ({"gpu_hours": 10, "gpu": "H100", "mfu": 40}, "--mfu 40 is a share of the peak, and more than 1"),
        ({"cost": 10, "gpu": "H100"}, "--cost needs the price of an hour of one GPU: give --price"),
        ({"cost": 10, "gpu": "H100", "price": -2}, "--price -2 is not a positive number"),
        ({"cost": 10, "price": 2}, "--cost needs the peak of a GPU"),
        ({"flops": 1e20, "mfu": 0.4}, "--mfu is of a GPU, and none is given"),
        ({"flops": 1e31}, "the budget is 1e+31 FLOPs, and plans are for 1e+30 at most: give less"),
        ({"cost": 1e308, "price": 1e-300, "gpu": "H100"}, "the budget is inf FLOPs, and plans are for 1e+30 at most"),
        ({"flops": 1e20, "price": 2}, "--price is of a GPU, and none is given"),
    ],
)
def test_a_wrong_budget_is_refused_in_one_line(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=r"give|use") as refused:
        spend_of(**options)
    assert words in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
