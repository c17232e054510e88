"""The table on one screen: a line for each kind of parameter, with the values that its training uses."""

import re
from io import StringIO

from rich.console import Console

from foretrain.configs.load import load
from foretrain.trainer.mup.view import show

LLAMA = ["mup.parametrization=completep", "mup.base.d_model=256", "mup.base.num_layers=4"]


def shown(config: str, *overrides: str) -> dict[str, list[str]]:
    """The cells of each line by its first word."""
    text = StringIO()
    show(load(config, overrides), Console(file=text, width=120))
    lines = [re.split(r"\s{2,}", line.strip()) for line in text.getvalue().splitlines()]
    assert len(lines) < 25, "more than a screen"
    return {cells[0]: cells[1:] for cells in lines}


def test_it_shows_what_every_kind_of_parameter_gets() -> None:
    table = shown("runs/llama_7b_a100", *LLAMA)
    expected = ["residual", "4096 x 11008", "x16", "x16", "0.00177", "1", "1.87e-05", "7.81e-08", "1.6"]
    assert table["blocks.*.mlp.down.weight"] == expected
    assert table["head.weight"] == [
        "output",
        "32000 x 4096",
        "x16",
        "x1",
        "0.02",
        "0.0625",
        "0.0003",
        "6.25e-07",
        "0.1",
    ]
    assert table["final_norm.weight"] == ["gain", "4096", "x1", "x16", "= 1", "1", "0.0003", "6.25e-07", "-"]


def test_a_vocabulary_that_the_data_decide_is_shown_by_its_name() -> None:
    assert shown("runs/dry_run")["embed.weight"][:2] == ["embedding", "vocab x 128"]


def test_sgd_has_no_epsilon() -> None:
    sgd = shown("runs/llama_7b_a100", *LLAMA, "optimizer.kind=sgd")
    assert sgd["parameter"] == ["role", "shape", "fan in", "fan out", "init std", "multiplier", "lr", "decay"]
    assert sgd["embed.weight"][-2:] == ["0.0048", "0.00625"]


def test_a_tied_head_is_named_with_its_multiplier() -> None:
    text = StringIO()
    tied = ["mup.parametrization=mup", "mup.base.d_model=192"]
    show(load("models/gpt2_124m", tied), Console(file=text, width=120))
    assert "tied head x0.25" in text.getvalue()
