"""Tensor-parallel ranks give the text and the numbers of one process, from a checkpoint of any layout."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from foretrain.configs.data import DataConfig
from foretrain.configs.optimization import OptimizerConfig
from foretrain.configs.schema import ModelConfig, ParallelConfig, TrainConfig
from foretrain.data_pipeline.corpus.manifest import TOKENIZER
from foretrain.trainer.checkpoint.parts import part_of
from foretrain.trainer.model.table import num_params
from foretrain.trainer.text.inference import load_model
from foretrain.trainer.text.ranks import check_tp
from tests.conftest import RunOnRanks
from tests.trainer.interop.cases import GPT2, LLAMA, config_of
from tests.trainer.interop.made import random_model, write_checkpoint
from tests.trainer.text.workers import Found, everything, lines, on_two_ranks, trained_and_read

MODELS: dict[str, tuple[ModelConfig, DataConfig]] = {
    "llama, grouped queries, padded vocabulary": (replace(LLAMA, num_layers=2, num_kv_heads=2), DataConfig()),
    "gpt2, tied, shared key-value head, documents": (
        replace(GPT2, num_layers=2, num_kv_heads=1, qk_norm=True, tie_embeddings=True, vocab_size=301),
        DataConfig(packing="documents"),
    ),
}
"""Two ranks pad both vocabularies."""
RUNS = list(MODELS)
TOLERANCE = 1e-5
"""Relative, in fp32."""


@pytest.fixture(scope="module")
def checkpoints(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    tokenizer = (corpus / TOKENIZER).read_text(encoding="utf-8")
    found = []
    for model, data in MODELS.values():
        config = replace(config_of(model), data=data)
        folder = tmp_path_factory.mktemp("run")
        found.append(write_checkpoint(folder, config, random_model(config).shards(), tokenizer=tokenizer))
    return found


@pytest.fixture(scope="module")
def of_ranks(ranks: RunOnRanks, checkpoints: list[Path], corpus: Path) -> list[Found]:
    """What each of two ranks has found. All tests share these ranks."""
    return ranks(2, on_two_ranks, checkpoints, corpus)


@pytest.fixture(scope="module")
def of_one(checkpoints: list[Path], corpus: Path) -> Callable[[int], Found]:
    return lambda number: everything(load_model(checkpoints[number].parents[1]), corpus)


@pytest.mark.parametrize("number", range(len(MODELS)), ids=RUNS)
def test_two_ranks_write_the_text_and_measure_the_losses_of_one_process(
    number: int, of_ranks: list[Found], of_one: Callable[[int], Found]
) -> None:
    two, one = of_ranks[0]["models"][number], of_one(number)
    assert two["texts"] == one["texts"]
    assert len({len(json.loads(line)["text"]) for line in one["texts"]["lines"]}) > 1, "texts end at different times"
    torch.testing.assert_close(two["numbers"]["logits"], one["numbers"]["logits"], rtol=TOLERANCE, atol=TOLERANCE)
    assert two["numbers"]["likelihoods"] == pytest.approx(one["numbers"]["likelihoods"], rel=TOLERANCE)
    held_out, expected = two["numbers"]["held out"], one["numbers"]["held out"]
    bins, expected_bins = held_out.pop("calibration"), expected.pop("calibration")
    assert held_out.pop("name") == expected.pop("name")
    assert held_out == pytest.approx(expected, rel=TOLERANCE)
    assert [each for row in bins for each in row.values()] == pytest.approx(
        [each for row in expected_bins for each in row.values()], rel=TOLERANCE
    )


def test_only_rank_0_runs_the_job(of_ranks: list[Found]) -> None:
    assert of_ranks[1]["models"] == [None, None]


@pytest.mark.parametrize("fault", ["logits of one rank only", "texts that have ended stay in a cache"])
def test_the_comparison_notices(fault: str, of_ranks: list[Found]) -> None:
    assert of_ranks[0]["models"][0]["texts"]["lines"] != of_ranks[0][fault]


def test_ranks_forget_the_caches_of_earlier_texts(of_ranks: list[Found]) -> None:
    assert all(1 <= found["most caches at a time"] <= 2 for found in of_ranks)


def test_each_rank_keeps_the_keys_and_values_of_its_heads(of_ranks: list[Found]) -> None:
    assert [found["heads of a cache"] for found in of_ranks] == [{1}, {1}], "the model has two"


def test_each_rank_reads_its_part_of_the_weights(of_ranks: list[Found]) -> None:
    total = num_params(MODELS[RUNS[0]][0])
    read = [found["elements that were read"] for found in of_ranks]
    assert total <= sum(read) <= 1.02 * total, "gains are on both"
    assert max(read) < 0.55 * total


def test_weights_are_read_into_the_memory_with_which_the_model_computes() -> None:
    for shard in random_model(config_of(LLAMA)).shards():
        part = part_of(shard)
        assert part.values.data_ptr() == shard.values.data_ptr() and part.values.shape == shard.values.shape


@pytest.mark.parametrize(
    ("tp", "model", "fitting"),
    [
        (3, LLAMA, "1, 2 or 4"),
        (8, LLAMA, "1, 2 or 4"),
        (2, replace(LLAMA, num_heads=3, num_kv_heads=3, d_model=36), "1 or 3"),
        (2, replace(LLAMA, d_ff=97), "1"),
        (2, replace(LLAMA, num_heads=6, num_kv_heads=3, d_model=36), "1, 3 or 6"),
    ],
)
def test_a_number_of_ranks_that_does_not_divide_the_model_is_one_line_with_those_that_do(
    tp: int, model: ModelConfig, fitting: str
) -> None:
    with pytest.raises(ValueError, match=rf"^--tp {tp} cannot divide the model \(num_heads = .*: use --tp {fitting}$"):
        check_tp(tp, model)
    check_tp(1, model)


@pytest.mark.long
def test_four_ranks_read_checkpoints_of_other_layouts(ranks: RunOnRanks, tmp_path: Path) -> None:
    """One world of four ranks trains in each layout, and then reads what it has written with tp=4."""
    layouts = (ParallelConfig(tp=2, pp=2, sp=True), ParallelConfig(dp=4, zero_stage=3))
    configs = [
        replace(
            config_of(replace(LLAMA, num_kv_heads=2, num_layers=4, vocab_size=301, tie_embeddings=True)),
            run_dir=str(tmp_path / f"run{number}"),
            parallel=parallel,
            train=TrainConfig(global_batch_size=8, micro_batch_size=2),
            optimizer=OptimizerConfig(lr=1e-2),
        )
        for number, parallel in enumerate(layouts)
    ]
    for checkpoint, found in ranks(4, trained_and_read, configs)[0]:
        assert found == lines(load_model(checkpoint.parents[1]))
