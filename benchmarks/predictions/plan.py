"""What the benchmark predicts: families of runs with one ladder each, and their targets. Pure.

The rule is frozen before the first target starts: targets, ladders, seeds, batch rule and law are the tables below.
"""

from dataclasses import dataclass, replace
from typing import Literal

from foretrain.configs.model import ModelConfig
from foretrain.configs.schema import Config
from foretrain.scaling.ladder.rungs import BatchRule, Rules, Rung, rung_of, target_rung
from foretrain.trainer.model.resize import resized

Parametrization = Literal["mup", "standard"]
PARAMETRIZATIONS: tuple[Parametrization, ...] = ("mup", "standard")
STANDARD = ("mup.parametrization=standard", "model.init_std=0.02", "model.embed_init_std=0.02")
"""What the standard parametrization changes: initial weights are those that GPT-2 made usual."""

WARMUP_SHARE = 0.1


@dataclass(frozen=True)
class Schedule:
    """How the learning rate changes after the warm-up."""

    kind: Literal["linear", "cosine", "constant"]
    min_factor: float = 0.0
    decay_share: float = 0.0


LINEAR = Schedule("linear")
COSINE = Schedule("cosine", min_factor=0.1)
CONSTANT = Schedule("constant", decay_share=0.3)


@dataclass(frozen=True)
class Family:
    """Runs that one ladder predicts: they differ in width, and in what follows from it."""

    name: str
    corpus: str
    num_layers: int
    tokens_per_param: float
    schedule: Schedule
    widths: tuple[int, ...]
    """Widths of its targets."""
    proxies: tuple[int, ...] = (40, 48, 60, 72, 84)
    """Widths of the rungs of its ladder."""

    def target_name(self, width: int) -> str:
        """The name of a target."""
        return f"{self.name}_{width}"


@dataclass(frozen=True)
class Frozen:
    """Everything that is decided before the first target starts."""

    families: tuple[Family, ...]
    law: str
    batch: BatchRule
    """The rule of the batch and the learning rate in all ladders."""
    num_seeds: int
    """Seeds with which every proxy is trained."""
    vocab_size: int
    overrides: tuple[str, ...] = ()
    """Further settings of all runs."""

    @property
    def num_targets(self) -> int:
        """The number of predictions under one parametrization."""
        return sum(len(family.widths) for family in self.families)


THREE_LAYERS, FOUR_LAYERS = (36, 44, 52, 64, 76), (32, 40, 48, 56, 68)
"""Widths of proxies of deeper models, which cost about as much as those of two layers."""
FROZEN = Frozen(
    families=(
        Family("english", "english", 2, 2, LINEAR, (216, 236)),
        Family("code", "code", 2, 2, LINEAR, (216, 228)),
        Family("libraries", "libraries", 2, 1.5, LINEAR, (216, 256)),
        Family("english_deep", "english", 3, 1.5, LINEAR, (192, 204), THREE_LAYERS),
        Family("english_deeper", "english", 4, 1.5, LINEAR, (168, 180), FOUR_LAYERS),
        Family("english_cosine", "english", 2, 2.5, COSINE, (216, 228)),
        Family("english_constant", "english", 2, 1.5, CONSTANT, (216, 228)),
        Family("code_deep", "code", 3, 1.5, COSINE, (192, 204), THREE_LAYERS),
        Family("code_constant", "code", 2, 1, CONSTANT, (216, 256)),
        Family("libraries_deep", "libraries", 3, 1, CONSTANT, (192, 228), THREE_LAYERS),
    ),
    law="compute",
    batch="linear",
    num_seeds=3,
    vocab_size=512,
)
"""Frozen: twenty targets at 31 to 63 times the compute of the largest of five proxies, each of which has three seeds.

All runs have 400 steps: the batch is in proportion to the tokens, and the rate to the root of the batch. The law has a
constant: in a first campaign (benchmarks/results/predictions_first) the law had none, one rate was used for all
batches, and the proxies were smaller. Four of eight losses were in their interval, and all but one above the
prediction.
"""

ON_GPU = Frozen(
    families=(Family("code", "code", 2, 1, LINEAR, (572,), (56, 68, 84, 104, 128)),),
    law="compute",
    batch="linear",
    num_seeds=5,
    vocab_size=512,
    overrides=("train.device=cuda",),
)
"""One prediction at 300 times the compute of its largest proxy, whose run reads the text less than once."""


def overrides(family: Family, parametrization: Parametrization, data: str) -> list[str]:
    """The settings that the runs of a family share, as overrides of base.yaml."""
    return [
        f"data.path={data}",
        f"model.num_layers={family.num_layers}",
        f"schedule.kind={family.schedule.kind}",
        f"schedule.min_factor={family.schedule.min_factor}",
        *(STANDARD if parametrization == "standard" else ()),
    ]


def target_config(family: Family, width: int, shared: Config, batch: BatchRule) -> Config:
    """The config of a target. `shared`: base.yaml with the family's overrides, and the vocabulary.

    Tokens, batch and learning rate follow from the shape by the rules of a ladder: the tokens are in proportion to the
    parameters, and `batch` is the rule of the batch and the rate. base.yaml says from where.
    """
    model = resized(shared.model, width, family.num_layers)
    rung = rung_of(shared, model, Rules(family.tokens_per_param, batch))
    return _with(shared, model, rung, family.schedule)


def _with(shared: Config, model: ModelConfig, rung: Rung, schedule: Schedule) -> Config:
    tokens = rung.num_tokens
    return replace(
        shared,
        model=model,
        optimizer=replace(shared.optimizer, lr=rung.lr),
        schedule=replace(
            shared.schedule,
            warmup_tokens=round(WARMUP_SHARE * tokens),
            decay_tokens=round(schedule.decay_share * tokens),
        ),
        train=replace(
            shared.train,
            num_tokens=tokens,
            global_batch_size=rung.global_batch_size,
            micro_batch_size=rung.global_batch_size,
        ),
    )


def ladder_flops(family: Family, largest: Config, plan: Frozen) -> int:
    """The cost of a family's ladder, which is its budget. `largest`: the config of its largest target."""
    rules = rules_of(largest, plan.batch)
    rungs = [rung_of(largest, resized(largest.model, width), rules) for width in family.proxies]
    return plan.num_seeds * sum(rung.flops for rung in rungs)


def rules_of(largest: Config, batch: BatchRule) -> Rules:
    """The rules of the ladder that leads to a target."""
    goal = target_rung(largest)
    return Rules(largest.train.num_tokens / goal.size.num_params, batch)
