"""Makes the target's config with the values that a sweep tuned, and the evidence for them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from json import dumps
from pathlib import Path
from typing import Any

from foretrain.configs import load as configs
from foretrain.configs.schema import Config
from foretrain.data_pipeline.corpus.opening import open_store
from foretrain.data_pipeline.corpus.verify import read_manifest
from foretrain.data_pipeline.stream.data import named_sources
from foretrain.files import replacing
from foretrain.scaling.records import COORD_CHECK_FILE
from foretrain.scaling.transfer import coordinates, evidence
from foretrain.scaling.transfer.coordinates import read_check
from foretrain.scaling.transfer.study import Study, study
from foretrain.scaling.transfer.sweep_folder import RATE, Sweep, read_sweep
from foretrain.trainer.mup.parametrize import blueprint
from foretrain.trainer.run.folder import CONFIG_FILE

NOT_SUPPORTED = "not supported: "
"""Start of each line of evidence that is an objection."""


@dataclass(frozen=True)
class Transfer:
    """The result of a transfer, and whether the evidence supports it."""

    study: Study
    config: Config
    """The target with the tuned values and the evidence for them."""
    objections: tuple[str, ...]
    """Why the values are not known to hold for the target, each with what to do; empty if they are."""


def make_transfer(folder: Path, to: str, overrides: Sequence[str] = (), coord_check: Path | None = None) -> Transfer:
    """The transfer of a sweep to the config `to`. Raises ValueError if the sweep, config or check cannot be read."""
    return transfer_to(read_sweep(folder), lambda more: configs.load(to, [*overrides, *more]), coord_check)


def transfer_to(sweep: Sweep, resolve: Callable[[Sequence[str]], Config], coord_check: Path | None = None) -> Transfer:
    """The transfer of a sweep to the config that `resolve` makes with further overrides. Raises ValueError likewise."""
    folder = sweep.folder
    check = read_check(coord_check or folder / COORD_CHECK_FILE)
    found = study(sweep, resolve(()))
    target = with_vocabulary(resolve(settings(found.values)))
    if target.model.vocab_size is not None:
        blueprint(target)
    swept = {**found.largest.best_others, **found.values}
    base = configs.load((folder / CONFIG_FILE).resolve(), settings(swept))
    objections = (*evidence.objections(found, base, target), *coordinates.objections(check, sweep, target))
    lines = [*_found(found), coordinates.summary(check)]
    lines += filter(None, (evidence.horizon(found, target), evidence.unjudged(base, target)))
    lines += [NOT_SUPPORTED + objection for objection in objections]
    return Transfer(found, replace(target, mup=replace(target.mup, evidence=lines)), objections)


def with_vocabulary(config: Config) -> Config:
    """The config with the vocabulary size of its data, if they can be read from here."""
    if config.model.vocab_size is not None:
        return config
    path = next(iter(named_sources(config.data).values())).path  # all sources have one tokenizer
    try:
        vocab_size = read_manifest(open_store(path, config.data.cache)).vocab_size
    except (OSError, ValueError):
        return config
    return replace(config, model=replace(config.model, vocab_size=vocab_size))


def settings(values: Mapping[str, Any]) -> list[str]:
    """KEY=VALUE of each value, as `load` takes them."""
    return [f"{key}={dumps(value)}" for key, value in values.items()]


def default_out(to: str) -> Path:
    """The file for the target's config without --out: in the working directory."""
    return Path(f"{Path(to).name.removesuffix('.yaml')}.transferred.yaml")


def write(transfer: Transfer, path: Path, overwrite: bool = False) -> None:
    """Write the target's config, with the evidence at its head. Raises ValueError if the file exists."""
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists: choose another --out, or replace it with --overwrite")
    head = "".join(f"# {' '.join(line.split())}\n" for line in _head(transfer))
    with replacing(path) as new:
        configs.save(transfer.config, new)
        new.write_text(head + new.read_text(encoding="utf-8"), encoding="utf-8")
        assert configs.load(new.resolve()) == transfer.config, "the written config is not the transferred one"


def _head(transfer: Transfer) -> Iterator[str]:
    yield "Written by `foretrain transfer`: a full config, with values that were tuned on small proxies."
    if transfer.objections:
        yield "NOT SUPPORTED by the evidence, and written because of --force: see below."
    yield from transfer.config.mup.evidence


def _found(study: Study) -> Iterator[str]:
    """A line of evidence for each transferred value."""
    largest, optimum = study.largest, study.largest.optimum
    where = f"at the largest proxy ({largest.size}; {largest.num_params:,} parameters)"
    if optimum is None:
        how = f"the best rate of the grid {where}, which could not be fitted"
    else:
        how = (
            f"the optimum {where}, log2 = {optimum.log2_lr:.3f} +- {optimum.uncertainty:.3f} "
            f"({SOURCES[optimum.source]}), loss {optimum.loss:.4f}"
        )
    drifts = "; ".join(
        f"over {drift}: drift {drift.slope:+.3f} +- {drift.uncertainty:.3f} octaves per doubling, range "
        f"{drift.range:.3f}, regret {drift.regret:.4f} nats"
        for drift in study.drifts
        if largest in drift.fits
    )
    for key, value in study.values.items():
        if key == RATE:
            yield f"{key} = {value}: {how}; {drifts or 'one size alone, so the drift is unknown'}; {study.sweep.name}"
        else:
            tried = ", ".join(map(str, study.axis(key)))
            yield f"{key} = {value}: the best of {tried} {where}; {study.sweep.name}"


SOURCES: Mapping[Any, str] = {
    "seeds": "from the spread of the seeds",
    "misfit": "one seed: from the misfit of the parabola",
    "grid": "one seed and three rates: not known, the grid's spacing",
}
"""Where an uncertainty comes from, in words."""
