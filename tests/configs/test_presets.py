"""The packaged presets load, are named like their files, and have possible layouts."""

from pathlib import Path

import pytest

from foretrain.configs.load import load
from foretrain.configs.sources import PRESETS
from foretrain.parallel.layout import Layout, check

ALL = sorted(path.relative_to(PRESETS).as_posix().removesuffix(".yaml") for path in PRESETS.rglob("*.yaml"))


def under(folder: str) -> list[str]:
    return [name for name in ALL if name.startswith(f"{folder}/")]


@pytest.mark.parametrize("name", ALL)
def test_every_preset_loads_from_any_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    load(name)


@pytest.mark.parametrize("name", under("models"))
def test_a_model_is_named_like_its_file(name: str) -> None:
    assert load(name).model.name == Path(name).name


@pytest.mark.parametrize("name", under("runs"))
def test_a_run_writes_into_a_folder_of_its_own_name(name: str) -> None:
    assert load(name).run_dir == name


@pytest.mark.parametrize("name", under("runs"))
def test_every_run_has_a_legal_layout(name: str) -> None:
    config = load(name)
    check(Layout.from_config(config.parallel), config.model, config.train)


@pytest.mark.parametrize("name", [name for name in under("runs") if name.endswith("_a100")])
def test_a_cluster_run_fills_its_cluster(name: str) -> None:
    config = load(name)
    layout = Layout.from_config(config.parallel)
    assert layout.world_size == config.cluster.num_nodes * config.cluster.gpus_per_node
    assert config.cluster.gpus_per_node % layout.tp == 0


def test_the_dry_run_uses_every_kind_of_parallelism() -> None:
    parallel = load("runs/dry_run").parallel
    assert (parallel.dp, parallel.tp, parallel.pp) == (2, 2, 2)
