"""Every rank's rows of the vocabulary are padded for matrix units, and padding has no part in the loss."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from foretrain.configs.optimization import OptimizerConfig
from foretrain.configs.schema import Config, TrainConfig
from foretrain.parallel import layers
from foretrain.parallel.layout import Layout
from foretrain.parallel.tensor import MATRIX_UNIT, MAX_PADDING, TensorParallel
from foretrain.trainer.verification.curve import Curve
from foretrain.trainer.verification.probe import probe
from foretrain.trainer.verification.reference import reference
from tests.conftest import RunOnRanks
from tests.parallel import workers

CONFIG = Config(
    model=workers.small_model(),  # 61 tokens, which are padded to 64
    train=TrainConfig(global_batch_size=4, micro_batch_size=1),
    optimizer=OptimizerConfig(lr=1e-2),
)


def padded(monkeypatch: pytest.MonkeyPatch, size: int, num_ranks: int) -> int:
    """Rows of each rank, without the libraries and groups that a rank of several needs."""
    tp = TensorParallel(pads_vocabulary=True)
    monkeypatch.setattr(tp, "size", num_ranks)
    return tp.vocabulary_rows(size)


@pytest.mark.parametrize(
    ("size", "num_ranks", "rows"), [(50257, 1, 50304), (50257, 8, 6400), (32000, 8, 4096), (128256, 8, 16128)]
)
def test_the_rows_of_real_vocabularies_are_multiples_of_128(
    size: int, num_ranks: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rows % MATRIX_UNIT == 0
    assert padded(monkeypatch, size, num_ranks) == rows


@given(st.integers(1, 200_000), st.sampled_from([1, 2, 3, 4, 8, 16]))
def test_every_token_has_a_row_and_padding_is_small(size: int, num_ranks: int) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        rows = padded(monkeypatch, size, num_ranks)
    assert size <= rows * num_ranks <= max(size * (1 + MAX_PADDING), size + num_ranks - 1)


def test_a_model_in_one_process_for_use_from_python_is_not_padded() -> None:
    assert TensorParallel().vocabulary_rows(50257) == 50257


def forget_padding(config: Config, layout: Layout, num_steps: int) -> Curve:
    """A probe in which the logits of padding count as those of tokens do."""
    real = layers.Head.__init__

    def forget(self: layers.Head, tp: TensorParallel, weight: nn.Parameter, _: int, part: int | None = None) -> None:
        real(self, tp, weight, len(weight), part)

    layers.Head.__init__ = forget  # type: ignore[method-assign,assignment]
    return probe(config, layout, num_steps)


@pytest.mark.parametrize("layout", [Layout(), Layout(tp=2)], ids=str)
def test_padding_has_no_part_in_the_loss(layout: Layout, ranks: RunOnRanks) -> None:
    expected = reference(CONFIG, "float32", 3)
    curve = ranks(layout.world_size, probe, CONFIG, layout, 3)[0]
    assert curve.losses == pytest.approx(expected.losses, rel=1e-6)
    assert curve.grad_norms == pytest.approx(expected.grad_norms, rel=1e-5)
    forgotten = ranks(layout.world_size, forget_padding, CONFIG, layout, 3)[0]
    assert forgotten.losses[0] > expected.losses[0] + 0.01, "the comparison sees padding that counts"
