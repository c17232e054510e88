"""What a Ray cluster is given, and how many tasks this machine takes."""

import json
from pathlib import Path

import pytest

from foretrain.launcher.array import ray
from foretrain.launcher.array.job_array import as_job
from foretrain.launcher.ray import submission
from tests.launcher.array.programs import job_array


def test_what_is_submitted_is_the_driver_of_tasks_with_no_more_of_the_environment_than_it_needs(tmp_path: Path) -> None:
    made = job_array(tmp_path, {"a": "pass"}, at_once=2, env=["PATH", "MY_TOKEN"])
    job = as_job(made, {"PATH": "/usr/bin", "MY_TOKEN": "hush"})
    text = ray.render(made, job, "tasks-1")
    assert submission.read(text) == submission.Request("tasks-1", job, 600.0, 60)
    values = json.loads(text)
    assert values["at_once"] == 2
    assert f"-m foretrain.launcher.array.ray_driver '{made.folder}/job.ray.json'" in values["submit"]["entrypoint"]
    assert "hush" not in json.dumps(values["submit"])


def test_a_machine_takes_as_many_tasks_as_it_has_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(ray, "num_gpus_here", lambda: 5)
    programs = dict.fromkeys("abcdefghijkl", "pass")
    on_cpus = job_array(tmp_path, programs, ranks=2, cpus_per_rank=2)
    assert ray.tasks_here(on_cpus) == 2
    assert ray.tasks_here(job_array(tmp_path, programs, ranks=9)) == 1
    assert ray.tasks_here(job_array(tmp_path, programs, ranks=2, at_once=10)) == 10, "as asked"
    assert ray.tasks_here(job_array(tmp_path, {"a": "pass"})) == 1
    assert ray.tasks_here(job_array(tmp_path, programs, ranks=2, at_once=10, on_gpus=True)) == 2
    with pytest.raises(ValueError, match="needs 6 GPUs, and this machine has 5"):
        ray.tasks_here(job_array(tmp_path, programs, ranks=6, on_gpus=True))
