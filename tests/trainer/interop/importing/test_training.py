"""Runs that start from an imported model."""

from dataclasses import replace
from pathlib import Path

import pytest

from foretrain.configs import load as configs
from foretrain.configs.data import DataConfig
from foretrain.configs.schema import ModelConfig, TrainConfig
from foretrain.trainer.interop.export import export
from foretrain.trainer.interop.importing.run import import_model
from foretrain.trainer.run.folder import CHECKPOINTS
from foretrain.trainer.run.setup import Run, prepare_run
from tests.conftest import RunOnRanks
from tests.trainer.interop.cases import GPT2, LLAMA, config_of
from tests.trainer.interop.importing.workers import fit_all
from tests.trainer.interop.made import random_model, write_checkpoint
from tests.trainer.test_resume import curve

NUM_STEPS = 20


@pytest.mark.long
def test_steps_from_an_imported_model_are_those_from_the_checkpoint_that_was_exported(
    tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    made = {"llama": tiny(replace(LLAMA, num_kv_heads=2, tie_embeddings=True)), "gpt2": tiny(GPT2)}
    runs = [run for name, model in made.items() for run in runs_of(tmp_path / name, model, corpus)]
    ranks(1, fit_all, runs)
    for name in made:
        exact, imported = (curve(tmp_path / name / start) for start in ("exact", "imported"))
        assert [record["step"] for record in exact if record["kind"] == "train"] == [*range(1, NUM_STEPS + 1)]
        assert imported == exact
    assert curve(tmp_path / "llama/exact")[0]["loss"] != curve(tmp_path / "gpt2/exact")[0]["loss"]


def tiny(model: ModelConfig) -> ModelConfig:
    """The model with fewer blocks, and with the settings that config.json does not have at their defaults."""
    return replace(model, num_layers=2, d_ff=64, init_std=0.02, rope_theta=10_000.0)


def runs_of(folder: Path, model: ModelConfig, corpus: Path) -> list[Run]:
    """A run from the weights of a checkpoint, and one from those of its import after its export."""
    config = config_of(model)
    tokenizer = (corpus / "tokenizer.json").read_text()
    checkpoint = write_checkpoint(folder / "run", config, random_model(config).shards(), tokenizer=tokenizer)
    export(checkpoint, folder / "hf")
    import_model(folder / "hf", folder / "out")
    train = TrainConfig(num_tokens=NUM_STEPS * 8 * model.seq_len, global_batch_size=8, eval_samples=0, sinks=[])
    starts = {"exact": checkpoint, "imported": folder / "out"}
    return [
        prepare_run(
            replace(
                config,
                run_dir=str(folder / name),
                data=DataConfig(path=str(corpus)),
                train=replace(train, init_from=str(start)),
            )
        )
        for name, start in starts.items()
    ]


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """An imported model with the tokenizer of the corpus."""
    folder = tmp_path_factory.mktemp("imported")
    config = config_of(replace(LLAMA, num_kv_heads=2))
    tokenizer = (corpus / "tokenizer.json").read_text()
    export(write_checkpoint(folder / "run", config, random_model(config).shards(), tokenizer=tokenizer), folder / "hf")
    return import_model(folder / "hf", folder / "out").out


def started(imported: Path, corpus: Path, *overrides: str) -> Run:
    """The run of the config of an import."""
    settings = [f"data.path={corpus}", "train.num_tokens=1000", *overrides]
    return prepare_run(configs.load(imported / "config.yaml", settings))


def test_the_config_of_an_import_starts_a_run_from_its_weights(imported: Path, corpus: Path) -> None:
    run = started(imported, corpus)
    assert run.init == imported / CHECKPOINTS / "step-00000000"
    assert run.outlook.startswith("runs/from-out: ")
    with pytest.raises(ValueError, match=r"model\.d_ff"):
        started(imported, corpus, "model.d_ff=64")


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.init_optimizer=true"],
        ["train.init_from=null", "train.branch_from={imported}"],
        ["run_dir={imported}"],
    ],
    ids=["with its optimizer", "branch", "resume"],
)
def test_nothing_continues_an_imported_model_as_if_it_had_an_optimizer(
    overrides: list[str], imported: Path, corpus: Path
) -> None:
    with pytest.raises(ValueError, match="is an imported model, without the state of an optimizer: start a new run"):
        started(imported, corpus, *(each.format(imported=imported) for each in overrides))
