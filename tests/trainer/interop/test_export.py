"""The files of an exported model: those that the libraries would write or read, and complete or absent."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, processors
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from foretrain.configs.schema import ModelConfig
from foretrain.trainer.checkpoint.metadata import UnsafeError
from foretrain.trainer.interop import export as exporting
from foretrain.trainer.interop.export import export
from foretrain.trainer.interop.folder import MARK
from foretrain.trainer.prediction.sealed import PREDICTION, SEAL, VERSION, seal_of
from foretrain.trainer.run.folder import PREDICTION_FILE
from tests.trainer.checkpoint.hostile import attack
from tests.trainer.interop.cases import GPT2, LLAMA, QWEN3, TOLERANCE, apart, config_of
from tests.trainer.interop.made import (
    STEP,
    VOCAB_SIZE,
    random_model,
    tokenizer_json,
    write_checkpoint,
    write_checkpoint_of_version_0_1,
)

TEXTS = ["", "7 plus 8 is", "日本語 🙂 \t\n\n  x", "a<|endoftext|>b", "<|endoftext|>", " leading", "</s> <pad>"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound checkpoint of a Llama. No test changes it."""
    config = config_of(LLAMA)
    return write_checkpoint(tmp_path_factory.mktemp("run"), config, random_model(config).shards())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_has_the_bytes_that_the_library_writes(checkpoint: Path, tmp_path: Path) -> None:
    for dtype in ("fp32", "bf16"):
        export(checkpoint, tmp_path / dtype, dtype)
        file = tmp_path / dtype / "model.safetensors"
        save_file(load_file(file), tmp_path / "theirs", metadata={"format": "pt"})
        assert file.read_bytes() == (tmp_path / "theirs").read_bytes()


def test_weights_in_16_bits_are_those_in_32_rounded_once(checkpoint: Path, tmp_path: Path) -> None:
    exact = export(checkpoint, tmp_path / "fp32").out / "model.safetensors"
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        rounded = load_file(export(checkpoint, tmp_path / name, name).out / "model.safetensors")
        assert all(torch.equal(rounded[key], value.to(dtype)) for key, value in load_file(exact).items())
        assert AutoConfig.from_pretrained(tmp_path / name).dtype == dtype
        assert AutoModelForCausalLM.from_pretrained(tmp_path / name).dtype == dtype


@pytest.mark.parametrize("model", [LLAMA, replace(GPT2, tie_embeddings=True)])
def test_a_model_of_several_files_has_an_index_and_the_same_weights(model: ModelConfig, tmp_path: Path) -> None:
    config = config_of(model)
    stage = random_model(config)
    checkpoint = write_checkpoint(tmp_path / "run", config, stage.shards())
    one = load_file(export(checkpoint, tmp_path / "one").out / "model.safetensors")
    done = export(checkpoint, tmp_path / "several", max_file_bytes=60_000)
    index = json.loads((tmp_path / "several/model.safetensors.index.json").read_text())
    assert done.num_files == len(set(index["weight_map"].values())) > 2
    assert index["metadata"]["total_size"] == done.num_bytes == sum(tensor.nbytes for tensor in one.values())
    found = {name: load_file(tmp_path / "several" / file)[name] for name, file in index["weight_map"].items()}
    assert found.keys() == one.keys()
    assert all(torch.equal(found[name], one[name]) for name in one)
    assert apart(stage, tmp_path / "several", config.model) <= TOLERANCE


def test_a_transposed_tensor_of_many_parts_is_that_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(GPT2, "completep")
    stage = random_model(config)
    checkpoint = write_checkpoint(tmp_path / "run", config, stage.shards())
    one = export(checkpoint, tmp_path / "one").out / "model.safetensors"
    monkeypatch.setattr("foretrain.trainer.interop.convert.PART_ELEMENTS", 100)
    assert (export(checkpoint, tmp_path / "many").out / "model.safetensors").read_bytes() == one.read_bytes()


