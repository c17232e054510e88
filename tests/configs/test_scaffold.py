"""The project installs what it needs and no more, and git keeps what it should."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOT_INSTALLED = {"benchmarks", "docs", "tests"}


def test_every_room_with_code_is_a_link_in_the_package() -> None:
    rooms = {folder.parent.name for folder in ROOT.glob("[a-z]*/__init__.py")} - NOT_INSTALLED - {"foretrain"}
    links = {path.name: path.readlink() for path in (ROOT / "foretrain").iterdir() if path.is_symlink()}
    assert links == {room: Path("..", room) for room in rooms}


def test_git_ignores_what_runs_write_and_keeps_what_is_ours(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_bytes((ROOT / ".gitignore").read_bytes())
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    ours = [
        "data_pipeline/corpus/shards.py",
        "configs/runs/dry_run.yaml",
        "configs/data/x.yaml",
        "tests/data_pipeline/a.py",
    ]
    written = ["data/stdlib/manifest.json", "runs/dry_run/config.yaml", ".venv/bin/python", "a/__pycache__/b.pyc"]
    ignored = subprocess.run(
        ["git", "check-ignore", *ours, *written], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert ignored == written


def test_an_old_python_gets_one_clear_line(tmp_path: Path) -> None:
    old = tmp_path / "python3.8"
    old.write_text("#!/bin/sh\nexit 1\n")  # as a Python does whose version check fails
    old.chmod(0o755)
    (tmp_path / "pyproject.toml").touch()
    command = ["make", "-f", str(ROOT / "Makefile"), f"PYTHON={old}", "train"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert f"foretrain needs Python 3.11 or newer, and '{old}' is not" in result.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("target", ["train", "test", "lint", "format", "clean", "help"])
def test_make_help_explains_every_target(target: str) -> None:
    result = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"  make {target} " in result.stdout
