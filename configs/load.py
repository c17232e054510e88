"""Turns YAML files and `key=value` overrides into a validated Config, and a Config into YAML, a hash or a diff.

A file may begin with `extends: other.yaml`, or a list of files, relative to itself or to the packaged presets. Later
settings win: first the extended files in their order, then the file itself, then the overrides. Values may refer to
other values: `run_dir: runs/${model.name}`.
"""

import copy
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, fields, is_dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any, get_origin

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from foretrain.configs.keys import KEYS, NAME, find_key
from foretrain.configs.references import check_references
from foretrain.configs.schema import Config
from foretrain.configs.sources import PRESETS, ConfigError, Setting, find, parse_override, read
from foretrain.configs.values import convert
from foretrain.files import write_atomically
from foretrain.registry import PluginNotImportedError, import_plugins

__all__ = ["ConfigError", "config_hash", "diff", "load", "save"]


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The config of a YAML file or a preset (`runs/dry_run`), with `key=value` overrides.

    Searches the working directory first, then the packaged presets. Imports the config's plugins, unless this process
    only looks (`foretrain.inspection`). Raises ConfigError, which names the key, where it was set and what to change,
    for everything that the schema refuses.
    """
    settings = read(find(path, (Path.cwd(), PRESETS)))
    for override in overrides:
        settings += parse_override(override)
    check_references(settings)
    tree = copy.deepcopy(_defaults())
    for setting in settings:
        _set(tree, setting)
    return _build(tree, {setting.key: setting.origin for setting in settings})


def save(config: Config, path: str | Path) -> None:
    """Write every setting as YAML, from which `load` makes an equal config. Other processes may read the file."""
    write_atomically(Path(path), to_yaml(config))


def to_yaml(config: Config) -> str:
    """Every setting as YAML, from which `load` makes an equal config."""
    return str(yaml.safe_dump(_escape(asdict(config)), sort_keys=False))


def config_hash(config: Config) -> str:
    """The sha256, in hex, of the config's canonical JSON: two configs have one hash exactly if they are equal.

    A setting that a later version added is left out while it has its default, so that hashes stay what they were.
    """
    canonical = {key: _canonical(value) for key, value in _flat(asdict(config)) if not _is_left_out(key, value)}
    return hashlib.sha256(json.dumps(canonical, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def diff(a: Config, b: Config) -> list[str]:
    """One line for each setting that differs, in the order of the schema: `optimizer.lr: 0.001 -> 0.002`."""
    old, new = values_of(a), values_of(b)
    changed = [key for key in old | new if old.get(key, _ABSENT) != new.get(key, _ABSENT)]
    return [f"{key}: {old.get(key, _ABSENT)} -> {new.get(key, _ABSENT)}" for key in changed]


def values_of(config: Config) -> dict[str, Any]:
    """The value of every setting by its key, such as `optimizer.lr`, in the order of the schema."""
    return dict(_flat(asdict(config)))


@lru_cache
def _defaults() -> DictConfig:
    """The tree of all defaults. OmegaConf needs five times as long to make it as to copy it."""
    tree = OmegaConf.structured(Config)
    assert isinstance(tree, DictConfig)
    return tree


_ABSENT = "(not there)"
"""The value, in a diff, of a setting below a user's name that only the other config has."""


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _is_left_out(key: str, value: Any) -> bool:
    found = find_key(key)
    return found is not None and found.since is not None and value == found.default


def _canonical(value: Any) -> Any:
    # 1 and 1.0 are equal, so they must not differ in JSON.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _escape(value: Any) -> Any:
    """The value with every `${` escaped, so that it is not read as a reference."""
    if isinstance(value, dict):
        return {name: _escape(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_escape(item) for item in value]
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    return value


def _set(tree: DictConfig, setting: Setting) -> None:
    key, origin = setting.key, setting.origin
    found = find_key(key)
    if found is None:
        raise ConfigError(f"there is no key {key} ({origin}): {_advice(key)}")
    if found.is_section:
        raise ConfigError(f"{key} is a section and takes no value ({origin}): {_keys_of(key)}")
    try:
        value = convert(setting.value, found.kind)
        _make_sections(tree, key)
        OmegaConf.update(tree, key, value)
    except (ValueError, OmegaConfBaseException) as error:
        raise ConfigError(f"{key}: {_first_line(error)} ({origin})") from error


def _make_sections(tree: DictConfig, key: str) -> None:
    """Add the sections above a key to the tree, if users choose their names."""
    parts = key.split(".")
    for depth in range(1, len(parts)):
        section = ".".join(parts[:depth])
        if section in KEYS:
            continue  # a name that the schema chooses: the defaults have it
        found = find_key(section)
        if found and is_dataclass(found.kind) and OmegaConf.select(tree, section) is None:
            OmegaConf.update(tree, section, OmegaConf.structured(found.kind))


def _build(tree: DictConfig, origins: dict[str, str]) -> Config:
    for section in fields(Config):
        if is_dataclass(KEYS[section.name].kind):  # one by one, so that an error names its section
            _resolve(tree[section.name], section.name, origins)
    config = _resolve(tree, "", origins)
    assert isinstance(config, Config)
    with suppress(PluginNotImportedError):  # who only looks may not need them
        import_plugins(config.plugins)
    return config


def _resolve(node: DictConfig, section: str, origins: dict[str, str]) -> Any:
    try:
        return OmegaConf.to_object(node)
    except (ValueError, OmegaConfBaseException) as error:
        raise ConfigError(_refusal(section, error, origins)) from error


def _refusal(section: str, error: Exception, origins: dict[str, str]) -> str:
    prefix = f"{section}." if section else ""
    words = set(re.findall(r"\w+", str(error)))
    blamed = [
        f"{key} from {origin}"
        for key, origin in origins.items()
        if key.startswith(prefix) and key.removeprefix(prefix) in words
    ]
    where = f" ({', '.join(blamed)})" if blamed else ""
    return f"{section or 'config'}: {_first_line(error)}{where}"


def _first_line(error: Exception) -> str:
    # The other lines of OmegaConf repeat the key and the types.
    return str(error).partition("\n")[0]


def _advice(key: str) -> str:
    """The valid key nearest to an unknown one. Its last word counts most: a key is often put into the wrong section."""
    name = key.rpartition(".")[2]
    names = {valid.rpartition(".")[2] for valid in KEYS}
    if close := get_close_matches(name, sorted(names), n=1):
        same_name = [valid for valid in KEYS if valid.rpartition(".")[2] == close[0]]
        return f"did you mean {get_close_matches(key, same_name, n=1, cutoff=0)[0]}?"
    section = key
    while not ((found := find_key(section)) and found.is_section):
        section = section.rpartition(".")[0]
    return _keys_of(section)


def _keys_of(section: str) -> str:
    """The keys of a section, as a sentence."""
    parent = find_key(section)
    assert parent is not None
    names = [NAME] if get_origin(parent.kind) is dict else [field.name for field in fields(parent.kind)]
    return f"valid keys are {', '.join(f'{section}.{name}'.removeprefix('.') for name in names)}"
