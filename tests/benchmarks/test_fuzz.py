"""Tests of the fuzzed parsers: their sound inputs, damaged ones, and faults that the benchmark must find."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.fuzz.__main__ import ENDED, Fuzzed, count
from benchmarks.fuzz.targets import TARGETS, Target, check

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
