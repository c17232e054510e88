"""The command line: bad input is reported in a line that says what to change, and the examples of the help work."""

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from foretrain.configs import load as configs
from foretrain.data_pipeline.errors import CorpusError
from foretrain.launcher import train
from foretrain.trainer.run import stopping
from foretrain.trainer.run.exit_status import EXIT_BAD_INPUT, EXIT_CONFIG, EXIT_FAILED, EXIT_RESUME
from foretrain.trainer.run.setup import prepare_run
from foretrain.verbs.app import app
from tests.cli import CONFIG, DEADLINE_S, ROOT, assert_refused, called, environment, foretrain

BAD_INPUT = {
    "prepare nowhere": ("nowhere does not exist", "give files or folders"),
    "prepare": ("nothing to prepare", "--stdlib"),
    "prepare nothing": ("nothing holds no file", ".txt", ".jsonl"),
    "prepare tiny.yaml": ("unknown kind", ".txt"),
    "prepare text.txt --out corpus": ("already holds a corpus", "--overwrite"),
    "prepare text.txt --out nothing": ("nothing holds notes", "choose another folder"),
    "prepare text.txt --out text.txt/out": ("text.txt", "choose another path"),
    "prepare text.txt --vocab-size 9": ("vocab_size = 9", "at least 258"),
    "prepare text.txt --tokenizer nope.json": ("nope.json does not exist", "give a tokenizer.json"),
    "data verify nowhere": ("no corpus at nowhere", "foretrain prepare"),
    "data verify nothing": ("nothing has no manifest.json", "run `foretrain prepare`"),
    "train runs/dry_rum": ("no config file 'runs/dry_rum'", "nearest presets are runs/dry_run,"),
    "train typo.yaml": ("no key train.num_token (typo.yaml:1)", "did you mean train.num_tokens?"),
    "train broken.yaml": ("not valid YAML (broken.yaml:2)", "expected ',' or '}'"),
    "train tiny.yaml optimizr.lr=1e-3": ("no key optimizr.lr", "did you mean optimizer.lr?"),
    "train tiny.yaml optimizer.lr=fast": ("optimizer.lr: 'fast' is not a number",),
    "train tiny.yaml parallel.sp=2": ("parallel.sp: '2' is neither true nor false",),
    "train tiny.yaml parallel.schedule=2f2b": ("'2f2b' is not one of 1f1b, interleaved_1f1b",),
    "train tiny.yaml optimizer.lr": ("override 'optimizer.lr' is not key=value", "as in optimizer.lr=1e-3"),
    "train tiny.yaml model.num_heads=5": ("d_model = 32 is not a multiple of num_heads = 5", "change one"),
    "train tiny.yaml parallel.tp=4": ("tp = 4 does not divide model.num_heads = 2", "tp may be 1 or 2"),
    "train tiny.yaml train.global_batch_size=6": ("global_batch_size = 6 is not divisible", "use 8"),
    "train tiny.yaml parallel.pp=2 parallel.zero_stage=3": ("zero_stage = 3 needs parallel.pp = 1", "zero_stage=1"),
    "train tiny.yaml parallel.dp=4096 train.global_batch_size=8192": ("4096 ranks are too many", "lower parallel.dp"),
    "train tiny.yaml data.path=nowhere": ("no corpus at nowhere", "foretrain prepare", "set data.path"),
    "train tiny.yaml model.seq_len=65536": ("needs 65537", "shorten seq_len or prepare more text"),
    "train tiny.yaml model.vocab_size=100": ("smaller than the 300 tokens", "set it to 300 or more"),
    "train tiny.yaml schedule.warmup_tokens=1e9": ("more than train.num_tokens", "shorten the warm-up"),
    "train tiny.yaml run_dir=text.txt": ("text.txt", "File exists", "choose another path"),
    "train tiny.yaml run_dir=text.txt/run": ("text.txt", "Not a directory", "choose another path"),
    "generate nothing": ("nothing holds no complete checkpoint", "train first"),
    "generate nothing --temperature -1": ("temperature = -1.0 must not be negative",),
}
"""Command lines in the folder below, and what their messages must say."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    folder = tmp_path_factory.mktemp("user")
    (folder / "tiny.yaml").write_text(CONFIG, encoding="utf-8")
    (folder / "typo.yaml").write_text("train: {num_token: 5}\n")
    (folder / "broken.yaml").write_text("train:\n  {num_tokens: 5]\n")
    (folder / "text.txt").write_text("some text")
    (folder / "nothing").mkdir()
    (folder / "nothing/notes").write_text("not a kind of file that is read")
    (folder / "corpus").symlink_to(corpus)
    return folder


@pytest.mark.parametrize("line", BAD_INPUT)
def test_bad_input_is_reported_with_what_to_change_and_leaves_no_file(line: str, folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    assert_refused(called(*shlex.split(line), cwd=folder), *BAD_INPUT[line])
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("line", ["prepare nowhere", "train tiny.yaml parallel.tp=4"])
def test_the_real_process_reports_bad_input_on_stderr_only(line: str, folder: Path) -> None:
    assert_refused(foretrain(*line.split(), cwd=folder), *BAD_INPUT[line])


def test_everything_wrong_with_a_layout_is_reported_at_once(folder: Path) -> None:
    ended = called("train", "tiny.yaml", "parallel.tp=4", "parallel.vpp=2", "train.global_batch_size=6", cwd=folder)
    assert_refused(ended, "parallel.tp = 4", "parallel.vpp = 2", "global_batch_size = 6", num_lines=3)


def test_an_incomplete_launcher_environment_is_refused(folder: Path) -> None:
    ended = called("train", "tiny.yaml", cwd=folder, RANK="0", WORLD_SIZE="2")
    words = ("RANK is set", "not LOCAL_RANK, MASTER_ADDR, MASTER_PORT", "unset RANK")
    assert_refused(ended, *words, status=EXIT_CONFIG)


@pytest.fixture
def as_a_rank(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The variables that a launcher sets. No handler of signals is installed in this process."""
    monkeypatch.setattr(train, "catch_signals", stopping.StopRequest)
    return AS_A_RANK


