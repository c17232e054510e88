"""Makes the config of one trial from the user's. Pure."""

from dataclasses import replace
from fractions import Fraction

from foretrain.configs.schema import Config, SampleConfig
from foretrain.parallel.layout import Layout, LayoutError, check
from foretrain.scaling.layouts import parallel_config
from foretrain.trainer import schedule as lr_schedule
from foretrain.trainer.model.resize import resized


def proxy(
    config: Config, width: int | None, depth: int | None, seed: int, layout: Layout, share: Fraction = Fraction(1)
) -> Config:
    """`config` at another width and depth (None: its own), with another seed, under a layout, on a share of its tokens.

    Raises ValueError if that is impossible.
    """
    sized = replace(config, model=resized(config.model, width, depth))
    return _fitted(on_share(_seeded(sized, seed), share), layout)


def _seeded(config: Config, seed: int) -> Config:
    """The config with another seed, to be trained to its end without samples: only its loss is wanted.

    It is not the run that a prediction was made for.
    """
    train = replace(config.train, seed=seed, stop_after=None, prediction=None)
    return replace(config, data=replace(config.data, seed=seed), train=train, sample=SampleConfig())


def on_share(config: Config, share: Fraction) -> Config:
    """The run on a share of its tokens, or on a multiple. Warm-up, decay and changes of the mixture scale with it."""
    if share == 1:
        return config

    def part(num_tokens: int) -> int:
        return round(num_tokens * share)

    old, num_tokens = config.schedule, max(1, part(config.train.num_tokens))
    warmup_tokens, decay_tokens = part(old.warmup_tokens), part(old.decay_tokens)
    if old.kind == "constant":  # both may have been rounded up
        decay_tokens = min(decay_tokens, num_tokens - warmup_tokens)
    stages = {
        name: replace(stage, from_tokens=max(1, part(stage.from_tokens))) for name, stage in config.data.stages.items()
    }
    return replace(
        config,
        schedule=replace(old, warmup_tokens=warmup_tokens, decay_tokens=decay_tokens),
        train=replace(config.train, num_tokens=num_tokens),
        data=replace(config.data, stages=stages),
    )


def _fitted(config: Config, layout: Layout) -> Config:
    """The config under a layout, with the largest micro-batch that it allows, up to the config's own."""
    parallel = parallel_config(layout, config.parallel)
    lr_schedule.check(config.schedule, config.train.num_tokens)
    refused: LayoutError | None = None
    for micro_batch_size in range(config.train.micro_batch_size, 0, -1):
        train = replace(config.train, micro_batch_size=micro_batch_size)
        try:
            check(layout, config.model, train)
            return replace(config, parallel=parallel, train=train)
        except LayoutError as error:
            refused = refused or error
    assert refused is not None
    raise LayoutError(f"--layout '{layout}' at {config.model.d_model} x {config.model.num_layers}: {refused}")
