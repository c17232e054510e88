"""The complete config of the run of a budget, and how it is written."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from foretrain.configs import load as configs
from foretrain.configs.schema import Config
from foretrain.files import replacing
from foretrain.parallel.layout import Layout, LayoutError, check
from foretrain.scaling.ladder.rungs import Rung
from foretrain.scaling.trials.proxy import on_share


def config_of(base: Config, rung: Rung) -> Config:
    """`base` with the model, the tokens, the batch and the learning rate of a run.

    Warm-up, decay and changes of the mixture keep their shares of the tokens. The micro-batch is the largest, up to
    that of `base`, that the batch allows. Raises LayoutError if there is none.
    """
    config = on_share(base, Fraction(rung.num_tokens, base.train.num_tokens))
    model = replace(
        base.model,
        d_model=rung.model.d_model,
        num_layers=rung.model.num_layers,
        num_heads=rung.model.num_heads,
        num_kv_heads=rung.model.num_kv_heads,
        head_dim=rung.model.head_dim,
        d_ff=rung.model.d_ff,
    )
    train = replace(config.train, global_batch_size=rung.global_batch_size)
    config = replace(config, model=model, train=train, optimizer=replace(base.optimizer, lr=rung.lr))
    assert config.train.num_tokens == rung.num_tokens, "the run has other tokens than its config"
    return _with_micro_batch(config)


def _with_micro_batch(config: Config) -> Config:
    layout, refused = Layout.from_config(config.parallel), None
    for size in range(config.train.micro_batch_size, 0, -1):
        train = replace(config.train, micro_batch_size=size)
        try:
            check(layout, config.model, train)
        except LayoutError as error:
            refused = refused or error
        else:
            return replace(config, train=train)
    assert refused is not None
    raise refused


def named(config: Config, path: Path) -> Config:
    """The config under the name of its file: the name of the base model would be that of another size."""
    return replace(config, run_dir=f"runs/{path.stem}", model=replace(config.model, name=path.stem))


def check_are_new(files: Mapping[str, Path | None], overwrite: bool) -> None:
    """Raise ValueError if a file exists, unless it may be replaced, or is named twice. `files`: by their options."""
    named = {option: path for option, path in files.items() if path is not None}
    for option, path in named.items():
        if path.exists() and not overwrite:
            raise ValueError(f"{path} exists: choose another {option}, or replace it with --overwrite")
    if len({path.resolve() for path in named.values()}) < len(named):
        raise ValueError(f"{' and '.join(named)} name the same file: choose another one")


def write(config: Config, head: Iterable[str], path: Path) -> None:
    """Write the config, with lines of comment at its head."""
    comment = "".join(f"# {' '.join(line.split())}\n" for line in head)
    with replacing(path) as new:
        configs.save(config, new)
        new.write_text(comment + new.read_text(encoding="utf-8"), encoding="utf-8")
        assert configs.load(new.resolve()) == config, "the written config is not the planned one"
