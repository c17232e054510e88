"""No test is left out in CI: only tests/required.py skips, and there a missing tool is a failure."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli import ROOT
from tests.lint.words import tracked_files
from tests.required import VARIABLE

SKIPS = re.compile(r"pytest\.(skip|importorskip|xfail|exit)\b|mark\.(skip|skipif|xfail)\b|\b(skipTest|SkipTest)\b")
NEEDS_A_TOOL = """
from tests.required import not_here

def test_with_a_tool():
    not_here("the tool is not installed")
"""


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
    (tmp_path / "test_tool.py").write_text(NEEDS_A_TOOL)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        str(tmp_path),
    ]
    env = {**os.environ, VARIABLE: value, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert outcome in ended.stdout, ended.stdout + ended.stderr
    assert "the tool is not installed" in ended.stdout or not value


def test_ci_sets_the_variable_before_both_suites() -> None:
    script = (ROOT / ".ci/run").read_text("utf-8")
    assert script.index(f"export {VARIABLE}=1") < script.index("make test\n") < script.index("make test-long")
