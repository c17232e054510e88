"""The target of a `data` command: a corpus, by its folder or URL, or the data of a config."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from foretrain.configs import load as configs
from foretrain.configs.data import DataConfig
from foretrain.configs.load import ConfigError
from foretrain.configs.schema import Config
from foretrain.data_pipeline.corpus.manifest import MANIFEST, Manifest
from foretrain.data_pipeline.corpus.opening import is_url
from foretrain.data_pipeline.corpus.verify import verify
from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.stream.data import named_sources


def config_of(target: str, overrides: Sequence[str] = ()) -> Config:
    """Return the config that `target` names, or a default config for the corpus that it names. Overrides are key=value.

    A URL, and a folder with a manifest, is a corpus. Any other name is first looked up as a config, because a folder of
    runs may have the name of a preset. Raises ValueError, which says what to change.
    """
    if is_url(target) or (Path(target) / MANIFEST).is_file():
        return _config_of_corpus(target, overrides)
    try:
        return configs.load(target, overrides)
    except ConfigError as error:
        if not str(error).startswith(f"no config file '{target}'"):
            raise
        if Path(target).is_dir():
            return _config_of_corpus(target, overrides)  # to open it reports what is missing there
        if Path(target).suffix in (".yaml", ".yml"):
            raise
        raise CorpusError(
            f"there is no corpus at {target}: write one with `foretrain prepare`. Nor is there a config: {error}"
        ) from error


def verify_sources(config: DataConfig, *, progress: bool = False) -> dict[str, Manifest]:
    """Read every byte of each corpus of a config, and return the manifests by the path of the corpus.

    Raises CorpusError, which lists every fault of every corpus.
    """
    manifests: dict[str, Manifest] = {}
    faults = []
    paths = [(source.path, source.sha256) for source in named_sources(config).values()]
    for path, sha256 in dict.fromkeys(paths):  # two sources may share a corpus
        try:
            manifests[path] = verify(path, progress=progress, cache=config.cache, sha256=sha256)
        except CorpusError as error:
            faults.append(str(error))
    if faults:
        raise CorpusError("\n".join(faults))
    return manifests


def _config_of_corpus(path: str, overrides: Sequence[str]) -> Config:
    with tempfile.NamedTemporaryFile(suffix=".yaml") as no_settings:
        config = configs.load(no_settings.name, overrides)
    if config.data.sources or config.data.path != DataConfig.path:
        raise CorpusError(
            f"{path} is a corpus, and the overrides name another one: set data.path or data.sources only with a config"
        )
    return replace(config, data=replace(config.data, path=path))
