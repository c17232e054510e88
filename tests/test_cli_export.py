"""`foretrain export` on the command line: what it accepts, prints and leaves behind."""

import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from foretrain.trainer.checkpoint.checksums import BLOCK_BYTES
from tests.cli import assert_refused, called
from tests.trainer.checkpoint.made import damage
from tests.trainer.interop.cases import GPT2, LLAMA, config_of
from tests.trainer.interop.made import random_model, write_checkpoint

BAD_INPUT = {
    "export nowhere out --to hf": ("RUN = nowhere: there is no such folder", "name a run folder or a checkpoint"),
    "export nothing out --to hf": ("RUN = nothing has no checkpoint", "train that one first"),
    "export run notes --to hf": ("notes holds mine and is not an export", "choose another folder"),
    "export run notes --to hf --overwrite": ("notes holds mine and is not an export", "choose another folder"),
    "export run done --to hf": ("done is an earlier export", "--overwrite"),
    "export run notes/mine --to hf": ("notes/mine is not a folder",),
    "export run s3://bucket/out --to hf": ("s3://bucket/out is a URL", "a folder of this machine"),
    "export damaged out --to hf": ("are not those that were written", "export another checkpoint"),
    "export cut out --to hf": ("run.json", "name another checkpoint"),
    "export gated out --to hf": ("model.attention = gated", "only models with model.attention = grouped_query can"),
    "export mixed out --to hf": ("model.position = rope (it needs learned)",),
}
"""Command lines in the folder below, and what their messages must say."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with runs that can be exported and others, with an export, and with notes of the user."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "nothing").mkdir()
    (folder / "notes").mkdir()
    (folder / "notes/mine").write_text("mine")
    gated = replace(config_of(replace(LLAMA, attention="gated")), plugins=["tests.plugins.blocks"])
    configs = {"run": config_of(LLAMA), "mixed": config_of(replace(GPT2, position="rope")), "gated": gated}
    for name, config in configs.items():
        stage = random_model(config_of(LLAMA))
        write_checkpoint(folder / name, config, stage.shards())
    for name, file in (("damaged", "__0_0.distcp"), ("cut", "run.json")):
        shutil.copytree(folder / "run", folder / name)
        damage(next((folder / name / "checkpoints").iterdir()) / file, min(BLOCK_BYTES // 16, 20))
    assert called("export", "run", "done", "--to", "hf", cwd=folder).status == 0
    return folder


@pytest.mark.parametrize("line", BAD_INPUT)
def test_bad_input_is_reported_in_one_line_and_changes_no_file(line: str, folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    ended = called(*shlex.split(line), cwd=folder)
    ended.err = "\n".join(each for each in ended.err.splitlines() if not each.startswith("exporting "))
    assert_refused(ended, *BAD_INPUT[line])
    assert sorted(folder.rglob("*")) == before


def test_an_export_shows_its_progress_and_says_what_it_has_made(folder: Path, tmp_path: Path) -> None:
    ended = called("export", "run", str(tmp_path / "new/out"), "--to", "hf", "--dtype", "bf16", cwd=folder)
    assert ended.status == 0
    assert ended.out.strip() == f"{tmp_path}/new/out: step-00000040 as Llama in bf16, 1 file of weights, 0.1 MB"
    assert ended.err.startswith("exporting step-00000040: 0.1 of 0.1 MB")
    assert (tmp_path / "new/out/model.safetensors").is_file()


@pytest.mark.parametrize("option", ["--overwrite", "--force"])
def test_an_earlier_export_is_replaced_on_request(option: str, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "done", tmp_path / "out")
    command = (
        "export",
        "run/checkpoints/step-00000040",
        str(tmp_path / "out"),
        "--to",
        "hf",
        "--dtype",
        "fp16",
        option,
    )
    assert called(*command, cwd=folder).status == 0
    assert '"dtype": "float16"' in (tmp_path / "out/config.json").read_text()
