"""What a job array refuses, and that its commands reach a shell, and come back from the file, as they are."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretrain.configs.launching import LaunchConfig
from foretrain.launcher.array.job_array import JobArray, as_job
from foretrain.launcher.array.task import TASKS_FILE, Task, read, to_text

WORD = st.text(st.characters(blacklist_characters="\n\r\0", blacklist_categories=["Cs"]), max_size=8)
COMMAND = st.lists(WORD, min_size=1, max_size=4).map(tuple)


@given(commands=st.lists(COMMAND, min_size=1, max_size=4))
def test_the_file_gives_back_every_command(
    commands: list[tuple[str, ...]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("batch")
    tasks = [Task(f"t-{place}", command) for place, command in enumerate(commands)]
    (folder / TASKS_FILE).write_text(to_text(tasks), encoding="utf-8", newline="")
    assert read(folder) == tasks


def test_a_shell_takes_a_line_of_the_file_for_the_command() -> None:
    awkward = ("printf", "%s|", "it's $HOME", " two  spaces ", "", "*", "\\", '"', "`id`", "é\t")
    line = to_text([Task("a", awkward)])
    script = 'read -r name command; eval "exec $command"'
    result = subprocess.run(["bash", "-c", script], input=line, capture_output=True, text=True, check=True).stdout
    assert result == "".join(f"{word}|" for word in awkward[2:])


@pytest.mark.parametrize(
    ("name", "command", "words"),
    [
        ("a b", ("true",), "choose a name of letters"),
        ("../a", ("true",), "choose a name of letters"),
        ("", ("true",), "choose a name of letters"),
        ("a\n", ("true",), "choose a name of letters"),
        ("a", (), "its command is empty"),
        ("a", ("echo", "1\n2"), "has a line break"),
    ],
)
def test_a_task_that_could_not_be_named_or_listed_is_refused(name: str, command: tuple[str, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Task(name, command)


def test_a_job_array_that_no_launcher_could_start_is_refused() -> None:
    one, folder = (Task("a", ("true",)),), Path("/b")
    cases: list[tuple[tuple[Task, ...], Path, dict[str, Any], str]] = [
        ((), folder, {}, "no tasks"),
        (one * 2, folder, {}, "different names: a names several"),
        (one, Path("b"), {}, "must be absolute"),
        (one, folder, {"ranks": 0}, "must be 1 or more"),
        (one, folder, {"at_once": 0}, "must be 1 or more"),
    ]
    for tasks, where, more, words in cases:
        with pytest.raises(ValueError, match=words):
            JobArray("b", where, tasks, LaunchConfig(), **more)


def test_a_task_sees_what_the_config_names_and_the_copy_of_the_code_and_nothing_else() -> None:
    launch = LaunchConfig(cpus_per_rank=3, env=["HOME", "A=1", "MY_TOKEN"])
    array = JobArray("my sweep", Path("/b"), (Task("a", ("true",)),), launch, ranks=2, on_gpus=True)
    job = as_job(array, {"HOME": "/h", "MY_TOKEN": "hush", "EDITOR": "vi"})
    ours = {"PYTHONPATH": "/b/code", "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "3", "PYTHONUNBUFFERED": "1"}
    assert dict(job.env) == {"HOME": "/h", "A": "1", "MY_TOKEN": "hush", **ours}
    assert job.secrets == {"MY_TOKEN": "hush"}
    assert (job.name, array.cpus, job.gpus_per_node) == ("my-sweep", 6, 2)
