"""Reads settings and their origins from YAML files, the files that these extend, and `key=value` overrides."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import count
from pathlib import Path

import yaml

from foretrain import limits
from foretrain.files import naming
from foretrain.printable import error_message

PRESETS = Path(__file__).parent
"""The folder of the packaged presets."""

Value = str | None | list["Value"]
"""A YAML value as it was written. The schema decides, not YAML, whether 1e-3 is a number or a name."""


class ConfigError(ValueError):
    """A config that cannot be used; the message names the key, where it was set, and what to change.

    A config may come from others: control characters in what it quotes are escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__(error_message(message))


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


def read(path: Path, extended_by: tuple[Path, ...] = (), number: Iterator[int] | None = None) -> list[Setting]:
    """The settings of a YAML file and of the files that it extends, in the order in which they apply: later ones win.

    `path` is absolute. `extended_by` are the files that extend this one, and `number` counts all files that are read.
    Raises ConfigError for broken YAML, a key that is set twice, a missing file, a circle of `extends`, and what is
    beyond `limits`.
    """
    number = count(1) if number is None else number
    if next(number) > limits.CONFIG_FILES:
        raise ConfigError(f"{_shown(path)}: a config may read {limits.CONFIG_FILES} files: extend fewer, each once")
    if path in extended_by:
        circle = [*extended_by[extended_by.index(path) :], path]
        raise ConfigError(f"extends goes in a circle: {' -> '.join(_shown(file) for file in circle)}")
    settings: list[Setting] = []
    own: dict[str, Setting] = {}
    shown = _shown(path)
    for setting in _parse(_content(path), lambda line: f"{shown}:{line}"):
        if setting.key in own:
            raise ConfigError(f"{setting.key} is set twice: {own[setting.key].origin} and {setting.origin}")
        own[setting.key] = setting
    if extends := own.pop("extends", None):
        for name in _names(extends):
            settings += read(find(name, (path.parent, PRESETS), extends.origin), (*extended_by, path), number)
    return settings + list(own.values())


def parse_override(text: str) -> list[Setting]:
    """The settings of `key=value`. The value is YAML, and a mapping gives several settings. Raises ConfigError."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"override '{text}' is not key=value, as in optimizer.lr=1e-3")
    origin = f"override '{text}'"
    return list(_settings(key.strip(), _compose(value, lambda _: origin), lambda _: origin))


def _content(path: Path) -> bytes:
    with naming(path), path.open("rb") as file:
        content = file.read(limits.CONFIG_BYTES + 1)
    if len(content) > limits.CONFIG_BYTES:
        raise ConfigError(f"{_shown(path)} has more than {limits.CONFIG_BYTES} bytes, so it is no config: name another")
    return content


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
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        _check_size(root, origin)
        return root
    except RecursionError as error:
        raise ConfigError(f"YAML that is nested too deeply ({origin(1)}): write it flat") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"not valid YAML ({origin(line)}): {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"not valid YAML ({origin(1)}): {error}") from error


def _check_size(root: yaml.Node | None, origin: Callable[[int], str]) -> None:
    """Raise ConfigError for YAML whose aliases repeat too much, or themselves, and for too deep nesting."""
    sizes: dict[int, int] = {}
    on_path: set[int] = set()

    def size_of(node: yaml.Node, depth: int) -> int:
        place = origin(node.start_mark.line + 1)
        if id(node) in on_path:
            raise ConfigError(f"an alias of YAML contains itself ({place}): write the value out")
        if depth > limits.CONFIG_DEPTH:
            raise ConfigError(f"YAML is nested more than {limits.CONFIG_DEPTH} levels deep ({place}): write it flat")
        if id(node) not in sizes:
            on_path.add(id(node))
            pairs = node.value if isinstance(node, yaml.MappingNode) else ()
            items = [item for pair in pairs for item in pair]
            items += node.value if isinstance(node, yaml.SequenceNode) else ()
            sizes[id(node)] = 1 + sum(size_of(item, depth + 1) for item in items)
            on_path.remove(id(node))
        if sizes[id(node)] > limits.CONFIG_NODES:
            raise ConfigError(
                f"YAML has more than {limits.CONFIG_NODES} keys and values, with those that its aliases repeat "
                f"({place}): leave the aliases out"
            )
        return sizes[id(node)]

    if root is not None:
        size_of(root, 1)


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
