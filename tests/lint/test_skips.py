"""No test is left out in CI: only tests/required.py skips, and there a missing tool is a failure."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli import ROOT
from tests.lint.words import tracked_files
from tests.required import EXTRAS_VARIABLE, VARIABLE

SKIPS = re.compile(r"pytest\.(skip|importorskip|xfail|exit)\b|mark\.(skip|skipif|xfail)\b|\b(skipTest|SkipTest)\b")
NEEDS_A_TOOL = """
from tests.required import not_here

def test_with_a_tool():
    not_here("the tool is not installed")
"""


NEEDS_A_MODULE = """
from tests.required import need_module

def test_with_a_module():
    need_module("no_such_module")
"""


def outcome_of(folder: Path, test: str, variables: dict[str, str]) -> str:
    """What pytest prints of a test file."""
    (folder / "test_planted.py").write_text(test)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), str(folder)]
    env = {**os.environ, **variables, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    return ended.stdout + ended.stderr


def skipping(text: str) -> list[str]:
    """What in a test file leaves a test out."""
    return [match.group(0) for match in SKIPS.finditer(text)]


def test_only_one_module_skips_tests() -> None:
    tracked = [path for path in map(Path, tracked_files()) if path.suffix == ".py" and path.parts[0] == "tests"]
    files = [path for path in tracked if (ROOT / path).exists() and path.name != Path(__file__).name]
    assert len(files) > 300
    found = {str(path) for path in files if skipping((ROOT / path).read_text("utf-8"))}
    assert found == {"tests/required.py"}


@pytest.mark.parametrize("planted", ["skip", "importorskip", "mark.skipif", "mark.xfail"])
def test_a_planted_skip_is_found(planted: str) -> None:
    assert skipping(f"    pytest.{planted}(...)\n")


@pytest.mark.parametrize(("value", "outcome"), [("", "1 skipped"), ("1", "1 failed")])
def test_a_missing_tool_is_a_failure_in_ci_and_a_skip_elsewhere(value: str, outcome: str, tmp_path: Path) -> None:
    printed = outcome_of(tmp_path, NEEDS_A_TOOL, {VARIABLE: value})
    assert outcome in printed
    assert "the tool is not installed" in printed or not value


def needs_a_module(text: str) -> bool:
    """Whether a test file has tests of optional extras."""
    return "need_module(" in text


def test_ci_runs_every_file_that_needs_an_optional_module_where_its_lack_is_a_failure() -> None:
    tracked = [path for path in map(Path, tracked_files()) if path.name.startswith("test_") and path.suffix == ".py"]
    files = [path for path in tracked if (ROOT / path).exists() and path.name != Path(__file__).name]
    needing = {str(path) for path in files if needs_a_module((ROOT / path).read_text("utf-8"))}
    _, _, command = (ROOT / ".ci/run").read_text("utf-8").partition(f"{EXTRAS_VARIABLE}=1 ")
    assert needing and needing == set(re.findall(r"tests/\S+\.py", command))


@pytest.mark.parametrize(("value", "outcome"), [("", "1 skipped"), ("1", "1 failed")])
def test_a_missing_extra_is_a_failure_where_ci_tries_the_extras_and_a_skip_elsewhere(
    value: str, outcome: str, tmp_path: Path
) -> None:
    assert outcome in outcome_of(tmp_path, NEEDS_A_MODULE, {EXTRAS_VARIABLE: value, VARIABLE: "1"})


def test_ci_sets_the_variable_before_both_suites() -> None:
    script = (ROOT / ".ci/run").read_text("utf-8")
    assert script.index(f"export {VARIABLE}=1") < script.index("make test\n") < script.index("make test-long")
