"""Runs from the command line, in real processes: their record, Ctrl-C, two at once, and generated text."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from foretrain import limits
from foretrain.configs import load as configs
from foretrain.data_pipeline.corpus.manifest import Manifest
from foretrain.trainer.metrics import METRICS_FILE, VAL_BITS, VAL_LOSS, VAL_LOSS_ERROR, read_metrics
from foretrain.trainer.model.table import num_params
from foretrain.trainer.run.description import Description
from foretrain.trainer.run.exit_status import EXIT_BAD_INPUT, EXIT_RESUME
from foretrain.trainer.run.folder import CHECKPOINTS, RUN_LOG, SAMPLES_FILE, SUMMARY_FILE
from foretrain.trainer.run.setup import prepare_run
from tests.cli import (
    CONFIG,
    NUM_STEPS,
    Ended,
    assert_refused,
    called,
    end,
    environment,
    foretrain,
    start,
    wait_for_a_step,
)
from tests.processes import assert_gone


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """A user's folder: `tiny.yaml`, `corpus`, and in `runs` what the commands below left."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "tiny.yaml").write_text(CONFIG, encoding="utf-8")
    shutil.copytree(corpus, folder / "corpus")
    return folder


@pytest.fixture(scope="module")
def complete_run(folder: Path) -> Ended:
    """A run from its beginning to its end, in runs/complete."""
    return foretrain("train", "tiny.yaml", cwd=folder)


def curve(run_dir: Path) -> list[tuple[int, float, float]]:
    """Step, loss and gradient norm of each step."""
    records = read_metrics(run_dir / METRICS_FILE)
    return [(record["step"], record["loss"], record["grad_norm"]) for record in records if record["kind"] == "train"]


