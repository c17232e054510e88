"""A new run starts from another one: from its weights, or from a step of it with other settings."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from foretrain.configs.schema import Config, ParallelConfig
from foretrain.data_pipeline.corpus.manifest import TOKENIZER
from foretrain.parallel.groups import init_groups
from foretrain.trainer.run.folder import CHECKPOINTS
from foretrain.trainer.run.setup import Run, prepare_run
from foretrain.trainer.trainer import Trainer
from tests.conftest import RunOnRanks
from tests.trainer.checkpoint.test_layouts import tensors
from tests.trainer.test_resume import NUM_STEPS, config, curve, train

ONE, TWO = ParallelConfig(), ParallelConfig(dp=2)
TOKENS_PER_STEP = 8 * 32


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory, corpus: Path, ranks: RunOnRanks) -> Path:
    """The folder of a complete run with a checkpoint of every step."""
    folder = tmp_path_factory.mktemp("parent")
    train(ranks, config(folder, corpus, ONE, checkpoint_every=1, keep_checkpoints=0))
    return folder


def step_folder(run_dir: Path, step: int) -> Path:
    return run_dir / CHECKPOINTS / f"step-{step:08}"


def steps(run_dir: Path) -> dict[int, dict[str, Any]]:
    """The metrics of each step."""
    return {each["step"]: each for each in curve(run_dir) if each["kind"] == "train"}


def test_a_branch_without_changes_has_the_curve_of_its_parent_from_its_step_on(
    parent: Path, tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    before = sorted(path.name for path in (parent / CHECKPOINTS).iterdir())
    train(ranks, config(tmp_path, corpus, ONE, branch_from=str(step_folder(parent, 3))))
    expected = {number: step for number, step in steps(parent).items() if number > 3}
    assert steps(tmp_path) == expected
    assert sorted(path.name for path in (parent / CHECKPOINTS).iterdir()) == before


def test_a_branch_with_another_budget_and_rate_continues_the_weights_and_resumes(
    parent: Path, tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    branch = config(tmp_path, corpus, TWO, branch_from=str(step_folder(parent, 4)), num_tokens=10 * TOKENS_PER_STEP)
    branch = replace(branch, optimizer=replace(branch.optimizer, lr=1e-3))
    train(ranks, replace(branch, train=replace(branch.train, stop_after=6)))
    records = train(ranks, branch)
    found, of_parent = steps(tmp_path), steps(parent)
    assert sorted(found) == list(range(5, 11))
    assert found[5]["loss"] == pytest.approx(of_parent[5]["loss"], rel=1e-6)
    assert found[5]["lr"] != of_parent[5]["lr"] and found[7]["loss"] != of_parent[7]["loss"]
    record = json.loads((step_folder(tmp_path, 10) / "run.json").read_text())
    assert (record["parent"], record["samples_consumed"]) == (str(step_folder(parent, 4)), 80)
    complete = replace(branch, run_dir=str(tmp_path / "complete"))
    assert train(ranks, complete) == records


def state_at_the_start(run: Run) -> tuple[dict[str, torch.Tensor], float]:
    """Every state of every parameter before the first step, and the number of steps that the optimizer counts."""
    trainer = Trainer(run, init_groups(run.layout, "cpu", timeout_s=60.0))
    zero, state = trainer.engine.zero, trainer.state
    found = {f"{key}.{shard.param.name}": each.clone() for key in state.keys for shard, each in state.items(key)}
    return found, float(zero.optimizer.state[zero.updated_tensors()[0]]["step"])


@pytest.mark.parametrize("with_optimizer", [False, True])
def test_a_run_starts_from_weights_with_or_without_the_state_of_the_optimizer(
    with_optimizer: bool, parent: Path, tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    settings = config(tmp_path, corpus, ONE, init_from=str(parent), init_optimizer=with_optimizer)
    run = prepare_run(settings)
    assert run.start_step == 0
    ((found, num_steps),) = ranks(1, state_at_the_start, run)
    shutil.copytree(step_folder(parent, NUM_STEPS), tmp_path / "trained" / step_folder(parent, NUM_STEPS).name)
    trained = tensors(tmp_path / "trained")
    assert found.keys() == trained.keys()
    for name, values in found.items():
        expected = trained[name] if name.startswith("weight.") or with_optimizer else torch.zeros_like(values)
        assert torch.equal(values, expected), name
    assert num_steps == (NUM_STEPS if with_optimizer else 0)


def changed(settings: Config, **train: Any) -> Config:
    return replace(settings, train=replace(settings.train, **train))


def test_what_does_not_fit_is_refused_with_what_to_change(parent: Path, tmp_path: Path, corpus: Path) -> None:
    plain = config(tmp_path / "run", corpus, ONE)
    branch, init = (changed(plain, **{name: str(parent)}) for name in ("branch_from", "init_from"))
    wider = replace(plain.model, d_ff=128)
    refusals = [
        (changed(plain, init_from=str(tmp_path / "nowhere")), "there is no such folder"),
        (changed(plain, init_from=str(tmp_path)), "has no checkpoint"),
        (replace(init, model=wider), r"model.d_ff: 64 -> 128"),
        (replace(branch, model=wider), r"model.d_ff: 64 -> 128"),
        (changed(branch, global_batch_size=16, num_tokens=10**6), "train.global_batch_size: 8 -> 16"),
        (replace(branch, optimizer=replace(branch.optimizer, kind="sgd")), "optimizer.kind: adamw -> sgd"),
        (branch, "7 steps, which is the complete budget of the new run: raise train.num_tokens"),
    ]
    for settings, message in refusals:
        with pytest.raises(ValueError, match=message):
            prepare_run(settings)
    with pytest.raises(ValueError, match="leave one of them out"):
        changed(init, branch_from=str(parent))
    assert prepare_run(init).outlook.endswith(f"from the start, with the weights of {step_folder(parent, NUM_STEPS)}")


def test_weights_of_another_tokenizer_are_refused(parent: Path, tmp_path: Path, corpus: Path) -> None:
    other = shutil.copytree(step_folder(parent, NUM_STEPS), tmp_path / "other")
    (other / TOKENIZER).write_text("{}")
    (other / "checksums.json").unlink()
    (other / ".metadata").unlink()
    with pytest.raises(ValueError, match="was trained with another tokenizer"):
        prepare_run(config(tmp_path / "run", corpus, ONE, init_from=str(other)))


def with_fields(checkpoint: Path, **fields: Any) -> None:
    """Write the tokenizer of a checkpoint in another way, with other fields; nothing knows its checksums any more."""
    path = checkpoint / TOKENIZER
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    (checkpoint / "checksums.json").unlink()
    (checkpoint / ".metadata").unlink()


@pytest.mark.parametrize(
    ("fields", "fits"),
    [
        ({}, True),
        ({"post_processor": {"type": "ByteLevel"}, "truncation": {"max_length": 8}}, True),
        ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}, False),
    ],
)
def test_a_tokenizer_that_gives_the_same_ids_fits_however_it_is_written(
    fields: dict[str, Any], fits: bool, parent: Path, tmp_path: Path, corpus: Path
) -> None:
    other = shutil.copytree(step_folder(parent, NUM_STEPS), tmp_path / "other")
    with_fields(other, **fields)
    settings = config(tmp_path / "run", corpus, ONE, init_from=str(other))
    if fits:
        assert prepare_run(settings).init == other
    else:
        with pytest.raises(ValueError, match="was trained with another tokenizer"):
            prepare_run(settings)


def test_a_damaged_checkpoint_is_refused_and_stays_where_it_is(parent: Path, tmp_path: Path, corpus: Path) -> None:
    other = shutil.copytree(step_folder(parent, 3), tmp_path / "step-00000003")
    (other / "__0_0.distcp").unlink()
    with pytest.raises(ValueError, match=r"train\.branch_from = .*__0_0\.distcp is missing: name another checkpoint"):
        prepare_run(config(tmp_path / "run", corpus, ONE, branch_from=str(other)))
    assert other.is_dir()
