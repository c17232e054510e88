"""The sinks that a config names, and their settings: what is refused before a run starts."""

from pathlib import Path
from typing import Any

import pytest

from foretrain.configs.load import config_hash, load
from foretrain.configs.schema import Config, TrainConfig
from foretrain.trainer.run.setup import check_without_data
from foretrain.trainer.sinks import PrometheusSink
from foretrain.trainer.sinks.chosen import make_sinks


def refusal(**train: Any) -> str:
    """Why a run with these settings is refused before its ranks start."""
    with pytest.raises(ValueError, match=r"^train\.sink") as refused:
        check_without_data(Config(train=TrainConfig(**train)))
    return str(refused.value)


def test_an_option_that_a_sink_does_not_have_is_refused_with_those_that_it_has() -> None:
    assert refusal(sink_options={"prometheus": {"prot": "1"}}) == (
        "train.sink_options.prometheus.prot: the sink 'prometheus' has no such option: it takes host, port"
    )
    assert "the sink 'terminal' has no such option: it takes none" in refusal(sink_options={"terminal": {"a": "1"}})
    assert "train.sinks: there is no sink named 'prometeus': did you mean prometheus?" in refusal(
        sink_options={"prometeus": {}}
    )


@pytest.mark.parametrize("port", ["-1", "65536", "http", "", "\uff11"])
def test_a_port_that_is_none_is_refused(port: str) -> None:
    assert refusal(sinks=["prometheus"], sink_options={"prometheus": {"port": port}}) == (
        f"train.sinks has 'prometheus': port = {port} is no port: use 0 (any free one) to 65535"
    )


def test_a_library_that_is_missing_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foretrain.trainer.sinks.extra.find_spec", lambda name: None)
    assert refusal(sinks=["prometheus"]) == (
        "train.sinks has 'prometheus': the library prometheus_client is not installed: "
        "pip install 'foretrain[prometheus]', or leave it out"
    )
    check_without_data(Config(train=TrainConfig(sink_options={"prometheus": {"port": "9400"}})))  # it is not used


def test_options_come_from_a_command_line_and_the_others_have_their_defaults(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("train: {sinks: [prometheus]}\n")
    config = load(tmp_path / "a.yaml", ["train.sink_options.prometheus.port=9400"])
    (sink,) = make_sinks(config.train)
    assert isinstance(sink, PrometheusSink)
    assert sink.settings == {"host": "127.0.0.1", "port": "9400"}


def test_the_hash_of_a_config_without_options_is_what_it_was() -> None:
    assert config_hash(Config()) == config_hash(Config(train=TrainConfig(sink_options={})))


def test_a_password_in_the_url_of_an_option_is_refused_and_not_repeated() -> None:
    with pytest.raises(ValueError, match=r"sink_options\.mlflow\.tracking_uri has a password in its URL") as refused:
        TrainConfig(sink_options={"mlflow": {"tracking_uri": "https://me:word@host"}})
    assert "word@" not in str(refused.value)
