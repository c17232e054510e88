"""What a job is, given a config, nodes and an environment."""

from dataclasses import replace
from pathlib import Path

import pytest

from foretrain.configs.schema import ClusterConfig, Config, ParallelConfig, TrainConfig
from foretrain.launcher.job import Job, environment, make_job

ENVIRON = {"HOME": "/my/home", "PATH": "/bin", "NCCL_DEBUG": "INFO", "NCCL_IB_HCA": "mlx5", "EDITOR": "vi"}


def config(**parts: object) -> Config:
    return replace(Config(run_dir="runs/one two"), **parts)  # type: ignore[arg-type]


def job(config: Config) -> Job:
    return make_job(config, workdir=Path("/my/work"), environ=ENVIRON)


def test_there_is_a_rank_for_each_gpu_of_each_node() -> None:
    made = job(config(cluster=ClusterConfig(num_nodes=3, gpus_per_node=4)))
    assert (made.num_nodes, made.ranks_per_node, made.gpus_per_node, made.num_ranks) == (3, 4, 4, 12)


def test_on_cpus_no_gpu_is_asked_for() -> None:
    made = job(config(train=TrainConfig(device="cpu")))
    assert (made.ranks_per_node, made.gpus_per_node) == (8, 0)


def test_paths_are_absolute_and_the_name_is_one_that_every_scheduler_takes() -> None:
    made = job(config())
    assert (made.run_dir, made.workdir, made.name) == ("/my/work/runs/one two", "/my/work", "one-two")
    assert Path(made.python).is_absolute()
    assert made.command[-1] == "/my/work/runs/one two/config.yaml"


def test_the_environment_is_what_the_config_names_and_what_the_ranks_need_and_nothing_else() -> None:
    settings = config()
    settings.launch.env = ["HOME", "NCCL_*", "MISSING", "TRACE=a=b c"]
    made = job(settings)
    ours = {
        "PYTHONPATH": "/my/work/runs/one two/code",
        "PYTHONSAFEPATH": "1",
        "OMP_NUM_THREADS": "8",
        "PYTHONUNBUFFERED": "1",
    }
    carried = {"HOME": "/my/home", "NCCL_DEBUG": "INFO", "NCCL_IB_HCA": "mlx5"}
    assert dict(made.env) == {**carried, **ours, "TRACE": "a=b c"}


def test_what_the_user_sets_wins_over_the_shell_and_over_what_is_set_for_them() -> None:
    settings = config()
    settings.launch.env = ["HOME", "HOME=/tmp", "OMP_*", "OMP_NUM_THREADS=3"]
    made = make_job(settings, workdir=Path("/w"), environ={"HOME": "/my/home", "OMP_NUM_THREADS": "64"})
    assert dict(made.env) | {"HOME": "/tmp", "OMP_NUM_THREADS": "3"} == dict(made.env)


def test_a_shell_s_own_number_of_threads_does_not_reach_ranks_that_have_their_own_cores() -> None:
    settings = config()
    settings.launch.env = ["OMP_*"]
    made = make_job(settings, workdir=Path("/w"), environ={"OMP_NUM_THREADS": "64"})
    assert dict(made.env)["OMP_NUM_THREADS"] == "8"


def test_values_whose_names_say_that_they_are_secret_are_not_shown() -> None:
    settings = config()
    settings.launch.env = ["HOME", "HF_*", "AWS_*", "https_proxy", "TOKENIZERS_PARALLELISM=false"]
    settings.launch.env += ["AZURE_*"]
    secrets = {
        "HF_TOKEN": "t",
        "AWS_SECRET_ACCESS_KEY": "k",
        "https_proxy": "http://me:pw@proxy",
        "FSSPEC_S3": '{"secret": "s"}',
        "AZURE_STORAGE_CONNECTION_STRING": "AccountKey=k",
        "AZURE_STORAGE_SAS": "sig",
    }
    made = make_job(settings, workdir=Path("/w"), environ={"HOME": "/my/home", **secrets})
    assert made.secrets == secrets
    shown = dict(made.without_secrets().env)
    assert (shown["HOME"], shown["TOKENIZERS_PARALLELISM"]) == ("/my/home", "false")
    assert {shown[name] for name in secrets} == {"(not shown)"}


def test_a_pattern_matches_complete_names_and_case_matters() -> None:
    assert environment(["HOME", "nccl_*"], {"HOME_2": "x", "NCCL_A": "y", "HOME": "z"}) == ({"HOME": "z"}, {})


@pytest.mark.parametrize(
    ("parallel", "words"),
    [
        (ParallelConfig(dp=2), ["2 nodes of 4 GPUs are 8 ranks", "--nodes", "parallel.dp=8"]),
        (ParallelConfig(tp=3), ["2 nodes of 4 GPUs are 8 ranks", "multiple of 3"]),
        (ParallelConfig(tp=8, dp=1), []),
        (ParallelConfig(tp=2, pp=4), []),
    ],
)
def test_a_layout_that_does_not_fill_the_nodes_is_refused(parallel: ParallelConfig, words: list[str]) -> None:
    settings = config(parallel=parallel, cluster=ClusterConfig(num_nodes=2, gpus_per_node=4))
    if not words:
        job(settings)
        return
    with pytest.raises(ValueError, match=".*".join(words)):
        job(settings)


def test_tensor_parallel_groups_that_straddle_nodes_are_refused() -> None:
    settings = config(parallel=ParallelConfig(tp=4), cluster=ClusterConfig(num_nodes=2, gpus_per_node=6))
    with pytest.raises(ValueError, match=r"parallel.tp = 4 straddles nodes of 6 GPUs.*choose a tp that divides 6"):
        job(settings)


def test_a_job_survives_its_way_through_a_file() -> None:
    made = replace(job(config()), train_options=("--allow-data-change",))
    assert Job.from_json(made.to_json()) == made


def test_one_hardware_queue_is_for_tensor_parallel_runs_on_gpus_unless_the_user_says_otherwise() -> None:
    tp2 = config(parallel=ParallelConfig(tp=2))
    name = "CUDA_DEVICE_MAX_CONNECTIONS"
    assert dict(job(tp2).env)[name] == "1"
    assert name not in dict(job(config()).env)
    assert name not in dict(job(replace(tp2, train=TrainConfig(device="cpu"))).env)
    chosen = make_job(tp2, workdir=Path("/w"), environ={name: "8"})
    assert dict(chosen.env)[name] == "8"


@pytest.mark.parametrize(
    "name", ["PYTORCH_CUDA_ALLOC_CONF", "UCX_TLS", "FI_PROVIDER", "TRITON_CACHE_DIR", "TMPDIR", "FSSPEC_S3"]
)
def test_what_gpus_and_networks_and_file_systems_need_is_carried_to_the_ranks(name: str) -> None:
    assert dict(make_job(config(), workdir=Path("/w"), environ={name: "x"}).env)[name] == "x"
