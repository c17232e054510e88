"""What a `data` command looks at: a corpus by its folder or URL, or the data of a config."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from foretrain.configs import load as configs
from foretrain.configs.data import DataConfig
from foretrain.configs.load import ConfigError
from foretrain.configs.schema import Config
from foretrain.data_pipeline.corpus.manifest import MANIFEST, Manifest
from foretrain.data_pipeline.corpus.shards import verify
from foretrain.data_pipeline.errors import CorpusError


def config_of(target: str, overrides: Sequence[str] = ()) -> Config:
    """Return the config that `target` names, or the default one of the corpus that it names; overrides are key=value.

    A URL and a folder with a manifest are corpora, then comes a config of that name: a preset may be called as a
    folder of runs is. Raises ValueError, which says what to change.
    """
    if _is_url(target) or (Path(target) / MANIFEST).is_file():
        return _config_of_corpus(target, overrides)
    try:
        return configs.load(target, overrides)
    except ConfigError as error:
        if not str(error).startswith(f"no config file '{target}'"):
            raise
        if Path(target).is_dir():
            return _config_of_corpus(target, overrides)  # opening it tells what is missing there
        if Path(target).suffix in (".yaml", ".yml"):
            raise
        raise CorpusError(
            f"there is no corpus at {target}: write one with `foretrain prepare`. Nor is there a config: {error}"
        ) from error


def source_paths(config: DataConfig) -> dict[str, str]:
    """Return the path of every source by its name, in the order of names; the only one that has none is ""."""
    return {name: source.path for name, source in sorted(config.sources.items())} or {"": config.path}


def verify_sources(config: DataConfig, *, progress: bool = False) -> dict[str, Manifest]:
    """Return the manifest of each corpus by its path, after reading every byte of all.

    Raises CorpusError that lists every fault of every corpus.
    """
    manifests: dict[str, Manifest] = {}
    faults = []
    for path in dict.fromkeys(source_paths(config).values()):  # two sources may be one corpus
        try:
            manifests[path] = verify(path, progress=progress, cache=config.cache)
        except CorpusError as error:
            faults.append(str(error))
    if faults:
        raise CorpusError("\n".join(faults))
    return manifests


def _is_url(target: str) -> bool:
    return "://" in target or target.startswith("pipe:")


def _config_of_corpus(path: str, overrides: Sequence[str]) -> Config:
    with tempfile.NamedTemporaryFile(suffix=".yaml") as no_settings:
        config = configs.load(no_settings.name, overrides)
    if config.data.sources or config.data.path != DataConfig.path:
        raise CorpusError(
            f"{path} is a corpus, and the overrides name another: give data.path or data.sources to a config alone"
        )
    return replace(config, data=replace(config.data, path=path))
