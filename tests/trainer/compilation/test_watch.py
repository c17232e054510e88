"""What is compiled is counted, with its time, and a function that is compiled again and again is noticed."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from foretrain.trainer.compilation.watch import Compiled, watching
from foretrain.trainer.goodput.clock import Clock

LIMIT = 3


@pytest.fixture
def limit() -> Iterator[None]:
    """Torch compiles each function up to LIMIT times."""
    import torch._dynamo

    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=LIMIT):
        yield
    torch._dynamo.reset()


def shifted(x: Tensor, shifts: tuple[int, ...]) -> Tensor:
    """Needs another graph for each number of shifts."""
    for shift in shifts:
        x = x + shift
    return x


def compiled_for(clock: Clock, num_versions: int) -> Compiled:
    function = torch.compile(shifted, backend="eager")
    with watching(clock) as compiled:
        for number in range(num_versions):
            assert function(torch.zeros(1), (1,) * (number + 1)).item() == number + 1
    return compiled


@pytest.mark.usefixtures("limit")
def test_a_function_that_is_compiled_too_often_is_named_with_the_reason_and_not_in_the_log(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert compiled_for(Clock("step"), LIMIT).given_up == ""
    torch._dynamo.reset()
    given_up = compiled_for(Clock("step"), LIMIT + 1).given_up
    assert "'shifted'" in given_up and "last reason" in given_up and "shifts" in given_up
    assert "recompile_limit" not in capfd.readouterr().err


@pytest.mark.usefixtures("limit")
def test_its_time_belongs_to_compiling_and_none_of_it_to_what_is_compiled_for() -> None:
    clock = Clock("step")
    compiled = compiled_for(clock, 2)
    spent_s = clock.read()
    assert compiled.seconds == pytest.approx(spent_s["compile"])
    assert spent_s["compile"] > 0 and spent_s["step"] > 0
    compiled_s = compiled.seconds
    with watching(clock) as nothing:
        shifted(torch.zeros(1), (1,))
    assert nothing == Compiled() and compiled.seconds == compiled_s
