"""The data benchmark measures what it says, and its bars are what was measured."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.data.__main__ import app, parse_count
from benchmarks.data.child import measure, resume
from benchmarks.data.contest import EOT_ID, Contestant, Loader, Settings, open_source, write_source
from benchmarks.data.ours import CONTESTANTS, LIMIT, OURS
from benchmarks.data.peers import cut_into_samples
from benchmarks.data.report import PER_DOCUMENT, Bar, bars, summarize

SETTINGS = Settings(seq_len=32, batch_size=4, num_workers=0)
IN_PROCESS = [each for each in CONTESTANTS if "torch" not in each.modules]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    write_source(folder, 40_000, seed=0)
    for contestant in CONTESTANTS:
        (folder / contestant.name).mkdir()
        contestant.write(open_source(folder), folder / contestant.name, SETTINGS)
    return folder


def test_the_documents_are_all_of_the_tokens_and_each_ends_with_the_eot(folder: Path) -> None:
    source = open_source(folder)
    documents = list(source.documents())
    assert np.array_equal(np.concatenate(documents), source.tokens)
    assert all(document[-1] == EOT_ID and EOT_ID not in document[:-1] for document in documents)


def test_documents_cut_as_they_come_are_the_samples_of_the_stream(folder: Path) -> None:
    source = open_source(folder)
    cut = list(cut_into_samples(source.documents(), SETTINGS.seq_len + 1))
    assert np.array_equal(cut, list(source.samples(SETTINGS.seq_len)))
    assert all(one[-1] == other[0] for one, other in pairwise(cut))


@pytest.mark.parametrize("contestant", IN_PROCESS, ids=lambda each: each.name)
def test_a_contestant_reads_all_tokens_and_resumes_exactly(
    contestant: Contestant, folder: Path, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    for num_workers in contestant.workers:
        settings = replace(SETTINGS, num_workers=num_workers)
        measured = measure(contestant, folder / contestant.name, settings, 0.01, state)
        assert measured["mtok_s"] > 0
        assert resume(contestant, folder / contestant.name, settings, state)["resumes_exactly"]


def test_a_contestant_that_leaves_tokens_out_is_not_measured(folder: Path, tmp_path: Path) -> None:
    memmap = next(each for each in CONTESTANTS if each.name == LIMIT)

    def nine_tenths(folder: Path, settings: Settings, state: object) -> Loader:
        loader = memmap.open(folder, settings, state)
        return replace(loader, epoch=lambda: (batch for i, batch in enumerate(loader.epoch()) if i % 10))

    with pytest.raises(AssertionError, match="tokens"):
        measure(replace(memmap, open=nine_tenths), folder / LIMIT, SETTINGS, 0.01, tmp_path / "state")


def test_the_bars_are_ratios_of_the_same_round_and_show_what_was_not_measured() -> None:
    speeds = {LIMIT: [100, 200, 400], OURS: [60, 100, 240], PER_DOCUMENT: [5, 11, 5], "other": [90, 70, 80]}
    nothing: Any = None  # is neither written nor opened
    contestants = [Contestant(name, nothing, nothing, is_peer=name not in (LIMIT, OURS)) for name in speeds]
    records = [
        {"contestant": name, "round": number, "num_workers": 0, "mtok_s": mtok_s}
        for name, each in speeds.items()
        for number, mtok_s in enumerate(each)
    ]
    summary = summarize(records, contestants)
    share, times, fastest, *scale = bars(summary, contestants, {"resume_ms": 49.0})
    assert (share.value, share.passed) == (0.6, True)
    assert (times.value, times.passed) == (20, True)
    assert (fastest.value, fastest.passed) == (100 / 80, True)
    assert [bar.passed for bar in scale] == [True, None]


@pytest.mark.long
def test_the_command_writes_a_record_of_each_run_and_of_each_bar(tmp_path: Path) -> None:
    out = tmp_path / "data.jsonl"
    asked = ["--tokens", "20K", "--rounds", "1", "--seconds", "0.01", "--seq-len", "32", "--batch-size", "4"]
    result = CliRunner().invoke(app, [*asked, "--out", str(out), "--only", OURS, "--no-scale"])
    assert result.exit_code == 0, result.output
    header, *runs, summary = map(json.loads, out.read_text().splitlines())
    assert header["tokens"] == parse_count("20K") == 20_000
    assert [(run["contestant"], run["num_workers"]) for run in runs] == [(OURS, 0), (OURS, 1)]
    assert all(run["peak_mib"] > 0 for run in runs)
    assert [bar["passed"] for bar in summary["bars"]] == [None] * 5


def test_a_library_that_is_not_installed_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = Contestant("a library", CONTESTANTS[0].write, CONTESTANTS[0].open, ("no_such_library",), is_peer=True)
    monkeypatch.setattr("benchmarks.data.__main__.ALL", [absent])
    out = tmp_path / "data.jsonl"
    result = CliRunner().invoke(app, ["--tokens", "20K", "--rounds", "1", "--out", str(out), "--no-scale"])
    assert "missing: no_such_library" in result.output
    assert json.loads(out.read_text().splitlines()[1])["missing"] == "no_such_library"


@pytest.mark.parametrize(
    ("value", "at_least", "passed"),
    [(10.0, True, True), (9.99, True, False), (9.99, False, True), (10.0, False, False), (None, True, None)],
)
def test_a_bar_passes_only_on_the_right_side_of_its_limit(
    value: float | None, at_least: bool, passed: bool | None
) -> None:
    assert Bar("a promise", value, 10, at_least).passed is passed


@pytest.mark.parametrize(("value", "status"), [(9.0, 1), (11.0, 0), (None, 0)])
def test_the_command_fails_if_a_bar_fails(
    value: float | None, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.data.__main__.ALL", [])
    monkeypatch.setattr("benchmarks.data.__main__.bars", lambda *arguments: [Bar("a promise", value, 10, True)])
    result = CliRunner().invoke(app, ["--tokens", "20K", "--no-scale"])
    assert result.exit_code == status, result.output
