"""The import contracts of `.importlinter` hold, and each can fail."""

import os
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PLANTED = {
    "floors": ("foretrain/parallel/layout.py", "foretrain.trainer.verification.curve"),
    "new-room": ("foretrain/attic/__init__.py", "foretrain.configs"),
    "tests": ("foretrain/files.py", "tests.cli"),
    "tests-of-benchmarks": ("benchmarks/data_report.py", "tests.cli"),
    "model": ("foretrain/trainer/model/spec.py", "foretrain.trainer.mup.table"),
    "coordinates": ("foretrain/trainer/mup/view.py", "foretrain.trainer.build"),
    "data-floors": ("foretrain/data_pipeline/stream/order.py", "foretrain.data_pipeline.inspect.stats"),
    "studies": ("foretrain/scaling/transfer/optimum.py", "foretrain.scaling.sweep.plan"),
    "trials": ("foretrain/scaling/trials/curve.py", "foretrain.scaling.sweep.search"),
    "launchers": ("foretrain/launcher/local/run.py", "foretrain.trainer.run.setup"),
    "array": ("foretrain/launcher/ray/driver.py", "foretrain.launcher.array.task"),
    "pure": ("foretrain/trainer/mup/table.py", "torch"),
}
"""For each contract, a file and an import that it forbids there."""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What lint-imports prints of a copy of the project with all of PLANTED."""
    copy = tmp_path_factory.mktemp("project")
    ignore = shutil.ignore_patterns("__pycache__", "*.json", "*.png")
    for package in ("foretrain", "benchmarks", "tests"):
        shutil.copytree(ROOT / package, copy / package, ignore=ignore)
    shutil.copy(ROOT / ".importlinter", copy)
    for path, module in PLANTED.values():
        file = copy / path
        file.parent.mkdir(exist_ok=True)
        with file.open("a", encoding="utf-8") as source:
            source.write(f"\nimport {module}\n")
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as lint; lint()", "--no-cache"]
    result = subprocess.run(
        command,
        cwd=copy,
        env={**os.environ, "COLUMNS": "200", "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1, result.stdout + result.stderr
    return result.stdout


@pytest.mark.parametrize("contract", PLANTED)
def test_a_contract_finds_an_import_that_it_forbids(contract: str, report: str) -> None:
    path, _ = PLANTED[contract]
    importer = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    assert importer in report, report


def test_every_contract_has_a_planted_import() -> None:
    contracts = ConfigParser()
    contracts.read(ROOT / ".importlinter")
    names = {section.split(":")[2] for section in contracts.sections() if section.count(":") == 2}
    assert names == PLANTED.keys() - {"new-room"}
