"""An imported model is theirs: the same logits, and the same weights; complete or absent."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from foretrain.configs import load as configs
from foretrain.configs.schema import Config
from foretrain.trainer.checkpoint.inspect import Soundness, check
from foretrain.trainer.checkpoint.loading import load_weights
from foretrain.trainer.checkpoint.record import CheckpointRecord, config_of
from foretrain.trainer.interop.export import export
from foretrain.trainer.interop.importing import values as importing
from foretrain.trainer.interop.importing.errors import UnfitError
from foretrain.trainer.interop.importing.kinds import Gpt2Kind
from foretrain.trainer.interop.importing.run import import_model
from foretrain.trainer.model.gpt import Stage, build_model
from foretrain.trainer.mup.parametrize import blueprint
from foretrain.trainer.run.origin import find
from foretrain.trainer.text.inference import load_model
from tests.trainer.interop.cases import LLAMA, MODELS, TOLERANCE, apart
from tests.trainer.interop.cases import config_of as our_config
from tests.trainer.interop.importing.theirs import ABSENT, THEIRS, WEIGHTS, change, rewritten, their_model, write_theirs
from tests.trainer.interop.made import random_model, tokenizer_json, write_checkpoint


def loaded(out: Path) -> tuple[Config, Stage]:
    """The config and the model of an imported folder's checkpoint."""
    checkpoint = find(str(out), "RUN")
    config = config_of(checkpoint)
    stage = build_model(blueprint(config), seed=5)
    load_weights(checkpoint, stage.shards())
    return config, stage


def weights(stage: Stage) -> dict[str, Tensor]:
    return {shard.param.name: shard.values.detach().clone() for shard in stage.shards()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- the same function, and the same weights ----


@pytest.mark.parametrize("name", THEIRS)
def test_logits_of_an_imported_model_are_theirs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "PART_ELEMENTS", 200)  # several parts of each matrix
    import_model(write_theirs(tmp_path / "hf", name), tmp_path / "out")
    config, stage = loaded(tmp_path / "out")
    assert check(find(str(tmp_path / "out"), "RUN")).soundness is Soundness.SOUND
    assert apart(stage, tmp_path / "hf", config.model) <= TOLERANCE


