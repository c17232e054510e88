"""The scripts that are submitted: byte for byte as they were read and agreed to (tests/launcher/golden)."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from foretrain.configs import load as configs
from foretrain.configs.schema import Config
from foretrain.launcher.job import Job, make_job
from foretrain.launcher.launchers import LAUNCHERS
from tests.required import not_here

GOLDEN = Path(__file__).parent / "golden"
ENVIRON = {"HOME": "/my/home", "PATH": "/usr/bin:/bin", "NCCL_DEBUG": "INFO", "HF_TOKEN": "hush", "EDITOR": "vi"}


def on_gpus() -> Config:
    overrides = ["launch.slurm.partition=gpu", "launch.slurm.time=24:00:00", "launch.env=[HOME, PATH, NCCL_*]"]
    return configs.load("runs/llama_7b_a100", overrides)


def on_cpus() -> Config:
    overrides = [
        "run_dir=runs/it's 100% new",
        "cluster.num_nodes=2",
        "cluster.gpus_per_node=4",
        "launch.cpus_per_rank=1",
        "launch.stop_lead_s=60",
        "launch.env=[HOME, LANG=C.UTF-8, NOTE=it's $5, HF_TOKEN]",
        "launch.setup=[module load python, source ~/env]",
        "launch.slurm.options=[--exclusive]",
    ]
    return configs.load("runs/dry_run", overrides)


def job(config: Config) -> Job:
    made = make_job(config, workdir=Path("/scratch/my work"), environ=ENVIRON)
    return replace(made, python="/opt/env/bin/python")


def elastic() -> Config:
    return configs.load("runs/llama_7b_a100", ["parallel.dp=null", "launch.elastic=8:32", "launch.env=[HOME]"])


CASES = {
    "elastic.sbatch": lambda: LAUNCHERS.get("slurm").render(job(elastic()), elastic().launch).text,
    "gpus.sbatch": lambda: LAUNCHERS.get("slurm").render(job(on_gpus()), on_gpus().launch).text,
    "cpus.sbatch": lambda: LAUNCHERS.get("slurm").render(job(on_cpus()), on_cpus().launch).text,
    "local.sh": lambda: LAUNCHERS.get("local").render(job(on_cpus()), on_cpus().launch).text,
}


@pytest.mark.parametrize("name", CASES)
def test_a_script_is_the_golden_one(name: str) -> None:
    assert CASES[name]() == (GOLDEN / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", CASES)
def test_a_script_is_valid_bash(name: str) -> None:
    subprocess.run(["bash", "-n"], input=CASES[name](), text=True, check=True)


@pytest.mark.parametrize("name", CASES)
def test_a_script_has_no_shell_mistakes(name: str) -> None:
    if shutil.which("shellcheck") is None:
        not_here("shellcheck is not installed: apt-get install shellcheck")
    command = ["shellcheck", "--severity=warning", "--exclude=SC1090", "-"]
    subprocess.run(command, input=CASES[name](), text=True, check=True)


@pytest.mark.parametrize("break_", ["\n", "\r", "\x1b", "\x00", "\u2028"])
def test_a_run_dir_with_a_line_break_or_another_control_character_is_refused(break_: str) -> None:
    with pytest.raises(ValueError, match=r"run_dir = 'runs/x.*touch executed' has a control character"):
        Config(run_dir=f"runs/x{break_}touch executed")


def test_the_script_of_a_folder_with_a_line_break_runs_no_line_of_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "a\ntouch executed\n"
    folder.mkdir()
    with pytest.raises(ValueError, match=r"the working directory = .* has a control character"):
        run_the_script_of(folder)
    assert not (tmp_path / "executed").exists()


def run_the_script_of(folder: Path) -> None:
    """Run the script of a run that is launched from a folder, with a program that does nothing in place of Python."""
    made = replace(make_job(Config(), workdir=folder, environ=ENVIRON), python="false")
    script = LAUNCHERS.get("local").render(made, Config().launch).text
    subprocess.run(["bash"], input=script, text=True, check=False, cwd=folder.parent)


@pytest.mark.parametrize("setting", ["partition", "account", "qos", "options"])
def test_an_option_of_sbatch_with_a_line_break_is_refused(setting: str) -> None:
    config = on_cpus()
    value = "cpu\ntouch executed"
    setattr(config.launch.slurm, setting, [value] if setting == "options" else value)
    with pytest.raises(ValueError, match=r"launch.slurm: the option .* has a control character"):
        LAUNCHERS.get("slurm").render(job(config), config.launch)
