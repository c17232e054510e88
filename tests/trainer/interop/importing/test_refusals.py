"""Folders that cannot be imported, in one line each, and imports that fail: nothing is left of either."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from foretrain.trainer.interop.folder import IMPORT
from foretrain.trainer.interop.importing import values as importing
from foretrain.trainer.interop.importing.run import import_model
from foretrain.trainer.run.origin import find
from foretrain.trainer.text.inference import load_model
from tests.trainer.interop.importing.theirs import WEIGHTS, change, rewritten, write_theirs
from tests.trainer.interop.made import tokenizer_json


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def set_weight(name: str, value: float) -> Callable[[Path], object]:
    def change_one(stored: dict[str, Tensor]) -> dict[str, Tensor]:
        stored[name].view(-1)[-1] = value
        return stored

    return lambda folder: rewritten(folder, change_one)


def cut(name: str) -> Callable[[Path], object]:
    def shorten(folder: Path) -> None:
        os.truncate(folder / name, (folder / name).stat().st_size - 5)

    return shorten


def index_with(folder: Path, **files: str) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"] |= {name.replace("__", "."): file for name, file in files.items()}
    path.write_text(json.dumps(index))


def with_an_id(token_id: int) -> str:
    """A tokenizer whose last token has another id."""
    fields = json.loads(tokenizer_json())
    vocab = fields["model"]["vocab"]
    vocab[max(vocab, key=vocab.__getitem__)] = token_id
    return json.dumps(fields)


K = "model.layers.1.self_attn.k_proj.weight"
SECOND = "model-00002-of-"
BAD: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "no weights": ("one", lambda folder: (folder / WEIGHTS).unlink(), "has neither model.safetensors nor"),
    "a pickle": (
        "one",
        lambda folder: (folder / WEIGHTS).rename(folder / "pytorch_model.bin"),
        "has its weights as a pickle, pytorch_model.bin, which can run commands.*save_pretrained",
    ),
    "a shard without an index": (
        "one",
        lambda folder: (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors"),
        "has model-00001-of-00002.safetensors and neither",
    ),
    "a file and an index": (
        "several",
        lambda folder: (folder / WEIGHTS).write_bytes(b""),
        "has both model.safetensors and model.safetensors.index.json",
    ),
    "a cut file": ("one", cut(WEIGHTS), r"model\.safetensors is not a sound safetensors file \(it has .* of .* bytes"),
    "a missing shard": (
        "several",
        lambda folder: next(folder.glob(f"{SECOND}*")).unlink(),
        r"model-00002-of-\d+\.safetensors is missing, and model\.safetensors\.index\.json has \d+ tensors in it",
    ),
    "a file outside the folder": (
        "several",
        lambda folder: index_with(folder, a="../hf/model.safetensors"),
        "has the file '../hf/model.safetensors', which is not the name of a safetensors file beside it",
    ),
    "a tensor that its file has not": (
        "several",
        lambda folder: index_with(folder, model__x=next(folder.glob(f"{SECOND}*")).name),
        r"has no model\.x, which model\.safetensors\.index\.json has in it",
    ),
    "a tensor that the index does not name": (
        "several",
        lambda folder: index_with(folder, model__norm__weight=next(folder.glob("model-00001*")).name),
        "which model.safetensors.index.json (has|does not have) in it",
    ),
    "an index of something else": (
        "several",
        lambda folder: (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": 1}}'),
        "is not an index of safetensors files",
    ),
    "a missing tensor": (
        "one",
        lambda folder: rewritten(folder, lambda stored: {key: each for key, each in stored.items() if key != K}),
        rf"the files lack {K} of the Llama that config\.json declares",
    ),
    "no head": (
        "one",
        lambda folder: rewritten(
            folder, lambda stored: {key: each for key, each in stored.items() if key != "lm_head.weight"}
        ),
        "the files lack lm_head.weight .* tie_word_embeddings",
    ),
    "another tensor": (
        "one",
        lambda folder: rewritten(folder, lambda stored: stored | {K.replace("weight", "bias"): torch.zeros(32)}),
        r"the files have model\.layers\.1\.self_attn\.k_proj\.bias, which the Llama that",
    ),
    "another shape": (
        "one",
        lambda folder: rewritten(folder, lambda stored: stored | {K: stored[K][:-8]}),
        rf"{K} in .*{WEIGHTS} has the shape \(24, 32\), and config\.json declares \(32, 32\)",
    ),
    "a padded vocabulary that is not declared": (
        "one",
        lambda folder: change(folder, vocab_size=256),
        r"has the shape \(300, 32\), and config\.json declares \(256, 32\)",
    ),
    "another type": (
        "one",
        lambda folder: rewritten(folder, lambda stored: stored | {K: stored[K].double()}),
        f"{K} in .* is in F64, and weights must be in F32, BF16, F16",
    ),
    "no number": ("one", set_weight(K, float("nan")), f"{K} in .*{WEIGHTS} has weights that are not finite"),
    "infinity": ("one", set_weight("model.norm.weight", float("-inf")), "model.norm.weight in .* are not finite"),
    "no config": ("one", lambda folder: (folder / "config.json").unlink(), "config.json does not exist"),
    "no tokenizer": (
        "one",
        lambda folder: (folder / "tokenizer.json").unlink(),
        "tokenizer.json does not exist: give a tokenizer.json with --tokenizer FILE",
    ),
    "something else than a tokenizer": (
        "one",
        lambda folder: (folder / "tokenizer.json").write_text("{}"),
        "is not a tokenizer.json",
    ),
    "a tokenizer of more tokens": (
        "one",
        lambda folder: (folder / "tokenizer.json").write_text(with_an_id(300)),
        r"has tokens up to 300, and the model has rows for 300 \(vocab_size in config\.json\)",
    ),
}
"""The files of a sound folder, what is done to them, and what the refusal must say."""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of the same model in one file, and in several."""
    folder = tmp_path_factory.mktemp("sound")
    return {
        "one": write_theirs(folder / "one"),
        "several": write_theirs(folder / "several", max_shard_size="40KB"),
    }


