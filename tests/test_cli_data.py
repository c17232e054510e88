"""`foretrain data verify|stats|peek` on the command line: what they may be given, and what they print and write."""

import json
import shlex
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from foretrain.configs.load import load
from foretrain.data_pipeline.corpus.manifest import SPLITS, checked_name
from foretrain.trainer.anomalies.rollbacks import Rollback, write_rollbacks
from foretrain.trainer.run.exit_status import EXIT_BAD_INPUT
from tests.cli import CONFIG, assert_refused, called

SOURCES = "{web: {path: corpus, weight: 3}, code: {path: copy, max_epochs: 0.05}}"
MIX = CONFIG.replace("data: {path: corpus}", f"data: {{sources: {SOURCES}, mixture_block: 64}}")

BAD_INPUT = {
    "data verify nowhere": ("no corpus at nowhere", "foretrain prepare", "nearest presets are"),
    "data stats nowhere": ("no corpus at nowhere", "foretrain prepare"),
    "data peek nowhere 0": ("no corpus at nowhere", "foretrain prepare"),
    "data verify nowhere.yaml": ("no config file 'nowhere.yaml'", "nearest presets are"),
    "data stats nothing": ("nothing has no manifest.json", "run `foretrain prepare`"),
    "data peek nothing 0": ("nothing has no manifest.json", "run `foretrain prepare`"),
    "data verify one.yaml data.path=nowhere": ("no corpus at nowhere", "set data.path"),
    "data stats mix.yaml data.sources.code.path=nowhere": ("data.sources.code", "no corpus at nowhere"),
    "data stats corpus model.seq_ln=5": ("no key model.seq_ln", "did you mean model.seq_len?"),
    "data verify corpus seq_len": ("override 'seq_len' is not key=value",),
    "data stats corpus model.seq_len=65536": ("needs 65537", "shorten seq_len or prepare more text"),
    "data stats corpus data.path=copy": ("corpus is a corpus", "data.path or data.sources only with a config"),
    "data peek corpus 0 data.sources.web.path=copy": ("corpus is a corpus", "data.path or data.sources"),
    "data stats corpus --plot nowhere/x.png": ("nowhere/x.png", "No such file", "choose another path"),
    "data stats corpus --json nothing": ("nothing", "Is a directory", "choose another path"),
    "data peek corpus 0 --count 0": ("--count 0 must be at least 1",),
    "data peek corpus 99999999999999999999": ("no global sample 99999999999999999999", "numbered from 0"),
    "data peek corpus -- -1": ("no global sample -1", "numbered from 0"),
    "data peek capped.yaml 100000": ("mixture ends after", "raise max_epochs"),
}
"""Command lines in the folder below, and what their messages must say."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    folder = tmp_path_factory.mktemp("user")
    (folder / "one.yaml").write_text(CONFIG, encoding="utf-8")
    (folder / "mix.yaml").write_text(MIX, encoding="utf-8")
    (folder / "capped.yaml").write_text("data: {sources: {web: {path: corpus, max_epochs: 2}}}\n")
    (folder / "nothing").mkdir()
    for name in ("corpus", "copy"):
        shutil.copytree(corpus, folder / name)
    return folder


@pytest.mark.parametrize("line", BAD_INPUT)
def test_bad_input_is_reported_with_what_to_change_and_leaves_no_file(line: str, folder: Path) -> None:
    before = files_in(folder)
    assert_refused(called(*shlex.split(line), cwd=folder), *BAD_INPUT[line])
    assert files_in(folder) == before


def files_in(folder: Path) -> set[Path]:
    """All of them but the records of what was checked, which whoever opens a corpus may leave."""
    records = [checked_name(split) for split in SPLITS]
    return {path for path in folder.rglob("*") if path.name not in records}


@pytest.mark.parametrize("target", ["corpus", "one.yaml", "runs/dry_run data.path=corpus"])
def test_a_corpus_a_file_and_a_preset_are_targets_alike(target: str, folder: Path) -> None:
    (folder / "runs/dry_run").mkdir(parents=True, exist_ok=True)  # a run of that name does not hide the preset
    name, *overrides = target.split()
    verified = called("data", "verify", name, *overrides, cwd=folder)
    assert (verified.status, verified.out) == (0, "corpus: 2 shards are sound\n")
    for overridden in ("8", "16"):
        ended = called("data", "stats", name, *overrides, f"model.seq_len={overridden}", "--json", "-", cwd=folder)
        assert ended.status == 0
        assert json.loads(ended.out)["budget"]["seq_len"] == int(overridden)
    peeked = called("data", "peek", name, "0", *overrides, "model.seq_len=8", cwd=folder)
    assert peeked.status == 0
    assert "8 of 8 targets carry loss" in peeked.out


def test_a_corpus_behind_a_url_is_a_target_too(folder: Path, tmp_path: Path) -> None:
    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *_: object) -> None:
            """Nothing on the terminal of the tests."""

    settings = ("model.seq_len=8", f"data.cache.dir={tmp_path}")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/corpus"
        verified = called("data", "verify", url, *settings, cwd=folder)
        peeked = called("data", "peek", url, "3", *settings, cwd=folder)
        stats = called("data", "stats", url, *settings, "--json", "-", cwd=folder)
        server.shutdown()
    assert (verified.status, verified.out) == (0, f"{url}: 2 shards are sound\n")
    local = called("data", "peek", f"file://{folder / 'corpus'}", "3", *settings, cwd=folder)
    assert peeked.out == local.out.replace(f"file://{folder / 'corpus'}", url) != ""
    (source,) = json.loads(stats.out)["sources"]
    (expected,) = json.loads(called("data", "stats", "corpus", *settings, "--json", "-", cwd=folder).out)["sources"]
    assert source == {**expected, "path": url}


def test_every_source_of_a_config_is_verified_once_and_all_faults_are_reported(folder: Path, tmp_path: Path) -> None:
    for name in ("corpus", "copy", "mix.yaml"):
        (shutil.copytree if (folder / name).is_dir() else shutil.copy)(folder / name, tmp_path / name)
    sound = called("data", "verify", "mix.yaml", cwd=tmp_path)
    assert (sound.status, sound.out) == (0, "copy: 2 shards are sound\ncorpus: 2 shards are sound\n")
    twice = called("data", "verify", "mix.yaml", "data.sources.code.path=corpus", cwd=tmp_path)
    assert twice.out == "corpus: 2 shards are sound\n"
    assert twice.err.count("verifying corpus") == 1

    for name in ("corpus", "copy"):
        shard = tmp_path / name / "train-000000.tar"
        data = bytearray(shard.read_bytes())
        data[len(data) // 3] ^= 1
        shard.write_bytes(data)
    ended = called("data", "verify", "mix.yaml", cwd=tmp_path)
    assert (ended.status, ended.out) == (EXIT_BAD_INPUT, "")
    for name in ("corpus", "copy"):
        assert f"{name}/train-000000.tar has other bytes than were written" in ended.err


def test_stats_are_shown_and_written(folder: Path, tmp_path: Path) -> None:
    plot, json_file = tmp_path / "lengths.png", tmp_path / "stats.json"
    words = ("data", "stats", "mix.yaml", "--plot", str(plot), "--json", str(json_file))
    ended = called(*words, cwd=folder)
    assert ended.status == 0
    assert ended.out.isascii()
    assert "Documents of web by length" in ended.out
    assert plot.read_bytes().startswith(b"\x89PNG\r\n")
    written = json.loads(json_file.read_text())
    assert [source["name"] for source in written["sources"]] == ["code", "web"]
    assert written["sources"][0]["epochs"] == pytest.approx(0.05, abs=0.005)
    assert f"{written['sources'][1]['train']['num_tokens']:,}" in ended.out

    on_stdout = called("data", "stats", "mix.yaml", "--json", "-", cwd=folder)
    assert json.loads(on_stdout.out) == written


def test_peek_shows_the_requested_number_of_samples(folder: Path) -> None:
    ended = called("data", "peek", "mix.yaml", "7", "--count", "3", cwd=folder)
    assert ended.status == 0
    assert [f"-- global sample {g}:" in ended.out for g in range(6, 11)] == [False, True, True, True, False]
    assert "source web (corpus), epoch 0" in ended.out
    assert "-- document 1 " in ended.out
    assert "shard train-000000.tar, member train-0000000" in ended.out


def test_peek_shows_which_samples_a_run_leaves_out_and_why(folder: Path) -> None:
    run = folder / "runs" / "back"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(CONFIG, encoding="utf-8")
    reason = "loss 9.1000 is above 6.2000"
    size = load(run / "config.yaml").train.global_batch_size
    write_rollbacks(run, [Rollback(4, 2, 2 * size, 4 * size, reason)])
    peeked = called("data", "peek", "runs/back", str(4 * size - 1), "--count", "2", cwd=folder)
    assert peeked.status == 0, peeked.err
    why = f"step 4: {reason}; back to the checkpoint of step 2, without the samples {2 * size} to {4 * size - 1}"
    assert f"-- {why} --" in peeked.out
    assert f"global sample {4 * size - 1}: left out by a rollback" in peeked.out
    assert f"global sample {4 * size}: row 0 of the batch of step 3" in peeked.out