@pytest.mark.parametrize("model", [LLAMA, GPT2])
def test_a_checkpoint_without_checksums_is_exported_too(
    model: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foretrain.trainer.interop.convert.PART_ELEMENTS", 100)
    config = config_of(model)
    stage = random_model(config)
    checkpoint = write_checkpoint_of_version_0_1(tmp_path / "run", config, stage.shards())
    assert apart(stage, export(checkpoint, tmp_path / "out").out, model) <= TOLERANCE


@pytest.mark.parametrize("has_checksums", [True, False])
def test_a_hostile_checkpoint_is_refused_and_executes_nothing(
    has_checksums: bool, checkpoint: Path, tmp_path: Path
) -> None:
    shutil.copytree(checkpoint, tmp_path / checkpoint.name)
    attack(tmp_path / checkpoint.name, "metadata_with_a_command", tmp_path / "executed", has_checksums=has_checksums)
    with pytest.raises(UnsafeError, match="source that you trust"):
        export(tmp_path / checkpoint.name, tmp_path / "out")
    assert names(tmp_path) == [checkpoint.name]


# ---- tokenizer and settings ----


def assert_same_ids(out: Path, ours: Tokenizer) -> None:
    theirs = AutoTokenizer.from_pretrained(out)
    for text in TEXTS:
        ids = ours.encode(text, add_special_tokens=False).ids
        assert theirs(text)["input_ids"] == ids
        assert theirs.decode(ids) == ours.decode(ids, skip_special_tokens=False)


def test_the_librarys_tokenizer_gives_the_ids_of_ours(checkpoint: Path, tmp_path: Path) -> None:
    for model in (LLAMA, QWEN3, GPT2):  # each family has a tokenizer of its own in the library
        config = config_of(model)
        path = write_checkpoint(tmp_path / f"{model.norm}{model.qk_norm}", config, random_model(config).shards())
        out = export(path, tmp_path / f"out{model.norm}{model.qk_norm}").out
        assert_same_ids(out, Tokenizer.from_str(tokenizer_json()))
        tokenizer = AutoTokenizer.from_pretrained(out)
        assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.model_max_length) == (0, 0, 24)
        assert len(tokenizer) <= VOCAB_SIZE


