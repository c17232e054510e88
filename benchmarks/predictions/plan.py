"""What the benchmark predicts: families of runs with one ladder each, and their targets. Pure.

The rule is frozen before the first target starts: targets, ladders, seeds, batch rule and law are the tables below.
"""

from dataclasses import dataclass, replace
from typing import Literal

from foretrain.configs.model import ModelConfig
from foretrain.configs.schema import Config
from foretrain.scaling.ladder.rungs import Rules, Rung, rung_of, target_rung
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
    proxies: tuple[int, ...] = tuple(range(12, 44, 4))
    """Widths of the rungs of its ladder."""

    def target_name(self, width: int) -> str:
        """The name of a target."""
        return f"{self.name}_{width}"


@dataclass(frozen=True)
class Frozen:
    """Everything that is decided before the first target starts."""

    families: tuple[Family, ...]
    law: str
    num_seeds: int
    """Seeds with which every proxy is trained."""
    vocab_size: int
    overrides: tuple[str, ...] = ()
    """Further settings of all runs."""

    @property
    def num_targets(self) -> int:
        """The number of predictions under one parametrization."""
        return sum(len(family.widths) for family in self.families)


FROZEN = Frozen(
    families=(
        Family("english", "english", 2, 5, LINEAR, (108, 116)),
        Family("code", "code", 2, 4, LINEAR, (108, 120)),
        Family("libraries", "libraries", 2, 3, LINEAR, (108, 152)),
        Family("english_deep", "english", 3, 3, LINEAR, (104, 116)),
        Family("english_deeper", "english", 4, 2, LINEAR, (104, 116)),
        Family("english_cosine", "english", 2, 4, COSINE, (108, 124)),
        Family("english_constant", "english", 2, 3, CONSTANT, (108, 132)),
        Family("code_deep", "code", 3, 3, COSINE, (104, 112)),
        Family("code_constant", "code", 2, 3, CONSTANT, (108, 136)),
        Family("libraries_deep", "libraries", 3, 2, CONSTANT, (104, 124)),
    ),
    law="compute_no_e",
    num_seeds=3,
    vocab_size=512,
)
"""Frozen: twenty targets, whose ladders have proxies of widths 12 to 40 and three seeds.

The law has no constant: in the noise study a constant made the predictions of runs with 4 to 6 times the compute of the
proxies 3 to 4.5 % too high, and without it they were within 0.8 %.
"""


def overrides(family: Family, parametrization: Parametrization, data: str) -> list[str]:
    """The settings that the runs of a family share, as overrides of base.yaml."""
    return [
        f"data.path={data}",
        f"model.num_layers={family.num_layers}",
        f"schedule.kind={family.schedule.kind}",
        f"schedule.min_factor={family.schedule.min_factor}",
        *(STANDARD if parametrization == "standard" else ()),
    ]


def target_config(family: Family, width: int, shared: Config) -> Config:
    """The config of a target. `shared`: base.yaml with the family's overrides, and the vocabulary.

    Tokens, batch and learning rate follow from the shape by the rules of a ladder: the tokens are in proportion to the
    parameters, the batch to the root of the tokens, and the rate to the root of the batch. base.yaml says from where.
    """
    model = resized(shared.model, width, family.num_layers)
    rung = rung_of(shared, model, Rules(family.tokens_per_param, "sqrt"))
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


def ladder_flops(family: Family, largest: Config, num_seeds: int) -> int:
    """The cost of a family's ladder, which is its budget. `largest`: the config of its largest target."""
    rungs = [rung_of(largest, resized(largest.model, width), rules_of(largest)) for width in family.proxies]
    return num_seeds * sum(rung.flops for rung in rungs)


def rules_of(largest: Config) -> Rules:
    """The rules of the ladder that leads to a target."""
    goal = target_rung(largest)
    return Rules(largest.train.num_tokens / goal.size.num_params, "sqrt")
