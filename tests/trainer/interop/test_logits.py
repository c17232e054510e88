"""Exported models are ours: transformers, which loads them, computes the same logits."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from foretrain.configs.schema import Config, ModelConfig
from foretrain.trainer.interop.export import export
from foretrain.trainer.interop.folding import Folded
from foretrain.trainer.interop.tensors import Source, Target
from foretrain.trainer.model.blueprint import Blueprint
from foretrain.trainer.model.spec import Param
from foretrain.trainer.mup.parametrize import blueprint
from tests.trainer.interop.cases import GPT2, LLAMA, MODELS, QWEN3, TOLERANCE, apart, config_of
from tests.trainer.interop.made import random_model, write_checkpoint


def exported(config: Config, folder: Path, dtype: str = "fp32") -> float:
    """How far the logits of an exported model are from ours."""
    stage = random_model(config)
    checkpoint = write_checkpoint(folder / "run", config, stage.shards())
    export(checkpoint, folder / "out", dtype)
    return apart(stage, folder / "out", config.model)


@pytest.mark.parametrize("name", MODELS)
def test_logits_of_an_exported_model_are_ours(name: str, tmp_path: Path) -> None:
    assert exported(config_of(MODELS[name]), tmp_path) <= TOLERANCE


def test_logits_are_ours_also_thousands_of_positions_from_the_start(tmp_path: Path) -> None:
    # The library has angles of RoPE in fp32, and ours are exact: weights as they are initialized show little of that.
    assert exported(config_of(replace(LLAMA, seq_len=4096, init_std=0.02)), tmp_path) <= TOLERANCE


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("parametrization", ["mup", "completep"])
def test_multipliers_of_a_parametrization_are_in_the_weights(name: str, parametrization: str, tmp_path: Path) -> None:
    config = config_of(MODELS[name], parametrization)
    multipliers = blueprint(config).multipliers
    used = [multipliers.attention, multipliers.head] + [multipliers.residual] * (parametrization == "completep")
    assert 1.0 not in used, "a multiplier of 1 would show nothing"
    assert exported(config, tmp_path) <= TOLERANCE


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_the_type_that_is_declared_is_that_of_every_stored_weight(dtype: str, tmp_path: Path) -> None:
    tolerance = {"bf16": 0.2, "fp16": 0.02}[dtype]
    assert TOLERANCE < exported(config_of(QWEN3), tmp_path, dtype) <= tolerance
    with safe_open(tmp_path / "out/model.safetensors", "pt") as file:
        found = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    assert found == {{"bf16": "BF16", "fp16": "F16"}[dtype]}


# ---- planted bugs: each of them gives other logits ----


def without(which: Callable[[Folded, Param], bool]) -> Callable[[Folded, Param], float]:
    """`Folded.factor` that forgets the factor of some parameters."""
    factor = Folded.factor
    return lambda folded, param: 1.0 if which(folded, param) else factor(folded, param)


FORGOTTEN = {
    "of queries": (LLAMA, lambda folded, param: ".attn.q." in param.name),
    "of the norm of queries": (QWEN3, lambda folded, param: ".q_norm." in param.name),
    "of the bias of queries": (GPT2, lambda folded, param: param.name.endswith("attn.q.bias")),
    "of attention's output": (LLAMA, lambda folded, param: ".attn.out." in param.name),
    "of a bias of the residual stream": (GPT2, lambda folded, param: param.name.endswith("down.bias")),
    "of the head": (LLAMA, lambda folded, param: param.name == "head.weight"),
    "of a tied head": (replace(GPT2, tie_embeddings=True), lambda folded, param: param.name == "final_norm.weight"),
}


@pytest.mark.parametrize("name", FORGOTTEN)
def test_a_forgotten_multiplier_is_noticed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, which = FORGOTTEN[name]
    monkeypatch.setattr(Folded, "factor", without(which))
    assert exported(config_of(model, "completep"), tmp_path) > 100 * TOLERANCE


def test_rotations_of_other_pairs_are_noticed(tmp_path: Path) -> None:
    config = config_of(LLAMA)
    stage = random_model(config)
    with torch.no_grad():
        for shard in stage.shards():
            if shard.param.name in ("blocks.0.attn.q.weight", "blocks.0.attn.k.weight"):
                heads = shard.values.view(4, 4, 2, 32)  # head, pair, member of the pair, input
                shard.values.copy_(heads.transpose(1, 2).reshape(32, 32))
    checkpoint = write_checkpoint(tmp_path / "run", config, stage.shards())
    export(checkpoint, tmp_path / "out")
    assert apart(random_model(config), tmp_path / "out", config.model) > 100 * TOLERANCE


@pytest.mark.parametrize(
    "model", [replace(GPT2, tie_embeddings=True), replace(LLAMA, tie_embeddings=True), replace(LLAMA, bias=True)]
)
def test_every_possible_multiplier_has_its_place(
    model: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """muP multiplies no embedding and no matrix; equivalent forms of it do."""
    config = config_of(model)
    plain = blueprint(config)
    values = iter([1.7, 0.6, 1.3, 0.8] * 100)
    rows = [replace(row, multiplier=next(values)) if row.is_matrix else row for row in plain.table]
    shared = {row.tensor: row.multiplier for row in rows if row.tensor}  # matrices of one tensor have one multiplier
    table = tuple(replace(row, multiplier=shared.get(row.tensor, row.multiplier)) for row in rows)
    made = Blueprint(plain.model, table, replace(plain.multipliers, attention=0.7, residual=1.9, head=0.3))
    for module in ("tests.trainer.interop.made", "foretrain.trainer.interop.export"):
        monkeypatch.setattr(f"{module}.blueprint", lambda config: made)
    assert exported(config, tmp_path) <= TOLERANCE


def test_a_vector_of_zeros_has_no_source() -> None:
    assert Target.zeros("b", 3).shape == (3,)
    assert Target.of("w", Source("q", (4, 2)), Source("k", (6, 2)), is_transposed=True).shape == (2, 10)
