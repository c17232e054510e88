"""Configs that others have written: whoever only looks at one starts none of its commands."""

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli import CONFIG, called

DRY = "launch theirs.yaml --dry-run run_dir=runs/new"
LOOKS = (
    "data verify theirs.yaml",
    "data stats theirs.yaml",
    "data peek theirs.yaml 0",
    "ladder theirs.yaml --budget 1e12 --points 2 --out ladders/new --allow-standard --dry-run",
    "budget theirs.yaml --law hoffmann --flops 1e15",
)
"""Commands that only look."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """A folder with a config whose data are a command that leaves a trace."""
    folder = tmp_path_factory.mktemp("user")
    shutil.copytree(corpus, folder / "corpus")
    attack = f"pipe:touch {folder}/attacked; cat {folder}/corpus/{{}}"
    text, count = re.subn(r"(?m)^data: .*$", f'data: {{path: "{attack}", cache: {{dir: {folder}/cache}}}}', CONFIG)
    assert count == 1
    (folder / "theirs.yaml").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("line", LOOKS)
def test_a_verb_that_only_looks_at_a_config_starts_none_of_its_commands(line: str, folder: Path) -> None:
    ended = called(*line.split(), cwd=folder)
    assert not (folder / "attacked").exists()
    assert ended.status == 2
    # `budget` needs no data if the config has a vocabulary.
    refusal = "cannot be read from here" if line.startswith("budget") else "no command that a config names, so the data"
    assert refusal in ended.err


@pytest.mark.parametrize("on", ["local", "slurm"])
def test_a_dry_run_says_that_it_did_not_open_data_that_are_a_command(on: str, folder: Path) -> None:
    ended = called(*DRY.split(), "--on", on, "cluster.gpus_per_node=2", cwd=folder)
    assert not (folder / "attacked").exists()
    assert (ended.status, ended.out[:11]) == (0, "#!/bin/bash"), ended.err
    assert ended.err.startswith("not checked: --dry-run starts no command that a config names")


def test_a_dry_run_checks_the_rest_of_a_run_whose_data_are_a_command(folder: Path) -> None:
    ended = called(*DRY.split(), "parallel.tp=4", cwd=folder)
    assert (ended.status, "tp = 4 does not divide model.num_heads = 2" in ended.err) == (2, True)


PLUGIN = "theirs_with_a_trace"


@pytest.fixture
def with_plugin(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A config with a plugin whose import leaves a trace, and the file of that trace."""
    trace = folder / "imported"
    (folder / f"{PLUGIN}.py").write_text(f"open({str(trace)!r}, 'w').close()\n", encoding="utf-8")
    text = (folder / "theirs.yaml").read_text(encoding="utf-8")
    text = re.sub(r"(?m)^data: .*$", "data: {path: corpus}", text)
    (folder / "plugged.yaml").write_text(f"plugins: [{PLUGIN}]\n{text}", encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    yield trace
    trace.unlink(missing_ok=True)
    sys.modules.pop(PLUGIN, None)


@pytest.mark.parametrize("line", LOOKS)
def test_a_verb_that_only_looks_imports_no_plugin_that_only_a_config_names(
    line: str, folder: Path, with_plugin: Path
) -> None:
    called(*line.replace("theirs.yaml", "plugged.yaml").split(), cwd=folder)
    assert not with_plugin.exists()


def test_a_dry_run_says_that_it_imported_no_plugin_and_one_that_the_user_types_is_imported(
    folder: Path, with_plugin: Path
) -> None:
    line = DRY.replace("theirs.yaml", "plugged.yaml").split()
    ended = called(*line, cwd=folder)
    assert (ended.status, ended.out[:11], with_plugin.exists()) == (0, "#!/bin/bash", False), ended.err
    assert ended.err.startswith("not checked: --dry-run imports no plugin that a config names")
    assert f"'plugins=[{PLUGIN}]'" in ended.err
    ended = called(*line, f"plugins=[{PLUGIN}]", cwd=folder)
    assert (ended.status, ended.err, with_plugin.exists()) == (0, "", True)


def test_what_only_a_plugin_defines_is_refused_with_the_reason(folder: Path, with_plugin: Path) -> None:
    line = "budget plugged.yaml --law hoffmann --flops 1e15 model.attention=theirs"
    ended = called(*line.split(), cwd=folder)
    assert (ended.status, with_plugin.exists()) == (2, False)
    assert "name the plugin yourself (plugins=[...]): budget imports none that only a config names" in ended.err


def test_a_command_that_the_user_types_is_started(folder: Path) -> None:
    command = f"pipe:touch {folder}/typed; cat {folder}/corpus/{{}}"
    ended = called("data", "stats", "theirs.yaml", f"data.path={command}", cwd=folder)
    assert (ended.status, (folder / "typed").exists()) == (0, True), ended.err
    (folder / "typed").unlink()
    assert called("data", "verify", f"{command} ", f"data.cache.dir={folder}/cache", cwd=folder).status == 0
    assert (folder / "typed").exists()
