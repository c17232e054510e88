"""The copy that a save is written from is made at once, and the thread that writes begins later."""

from typing import Any

import pytest
import torch

from foretrain.trainer.checkpoint.boxes import Box
from foretrain.trainer.checkpoint.parts import Part
from foretrain.trainer.checkpoint.plans import PARTS
from foretrain.trainer.checkpoint.staging import Staging


def parts() -> list[Part]:
    return [Part("weight", str(size), (size,), Box((0,), (size,)), torch.rand(size)) for size in (3, 5)]


def test_the_thread_that_writes_gets_the_copy_only_when_it_is_handed_over() -> None:
    staging, state = Staging(torch.device("cpu")), parts()
    staged = staging.stage({PARTS: state})
    assert not staged.done()
    before = [part.values.clone() for part in state]
    for part in state:
        part.values.zero_()  # a step of training
    staging.hand_over()
    copies: dict[str, Any] = staged.result(timeout=0)
    for copy, values in zip(copies[PARTS], before, strict=True):
        assert torch.equal(copy, values)


def test_each_save_has_a_handover_of_its_own() -> None:
    staging, state = Staging(torch.device("cpu")), parts()
    staging.hand_over()  # nothing is staged
    first = staging.stage({PARTS: state})
    staging.hand_over()
    second = staging.stage({PARTS: state})
    assert first.done() and not second.done()
    staging.hand_over()
    assert second.done()


def test_what_a_copy_fails_with_is_raised_and_nothing_is_handed_over() -> None:
    staging = Staging(torch.device("cpu"))
    with pytest.raises(KeyError):
        staging.stage({})
    staging.hand_over()
