"""`foretrain import` on the command line: what it accepts, prints and leaves behind."""

import shlex
import shutil
from pathlib import Path

import pytest

from tests.cli import assert_refused, called
from tests.trainer.interop.importing.theirs import change, write_theirs

BAD_INPUT = {
    "import nowhere out": ("there is no folder nowhere", "hf download NAME"),
    "import notes out": ("notes has neither model.safetensors nor", "give the folder of a model"),
    "import hf notes": ("notes holds mine and is not an import", "choose another folder"),
    "import hf done": ("done is an earlier import", "choose another folder, or remove it"),
    "import hf notes/mine": ("notes/mine is not a folder",),
    "import hf s3://bucket/out": ("s3://bucket/out is a URL", "a folder of this machine"),
    "import hf out --seq-len 25": ("max_position_embeddings = 24", "--seq-len must be 1 to that, and it is 25"),
    "import hf out --tokenizer nothing.json": ("nothing.json does not exist", "--tokenizer FILE"),
    "import hf out --eot-token nothing": ("no token 'nothing'", "--eot-token"),
    "import scaled out": ("rope_scaling = ", "it needs rotations that are not scaled"),
}
"""Command lines in the folder below, and what their messages must say."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with a model that can be imported and another one, with an import, and with notes of the user."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "notes").mkdir()
    (folder / "notes/mine").write_text("mine")
    write_theirs(folder / "hf")
    shutil.copytree(folder / "hf", folder / "scaled")
    change(folder / "scaled", rope_scaling={"rope_type": "llama3", "factor": 8.0})
    assert called("import", "hf", "done", cwd=folder).status == 0
    return folder


@pytest.mark.parametrize("line", BAD_INPUT)
def test_bad_input_is_reported_in_one_line_and_changes_no_file(line: str, folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    ended = called(*shlex.split(line), cwd=folder)
    assert_refused(ended, *BAD_INPUT[line])
    assert sorted(folder.rglob("*")) == before


def test_an_import_shows_its_progress_and_what_it_made_is_taken_by_other_verbs(folder: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "new/out")
    ended = called("import", "hf", out, "--seq-len", "16", "--eot-token", "a", cwd=folder)
    assert ended.status == 0, ended.err
    assert ended.out.startswith(f"{out}: a Llama model of 45,984 parameters, for sequences of 16 tokens; documents end")
    assert ended.err.startswith("importing hf: 0.2 of 0.2 MB")
    verified = called("checkpoint", "verify", out, cwd=folder)
    assert (verified.status, verified.out) == (0, "step-00000000: sound\n")
    assert called("generate", out, "--prompt", "7 plus", "--num-tokens", "3", cwd=folder).status == 0
    assert called("export", out, str(tmp_path / "again"), "--to", "hf", cwd=folder).status == 0
    again, theirs = (path / "model.safetensors" for path in (tmp_path / "again", folder / "hf"))
    assert again.read_bytes() == theirs.read_bytes()
