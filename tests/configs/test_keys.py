"""What the schema says of a key besides its type: whether it changes the curve, and since when it exists."""

import re
from pathlib import Path

import pytest
import yaml

from foretrain.configs.keys import KEYS, NAME, changes_curve
from foretrain.configs.load import config_hash, diff, load, save

MAY_CHANGE = re.compile(
    r"run_dir|model\.name|mup\.evidence|sample\.|cluster\.|launch\.|parallel\."
    r"|data\.(path|sources\.[\w-]+\.path)"
    r"|data\.(prefetch_batches|max_bad_samples|cache\.)"
    r"|train\.(micro_batch_size|device|recompute|check_every|eval_every|eval_samples)"
    r"|train\.(checkpoint_every|keep_checkpoints|log_every|stop_after)"
)
"""The settings that left the curve as it was in the first release, which kept them in this regular expression."""

OF_FIRST_RELEASE = {key.replace(NAME, "my-name_2"): entry for key, entry in KEYS.items() if entry.since is None}

HASHES = {
    "runs/dry_run": "3b19ffecd89010aee1afa9d1254c2459a24accc4c47b06698743b7193ee66194",
    "runs/gpt2_124m_a100": "e6606c3a604f0847f3ed6300ced6d4f2de259c385aa971f1a6a72054ef96eeca",
    "runs/gpt3_175b_a100": "d9025399431a44e2bf1dbb70ffbc8e9704dfc89ea0d406d9c2f7b316e618b3ff",
    "runs/llama_70b_a100": "fbc079b19c2ebe68516b9f0b45ff5498dc32a1e4a073b4cc088f273fbb102524",
    "runs/mup_proxy": "ad1dc2424c87aff544449329440f96c6de80e2bada9bb149fff69bdcdd8cbc55",
}
"""The hashes of presets in the first release."""


@pytest.mark.parametrize("key", OF_FIRST_RELEASE)
def test_a_key_changes_the_curve_if_it_did_in_the_first_release(key: str) -> None:
    leaves_curve = MAY_CHANGE.match(key) or MAY_CHANGE.match(f"{key}.")
    assert changes_curve(key) == (not leaves_curve)


def test_a_key_that_does_not_exist_changes_the_curve() -> None:
    assert changes_curve("train.sed")
    assert changes_curve("data.sources.two words.path")


@pytest.mark.parametrize("preset", HASHES)
def test_hashes_are_those_of_the_first_release(preset: str) -> None:
    assert config_hash(load(preset)) == HASHES[preset]


def test_named_sections_keep_the_hash_of_the_first_release() -> None:
    overrides = (
        "data.sources={web: {path: a, weight: 2}, code: {path: b}}",
        "data.stages.end={from_tokens: 1000, weights: {web: 1}}",
        "launch.env=[HOME, A=b]",
        "parallel.stage_layers=[1,1]",
    )
    assert config_hash(load("runs/dry_run", overrides)) == (
        "29907aa5fd33f5c86462ce3c65b8c63cbd5f782b67c43becc83b6d308959dedd"
    )


def test_a_new_key_counts_in_the_hash_once_it_is_set() -> None:
    assert KEYS["plugins"].since
    assert config_hash(load("runs/dry_run", ["plugins=[json]"])) != HASHES["runs/dry_run"]


def test_a_config_that_was_saved_before_a_key_existed_loads_as_before(tmp_path: Path) -> None:
    config = load("runs/dry_run")
    save(config, tmp_path / "config.yaml")
    tree = yaml.safe_load((tmp_path / "config.yaml").read_text())
    for key in [key for key, entry in KEYS.items() if entry.since]:
        *sections, name = key.split(".")
        section = tree
        for part in sections:
            section = section.get(part, {})
        section.pop(name, None)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    old = load(tmp_path / "config.yaml")
    assert old == config
    assert diff(old, config) == []
