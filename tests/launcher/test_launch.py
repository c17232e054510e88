"""What a launch leaves in the run's folder, and what it refuses."""

import json
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from foretrain.configs import load as configs
from foretrain.configs.launching import LaunchConfig
from foretrain.launcher import launch as launching
from foretrain.launcher.job import Job, code_variables
from foretrain.launcher.launchers import LAUNCHERS
from foretrain.launcher.launches import Launch, launches, record_launch
from foretrain.launcher.restart import read_starts
from foretrain.launcher.snapshot import code_hash, snapshot
from foretrain.trainer.goodput import facts
from foretrain.trainer.metrics import read_metrics
from foretrain.trainer.run.environment import record
from foretrain.trainer.run.exit_status import EXIT_RESUME
from tests.cli import CONFIG, DEADLINE_S, ROOT, assert_refused, called, end, environment, start
from tests.processes import wait_until

ON_TWO_NODES = ("cluster.num_nodes=2", "cluster.gpus_per_node=1", "launch.ray.address=http://127.0.0.1:1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """A user's folder."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "tiny.yaml").write_text(CONFIG, encoding="utf-8")
    shutil.copytree(corpus, folder / "corpus")
    return folder


def plan(folder: Path, on: str, *overrides: str) -> launching.LaunchPlan:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return launching.make_plan(configs.load("tiny.yaml", [*ON_TWO_NODES, *overrides]), on)


@pytest.mark.parametrize("on", ["local", "slurm", "ray"])
def test_a_dry_run_prints_the_same_bytes_each_time_and_changes_nothing(on: str, folder: Path) -> None:
    command = ("launch", "tiny.yaml", "--on", on, "--dry-run", "run_dir=runs/dry", *ON_TWO_NODES)
    first, second = (called(*command, cwd=folder, PATH="/nowhere") for _ in range(2))
    assert (first.status, first.err) == (0, "")
    assert first.out == second.out != ""
    assert not (folder / "runs/dry").exists()


@pytest.mark.parametrize("on", ["slurm", "ray"])
def test_a_dry_run_needs_neither_slurm_nor_ray(on: str, folder: Path) -> None:
    hide = "import sys; sys.modules['ray'] = None; from foretrain.verbs.app import main; main()"
    command = ["launch", "tiny.yaml", "--on", on, "--dry-run", *ON_TWO_NODES]
    env = {**environment(), "PATH": "/nowhere"}
    done = subprocess.run([sys.executable, "-c", hide, *command], cwd=folder, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] in ("#!/bin/bash", "{")


def test_what_a_dry_run_prints_is_what_the_folder_gets(folder: Path) -> None:
    shown = called("launch", "tiny.yaml", "--on", "slurm", "--dry-run", "run_dir=runs/same", *ON_TWO_NODES, cwd=folder)
    planned = plan(folder, "slurm", "run_dir=runs/same")
    launching.write(planned, configs.load(folder / "tiny.yaml"))
    assert (folder / "runs/same/job.sbatch").read_text() == shown.out


def test_a_dry_run_of_a_run_that_cannot_be_says_so_after_the_script(folder: Path) -> None:
    command = ("launch", "tiny.yaml", "--on", "slurm", "--dry-run", "data.path=nowhere", *ON_TWO_NODES)
    result = called(*command, cwd=folder)
    assert result.out.startswith("#!/bin/bash\n")
    assert (result.status, result.err.startswith("error: there is no corpus at nowhere")) == (2, True)


@pytest.mark.parametrize(("on", "holder"), [("slurm", "job.env"), ("ray", "job.ray.json")])
def test_secrets_reach_the_ranks_and_neither_the_screen_nor_what_others_may_read(
    on: str, holder: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hush-hush")
    planned = plan(folder, on, f"run_dir=runs/secret-{on}")
    launching.write(planned, configs.load(folder / "tiny.yaml"))
    assert ("HF_TOKEN", "hush-hush") in planned.job.env
    assert "hush-hush" not in planned.script.printable
    run_dir = folder / f"runs/secret-{on}"
    holders = [path for path in run_dir.rglob("*") if path.is_file() and b"hush-hush" in path.read_bytes()]
    assert holders == [run_dir / holder]
    assert stat.S_IMODE(holders[0].stat().st_mode) == 0o600


@pytest.mark.parametrize(("on", "holder"), [("slurm", "job.env"), ("ray", "job.ray.json")])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "postgres://me:hush-hush@db/runs"),
        ("MLFLOW_TRACKING_URI", "https://me:hush-hush@mlflow"),
        ("SENTRY_DSN", "hush-hush"),
        ("STORE_CONNECTION_STR", "hush-hush"),
        ("MY_LAB", "hush-hush"),
        ("NCCL_SOCKET_IFNAME", "x://me:hush-hush@y"),
    ],
)
def test_no_variable_of_a_shell_that_may_be_a_secret_is_where_others_can_read_it(
    name: str, value: str, on: str, holder: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    planned = plan(folder, on, f"run_dir=runs/{on}-{name}", f"launch.env=[HOME, PATH, {name}]")
    launching.write(planned, configs.load(folder / "tiny.yaml"))
    assert (name, value) in planned.job.env and "hush-hush" not in planned.script.printable
    run_dir = folder / f"runs/{on}-{name}"
    holders = [path for path in run_dir.rglob("*") if path.is_file() and b"hush-hush" in path.read_bytes()]
    assert holders == [run_dir / holder]
    assert stat.S_IMODE(holders[0].stat().st_mode) == 0o600


def test_the_folder_holds_all_that_a_rerun_needs(folder: Path) -> None:
    planned = plan(folder, "slurm", "run_dir=runs/made")
    config = configs.load(folder / "tiny.yaml", ["run_dir=runs/made"])
    launching.write(planned, config)
    run_dir = folder / "runs/made"
    assert configs.load(run_dir / "config.yaml") == config
    launched = json.loads((run_dir / "environment.json").read_text())
    assert {"git", "packages", "env", "code_sha256"} <= launched.keys()
    assert launched["code_sha256"] == code_hash(run_dir / "code/foretrain")
    assert (run_dir / "logs").is_dir()
    assert [fact.kind for fact in facts.read(run_dir)] == ["launch"]


def test_the_copy_of_the_code_runs_by_itself_whatever_the_working_directory_holds(tmp_path: Path) -> None:
    snapshot(tmp_path / "code")
    (tmp_path / "foretrain.py").write_text("raise SystemExit('the wrong one')")
    env = {**environment(), **code_variables(tmp_path / "code")}
    where = "import foretrain.launcher.ray.submission, foretrain.slurm, foretrain.scaling; print(foretrain.__file__)"
    for command in (["-c", where], ["-m", "foretrain", "--help"]):
        done = subprocess.run([sys.executable, *command], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert str(tmp_path / "code/foretrain/__init__.py") in done.stdout or "Usage: foretrain" in done.stdout


def test_the_copy_holds_all_that_is_installed_and_knows_its_version(tmp_path: Path) -> None:
    snapshot(tmp_path / "code")
    copied = {path.relative_to(tmp_path / "code/foretrain") for path in (tmp_path / "code").rglob("*.*")}
    rooms = [ROOT / link.name for link in (ROOT / "foretrain").iterdir() if link.is_symlink()]
    for room in rooms:
        here = {path.relative_to(ROOT) for path in room.rglob("*") if path.suffix in {".py", ".yaml", ".in"}}
        assert here and here <= copied
    assert (tmp_path / "code/foretrain/VERSION").read_text().strip() != ""


def test_the_copy_is_made_again_only_if_it_differs(tmp_path: Path) -> None:
    code = tmp_path / "code"
    first = snapshot(code)
    before = code.stat().st_ino
    assert (snapshot(code), code.stat().st_ino) == (first, before)
    (code / "foretrain/__main__.py").write_text("pass")
    (code / "foretrain/configs/extra.py").write_text("pass")
    assert snapshot(code) == first == code_hash(code / "foretrain")
    assert not (code / "foretrain/configs/extra.py").exists()


def test_launches_are_noted_in_order(tmp_path: Path) -> None:
    record_launch(tmp_path, "slurm", "12")
    record_launch(tmp_path, "ray", "mine-1", "http://head:8265")
    noted = launches(tmp_path)
    assert [(each.on, each.id, each.address) for each in noted] == [
        ("slurm", "12", None),
        ("ray", "mine-1", "http://head:8265"),
    ]
    assert isinstance(noted[0], Launch)


def test_a_record_of_launches_that_was_cut_short_loses_that_line_alone(tmp_path: Path) -> None:
    record_launch(tmp_path, "slurm", "12")
    with (tmp_path / "launches.jsonl").open("a") as file:
        file.write('{"on": "slurm", "i')
    record_launch(tmp_path, "slurm", "13")
    assert [launch.id for launch in launches(tmp_path)] == ["12", "13"]


def test_an_environment_that_was_cut_short_is_written_again(tmp_path: Path) -> None:
    (tmp_path / "environment.json").touch()
    record({"code_sha256": "abc"}, tmp_path)
    record({}, tmp_path)
    recorded = json.loads((tmp_path / "environment.json").read_text())
    assert recorded["code_sha256"] == "abc" and "packages" in recorded


def test_each_launch_on_ray_has_a_name_of_its_own(folder: Path) -> None:
    (folder / "runs/named").mkdir(parents=True)
    first = plan(folder, "ray", "run_dir=runs/named")
    record_launch(folder / "runs/named", "ray", "named-1", "http://head:8265")
    second = plan(folder, "ray", "run_dir=runs/named")
    names = [json.loads(each.script.text)["submit"]["submission_id"] for each in (first, second)]
    assert names == ["named-1", "named-2"]


def test_a_plan_for_this_machine_has_as_many_ranks_as_the_layout_whatever_the_cluster(folder: Path) -> None:
    job: Job = plan(folder, "local").job
    assert (job.num_nodes, job.ranks_per_node) == (1, 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--on", "slurm", "--nodes", "2", "--gpus-per-node", "1"], ["sbatch is not found", "--dry-run"]),
        (["--on", "slurm", "--nodes", "3"], ["3 nodes of 8 GPUs", "set parallel.dp=24"]),
        (["--on", "ray", "--nodes", "2", "--gpus-per-node", "1"], ["one node", "launch.ray.address", "--nodes 1"]),
        (["run_dir=tiny.yaml/x"], ["tiny.yaml cannot be written", "set another run_dir"]),
        (["launch.env=[A-B]"], ["launch: env: 'A-B' is not an entry: write NAME, NAME* or NAME=value"]),
        (["launch.env=[MY_TOKEN=x]"], ["MY_TOKEN looks like a secret", "write MY_TOKEN without a value"]),
        (["launch.env=['A=http://me:pw@host']"], ["A looks like a secret", "write A without a value"]),
        (["data.path=ftp://me:hush@host/corpus"], ["data: path has a password in its URL", "ftp://me:***@host"]),
        (["launch.slurm.options=[--array=0-3]"], ["'--array=0-3' would start several jobs for one run"]),
        (["--on", "slurm", "--nodes", "2", "--gpus-per-node", "1", 'run_dir=a"b'], ["double quote", "choose another"]),
        (["launch.slurm.options=[exclusive]"], ["'exclusive' must begin with '-'"]),
        (["launch.slurm.time='1 day'"], ["slurm.time = '1 day' may only have letters"]),
        (["launch.ray.address=head:8265"], ["begin it with http:// or https://"]),
    ],
)
def test_what_cannot_be_launched_is_refused_and_leaves_nothing(
    arguments: list[str], words: list[str], folder: Path
) -> None:
    result = called("launch", "tiny.yaml", "run_dir=runs/refused", *arguments, cwd=folder, PATH="/nowhere")
    assert_refused(result, *words)
    assert not (folder / "runs/refused").exists()


def test_a_run_of_this_machine_is_found_and_stopped_by_its_folder(folder: Path) -> None:
    local, run_dir = LAUNCHERS.get("local"), folder / "runs/stopped"
    process = start("launch", "tiny.yaml", "run_dir=runs/stopped", "train.num_tokens=1e6", cwd=folder)
    wait_until(lambda: (run_dir / "metrics.jsonl").exists(), "a step")
    assert [(job.id, job.state) for job in local.active(run_dir, LaunchConfig())] == [(str(process.pid), "running")]
    refused = called("launch", "tiny.yaml", "run_dir=runs/stopped", cwd=folder)
    assert_refused(refused, f"was launched as local job {process.pid}, which still waits or runs", "stop it")
    assert [job.id for job in local.stop(run_dir)] == [str(process.pid)]
    assert end(process).status == EXIT_RESUME
    assert local.active(run_dir, LaunchConfig()) == local.stop(run_dir) == []
    assert [path.name for path in local.logs(run_dir)] == ["rank-001.log"]


@pytest.mark.long
def test_a_launch_here_trains_and_its_script_resumes(folder: Path) -> None:
    run_dir = folder / "runs/here"
    first = start("launch", "tiny.yaml", "run_dir=runs/here", f"train.num_tokens={300 * 8 * 32}", cwd=folder)
    wait_until(lambda: (run_dir / "metrics.jsonl").exists(), "a step")
    LAUNCHERS.get("local").stop(run_dir)
    stopped = end(first)
    assert stopped.status == EXIT_RESUME
    assert "runs/here: dp=2 tp=1 pp=1 zero=1, 300 steps, from the start" in stopped.out
    again = subprocess.run(["bash", run_dir / "job.sh"], cwd="/", env=environment(), capture_output=True, text=True)
    assert (again.returncode, again.stderr) == (0, "")
    assert re.search(r"300 steps, from step [1-9]", again.stdout)
    steps = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [each["step"] for each in steps if each["kind"] == "train"] == list(range(1, 301))
    recorded = json.loads((folder / "runs/here/environment.json").read_text())
    assert recorded["code_sha256"] == code_hash(folder / "runs/here/code/foretrain")
    assert recorded["git"] == (folder / "runs/here/code/foretrain/VERSION").read_text().strip()


def test_an_elastic_run_starts_with_the_largest_size_that_fits_the_batch(folder: Path) -> None:
    overrides = ("parallel.dp=null", "parallel.tp=2", "train.device=cpu", "launch.elastic=1:3")
    planned = plan(folder, "local", *overrides)
    assert "--sizes 1,2x2 --device cpu" in planned.script.text
    assert planned.job.num_ranks == 4
    assert Job.from_json(planned.job.to_json()) == planned.job


def test_an_elastic_run_whose_size_is_set_is_refused(folder: Path) -> None:
    ended = called("launch", "tiny.yaml", "--elastic", "1:2", "--dry-run", cwd=folder)
    assert_refused(ended, "launch.elastic = 1:2", "parallel.dp = 2", "set parallel.dp=null")


def test_a_launcher_that_cannot_change_the_size_of_a_run_refuses_an_elastic_one(folder: Path) -> None:
    overrides = ("plugins=[tests.plugins.launchers]", "parallel.dp=null", "launch.elastic=1:2")
    assert called("launch", "tiny.yaml", "--on", "background", "--dry-run", overrides[0], cwd=folder).status == 0
    with pytest.raises(ValueError, match="the launcher 'background' cannot change the size of a run"):
        plan(folder, "background", *overrides)


@pytest.mark.parametrize("on", ["slurm", "ray"])
def test_an_elastic_run_asks_a_cluster_for_the_nodes_of_its_largest_size(on: str, folder: Path) -> None:
    planned = plan(folder, on, "parallel.dp=null", "launch.elastic=1:4", "cluster.gpus_per_node=2")
    assert (planned.job.num_nodes, planned.job.num_ranks) == (2, 4)


@pytest.mark.long
def test_an_elastic_run_continues_with_fewer_ranks_and_has_the_same_curve(folder: Path) -> None:
    asked = ("train.checkpoint_every=4", "sample.prompts=[]", "train.eval_samples=0", "train.sinks=[terminal]")
    calm = end(start("train", "tiny.yaml", "run_dir=runs/calm", *asked, cwd=folder))
    assert calm.status == 0
    dying = ("plugins=[tests.plugins.callbacks]", "train.callbacks=[dies_beside_another]", "launch.max_starts=2")
    command = ("launch", "tiny.yaml", "run_dir=runs/elastic", "--elastic", "1:2", "parallel.dp=null", *dying, *asked)
    ended = start(*command, cwd=folder)
    err = ended.communicate(timeout=DEADLINE_S)[1]  # with the traceback of the rank that lost its peer
    assert ended.returncode == 0, err
    assert "continues with a size below dp = 2" in err
    sizes = [each.job.rpartition("-")[2] for each in read_starts(folder / "runs/elastic")]
    assert sizes[-3:] == ["dp2", "dp2", "dp1"]
    found, expected = (read_metrics(folder / f"runs/{name}/metrics.jsonl") for name in ("elastic", "calm"))
    assert [each["step"] for each in found] == [each["step"] for each in expected]
    assert [each["loss"] for each in found] == pytest.approx([each["loss"] for each in expected], rel=1e-5)
