"""The repository: its links and its wheel hold the package, git ignores what runs write, and make explains itself."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.cli import ROOT
from tests.lint.words import tracked_files

NOT_INSTALLED = {"benchmarks", "docs", "examples", "tests"}
POINTS = "foretrain/scaling/laws/chinchilla_points.csv"


def links() -> dict[str, Path]:
    """The links in the package, by name, and where they lead."""
    return {path.name: path.readlink() for path in (ROOT / "foretrain").iterdir() if path.is_symlink()}


def test_every_room_with_code_is_a_link_in_the_package() -> None:
    rooms = {folder.parent.name for folder in ROOT.glob("[a-z]*/__init__.py")} - NOT_INSTALLED - {"foretrain"}
    assert links() == {room: Path("..", room) for room in rooms}


def test_a_wheel_holds_the_package_alone_with_its_presets_and_templates(tmp_path: Path) -> None:
    tracked = [Path(path) for path in tracked_files() if (ROOT / path).exists()]
    copy, rooms = tmp_path / "project", links()
    for path in tracked:  # a copy, since a build leaves files beside the sources
        (copy / path.parent).mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, copy / path, follow_symlinks=False)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", tmp_path, copy], check=True, cwd=tmp_path)

    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    code = {path for path in tracked if path.suffix in (".py", ".yaml", ".in", ".csv")}
    expected = {f"foretrain/{path}" for path in code if path.parts[0] in rooms}
    assert packed == expected | {str(path) for path in code if path.parts[0] == "foretrain"}
    assert {"foretrain/configs/runs/dry_run.yaml", "foretrain/slurm/job.sbatch.in", POINTS} <= packed


def test_git_ignores_what_runs_write_and_keeps_what_is_ours(tmp_path: Path) -> None:
    shutil.copy(ROOT / ".gitignore", tmp_path)
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    ours = ["configs/runs/dry_run.yaml", "configs/data/x.yaml", "tests/data_pipeline/a.py"]
    written = ["data/stdlib/manifest.json", "runs/dry_run/config.yaml", ".venv/bin/python", "a/__pycache__/b.pyc"]
    ignored = subprocess.run(
        ["git", "check-ignore", *ours, *written], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert ignored == written


def test_make_refuses_an_old_python_in_one_clear_line(tmp_path: Path) -> None:
    old = tmp_path / "python3.8"
    old.write_text("#!/bin/sh\nexit 1\n")  # as a Python does if the check of its version fails
    old.chmod(0o755)
    (tmp_path / "pyproject.toml").touch()
    command = ["make", "-f", str(ROOT / "Makefile"), f"PYTHON={old}", "train"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert f"foretrain needs Python 3.11 or newer, and '{old}' is not" in result.stderr
    assert not (tmp_path / ".venv").exists()


def test_make_help_explains_every_target() -> None:
    result = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert phony is not None
    for target in phony[1].split():
        assert f"  make {target} " in result.stdout
