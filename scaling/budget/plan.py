"""The plan of a budget: the run that it pays for, what is known of its loss, and what smaller models would cost.

Reads the data, the law and the sweep, and writes nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from foretrain.configs.schema import Config
from foretrain.parallel.layout import Layout
from foretrain.scaling.budget.choice import Run, Terms, all_runs, best_run
from foretrain.scaling.budget.config import config_of
from foretrain.scaling.budget.data import DataFacts
from foretrain.scaling.budget.law import Optimum, optimum_of
from foretrain.scaling.budget.overtraining import Smaller, smaller_models
from foretrain.scaling.budget.shapes import ShapeRule, padded_vocabulary, shapes
from foretrain.scaling.budget.source import Source
from foretrain.scaling.budget.spend import Spend
from foretrain.scaling.ladder.rungs import BatchRule
from foretrain.scaling.ladder.tuned import Resolve, check_batch_rule, tuned
from foretrain.scaling.laws.evidence import Prediction
from foretrain.scaling.transfer.transfer import Transfer, with_vocabulary
from foretrain.trainer import schedule
from foretrain.trainer.model.size import ModelSize
from foretrain.trainer.mup.parametrize import blueprint

DEFAULT_CONFIG = "runs/llama_7b_a100"
"""The config from which everything is taken unless the user names one."""
REACH = 4.0
"""Models are looked at up to this times the parameters of the optimum by the estimate 6 N D."""
LEAST_ASPECT, MOST_ASPECT = 1.0, 10_000.0
"""The range of --aspect: 20 to 300 is usual, and far fewer would make every width a search over very many depths."""
MOST_RANKS_OF_A_LAYER = 1024
"""The largest tp * cp: the heads of every shape are a multiple of it."""


@dataclass(frozen=True)
class Ask:
    """What the user asked for."""

    spend: Spend
    batch: BatchRule = "fixed"
    tp: int | None = None
    """None: that of the config."""
    aspect: float | None = None
    """d_model / num_layers. None: that of the config; under `mup`, all models are as deep as the config's."""
    sweep: Path | None = None
    """Folder of the sweep that tuned the settings; None: they are in the config."""
    coord_check: Path | None = None
    """None: the record in the folder of the sweep."""

    def __post_init__(self) -> None:
        if self.batch not in get_args(BatchRule):
            raise ValueError(f"--batch {self.batch}: use one of {', '.join(get_args(BatchRule))}")
        if self.tp is not None and self.tp < 1:
            raise ValueError(f"--tp {self.tp}: use 1 or more")
        if self.aspect is not None and not (LEAST_ASPECT <= self.aspect <= MOST_ASPECT):
            raise ValueError(
                f"--aspect {self.aspect:g}: give d_model / num_layers, such as 128; it may be {LEAST_ASPECT:g} to "
                f"{MOST_ASPECT:g}"
            )
        if self.coord_check is not None and self.sweep is None:
            raise ValueError("--coord-check judges the values of a sweep: give --sweep FOLDER too, or leave it out")


@dataclass(frozen=True)
class BudgetPlan:
    """The run that a budget pays for."""

    ask: Ask
    source: Source
    base: Config
    """The config that everything else is taken from, with the vocabulary of its data."""
    aspect: float | None
    """d_model / num_layers that is wanted; None: the depth is the config's."""
    run: Run
    config: Config
    """The complete config of the run."""
    optimum: Optimum
    """If parameters and tokens could be any number."""
    prediction: Prediction | None
    """The loss of the run with its intervals; None: no intervals are known."""
    smaller: tuple[Smaller, ...]
    data: DataFacts | None
    """What its data say; None: they cannot be read from here."""
    why_no_data: str = ""
    """Why they cannot be read."""
    transfer: Transfer | None = None
    """The transfer of the values of a sweep to the run; None without a sweep."""

    @property
    def predicted_loss(self) -> float:
        """The loss that `foretrain predict` would predict; without intervals, that of the law. Nats per token."""
        return self.run.loss if self.prediction is None else self.prediction.loss

    @property
    def objections(self) -> tuple[str, ...]:
        """Why the values of the sweep are not known to be good for the run."""
        return self.transfer.objections if self.transfer is not None else ()