def test_a_tokenizer_that_would_add_tokens_or_cut_texts_does_neither(checkpoint: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_str(tokenizer_json())
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    tokenizer.enable_truncation(2)
    config = config_of(LLAMA)
    path = write_checkpoint(tmp_path / "run", config, random_model(config).shards(), tokenizer=tokenizer.to_str())
    assert_same_ids(export(path, tmp_path / "out").out, Tokenizer.from_str(tokenizer_json()))


def test_settings_of_generation_are_those_of_the_runs_samples(tmp_path: Path) -> None:
    config = config_of(LLAMA)
    config.sample.temperature, config.sample.top_k = 0.7, 11
    config.sample.top_p, config.sample.min_p = 0.9, 0.05
    path = write_checkpoint(tmp_path / "run", config, random_model(config).shards())
    found = GenerationConfig.from_pretrained(export(path, tmp_path / "out").out)
    assert (found.do_sample, found.temperature, found.top_k, found.eos_token_id) == (True, 0.7, 11, 0)
    assert (found.top_p, found.min_p) == (0.9, 0.05)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.generate(torch.tensor([[5, 6]]), max_new_tokens=3, do_sample=False).shape[1] <= 5


# ---- the model card ----


def test_the_card_has_what_the_checkpoint_and_its_run_have_recorded(tmp_path: Path) -> None:
    config = config_of(LLAMA, "mup")
    write_checkpoint(tmp_path / "run", config, random_model(config).shards())
    records = [{"kind": "train", "step": step, "loss": 1.25 if step > 36 else 9.0} for step in range(1, STEP + 1)] + [
        {"kind": "eval", "step": STEP, "val_loss": 2.5, "val_loss_standard_error": 0.125},
        {"kind": "train", "step": STEP + 1, "loss": 99.0},
    ]
    (tmp_path / "run/metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    sealed = {"kind": PREDICTION, "version": VERSION, "loss": 2.25, "target": {}, "curve": {"refused": "why"}}
    sealed[SEAL] = seal_of(sealed)
    (tmp_path / "run" / PREDICTION_FILE).write_text(json.dumps(sealed))
    export(tmp_path / "run", tmp_path / "out", "bf16")
    card = (tmp_path / "out/README.md").read_text()
    for words in (
        "`step-00000040`",
        "in bf16",
        "`data`",
        "| source `web/'` | `source` |",
        "7,680 in 40 steps of 8 samples",
        "1.2500 (mean of the last 10% of steps)",
        "2.5000 ± 0.1250 (step 40)",
        "2.2500 (seal `" + str(sealed[SEAL]),
        "+0.2500",
        "`mup`",
    ):
        assert words in card, (words, card)
    assert "was not at its end" not in card


def test_a_checkpoint_alone_is_enough_and_the_card_says_what_is_not_known(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "step-00000040")
    card = (export(tmp_path / "step-00000040", tmp_path / "out").out / "README.md").read_text()
    assert "final training loss | not known" in card
    assert "2.5000 (step 40)" in card


def test_a_prediction_that_was_changed_is_not_quoted(tmp_path: Path) -> None:
    config = config_of(LLAMA)
    write_checkpoint(tmp_path / "run", config, random_model(config).shards())
    sealed = {"kind": PREDICTION, "version": VERSION, "loss": 2.25, "target": {}, SEAL: "0"}
    (tmp_path / "run" / PREDICTION_FILE).write_text(json.dumps(sealed))
    with pytest.raises(ValueError, match="was changed after it was sealed"):
        export(tmp_path / "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---- complete or absent ----


def stop_in_the_middle(patch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let the export fail after half of the weights of its only file."""
    parts_of, count = exporting.parts_of, iter(range(10**6))

    def failing(target: object, **options: object) -> object:
        if next(count) == 12:
            raise error
        return parts_of(target, **options)  # type: ignore[arg-type]

    patch.setattr(exporting, "parts_of", failing)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_export_that_fails_leaves_no_file(
    error: BaseException, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_in_the_middle(monkeypatch, error)
    with pytest.raises(type(error)):
        export(checkpoint, tmp_path / "out")
    assert names(tmp_path) == []


def test_an_earlier_export_stays_until_the_new_one_is_complete(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(checkpoint, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.MonkeyPatch.context() as patch:
        stop_in_the_middle(patch, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            export(checkpoint, tmp_path / "out", "bf16", overwrite=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    (tmp_path / "out/old").write_text("not a part of the new export")
    export(checkpoint, tmp_path / "out", "bf16", overwrite=True)
    assert AutoConfig.from_pretrained(tmp_path / "out").dtype == torch.bfloat16
    assert "old" not in names(tmp_path / "out")
    assert names(tmp_path) == ["out"]


def test_what_a_killed_export_has_left_is_removed_by_the_next_one(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / MARK).write_text("{}")
    (tmp_path / ".out.partial" / "model.safetensors").write_bytes(b"half")
    export(checkpoint, tmp_path / "out")
    assert names(tmp_path) == ["out"]


def test_an_export_that_was_killed_between_two_renames_is_found_again(checkpoint: Path, tmp_path: Path) -> None:
    export(checkpoint, tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / ".out.replaced")
    with pytest.raises(ValueError, match="is an earlier export"):
        export(checkpoint, tmp_path / "out")
    assert names(tmp_path) == ["out"]


def test_a_folder_of_somebody_else_with_the_temporary_name_is_left(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial/mine").write_text("mine")
    with pytest.raises(FileExistsError):
        export(checkpoint, tmp_path / "out")
    assert (tmp_path / ".out.partial/mine").read_text() == "mine"


def test_an_empty_folder_and_a_link_to_one_are_filled(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    export(checkpoint, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert "config.json" in names(tmp_path / "real")


def test_weights_beyond_fp16_are_refused_with_what_to_use(tmp_path: Path) -> None:
    config = config_of(LLAMA)
    stage = random_model(config)
    with torch.no_grad():
        stage.shards()[3].values[0, 0] = 70_000.0
    path = write_checkpoint(tmp_path / "run", config, stage.shards())
    with pytest.raises(ValueError, match=r"model\.layers\.0\.self_attn\..* 70000.*use --dtype bf16"):
        export(path, tmp_path / "out", "fp16")
    assert names(tmp_path) == ["run"]
