"""What a Ray cluster gets, and the error if there is none."""

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from foretrain.launcher.ray import submission
from foretrain.launcher.ray.places import Place, assign
from tests.launcher.ray.jobs import ROOT, make_job

NOBODY = "http://127.0.0.1:9"


def test_the_same_job_is_the_same_text(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    text = submission.render(job, "run-1", 60.0)
    assert text == submission.render(job, "run-1", 60.0)
    assert submission.read(text) == submission.Request("run-1", job, 60.0, submission.STOP_GRACE_S)


@pytest.mark.usefixtures("ray_installed")
def test_no_argument_of_an_actor_has_a_value_of_the_environment(tmp_path: Path) -> None:
    """Ray may show the arguments of an actor to everyone on its dashboard."""
    from foretrain.launcher.array.ray_tasks import RunningTasks, Task
    from foretrain.launcher.ray import driver

    job = make_job(tmp_path)
    job = replace(job, env=(*job.env, ("CUDA_VISIBLE_DEVICES", "7"), ("MY_TOKEN", "hush-hush")))
    (tmp_path / "run" / submission.SCRIPT).write_text(submission.render(job, "run-1", 60.0), encoding="utf-8")
    place = Place("10.0.0.3", "b", ("GPU-x",), 1)
    task = Task("first", ("true",))
    for process in (
        driver._process(job, assign([place], 1)[0], 1, ("10.0.0.2", 20_000)),
        RunningTasks(job)._process(task, place),
    ):
        assert b"hush-hush" not in pickle.dumps(process)
        assert process.env["MY_TOKEN"] == "hush-hush"
        assert process.env["CUDA_VISIBLE_DEVICES"] == "GPU-x", "what Ray has given it wins"


def test_what_is_submitted_is_the_driver_with_no_more_of_the_environment_than_it_needs(tmp_path: Path) -> None:
    folder = tmp_path / "with space"
    folder.mkdir()
    job = make_job(folder)
    submit = json.loads(submission.render(job, "run-1", 60.0, stop_grace_s=100))["submit"]
    assert submit == {
        "entrypoint": f"{sys.executable} -m foretrain.launcher.ray.driver '{job.run_dir}/job.ray.json'",
        "submission_id": "run-1",
        "runtime_env": {
            "env_vars": {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", "RAY_JOB_STOP_WAIT_TIME_S": "130"}
        },
        "metadata": {"run_dir": job.run_dir, "name": "run"},
        "entrypoint_num_cpus": 0,
        "entrypoint_num_gpus": 0,
    }


def test_a_job_is_written_without_ray(tmp_path: Path) -> None:
    (tmp_path / "ray.py").write_text("raise ImportError('there is no Ray here')")
    code = (
        "from pathlib import Path; from tests.launcher.ray.jobs import make_job\n"
        "from foretrain.launcher.ray import submission\n"
        f"submission.render(make_job(Path({str(tmp_path)!r})), 'run-1', 1.0)\n"
        f"import sys; assert 'ray' not in sys.modules and 'torch' not in sys.modules"
    )
    env = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    subprocess.run([sys.executable, "-c", code], env=env, cwd=tmp_path, check=True)


def test_commands_name_the_cluster_in_the_way_that_ray_prefers() -> None:
    command = submission.command("http://head:8265", "logs", "--follow", "a-1")
    assert command == "RAY_ADDRESS=http://head:8265 ray job logs --follow a-1"


def test_a_cluster_that_does_not_answer_is_named(ray_installed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://another:8265")
    with pytest.raises(ValueError, match=rf"no Ray cluster answers at {NOBODY} .*launch\.ray\.address"):
        submission.is_active(NOBODY, "run-1")


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'foretrain\[ray\]'"):
        submission.status(NOBODY, "run-1")