def make_plan(ask: Ask, resolve: Resolve, source: Source, facts_of: Callable[[Config], DataFacts]) -> BudgetPlan:
    """The plan for the config that `resolve` makes. `facts_of` reads the data of a config.

    Raises ValueError, which says what to change, if the budget pays for no run.
    """

    def base_of(more: Sequence[str]) -> Config:
        return _with_rows(_with_tp(resolve(more), ask.tp))

    base = base_of(())
    _check_base(base, ask)
    layout, aspect = Layout.from_config(base.parallel), _aspect(base, ask)
    rule = ShapeRule(base.model, layout, base.train, aspect)
    terms = Terms(base, rule, source.law, source.embeddings, ask.batch, ask.spend.flops)
    most_params = REACH * source.law.optimum(ask.spend.flops)[0]
    runs = all_runs(terms, shapes(rule, most_params))
    if not runs:
        raise ValueError(_too_small(terms))
    run = best_run(runs)
    model = run.rung.model
    assert ModelSize.of(model).flops_per_token == run.rung.size.flops_per_token, "FLOPs are not linear in the depth"
    config, transfer = _tuned(ask, base_of, base, run)
    blueprint(config)
    schedule.check(config.schedule, config.train.num_tokens)
    data, why = _read(config, facts_of)
    flops_per_param = run.rung.size.flops_per_token / run.num_params
    return BudgetPlan(
        ask=ask,
        source=source,
        base=base,
        aspect=aspect,
        run=run,
        config=config,
        optimum=optimum_of(source.law, source.evidence, ask.spend.flops, flops_per_param),
        prediction=source.predict(run.num_params, run.rung.num_tokens),
        smaller=tuple(smaller_models(run, source.law, runs)),
        data=data,
        why_no_data=why,
        transfer=transfer,
    )


def _with_tp(config: Config, tp: int | None) -> Config:
    """The config with another tp; without tensor parallelism, there is no sequence parallelism either."""
    if tp is None:
        return config
    return replace(config, parallel=replace(config.parallel, tp=tp, sp=config.parallel.sp and tp > 1))


def _with_rows(config: Config) -> Config:
    """The config with the vocabulary of its data, padded. Raises ValueError if it is not known."""
    config = with_vocabulary(config)
    if config.model.vocab_size is None:
        raise ValueError(
            f"the vocabulary is not known, as data.path = {config.data.path} cannot be read from here: set "
            "model.vocab_size, or data.path"
        )
    rows = padded_vocabulary(config.model.vocab_size, config.parallel.tp)
    return replace(config, model=replace(config.model, vocab_size=rows))


def _check_base(base: Config, ask: Ask) -> None:
    """Raise ValueError if no run can be made from the config, whatever its size."""
    if base.parallel.stage_layers is not None:
        raise ValueError("parallel.stage_layers divides a known number of blocks, and it is chosen here: leave it out")
    if (ranks := base.parallel.tp * base.parallel.cp) > MOST_RANKS_OF_A_LAYER:
        raise ValueError(
            f"tp * cp = {ranks:,} ranks share each layer, and plans are for {MOST_RANKS_OF_A_LAYER:,} at most: lower "
            "--tp, or parallel.cp"
        )
    for name in ("init_from", "branch_from"):
        if getattr(base.train, name) is not None:
            raise ValueError(f"train.{name} names a model of another size: leave it out")
    check_batch_rule(ask.batch, base)


def _aspect(base: Config, ask: Ask) -> float | None:
    """d_model / num_layers of the models; None: all are as deep as the base, over which alone `mup` transfers."""
    if ask.aspect is not None:
        return ask.aspect
    return None if base.mup.parametrization == "mup" else base.model.d_model / base.model.num_layers


def _too_small(terms: Terms) -> str:
    batch = terms.base.train.global_batch_size * terms.base.model.seq_len
    also = ", or use --batch sqrt or linear" if terms.batch == "fixed" else ""
    return (
        f"{terms.flops:.3g} FLOPs pay for no run of {terms.least_steps} steps, not even of the narrowest model: raise "
        f"the budget, or lower train.global_batch_size (a step has {batch:,} tokens) or the vocabulary{also}"
    )


def _tuned(ask: Ask, base_of: Resolve, base: Config, run: Run) -> tuple[Config, Transfer | None]:
    """The config of the run with the values of the sweep, and their transfer."""
    if ask.sweep is None:
        return config_of(base, run.rung), None

    def of_run(config: Config) -> Config:
        return config_of(config, replace(run.rung, lr=config.optimizer.lr))

    return tuned(ask.sweep, ask.coord_check, ask.batch, base_of, judged_as=of_run, trained_as=of_run)


def _read(config: Config, facts_of: Callable[[Config], DataFacts]) -> tuple[DataFacts | None, str]:
    """What the data of the run say, or why they cannot be read. Raises ValueError if the model has too few rows."""
    try:
        facts = facts_of(config)
    except (OSError, ValueError) as error:
        return None, " ".join(str(error).split())
    rows = config.model.vocab_size or 0
    if rows < facts.vocab_size:
        raise ValueError(
            f"the config has model.vocab_size = {rows}, and its data have {facts.vocab_size} tokens: set "
            "model.vocab_size=null, which takes that of the data"
        )
    return facts, ""
