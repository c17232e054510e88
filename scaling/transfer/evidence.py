"""The conditions under which a sweep's best values are best for the target too, and those that are not met. Pure."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import log2

from foretrain.configs.load import diff
from foretrain.configs.schema import Config
from foretrain.scaling.architecture import architecture, differences
from foretrain.scaling.transfer.study import CARRIED, Drift, Study, are_numbers, relevant_sizes
from foretrain.trainer.model.table import num_params

MAX_SLOPE = 0.15
"""Largest drift of the best rate, in octaves for each doubling of the size. Measured (benchmarks/results/transfer): muP
-0.03 over widths, CompleteP -0.02 over depths, the standard parametrization -1.13 over widths, muP -0.42 over
depths."""
MAX_RANGE = 0.5
"""Octaves: the largest distance between the best rates of proxies, and the largest error for the target. Measured: muP
0.36 over widths, CompleteP 0.08 over depths, the standard parametrization 3.37. Half an octave off the best costs about
0.02 nats."""
MAX_UNCERTAINTY = 0.5
"""Octaves: the largest uncertainty of the optimum that is transferred, as much as its drift may add."""
MAX_VOCABULARY_CHANGE = 0.05
"""Largest relative difference of vocabulary sizes: rows that round a size up do not mean another tokenizer."""
MAX_SLOPE_UNCERTAINTY = 0.3
"""Octaves per doubling. The standard parametrization drifts by one octave, which is three times this and visible."""
MAX_FACTOR = 2.0
"""Largest ratio of tokens per parameter, and of batches. The best rate falls as tokens^-0.32: by 20 % for this
factor."""
MAX_SHARE_CHANGE = 0.05
"""Largest relative difference of a share of the budget: rounding to full tokens and steps may cause as much."""
UNJUDGED = re.compile(r"(data\.(path|sources|packing)|train\.precision)\b")
"""Settings that may change the best rate by an amount that is not known here."""
HORIZON_EXPONENT = -0.32
"""The best rate of one model goes as training tokens to this power (arXiv 2409.19913). No rule of muP covers it."""


def objections(study: Study, base: Config, target: Config) -> Iterator[str]:
    """Every reason why the study does not support a transfer to the target, each with what to do.

    `base` is the config of the sweep and `target` that of the target, both with the transferred values.
    """
    yield from _parametrization(base, target)
    yield from _optima(study, target)
    yield from _drifts(study, target)
    yield from _reach(study, target)
    yield from _other_axes(study, target)
    yield from _budget(study, base, target)
    yield from _settings(base, target)


def horizon(study: Study, target: Config) -> str | None:
    """How the length of training may change the best rate, in words; None if it is about that of the proxies."""
    factor = target.train.num_tokens / study.largest_trial.num_tokens
    if 1 / MAX_FACTOR <= factor <= MAX_FACTOR:
        return None
    return (
        f"not applied: the target trains on {factor:.3g} times the tokens of the largest proxy, for which a model of "
        f"one size would want {factor**HORIZON_EXPONENT:.2g} times the learning rate (tokens^-0.32, arXiv 2409.19913)"
    )


def unjudged(base: Config, target: Config) -> str | None:
    """Other differences, which are not judged, in words; None if there are none."""
    lines = [line for line in diff(base, target) if UNJUDGED.match(line)]
    return f"not judged: {'; '.join(lines)}" if lines else None


def _parametrization(base: Config, target: Config) -> Iterator[str]:
    for whose, config in (("the sweep", base), ("the target", target)):
        if config.mup.parametrization == "standard":
            yield (
                f"{whose} has mup.parametrization = standard, in which every size needs its own learning rate: sweep "
                "and train with mup.parametrization=mup (over widths) or completep (over depths too)"
            )
    for line in differences(architecture(base), architecture(target)):
        yield f"the target is not of the sweep's architecture ({line}): change the target, or sweep its own"
    for line in diff(base, target):
        if line.startswith("mup.base."):
            yield f"the target scales from another base than the sweep ({line}): set the sweep's in the target"
    here, there = target.model.vocab_size, base.model.vocab_size
    if here is None:
        yield "the target's vocabulary is not known, as its data cannot be read from here: set model.vocab_size"
    elif there is not None and abs(here / there - 1) > MAX_VOCABULARY_CHANGE:
        yield (
            f"the target has a vocabulary of {here:,}, the proxies {there:,}: other tokens are another task; sweep on "
            "data of the target's tokenizer"
        )


def _optima(study: Study, target: Config) -> Iterator[str]:
    thinned = "" if study.sweep.search == "grid" else f" (of --search {study.sweep.search}; a grid has all rates)"
    for fit in study.fits:
        if fit.size in relevant_sizes(study.sweep, target) and fit.optimum is None:
            yield f"{fit.size}: {fit.problem}{thinned}"
    optimum = study.largest.optimum
    if optimum is not None and optimum.uncertainty > MAX_UNCERTAINTY:
        yield (
            f"the best learning rate of the largest proxy ({study.largest.size}) is uncertain by "
            f"{optimum.uncertainty:.2f} octaves, and {MAX_UNCERTAINTY} is allowed: sweep more seeds "
            "(--seeds 0,1,2), or finer rates"
        )


def _drifts(study: Study, target: Config) -> Iterator[str]:
    sizes = relevant_sizes(study.sweep, target)
    judged = [
        drift
        for drift in study.drifts
        if drift.fits[0].size in sizes and (drift.along == "d_model" or _leaves_depth(study, target))
    ]
    for drift in judged:
        name = f"the best learning rate does not hold over {drift}"
        if abs(drift.slope) > MAX_SLOPE:
            found = f"it drifts by {drift.slope:+.2f} octaves per doubling, and {MAX_SLOPE} is allowed"
            yield f"{name}: {found}; {_repair(drift)}"
        if drift.range > MAX_RANGE:
            yield f"{name}: it varies over {drift.range:.2f} octaves, and {MAX_RANGE} is allowed; {_repair(drift)}"
        if drift.uncertainty > MAX_SLOPE_UNCERTAINTY:
            yield (
                f"whether the best learning rate holds over {drift} is not known: its drift is uncertain by "
                f"{drift.uncertainty:.2f} octaves per doubling, {MAX_SLOPE_UNCERTAINTY} is allowed; sweep more seeds "
                "(--seeds 0,1,2), finer rates or more sizes"
            )
    if all(abs(drift.slope) <= MAX_SLOPE for drift in judged):
        yield from _far(judged, study, target)


def _far(drifts: Sequence[Drift], study: Study, target: Config) -> Iterator[str]:
    """Objects if drifts that are small for each doubling add up between the largest proxy and the target."""
    off: dict[str, float] = defaultdict(float)
    for drift in drifts:
        here, there = (getattr(size, drift.along) for size in (study.largest.size, target.model))
        off[drift.along] = max(off[drift.along], abs(drift.slope * log2(there / here)))
    if sum(off.values()) > MAX_RANGE:
        steepest = " and ".join(f"{value:.2f} over {along}" for along, value in off.items() if value > 0)
        yield (
            f"the best learning rate does not hold as far as the target: as it drifts over the proxies, it would be "
            f"off by {steepest}, and {MAX_RANGE} octaves are allowed; sweep sizes nearer to it, or more seeds if the "
            "drift is noise"
        )


def _repair(drift: Drift) -> str:
    size = "width" if drift.along == "d_model" else "depth"
    return f"sweep more seeds if that is noise, leave out the smallest {size}, or check the parametrization"


def _leaves_depth(study: Study, target: Config) -> bool:
    """Whether the target has another depth than the proxy whose rate it gets."""
    return target.model.num_layers != study.largest.size.num_layers


def _reach(study: Study, target: Config) -> Iterator[str]:
    """Objects if the target has another width or depth, and the sweep did not compare several."""
    model = target.model
    widths = {size.d_model for size in relevant_sizes(study.sweep, target)}
    depths = {size.num_layers for size in study.sweep.sizes}
    if model.d_model not in widths and len(widths) < 2:
        yield f"only d_model = {min(widths)} was swept, and the target has {model.d_model}: sweep two --widths or more"
    if not _leaves_depth(study, target):
        return
    shown = ", ".join(map(str, sorted(depths)))
    if target.mup.parametrization != "completep":
        yield (
            f"the target has num_layers = {model.num_layers}, the proxies {shown}, and only "
            f"mup.parametrization = completep holds over depths: sweep --depths {model.num_layers}, or use completep"
        )
    elif len(depths) < 2:
        yield f"only num_layers = {shown} was swept, and the target has {model.num_layers}: sweep two --depths or more"


def _other_axes(study: Study, target: Config) -> Iterator[str]:
    sizes = relevant_sizes(study.sweep, target)
    relevant = [fit for fit in study.fits if fit.size in sizes and fit.best_others]
    for key, best in study.largest.best_others.items():
        if not CARRIED.fullmatch(key):
            yield (
                f"{key} was swept ({best} is best), and no parametrization transfers it to other sizes: set it in "
                "the target, and sweep with that alone"
            )
            continue
        for smaller, larger in list(pairwise(relevant))[-1:]:
            if smaller.best_others[key] != best:
                yield (
                    f"the largest proxies do not agree on {key}: {best} is best at {larger.size}, "
                    f"{smaller.best_others[key]} at {smaller.size}; sweep more seeds, or set it and do not sweep it"
                )
        values = study.axis(key)
        if are_numbers(values) and len(values) > 1:
            if best == max(values):
                yield f"the best {key}, {best} at {study.largest.size}, is the largest swept: sweep larger ones too"
            elif best == min(values) and best != 0:  # a value below 0 is not possible
                yield f"the best {key}, {best} at {study.largest.size}, is the smallest swept: sweep smaller ones too"


def _budget(study: Study, base: Config, target: Config) -> Iterator[str]:
    largest, tokens = study.largest, study.largest_trial.num_tokens
    there = tokens / largest.num_params
    here = there if target.model.vocab_size is None else target.train.num_tokens / num_params(target.model)
    if not 1 / MAX_FACTOR <= here / there <= MAX_FACTOR:
        yield (
            f"the target trains on {here:.3g} tokens per parameter, the largest proxy ({largest.size}) on {there:.3g}: "
            f"a factor of {MAX_FACTOR:g} is allowed, as the best rate falls about as tokens^-0.32 (arXiv 2409.19913); "
            f"sweep with train.num_tokens={round(here * largest.num_params):.3g}, or change the target's"
        )
    batch, proxy_batch = target.train.global_batch_size * target.model.seq_len, study.largest_trial.tokens_per_step
    if not 1 / MAX_FACTOR <= batch / proxy_batch <= MAX_FACTOR:
        yield (
            f"a step of the target is {batch:,} tokens, one of the largest proxy {proxy_batch:,}: a factor of "
            f"{MAX_FACTOR:g} is allowed, as no rule transfers the rate over batches; sweep with the target's "
            "train.global_batch_size"
        )
    for name in ("warmup_tokens", "decay_tokens"):
        share = getattr(target.schedule, name) / target.train.num_tokens
        proxy_share = getattr(base.schedule, name) / tokens
        if abs(share - proxy_share) > MAX_SHARE_CHANGE * proxy_share and _counts(name, base, target):
            yield (
                f"schedule.{name} is {share:.2%} of the target's budget and {proxy_share:.2%} of the proxies': set it "
                f"to {round(proxy_share * target.train.num_tokens):.4g} in the target, or sweep with the target's share"
            )


def _counts(name: str, base: Config, target: Config) -> bool:
    return name == "warmup_tokens" or "constant" in (base.schedule.kind, target.schedule.kind)


def _settings(base: Config, target: Config) -> Iterator[str]:
    """Objects to other settings of the optimizer and the schedule. `_budget` judges shares of the budget."""
    for line in diff(base, target):
        if re.match(r"(optimizer\.(?!kind\b)|schedule\.(?!(warmup|decay)_tokens\b))", line):
            yield f"the sweep had another setting ({line}): set the sweep's in the target, or sweep with the target's"
