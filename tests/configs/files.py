"""Config files in the working directory, and how `load` refuses them."""

from pathlib import Path

import pytest

from foretrain.configs.load import ConfigError, load


def write(name: str, text: str) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)


def refusal(*overrides: str, path: str = "run") -> str:
    """The message with which `load` refuses."""
    if not Path("run.yaml").exists():
        write("run.yaml", "")
    with pytest.raises(ConfigError) as caught:
        load(path, overrides)
    return str(caught.value)