AS_A_RANK = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


def test_the_exit_status_of_a_bad_config_stops_a_launcher_from_restarting_it(
    folder: Path, as_a_rank: dict[str, str]
) -> None:
    ended = called("train", "tiny.yaml", "model.num_heads=3", cwd=folder, **as_a_rank)
    assert_refused(ended, "num_heads", status=EXIT_CONFIG)


@pytest.mark.usefixtures("as_a_rank")
def test_only_the_first_rank_of_a_machine_looks_at_every_file_of_the_corpus(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny.yaml").write_text(CONFIG, encoding="utf-8")
    shutil.copytree(corpus, tmp_path / "corpus")
    for shard in (tmp_path / "corpus").glob("train-*.tar"):
        shard.unlink()
    monkeypatch.chdir(tmp_path)
    settings = configs.load("tiny.yaml", ["parallel.dp=2"])
    with train.prepared_run(settings, train.Place(1, 2, local_rank=1), allow_data_change=False) as run:
        assert run.data.any_stream.num_tokens
    with (
        pytest.raises(CorpusError, match=r"train-.*tar is missing"),
        train.prepared_run(settings, train.Place(1, 2, local_rank=0), allow_data_change=False),
    ):
        pytest.fail("nothing was missing")


@pytest.mark.parametrize("place", [train.Place(), train.Place(rank=0, world_size=2)])
def test_a_process_that_waited_for_the_folder_resumes_where_the_other_one_ended(
    place: train.Place, folder: Path, tmp_path: Path, as_a_rank: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    settings = configs.load("tiny.yaml", [f"run_dir={tmp_path}"])

    @contextmanager
    def locked_after_a_while(run_dir: Path, wait_s: float) -> Iterator[None]:
        checkpoint = run_dir / "checkpoints/step-00000100"  # written by the process that had the lock
        checkpoint.mkdir(parents=True)
        run = prepare_run(replace(settings, run_dir=str(tmp_path / "other")))
        configs.save(run.config, checkpoint / "config.yaml")
        record = {"step": 100, **run.data.state(800), "sources": run.data.fingerprints}
        (checkpoint / "run.json").write_text(json.dumps(record))
        yield

    monkeypatch.setattr(train, "locked", locked_after_a_while)
    if place.is_launcher:
        with train.prepared_run(settings, place, allow_data_change=False) as run:
            assert run.is_complete
    else:  # all ranks have to look again
        with (
            pytest.raises(SystemExit, match=str(EXIT_RESUME)),
            train.prepared_run(settings, place, allow_data_change=False),
        ):
            pass


def test_the_exit_status_of_a_locked_folder_lets_a_launcher_restart(
    folder: Path, as_a_rank: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "LOCK_WAIT_S", 0.0)
    hold = "import sys; from pathlib import Path; from foretrain.trainer.run.lock import locked\n"
    hold += "with locked(Path(sys.argv[1])): print('held', flush=True); input()"
    command = [sys.executable, "-c", hold, str(folder / "runs/complete")]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        ended = called("train", "tiny.yaml", cwd=folder, **as_a_rank)
        holder.kill()
    assert_refused(ended, f"in use by process {holder.pid}", status=EXIT_FAILED)


def test_a_traceback_is_shown_if_it_is_asked_for(folder: Path) -> None:
    with pytest.raises(ValueError, match="no config file"):
        called("train", "nope.yaml", cwd=folder, FORETRAIN_TRACEBACK="1")


def test_a_corpus_without_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    ended = called("prepare", "empty.txt", cwd=tmp_path)
    assert ended.status == EXIT_BAD_INPUT
    assert ended.err.splitlines()[-1] == "error: the corpus is empty: none of the 1 files of empty.txt has any text"
    assert [path.name for path in tmp_path.iterdir()] == ["empty.txt"]


@pytest.fixture
def damaged(corpus: Path, tmp_path: Path) -> Path:
    """A user's folder whose corpus may be spoiled."""
    shutil.copytree(corpus, tmp_path / "corpus")
    (tmp_path / "tiny.yaml").write_text(CONFIG, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("cut_bytes", [1, 1024, 20_000])
def test_a_truncated_shard_stops_train_before_it_starts(cut_bytes: int, damaged: Path) -> None:
    shard = damaged / "corpus/train-000000.tar"
    shard.write_bytes(shard.read_bytes()[:-cut_bytes])
    assert_refused(called("train", "tiny.yaml", cwd=damaged), "corpus/train-000000.tar", "copy the file again")
    assert not (damaged / "runs").exists()


def test_a_shard_that_is_altered_is_found_by_verify(damaged: Path) -> None:
    shard = damaged / "corpus/train-000000.tar"
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 1
    shard.write_bytes(data)
    ended = called("data", "verify", "corpus", cwd=damaged)
    assert ended.status == EXIT_BAD_INPUT
    says = "error: corpus/train-000000.tar has other bytes than were written (SHA-256): copy the file again"
    assert says in ended.err


def test_a_pipe_that_closes_leaves_no_traceback(folder: Path) -> None:
    command = shlex.join([sys.executable, "-m", "foretrain"])
    line = f"{command} data verify corpus | true; {command} train --help | true"
    ended = subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    assert "Exception" not in ended.stderr


def test_no_file_replaces_a_closed_stream_in_the_command_or_its_ranks(tmp_path: Path) -> None:
    code = (
        "import os, sys; from foretrain.verbs.app import repair_streams; repair_streams(); file = open('opened', 'w');"
        "print(file.fileno() > 2, *(os.get_inheritable(fd) for fd in range(3)), file=file);"
        "print(sys.stdin.read() == '', sys.stdout.isatty(), sys.stderr.isatty(), sys.stdout.encoding, file=file)"
    )
    line = f"{shlex.join([sys.executable, '-c', code])} <&- >&- 2>&-"
    subprocess.run(["bash", "-c", line], cwd=tmp_path, env=environment(), timeout=DEADLINE_S, check=True)
    assert (tmp_path / "opened").read_text() == "True True True True\nTrue False False utf-8\n"


def verbs(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every verb of the command line, with the words that call it."""
    command = command or get_command(app)
    children = getattr(command, "commands", None)
    if children is None:
        yield path, command
    for name, child in (children or {}).items():
        yield from verbs(child, (*path, name))


VERBS = dict(verbs())


def test_help_lists_the_verbs_in_panels(tmp_path: Path) -> None:
    shown = called("--help", cwd=tmp_path)
    assert shown.status == 0
    for title in ("Data", "Training"):
        assert f"─ {title} ─" in shown.out
    assert {("prepare",), ("data", "verify"), ("train",), ("generate",)} <= VERBS.keys()
    for verb in VERBS:
        assert f"│ {verb[0]} " in shown.out


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_the_help_of_a_verb_shows_an_example_that_works(verb: tuple[str, ...], tmp_path: Path) -> None:
    shown = called(*verb, "--help", cwd=tmp_path)
    assert shown.status == 0
    assert f"Example: foretrain {' '.join(verb)}" in " ".join(shown.out.split())

    example = VERBS[verb].help.partition("Example: `")[2].partition("`")[0]
    program, *words = shlex.split(example)
    assert (program, tuple(words[: len(verb)])) == ("foretrain", verb)
    context = VERBS[verb].make_context(program, words[len(verb) :])
    if "config" in context.params:
        configs.load(context.params["config"], context.params["overrides"] or [])