def test_other_weights_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: one part of a matrix is read from where another one is."""
    monkeypatch.setattr(importing, "PART_ELEMENTS", 200)
    portions_of = importing.portions_of

    def shifted(targets: object) -> object:
        for portion in portions_of(targets):  # type: ignore[arg-type]
            wrong = portion.source.name == "blocks.1.attn.k.weight" and portion.first
            yield replace(portion, first_of_source=portion.first_of_source - 1) if wrong else portion

    monkeypatch.setattr("foretrain.trainer.interop.importing.run.portions_of", shifted)
    for name in ("llama", "gpt2"):
        import_model(write_theirs(tmp_path / name, name), tmp_path / f"out-{name}")
        config, stage = loaded(tmp_path / f"out-{name}")
        assert apart(stage, tmp_path / name, config.model) > 100 * TOLERANCE


@pytest.mark.parametrize("name", [name for name in MODELS if name != "gpt2, no biases"])
def test_an_exported_model_is_imported_with_the_same_bits(name: str, tmp_path: Path) -> None:
    config = our_config(MODELS[name])
    stage = random_model(config)
    checkpoint = write_checkpoint(tmp_path / "run", config, stage.shards())
    export(checkpoint, tmp_path / "hf", max_file_bytes=60_000)
    import_model(tmp_path / "hf", tmp_path / "out")
    found, again = loaded(tmp_path / "out")
    assert replace(found.model, name="", init_std=0.2) == replace(
        config.model, name="", rope_theta=found.model.rope_theta
    )
    assert found.model.rope_theta == (config.model.rope_theta if config.model.position == "rope" else 10_000.0)
    ours, theirs = weights(stage), weights(again)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    export(tmp_path / "out", tmp_path / "again", max_file_bytes=60_000)
    for file in sorted((tmp_path / "hf").glob("*.safetensors")):
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("name", ["gpt2, no biases", "llama"])
def test_multipliers_and_missing_biases_are_in_the_weights_that_are_imported(name: str, tmp_path: Path) -> None:
    config = our_config(MODELS[name], "completep")
    stage = random_model(config)
    export(write_checkpoint(tmp_path / "run", config, stage.shards()), tmp_path / "hf")
    import_model(tmp_path / "hf", tmp_path / "out")
    found, again = loaded(tmp_path / "out")
    assert found.mup.parametrization == "standard"
    assert apart(again, tmp_path / "hf", found.model) <= TOLERANCE
    assert apart(stage, tmp_path / "hf", found.model) <= TOLERANCE


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_weights_in_16_bits_are_widened_exactly(dtype: torch.dtype, name: str, tmp_path: Path) -> None:
    import_model(write_theirs(tmp_path / "hf", name, dtype), tmp_path / "out")
    export(tmp_path / "out", tmp_path / "again")
    stored, again = load_file(tmp_path / "hf" / WEIGHTS), load_file(tmp_path / "again" / WEIGHTS)
    assert {each.dtype for each in stored.values()} == {dtype}
    assert stored.keys() - again.keys() <= {"lm_head.weight"}  # which is the embedding in GPT-2
    assert all(torch.equal(stored[key].float(), again[key]) for key in again)


# ---- files of other versions ----


def test_files_without_the_prefix_and_with_masks_are_imported(tmp_path: Path) -> None:
    def as_published(stored: dict[str, Tensor]) -> dict[str, Tensor]:
        found = {key.removeprefix("transformer."): value for key, value in stored.items()}
        return found | {"h.0.attn.bias": torch.ones(1, 1, 24, 24), "h.1.attn.masked_bias": torch.tensor(-1e4)}

    folder = rewritten(write_theirs(tmp_path / "hf", "gpt2"), as_published)
    import_model(folder, tmp_path / "out")
    config, stage = loaded(tmp_path / "out")
    assert apart(stage, write_theirs(tmp_path / "new", "gpt2"), config.model) <= TOLERANCE


def test_a_head_that_is_stored_beside_a_tied_embedding_must_be_the_embedding(tmp_path: Path) -> None:
    name = "llama, grouped queries, tied"
    folder = write_theirs(tmp_path / "hf", name)
    embedding = "model.embed_tokens.weight"
    rewritten(folder, lambda stored: stored | {"lm_head.weight": stored[embedding].clone()})
    import_model(folder, tmp_path / "out")
    head = their_model(name).lm_head.weight.detach()
    for other in (head + 1e-3, head[:-1], head.bfloat16()):
        rewritten(folder, lambda stored, other=other: stored | {"lm_head.weight": other.clone()})  # type: ignore[misc]
        with pytest.raises(UnfitError, match=r"tie_word_embeddings = true in config\.json, and .* has another lm_head"):
            import_model(folder, tmp_path / "other")


def test_several_files_with_an_index_are_one_model(tmp_path: Path) -> None:
    folder = write_theirs(tmp_path / "hf", max_shard_size="40KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    import_model(folder, tmp_path / "out")
    config, stage = loaded(tmp_path / "out")
    assert apart(stage, folder, config.model) <= TOLERANCE


def test_files_may_be_links_as_in_the_cache_of_the_hub(tmp_path: Path) -> None:
    folder = write_theirs(tmp_path / "hf")
    (tmp_path / "blobs").mkdir()
    for file in list(folder.iterdir()):
        file.rename(tmp_path / "blobs" / file.name)
        file.symlink_to(os.path.relpath(tmp_path / "blobs" / file.name, folder))
    import_model(folder, tmp_path / "out")
    assert loaded(tmp_path / "out")


# ---- the folder that is made ----


def test_the_folder_has_a_config_that_starts_from_its_weights_and_a_checkpoint(tmp_path: Path) -> None:
    said = import_model(write_theirs(tmp_path / "hf"), tmp_path / "runs/out")
    out = tmp_path / "runs/out"
    assert names(out) == ["checkpoints", "config.yaml", "foretrain_import.json"]
    assert names(tmp_path / "runs") == ["out"]
    config = configs.load(out / "config.yaml")
    assert (config.train.init_from, config.run_dir, config.model.name) == (str(out), "runs/from-out", "out")
    checkpoint = find(str(out), "RUN")
    assert (checkpoint / "tokenizer.json").read_bytes() == (tmp_path / "hf/tokenizer.json").read_bytes()
    record = CheckpointRecord.read(checkpoint)
    assert (record.step, record.samples_consumed, record.eot_id, record.parent) == (0, 0, 0, str(tmp_path / "hf"))
    assert config_of(checkpoint).train.init_from is None
    assert str(said) == (
        f"{out}: a Llama model of 45,984 parameters, for sequences of 24 tokens; documents end with '<|endoftext|>' (0)"
    )
    text = load_model(out).continue_text("7 plus", config.sample)
    assert isinstance(text, str)
    card = (export(out, tmp_path / "again").out / "README.md").read_text()
    assert "imported from another library, and not trained on" in card and "was not at its end" not in card


def test_dropout_that_the_model_was_trained_with_is_mentioned(tmp_path: Path) -> None:
    said = str(import_model(write_theirs(tmp_path / "hf", "gpt2"), tmp_path / "out"))
    assert "(embd_pdrop = 0.1, attn_pdrop = 0.1, resid_pdrop = 0.1), and runs of foretrain have none" in said


# ---- the token that ends a document ----


def eot_of(folder: Path, out: Path, token: str | None = None) -> int:
    import_model(folder, out, eot_token=token)
    eot_id = CheckpointRecord.read(find(str(out), "RUN")).eot_id
    shutil.rmtree(out)
    return eot_id


def test_the_token_that_ends_a_document_is_the_one_that_the_first_file_names(tmp_path: Path) -> None:
    folder, out = write_theirs(tmp_path / "hf"), tmp_path / "out"
    (folder / "generation_config.json").write_text('{"eos_token_id": [6]}')
    (folder / "tokenizer_config.json").write_text('{"eos_token": {"content": "a"}}')
    token = json.loads(tokenizer_json())["model"]["vocab"]["a"]
    change(folder, eos_token_id=5)
    assert eot_of(folder, out) == 5
    assert eot_of(folder, out, "a") == token
    change(folder, eos_token_id=None)
    assert eot_of(folder, out) == 6
    (folder / "generation_config.json").unlink()
    change(folder, eos_token_id=ABSENT)
    assert eot_of(folder, out) == token
    (folder / "tokenizer_config.json").write_text('{"eos_token": "a"}')
    assert eot_of(folder, out) == token
    (folder / "tokenizer_config.json").unlink()
    assert eot_of(folder, out) == 0


@pytest.mark.parametrize(
    ("ids", "words"),
    [([3, 4], r"eos_token_id = \[3, 4\]: name the one"), (299_999, "no token of"), ("a", "no token of")],
)
def test_a_token_that_is_not_clear_is_asked_for(ids: object, words: str, tmp_path: Path) -> None:
    folder = write_theirs(tmp_path / "hf")
    change(folder, eos_token_id=ids)
    with pytest.raises(UnfitError, match=words + ".*--eot-token"):
        import_model(folder, tmp_path / "out")
    with pytest.raises(ValueError, match=r"has no token 'nothing'.*--eot-token"):
        import_model(folder, tmp_path / "out", eot_token="nothing")


def test_masks_of_other_models_are_not_left_out() -> None:
    assert Gpt2Kind.recomputed.fullmatch("transformer.h.11.attn.bias")
    assert not Gpt2Kind.recomputed.fullmatch("transformer.h.11.attn.c_attn.bias")


def test_the_model_that_the_tests_compare_with_has_random_gains() -> None:
    assert their_model("llama").model.norm.weight.std() > 0.1
    assert LLAMA.vocab_size == their_model("llama").config.vocab_size
