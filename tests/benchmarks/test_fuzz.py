"""Tests of the fuzzed parsers: their sound inputs, damaged ones, and faults that the benchmark must find."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from benchmarks.fuzz.__main__ import ENDED, Fuzzed, app, count
from benchmarks.fuzz.targets import TARGETS, Target, check
from tests.cli import ROOT

SAYS_NO = {"http"}
"""Parsers of which some sound inputs are answers that say no."""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_sound_inputs_are_parsed_with_and_without_repair(target: Target, work: Path) -> None:
    folder = work / target.name
    seeds, parse = target.seeds(folder), target.open(folder)
    assert seeds and max(map(len, seeds)) < target.max_bytes
    for seed in seeds:
        for content in (seed, target.repair(seed)):
            try:
                parse(content)
            except target.refusals:
                assert target.name in SAYS_NO


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_damaged_inputs_are_parsed_or_refused_in_words(target: Target, work: Path) -> None:
    folder = work / target.name
    seeds, parse = target.seeds(folder), target.open(folder)

    @settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.data())
    def damage(data: st.DataObject) -> None:
        content = bytearray(data.draw(st.sampled_from(seeds)))
        start = data.draw(st.integers(0, len(content)))
        content[start : start + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
        check(target, parse, data.draw(st.sampled_from([b"\0", b"\1"])) + content)

    damage()


def test_an_error_that_is_no_refusal_is_found() -> None:
    target = replace(TARGETS[0], repair=bytes)

    def parse(content: bytes) -> object:
        return json.loads(content)["size"]

    for content in (b"{}", b"nothing", b'{"size": '):
        with pytest.raises((KeyError, ValueError)):
            check(target, parse, b"\0" + content)


@pytest.mark.parametrize(
    "message", ["", "a" * 5_000, "control \x1b[31m characters"], ids=["empty", "long", "controls the terminal"]
)
def test_a_refusal_that_users_cannot_read_is_found(message: str) -> None:
    target = replace(TARGETS[0], refusals=(RuntimeError,))

    def parse(content: bytes) -> object:
        raise RuntimeError(message)

    with pytest.raises((RuntimeError, AssertionError)):
        check(target, parse, b"\0")


def test_a_python_error_without_the_name_of_a_file_is_found_although_it_is_a_value_error() -> None:
    target = replace(TARGETS[0], refusals=(ValueError,))
    with pytest.raises(UnicodeDecodeError):
        check(target, lambda content: content.decode(), b"\0\xff")


STAND_IN = """
def instrument_imports(include):
    return contextlib.nullcontext()

def Setup(arguments, callback):
    setup.update(arguments=arguments, callback=callback)

def Fuzz():
    print("options", setup["arguments"][1:])
    for data in (b"\\0not a manifest", b"\\1{}"):
        setup["callback"](data)
    print("stat::number_of_executed_units: 2")
"""


def test_a_process_that_fuzzes_gives_the_inputs_of_the_fuzzer_to_the_parser_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "atheris.py").write_text(f"import contextlib\nsetup = {{}}\n{STAND_IN}")
    command = [sys.executable, "-m", "benchmarks.fuzz.child", "manifest", str(tmp_path), "-max_len=5"]
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == ["options ['-max_len=5']", "stat::number_of_executed_units: 2"]


def test_without_the_fuzzer_the_command_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    ended = CliRunner().invoke(app, [])
    assert ended.exit_code == 2 and "pip install -e '.[fuzz]'" in " ".join(ended.output.replace("│", " ").split())


def test_executions_branches_and_findings_are_read_from_what_the_fuzzer_prints(tmp_path: Path) -> None:
    result = Fuzzed("tar")
    printed = f"""#1024\tpulse  cov: 30 ft: 40 corp: 5/30b exec/s: 512 rss: 300Mb
 === Uncaught Python exception: ===
KeyError: 'size'
Traceback (most recent call last):
==12== ERROR: libFuzzer: fuzz target exited
Test unit written to {tmp_path}/crash-1
stat::number_of_executed_units: 1500
stat::peak_rss_mb:              310
{ENDED}77
"""
    count(result, printed)
    count(result, f"#7\tDONE   cov: 29 ft: 39 corp: 5/30b\nstat::number_of_executed_units: 7\n{ENDED}0\n")
    assert (result.executions, result.branches, result.peak_rss_mb) == (1507, 30, 310)
    assert result.findings == [{"input": "crash-1", "error": "KeyError: 'size'"}]


def test_a_process_that_is_killed_while_it_fuzzes_is_a_finding() -> None:
    result = Fuzzed("tar")
    count(result, f"INFO: seed\n#512\tpulse  cov: 30 ft: 40\n{ENDED}-9\n")
    assert result.executions == 512
    assert result.findings == [{"input": "", "error": "the process ended with status -9"}]


def test_a_process_that_did_not_fuzz_is_an_error_with_what_it_printed() -> None:
    with pytest.raises(RuntimeError, match="tar was not fuzzed:\nModuleNotFoundError"):
        count(Fuzzed("tar"), "ModuleNotFoundError: atheris")
