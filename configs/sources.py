"""Reads settings and their origins from YAML files, the files that these extend, and `key=value` overrides."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

import yaml

from foretrain.printable import printable

PRESETS = Path(__file__).parent
"""The folder of the packaged presets."""

Value = str | None | list["Value"]
"""A YAML value as it was written. The schema decides, not YAML, whether 1e-3 is a number or a name."""


class ConfigError(ValueError):
    """A config that cannot be used; the message names the key, where it was set, and what to change.

    A config may come from others: control characters in what it quotes are escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


@dataclass(frozen=True)
class Setting:
    """A key, its value, and where it was set."""

    key: str
    """A dotted key, such as model.num_layers."""
    value: Value
    """The value as it was written."""
    origin: str
    """A file and its line, or an override."""


def find(name: str | Path, folders: Sequence[Path], wanted_by: str = "") -> Path:
    """The absolute path of a config: `name`, or `name`.yaml, in the first of `folders` that has it.

    Raises ConfigError, which lists the nearest presets, if none has it. `wanted_by` is where the name was written.
    """
    for folder in folders:
        for candidate in (folder / name, folder / f"{name}.yaml"):
            if candidate.is_file():
                return candidate.resolve()
    by = f" ({wanted_by})" if wanted_by else ""
    raise ConfigError(f"no config file '{name}'{by}: the nearest presets are {', '.join(_nearest_presets(name))}")


def _nearest_presets(name: str | Path) -> list[str]:
    wanted = Path(name).name.removesuffix(".yaml")
    presets = [path.relative_to(PRESETS).as_posix().removesuffix(".yaml") for path in sorted(PRESETS.rglob("*.yaml"))]
    return sorted(presets, key=lambda preset: -SequenceMatcher(None, wanted, Path(preset).name).ratio())[:3]


def read(path: Path, extended_by: tuple[Path, ...] = ()) -> list[Setting]:
    """The settings of a YAML file and of the files that it extends, in the order in which they apply: later ones win.

    `path` is absolute. `extended_by` are the files that extend this one. Raises ConfigError for broken YAML, a key that
    is set twice, a missing file, and a circle of `extends`.
    """
    if path in extended_by:
        circle = [*extended_by[extended_by.index(path) :], path]
        raise ConfigError(f"extends goes in a circle: {' -> '.join(_shown(file) for file in circle)}")
    settings: list[Setting] = []
    own: dict[str, Setting] = {}
    shown = _shown(path)
    for setting in _parse(path.read_bytes(), lambda line: f"{shown}:{line}"):
        if setting.key in own:
            raise ConfigError(f"{setting.key} is set twice: {own[setting.key].origin} and {setting.origin}")
        own[setting.key] = setting
    if extends := own.pop("extends", None):
        for name in _names(extends):
            settings += read(find(name, (path.parent, PRESETS), extends.origin), (*extended_by, path))
    return settings + list(own.values())


def parse_override(text: str) -> list[Setting]:
    """The settings of `key=value`. The value is YAML, and a mapping gives several settings. Raises ConfigError."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"override '{text}' is not key=value, as in optimizer.lr=1e-3")
    origin = f"override '{text}'"
    return list(_settings(key.strip(), _compose(value, lambda _: origin), lambda _: origin))


def _shown(path: Path) -> str:
    """The path as a person would type it: relative to the working directory if it is inside."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _names(extends: Setting) -> list[str]:
    names = extends.value if isinstance(extends.value, list) else [extends.value]
    if not all(isinstance(name, str) for name in names):
        raise ConfigError(f"extends must be a file or a list of files ({extends.origin})")
    return [str(name) for name in names]


def _compose(text: str | bytes, origin: Callable[[int], str]) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"not valid YAML ({origin(line)}): {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"not valid YAML ({origin(1)}): {error}") from error


def _parse(text: bytes, origin: Callable[[int], str]) -> Iterator[Setting]:
    node = _compose(text, origin)
    if node is None:
        return
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"a config holds keys with values, as in `model: {{num_layers: 4}}` ({origin(1)})")
    for key, child in node.value:
        yield from _settings(str(key.value), child, origin)


def _settings(key: str, node: yaml.Node | None, origin: Callable[[int], str]) -> Iterator[Setting]:
    """The settings below `key`. `origin` names the line on which a value begins."""
    if isinstance(node, yaml.MappingNode):
        for child_key, child in node.value:
            yield from _settings(f"{key}.{child_key.value}", child, origin)
    else:
        yield Setting(key, _value(node), origin(node.start_mark.line + 1 if node else 1))


def _value(node: yaml.Node | None) -> Value:
    if isinstance(node, yaml.SequenceNode):
        return [_value(item) for item in node.value]
    if node is None or node.tag == "tag:yaml.org,2002:null":
        return None
    return str(node.value)