@pytest.mark.parametrize("name", BAD)
def test_a_folder_that_is_not_sound_is_refused_in_one_line_and_nothing_is_written(
    name: str, sound: dict[str, Path], tmp_path: Path
) -> None:
    files, damage, words = BAD[name]
    shutil.copytree(sound[files], tmp_path / "hf")
    damage(tmp_path / "hf")
    with pytest.raises(ValueError, match=words) as refused:
        import_model(tmp_path / "hf", tmp_path / "out")
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 500
    assert names(tmp_path) == ["hf"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_import_that_fails_leaves_nothing(
    error: BaseException, sound: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of, count = importing.Values.of, iter(range(10**6))

    def failing(self: importing.Values, portion: importing.Portion) -> Tensor:
        if next(count) == 9:
            raise error
        return of(self, portion)

    monkeypatch.setattr(importing.Values, "of", failing)
    with pytest.raises(type(error)):
        import_model(sound["one"], tmp_path / "out")
    assert names(tmp_path) == []


def test_a_folder_that_is_there_is_refused_and_stays(sound: dict[str, Path], tmp_path: Path) -> None:
    import_model(sound["one"], tmp_path / "out")
    with pytest.raises(ValueError, match=r"out is an earlier import: choose another folder, or remove it"):
        import_model(sound["one"], tmp_path / "out")
    assert find(str(tmp_path / "out"), "RUN")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes").write_text("mine")
    with pytest.raises(ValueError, match="mine holds notes and is not an import of foretrain"):
        import_model(sound["one"], tmp_path / "mine")
    assert names(tmp_path) == ["mine", "out"]


def test_a_tokenizer_from_elsewhere_is_taken_on_request(sound: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(sound["one"], tmp_path / "hf")
    (tmp_path / "hf/tokenizer.json").rename(tmp_path / "elsewhere.json")
    import_model(tmp_path / "hf", tmp_path / "out", tokenizer=tmp_path / "elsewhere.json")
    assert load_model(tmp_path / "out").tokenizer.to_str() == tokenizer_json()


def test_what_a_killed_import_has_left_is_removed_by_the_next_one(sound: dict[str, Path], tmp_path: Path) -> None:
    left = tmp_path / ".out.partial"
    (left / "checkpoints/partial-step-00000000").mkdir(parents=True)
    (left / "checkpoints/partial-step-00000000/__0_0.distcp").write_bytes(b"half")
    (left / IMPORT.mark).write_text("{}")
    import_model(sound["one"], tmp_path / "out")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out/checkpoints") == ["step-00000000"]