def test_a_run_leaves_its_full_record(complete_run: Ended, folder: Path) -> None:
    assert (complete_run.status, complete_run.err) == (0, "")
    lines = complete_run.out.splitlines()
    assert lines[0] == f"runs/complete: dp=2 tp=1 pp=1 zero=1, {NUM_STEPS} steps, from the start"
    assert any(line.startswith(f"step {NUM_STEPS}/{NUM_STEPS}  held-out loss ") for line in lines)
    for shown in (
        "held-out loss",
        "unigram loss",
        "loss against it",
        "\nwarning: this run has learned nothing of use: its last loss, ",
        "loss.png",
        "\n7 plus ",
        "\n日本語 🙂 [bold] \\",
    ):
        assert shown in complete_run.out
    run_dir = folder / "runs/complete"
    assert (run_dir / "loss.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert [record["step"] for record in read_metrics(run_dir / METRICS_FILE)] == [*range(1, NUM_STEPS + 1), NUM_STEPS]
    evaluation, manifest = read_metrics(run_dir / METRICS_FILE)[-1], Manifest.read(folder / "corpus")
    held_out = manifest.splits["val"]
    bits = evaluation["val_loss"] * held_out.num_tokens / held_out.num_bytes / math.log(2)
    assert evaluation["val_bits_per_byte"] == pytest.approx(bits)
    assert f"│ {manifest.held_out_unigram_nats:.4f} (on held-out tokens" in complete_run.out
    saved = configs.load(run_dir / "config.yaml")
    assert configs.diff(configs.load(folder / "tiny.yaml"), saved) == ["model.vocab_size: None -> 300"]
    ran_on = json.loads((run_dir / "environment.json").read_text())
    assert {"python", "platform", "command", "packages", "git"} <= ran_on.keys()
    described, here = Description.read(run_dir), [f"data.path={folder}/corpus", f"run_dir={run_dir}"]
    assert described == Description.of(prepare_run(configs.load(run_dir / "config.yaml", here)))
    assert described.num_tokens == NUM_STEPS * 8 * 32 and described.num_params == num_params(saved.model)
    assert described.flops == described.flops_per_token * described.num_tokens
    assert [path.name for path in (run_dir / CHECKPOINTS).iterdir()] == [f"step-{NUM_STEPS:08}"]
    assert list((run_dir / "tensorboard").iterdir())
    log = (run_dir / RUN_LOG).read_text(encoding="utf-8").splitlines()
    assert log[0].endswith(
        f"dp=2 tp=1 pp=1 zero=1: {num_params(saved.model):,} parameters in fp32 on 2 ranks (cpu), from step 0"
    )
    assert log[-1].partition("Z  ")[2] == next(line for line in lines if f"{NUM_STEPS}/{NUM_STEPS}  held-out" in line)
    summary = (run_dir / SUMMARY_FILE).read_text(encoding="utf-8")
    assert re.search(r"│ layout +│ dp=2 tp=1 pp=1 zero=1 ", summary)
    samples = [json.loads(line) for line in (run_dir / SAMPLES_FILE).read_text(encoding="utf-8").splitlines()]
    assert [sample["prompt"] for sample in samples] == list(saved.sample.prompts)
    assert all(f"\n{sample['prompt']}" in complete_run.out for sample in samples)


def test_a_complete_run_says_so_and_shows_its_end_again_in_whatever_encoding(complete_run: Ended, folder: Path) -> None:
    before = curve(folder / "runs/complete")
    again = foretrain("train", "tiny.yaml", "parallel.dp=1", cwd=folder, encoding="ascii")
    assert (again.status, again.err) == (0, "")
    assert again.out.startswith("runs/complete is complete: delete it, or set another run_dir, to train again\n")
    assert "dp=2 tp=1 pp=1 zero=1" in again.out  # the layout that trained it, and not that of this command
    for shown in ("held-out loss", "\n7 plus ", "\n??? ? [bold] \\"):
        assert shown in again.out
    assert curve(folder / "runs/complete") == before


def test_eval_measures_what_the_run_measured_at_its_end_on_its_own_data_and_on_others(
    complete_run: Ended, folder: Path
) -> None:
    outcome = foretrain("eval", "runs/complete", "--samples", "8", "--out", "a.json", "--plot", "a.png", cwd=folder)
    assert (outcome.status, "corpus: " in outcome.err) == (0, True)
    measured, run = json.loads((folder / "a.json").read_text()), read_metrics(folder / "runs/complete" / METRICS_FILE)
    (found,) = measured["held_out"]
    assert measured["step"] == NUM_STEPS
    assert found["samples"] == run[-1]["val_samples"] == 8
    for ours, in_run in (("loss", VAL_LOSS), ("standard_error", VAL_LOSS_ERROR), ("bits_per_byte", VAL_BITS)):
        assert found[ours] == pytest.approx(run[-1][in_run], rel=1e-4)
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    assert sum(row["predictions"] for row in found["calibration"]) == found["tokens"] == 8 * 32
    assert f"{found['loss']:.4f} ± {found['standard_error']:.4f}" in outcome.out
    assert (folder / "a.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    again = called("eval", "runs/complete", "--data", "x=corpus", "--data", "y=corpus", "--out", "b.json", cwd=folder)
    assert again.status == 0
    x, y = json.loads((folder / "b.json").read_text())["held_out"]
    assert (x["name"], y["name"]) == ("x", "y") and {**x, "name": "y"} == y and x["samples"] > 8
    twice = called("eval", "runs/complete", "--data", "x=corpus", "--data", "x=other", cwd=folder)
    assert_refused(twice, "names 'x' twice")
    assert_refused(called("eval", "runs/complete", "--out", "no/a.json", cwd=folder), "there is no folder no")
    assert_refused(called("eval", "runs/complete", "--limit", "3", cwd=folder), "are for --tasks: name some tasks")


@pytest.mark.long
def test_ctrl_c_saves_a_checkpoint_and_the_same_command_resumes_the_same_curve(
    complete_run: Ended, folder: Path
) -> None:
    command, run_dir = ("train", "tiny.yaml", "run_dir=runs/stopped"), folder / "runs/stopped"
    process = start(*command, cwd=folder)
    try:
        wait_for_a_step(process, run_dir / METRICS_FILE)
        descendants = psutil.Process(process.pid).children(recursive=True)
        for descendant in descendants:  # else a slow second command could outlast the run
            descendant.suspend()
        second = foretrain(*command, cwd=folder)
        for descendant in descendants:
            descendant.resume()
        os.killpg(process.pid, signal.SIGINT)
        stopped = end(process)
    finally:
        process.kill()
    assert len(descendants) >= 3  # two ranks, and the server they are forked from
    assert_gone(descendants)

    assert_refused(second, f"runs/stopped is in use by process {process.pid} on ", "another run_dir")
    assert stopped.status == EXIT_RESUME
    assert "waiting up to 60 s for the ranks to end; Ctrl-C again kills them" in stopped.err
    num_done = len(curve(run_dir))
    assert 1 <= num_done < NUM_STEPS
    assert f"stopped after step {num_done}, checkpoint saved: the same command continues from here" in stopped.out

    rest = foretrain(*command, cwd=folder)
    assert (rest.status, rest.err) == (0, "")
    assert rest.out.startswith(f"runs/stopped: dp=2 tp=1 pp=1 zero=1, {NUM_STEPS} steps, from step {num_done}\n")
    assert curve(run_dir) == curve(folder / "runs/complete")


def test_generate_prints_the_prompt_and_its_continuation_which_a_seed_determines(
    complete_run: Ended, folder: Path
) -> None:
    arguments = ["generate", "runs/complete", "--prompt", "日本 7 plus", "--num-tokens", "12", "--seed", "3"]
    first = foretrain(*arguments, cwd=folder)
    assert (first.status, first.err) == (0, "")
    assert first.out.startswith("日本 7 plus")
    assert len(first.out) > len("日本 7 plus\n")
    again, other = called(*arguments, cwd=folder), called(*arguments[:-1], "4", cwd=folder)
    assert again.out == first.out != other.out


def test_generate_continues_many_prompts_each_as_if_it_were_alone(complete_run: Ended, folder: Path) -> None:
    prompts: list[dict[str, Any]] = [
        {"prompt": "7 plus", "seed": 3},
        {"prompt": "日本\u2028\x85"},  # characters at which other text would be divided into lines
        {"prompt": "a longer prompt about 7", "seed": 3},
    ]
    lines = "".join(json.dumps(prompt, ensure_ascii=False) + "\n" for prompt in prompts)
    (folder / "prompts.jsonl").write_text(lines, encoding="utf-8", newline="\n")
    options = ("--num-tokens", "9", "--seed", "5")
    ended = called("generate", "runs/complete", "--prompts", "prompts.jsonl", *options, cwd=folder)
    found = [json.loads(line) for line in ended.out.splitlines()]
    assert [each["prompt"] for each in found] == [prompt["prompt"] for prompt in prompts]
    assert [each["seed"] for each in found] == [3, 6, 3]
    for each in found:
        alone = ("--prompt", each["prompt"], "--num-tokens", "9", "--seed", str(each["seed"]))
        assert called("generate", "runs/complete", *alone, cwd=folder).out == f"{each['prompt']}{each['text']}\n"


def test_a_file_of_prompts_has_a_limit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PROMPTS_BYTES", 10)
    (folder / "large.jsonl").write_text('{"prompt": "x"}\n')
    ended = called("generate", "runs/none", "--prompts", "large.jsonl", cwd=folder)
    assert_refused(ended, "large.jsonl has more than 10 bytes, which is the limit: divide it")


def test_a_full_disk_for_what_a_command_prints_is_one_line(complete_run: Ended, folder: Path) -> None:
    command = [sys.executable, "-m", "foretrain", "checkpoint", "ls", "runs/complete"]
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(
            command, cwd=folder, env=environment(), stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert ended.returncode == EXIT_BAD_INPUT
    assert ended.stderr == "error: a file: No space left on device: free some space, or choose another path\n"


def test_generate_ends_the_text_before_a_stop_string(complete_run: Ended, folder: Path) -> None:
    arguments = ("generate", "runs/complete", "--prompt", "7 plus", "--seed", "3", "--num-tokens", "20")
    complete = called(*arguments, cwd=folder).out
    stop = complete[len("7 plus") + 4 : len("7 plus") + 7]
    stopped = called(*arguments, "--stop", "never there", "--stop", stop, cwd=folder).out
    assert stopped == "7 plus" + complete[len("7 plus") :].split(stop)[0] + "\n"


def test_generate_needs_only_the_run_folder(complete_run: Ended, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "runs/complete", tmp_path / "moved")
    arguments = ("--prompt", "7 plus", "--seed", "3")
    here, moved = (
        called("generate", "runs/complete", *arguments, cwd=folder),
        called("generate", "moved", *arguments, cwd=tmp_path),
    )
    assert (moved.status, moved.out) == (0, here.out)


def test_a_resume_with_a_changed_config_is_refused(complete_run: Ended, folder: Path) -> None:
    ended = called("train", "tiny.yaml", "optimizer.lr=0.5", "train.seed=1", cwd=folder)
    assert_refused(ended, "optimizer.lr: 0.001 -> 0.5", "train.seed: 0 -> 1", "another run_dir", num_lines=4)


def test_a_complete_run_without_its_metrics_is_reported(complete_run: Ended, folder: Path) -> None:
    shutil.copytree(folder / "runs/complete", folder / "runs/spoiled")
    (folder / "runs/spoiled" / METRICS_FILE).unlink()
    ended = called("train", "tiny.yaml", "run_dir=runs/spoiled", cwd=folder)
    assert ended.status == EXIT_BAD_INPUT
    assert f"runs/spoiled/{METRICS_FILE} (No such file or directory)" in ended.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--prompt", "\udcff"], "'\\udcff' is not valid UTF-8"),
        (["--checkpoint", "runs/complete"], "runs/complete holds no complete checkpoint"),
        (["--prompts", "none.jsonl"], "cannot use none.jsonl (No such file or directory)"),
        (["--prompts", "tiny.yaml"], "tiny.yaml, line 2 is not JSON"),
        (["--prompts", "none.jsonl", "--prompt", "7"], "--prompt and --prompts exclude each other"),
        (["--top-p", "0"], "top_p = 0 is a probability"),
        (["--min-p", "1.5"], "min_p = 1.5 is a share"),
        (["--stop", ""], "stop holds an empty text"),
    ],
)
def test_generate_refuses_arguments_that_it_cannot_use(
    options: list[str], words: str, complete_run: Ended, folder: Path
) -> None:
    assert_refused(called("generate", "runs/complete", *options, cwd=folder), words)
