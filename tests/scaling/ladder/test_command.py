"""`foretrain ladder` as a command: what it shows and writes, what it refuses, and how its runs end."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from foretrain.configs import load as configs
from foretrain.configs.schema import Config
from foretrain.files import write_atomically
from foretrain.scaling.ladder import report
from foretrain.scaling.ladder.plan import Ask, LadderPlan, make_plan
from foretrain.scaling.ladder.run import open_ladder
from foretrain.scaling.ladder.summary import RungResult, pooled_noise
from foretrain.scaling.records import LADDER_FILE, RESULTS_FILE, TRIALS, LadderRecord, from_json
from foretrain.scaling.trials.record import OUTCOME_FILE, TRIAL_CONFIG, Outcome, trial_config
from foretrain.scaling.trials.runner import TrialEnd
from foretrain.scaling.trials.trial import Corpus
from foretrain.trainer.run.exit_status import EXIT_DONE, EXIT_FAILED, EXIT_RESUME
from foretrain.trainer.run.setup import prepare_run
from tests.cli import Ended, assert_refused, called
from tests.scaling.ladder.tiny import LADDER, ladder, users_folder
from tests.scaling.transfer.builder import Folder, target


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    folder = users_folder(tmp_path_factory.mktemp("user"), corpus)
    Folder().write(folder / "sweep")
    Folder(check=None).write(folder / "unchecked")
    target(folder / "large.yaml")
    return folder


@pytest.fixture(scope="module")
def planned(folder: Path) -> Ended:
    """A ladder whose configs are written, in ladders/planned."""
    return ladder(folder, "ladders/planned", *LADDER, "--no-run")


def test_a_dry_run_prints_the_rungs_their_cost_and_how_far_the_target_is_and_writes_nothing(folder: Path) -> None:
    ended = ladder(folder, "ladders/dry", *LADDER, "--dry-run")
    assert (ended.status, ended.err) == (0, "")
    for words in (
        ["1", "8", "1", "1", "5,464", "27,392", "5.84e+08", "107", "8", "0.01562", "1.27"],
        ["2", "16", "1", "2", "12,208", "61,440", "3.09e+09", "240", "8", "0.01562", "2.85"],
        ["target", "64", "1", "8", "79,552", "400,128", "1.54e+11", "1,563", "8", "0.01562"],
    ):
        assert words in [line.split() for line in ended.out.splitlines()]
    assert "7.35e+09 FLOPs for 2 rungs with 2 seeds each, 37% of the budget" in ended.out
    assert "the target costs 49.9 times the largest rung, and has 6.52 times its parameters" in ended.out
    assert "5.03 tokens per parameter (embeddings included); batch as the target's; linear schedule" in ended.out
    assert "warning" not in ended.out
    assert not (folder / "ladders/dry").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["--tokens-per-param", "20"],
            ["11.3 times: measured on small models, 4 epochs cost 0.7 %", "is not on the line"],
        ),
        (["--seeds", "1"], ["one seed shows no noise"]),
        (["mup.parametrization=standard", "--allow-standard"], ["one learning rate is not the best for all rungs"]),
    ],
)
def test_the_plan_warns_of_what_may_spoil_a_prediction(arguments: list[str], says: list[str], folder: Path) -> None:
    ended = ladder(folder, "ladders/dry", *LADDER, *arguments, "--dry-run", "--budget", "1e11")
    assert ended.status == 0, ended.err
    assert [words for words in says if words not in ended.out] == [], ended.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--budget", "0"], "--budget 0: give the training FLOPs of all runs together"),
        (["--budget", "nan"], "--budget nan: give"),
        (["--budget", "1e6"], "2 rungs with 2 seeds each, which take 7.35e+09 FLOPs or more: raise it"),
        (["--points", "1"], "--points 1: a ladder has 2 rungs or more"),
        (["--points", "9", "--budget", "1e13"], "only 7 shapes in the proportions of the target"),
        (["--seeds", "0"], "--seeds 0: train every rung with 1 seed or more"),
        (["--ratio", "1"], "--ratio 1: give more than 1"),
        (["--min-width", "56"], "only 1 shapes"),
        (["--tokens-per-param", "0"], "--tokens-per-param 0: give a number"),
        (["--tokens-per-param", "0.1"], "only 0 shapes below the target train for 100 steps or more"),
        (["train.global_batch_size=512"], "d_model = 56 has 20 of 512 samples): lower train.global_batch_size"),
        (["mup.parametrization=standard"], "or give --allow-standard"),
        (["train.eval_samples=0"], "train.eval_samples = 0, and a ladder compares losses on held-out samples"),
        (["train.init_from=runs/other"], "train.init_from is for one run, and a ladder has many"),
        (["optimizer.kind=sgd", "--batch", "sqrt"], "which is a rule for Adam, and optimizer.kind = sgd"),
        (["--coord-check", "x.json"], "--coord-check judges the values of a sweep: give --sweep FOLDER too"),
        (["--sweep", "corpus"], "corpus has no sweep.json"),
        (["--layout", "tp=2"], "at 8 x 1: parallel.tp = 2 does not divide model.num_heads = 1"),
        (["--jobs", "0"], "--jobs 0: use 1 or more"),
        (["data.path=nowhere"], "there is no corpus at nowhere"),
    ],
)
def test_a_ladder_that_cannot_be_is_refused_in_a_line_before_a_file_is_written(
    arguments: list[str], says: str, folder: Path
) -> None:
    assert_refused(ladder(folder, "ladders/refused", *LADDER, *arguments), says)
    assert not (folder / "ladders/refused").exists()


def test_values_of_a_sweep_that_the_evidence_does_not_support_are_refused_unless_forced(folder: Path) -> None:
    command = ("--budget", "1e18", "--points", "3", "--sweep", "unchecked", "--dry-run", f"data.path={folder}/corpus")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.scaling.ladder.tiny.called", _with_large_target)
        refused = ladder(folder, "ladders/refused", *command)
        forced = ladder(folder, "ladders/refused", *command, "--force")
    assert (refused.status, refused.out) == (EXIT_FAILED, "")
    assert "not supported" in refused.err and "there is no coordinate check of this architecture" in refused.err
    assert forced.status == 0
    assert "settings of sweep unchecked" in forced.out


def _with_large_target(verb: str, config: str, *arguments: str, cwd: Path) -> Ended:
    return called(verb, "large.yaml", *arguments, cwd=cwd)


def test_a_plan_has_the_config_of_every_run_which_train_takes(planned: Ended, folder: Path) -> None:
    assert planned.status == 0, planned.err
    out = folder / "ladders/planned"
    record = from_json(LadderRecord, (out / LADDER_FILE).read_bytes())
    assert [rung["num_params"] for rung in record.rungs] == [5464, 12208]
    assert record.flops == 2 * sum(rung["flops"] for rung in record.rungs)
    assert record.target["flops"] == 400_128 * record.target["flops_per_token"]
    assert configs.load(out / "target.yaml").model.vocab_size == 300
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for rung in record.rungs:
            for run in rung["runs"]:
                path = Path("ladders/planned", TRIALS, run["folder"])
                ready = prepare_run(configs.load(path / TRIAL_CONFIG))
                assert ready.run_dir == path
                assert ready.total_steps == rung["num_steps"]
                assert ready.config.train.seed == ready.config.data.seed == run["seed"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--budget", "3e10"], "--budget 2e+10 there, 3e+10 here"),
        (["--seeds", "1"], "--seeds 2 there, 1 here"),
        (["--batch", "sqrt"], "--batch fixed there, sqrt here"),
        (["--points", "3", "--budget", "3e10"], "--budget 2e+10 there, 3e+10 here; --points 2 there, 3 here"),
        (["optimizer.lr=2^-7"], "optimizer.lr: 0.015625 -> 0.0078125"),
    ],
)
def test_another_ladder_in_the_same_folder_is_refused(
    arguments: list[str], says: str, planned: Ended, folder: Path
) -> None:
    before = (folder / "ladders/planned" / LADDER_FILE).read_bytes()
    assert_refused(ladder(folder, "ladders/planned", *LADDER, *arguments), "holds another ladder", says)
    assert (folder / "ladders/planned" / LADDER_FILE).read_bytes() == before


def test_settings_that_leave_the_curves_as_they_are_belong_to_the_same_ladder(planned: Ended, folder: Path) -> None:
    again = ladder(folder, "ladders/planned", *LADDER, "--no-run", "train.log_every=1", "train.checkpoint_every=7")
    assert again.status == 0, again.err
    written = configs.load(folder / "ladders/planned" / TRIALS / "rung-1-seed-0" / TRIAL_CONFIG)
    assert written.train.checkpoint_every == 7


def test_a_sweep_and_a_ladder_do_not_share_a_folder(planned: Ended, folder: Path) -> None:
    assert_refused(ladder(folder, "sweep", *LADDER), "sweep holds a sweep: choose another --out")
    sweep = called("sweep", "target.yaml", "--over", "optimizer.lr=1", "--out", "ladders/planned", cwd=folder)
    assert_refused(sweep, "ladders/planned holds a ladder: choose another --out")


@dataclass
class Pure:
    """Runs trials without training: their loss follows from their parameters and their seed."""

    diverges: str = ""
    """Name of a run."""
    fails: str = ""
    stops_after: int = 100
    stopped_by: int | None = None
    outlives_stop: bool = False
    ran: list[str] = field(default_factory=list)

    def run(self, folders: Sequence[Path]) -> Iterator[TrialEnd]:
        for folder in folders:
            if len(self.ran) == self.stops_after:
                self.stopped_by = 2
                return
            self.ran.append(folder.name)
            if folder.name == self.fails:
                yield TrialEnd(folder, "it fell over")
                continue
            config = trial_config(folder)
            loss = 3.0 - config.model.d_model / 100 + config.train.seed / 100
            outcome = Outcome("finished", loss, loss)
            if folder.name == self.diverges:
                outcome = Outcome("diverged", diverged_at=7)
            write_atomically(folder / OUTCOME_FILE, json.dumps(asdict(outcome)))
            yield TrialEnd(folder)


@pytest.fixture(scope="module")
def plan(folder: Path) -> LadderPlan:
    def corpus_of(config: Config) -> Corpus:
        return Corpus(300, {"": "tokens"}, 1.0)

    return make_plan(Ask(2e10, 2, 2), lambda more: configs.load(folder / "target.yaml", more), corpus_of)


def run(plan: LadderPlan, out: Path, runner: Pure) -> tuple[int, str]:
    """Exit status, and what was shown."""
    console = Console(file=StringIO(), width=120)
    with open_ladder(plan, out) as runs, report.LadderProgress(plan, console) as progress:
        status = runs.run(runner, progress)
        report.print_end(runs, status, console)
    assert isinstance(console.file, StringIO)
    return status, console.file.getvalue()


def test_the_summary_has_the_loss_of_every_seed_and_the_noise_between_them(plan: LadderPlan, tmp_path: Path) -> None:
    status, shown = run(plan, tmp_path, Pure())
    assert status == EXIT_DONE
    rows = [line.split() for line in shown.splitlines()]
    assert ["1", "5,464", "27,392", "5.84e+08", "2.9200", "2.9300", "2.9250", "0.0071"] in rows
    assert ["2", "12,208", "61,440", "3.09e+09", "2.8400", "2.8500", "2.8450", "0.0071"] in rows
    assert "a run's loss differs by 0.25% between seeds" in shown
    lines = [json.loads(line) for line in (tmp_path / RESULTS_FILE).read_text().splitlines()]
    keys = [
        run["trial"]
        for rung in from_json(LadderRecord, (tmp_path / LADDER_FILE).read_bytes()).rungs
        for run in rung["runs"]
    ]
    assert [line["trial"] for line in lines] == keys


def test_a_ladder_that_was_planned_meanwhile_in_the_folder_is_not_overwritten(plan: LadderPlan, tmp_path: Path) -> None:
    with open_ladder(plan, tmp_path):
        pass
    other = replace(plan, ask=replace(plan.ask, budget_flops=3e10))
    with pytest.raises(ValueError, match="holds another ladder"), open_ladder(other, tmp_path):
        raise AssertionError("it was opened")


def test_a_ladder_that_was_stopped_trains_the_rest_alone(plan: LadderPlan, tmp_path: Path) -> None:
    first, second = Pure(stops_after=1), Pure()
    status, shown = run(plan, tmp_path, first)
    assert status == EXIT_RESUME and "stopped: the same command resumes" in shown
    status, shown = run(plan, tmp_path, second)
    assert status == EXIT_DONE and "4 trials, 1 of them are done" in shown
    assert first.ran + second.ran == ["rung-1-seed-0", "rung-1-seed-1", "rung-2-seed-0", "rung-2-seed-1"]


def test_a_run_that_fails_or_diverges_is_named_and_the_status_says_so(plan: LadderPlan, tmp_path: Path) -> None:
    status, shown = run(plan, tmp_path / "failed", Pure(fails="rung-1-seed-1"))
    assert status == EXIT_FAILED and "1 runs FAILED: rung-1-seed-1" in shown and "it fell over" in shown
    assert run(plan, tmp_path / "failed", Pure())[0] == EXIT_DONE
    status, shown = run(plan, tmp_path / "diverged", Pure(diverges="rung-2-seed-0"))
    assert status == EXIT_FAILED and "1 runs DIVERGED: rung-2-seed-0" in shown
    assert "diverged  2.8500" in shown


def test_noise_is_pooled_over_rungs_by_their_degrees_of_freedom() -> None:
    two, three = RungResult((2.0, 2.2)), RungResult((1.0, 1.1, 1.2, None))
    assert (two.mean, three.mean, RungResult((2.0,)).std) == (2.1, pytest.approx(1.1), None)
    variances = (0.02 / 2.1**2, 0.01 / 1.1**2)
    assert pooled_noise([two, three, RungResult((3.0,))]) == pytest.approx(
        ((variances[0] + 2 * variances[1]) / 3) ** 0.5
    )
    assert pooled_noise([RungResult((3.0,)), RungResult((None,))]) is None
