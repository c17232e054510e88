"""Defects of evidence, each planted into a sweep, its coordinate check or its target, and the words that report it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from foretrain.scaling.transfer.sweep_folder import RATE
from tests.scaling.transfer.builder import Folder, LossOf, valley

COMPLETEP = "mup.parametrization=completep", "mup.base.num_layers=4"
BUDGET_OF_128 = "train.num_tokens=1.057e9", "schedule.warmup_tokens=105.7e6"
"""As many tokens for each parameter as the proxies of that width have."""
GOOD = Folder()
DEEP = Folder(depths=(2, 4, 8), settings=COMPLETEP, check={"depths": [2, 4]})


def shifted(by_width: float = 0.0, by_depth: float = 0.0) -> LossOf:
    """The best rate moves by that number of octaves with each doubling."""

    def loss(width: int, depth: int, log2_lr: float, seed: int, others: Mapping[str, Any]) -> float:
        return valley(
            width, depth, log2_lr - by_width * math.log2(width / 128) - by_depth * math.log2(depth / 4), seed, {}
        )

    return loss


def at(place: float, only_width: int) -> LossOf:
    """One width has its best rate elsewhere."""

    def loss(width: int, depth: int, log2_lr: float, seed: int, others: Mapping[str, Any]) -> float:
        return valley(width, depth, log2_lr - (place + 5.2 if width == only_width else 0), seed, others)

    return loss


def other_axis(key: str, best: Mapping[int, float]) -> LossOf:
    """Another axis, whose best value differs from width to width."""

    def loss(width: int, depth: int, log2_lr: float, seed: int, others: Mapping[str, Any]) -> float:
        return valley(width, depth, log2_lr, seed, {}) + abs(others[key] - best[width])

    return loss


def diverging(width: int, depth: int, log2_lr: float, seed: int, others: Mapping[str, Any]) -> float:
    return math.inf if width == 256 else valley(width, depth, log2_lr, seed, others)


@dataclass(frozen=True)
class Defect:
    """What is wrong, and what must be said of it."""

    says: Sequence[str]
    folder: Folder = GOOD
    width: int = 512
    depth: int = 4
    settings: Sequence[str] = ()
    also: Sequence[str] = field(default_factory=tuple)
    """Words of what else is said, as it follows."""


DEFECTS = {
    "the best rate of a width is at the lower edge": Defect(
        ["d_model = 256, num_layers = 4", "2^-9, is the smallest", "sweep smaller ones"],
        replace(GOOD, loss=at(-9.4, 256)),
    ),
    "the best rate of a width is at the upper edge": Defect(
        ["d_model = 64, num_layers = 4", "2^-3, is the largest", "sweep larger ones"], replace(GOOD, loss=at(-2.5, 64))
    ),
    "a width diverged": Defect(
        ["d_model = 256, num_layers = 4", "every rate diverged", "sweep smaller ones"],
        replace(GOOD, loss=diverging),
        settings=BUDGET_OF_128,
    ),
    "a width has no result": Defect(
        ["d_model = 256, num_layers = 4", "no trial has a result", "run `foretrain sweep` to its end"],
        replace(GOOD, edit=lambda record: None if record["d_model"] == 256 else record),
        settings=BUDGET_OF_128,
    ),
    "a rate has no result": Defect(
        ["d_model = 128, num_layers = 4", "2^-5 lacks the result of a seed", "run `foretrain sweep` to its end"],
        replace(
            GOOD, edit=lambda record: None if (record["d_model"], record["values"][RATE]) == (128, 2**-5) else record
        ),
    ),
    "a seed of a rate has no result": Defect(
        ["d_model = 128, num_layers = 4", "2^-5 lacks the result of a seed"],
        replace(
            GOOD,
            edit=lambda record: (
                None if (record["d_model"], record["seed"], record["values"][RATE]) == (128, 1, 2**-5) else record
            ),
        ),
    ),
    "the best rate drifts with width": Defect(
        [
            "does not hold over d_model 64 to 256 at num_layers = 4",
            "drifts by -0.20 octaves per doubling",
            "0.15 is allowed",
        ],
        replace(GOOD, loss=shifted(by_width=-0.2)),
    ),
    "the best rates lie far from one another": Defect(
        ["does not hold over d_model 64 to 256", "varies over 0.61 octaves", "0.5 is allowed"],
        replace(GOOD, loss=at(-4.6, 128)),
    ),
    "nobody knows whether it drifts": Defect(
        ["whether the best learning rate holds over d_model 64 to 128", "uncertain", "--seeds 0,1,2"],
        replace(GOOD, widths=(64, 128), seeds=(0,), exponents=(-6, -5, -4)),
        also=["the largest proxy (d_model = 128, num_layers = 4) is uncertain by 1.00 octaves"],
    ),
    "the best rate is not known well": Defect(
        ["the best learning rate of the largest proxy", "uncertain by 1.00 octaves, and 0.5 is allowed", "--seeds"],
        replace(GOOD, widths=(128,), seeds=(0,), exponents=(-6, -5, -4)),
        width=128,
    ),
    "halving left too few rates": Defect(
        ["d_model = 256, num_layers = 4", "is the smallest", "of --search halving; a grid has all rates"],
        replace(
            GOOD,
            plan={"search": "halving"},
            edit=lambda record: None if record["d_model"] == 256 and record["values"][RATE] < 2**-5 else record,
        ),
    ),
    "the best rate of the deepest is another one than that of proxies as deep as the target": Defect(
        ["does not hold over num_layers 2 to 8 at d_model = 64", "drifts by -0.20 octaves per doubling"],
        replace(DEEP, loss=shifted(by_depth=-0.2), widths=(64,)),
        width=64,
        depth=2,
        settings=COMPLETEP,
    ),
    "a small drift leads far on the way to a small target": Defect(
        ["as far as the target: as it drifts over the proxies, it would be off by 0.68 over d_model, and 0.5 octaves"],
        replace(GOOD, loss=shifted(by_width=0.14), widths=(256, 512, 1024), exponents=range(-9, -1)),
        width=32,
    ),
    "small drifts over width and depth add up": Defect(
        ["off by 0.28 over d_model and 0.28 over num_layers"],
        replace(DEEP, loss=shifted(by_width=0.14, by_depth=0.14)),
        width=1024,
        depth=32,
        settings=COMPLETEP,
    ),
    "the target has another vocabulary": Defect(
        ["the target has a vocabulary of 4,096, the proxies 512", "sweep on data of the target's tokenizer"],
        settings=["model.vocab_size=4096"],
    ),
    "nobody knows the target's vocabulary": Defect(
        ["vocabulary is not known", "set model.vocab_size"], settings=["model.vocab_size=null"]
    ),
    "the target's attention is narrower": Defect(
        ["not of the sweep's architecture (heads' width / d_model: 1.0 there, 0.5 here)"],
        settings=["model.num_heads=8", "model.head_dim=32"],
        also=["the coordinate check is of another architecture (heads' width"],
    ),
    "the best rate drifts with depth": Defect(
        ["does not hold over num_layers 2 to 8 at d_model = 64", "drifts by -0.20 octaves per doubling"],
        replace(DEEP, loss=shifted(by_depth=-0.2), widths=(64,)),
        width=64,
        depth=16,
        settings=COMPLETEP,
    ),
    "muP is to hold over depths": Defect(
        ["the target has num_layers = 8, the proxies 4", "only mup.parametrization = completep", "sweep --depths 8"],
        depth=8,
    ),
    "one depth stands for others": Defect(
        ["only num_layers = 4 was swept, and the target has 16", "two --depths or more"],
        replace(DEEP, depths=(4,)),
        depth=16,
        settings=COMPLETEP,
    ),
    "one width stands for others": Defect(
        ["only d_model = 128 was swept, and the target has 512", "two --widths or more"], replace(GOOD, widths=(128,))
    ),
    "there is no coordinate check": Defect(
        ["there is no coordinate check", "foretrain coord-check CONFIG --out", "--coord-check FILE"],
        replace(GOOD, check=None),
    ),
    "the coordinate check did not pass": Defect(
        ["the coordinate check did not pass"], replace(GOOD, check={"passed": False, "max_slope": 1.4})
    ),
    "the coordinate check is of models that are too small": Defect(
        ["the coordinate check is of models 32 wide, and less than 64 says little", "foretrain coord-check"],
        replace(GOOD, check={"widths": [32, 64, 128]}),
    ),
    "the coordinate check was cut short": Defect(
        ["the coordinate check took 3 of 8 steps"], replace(GOOD, check={"steps": 3})
    ),
    "the coordinate check is of another architecture": Defect(
        ["the coordinate check is of another architecture (norm: layernorm there, rmsnorm here)"],
        replace(GOOD, check={"architecture": {"norm": "layernorm"}}),
        also=["the coordinate check is of another architecture"],
    ),
    "the coordinate check compared no depths": Defect(
        ["the coordinate check did not compare several depths", "--depths A,B,C"],
        replace(DEEP, check={"depths": []}),
        depth=16,
        settings=COMPLETEP,
    ),
    "nothing is parametrized": Defect(
        ["the sweep has mup.parametrization = standard", "mup.parametrization=mup"],
        replace(GOOD, settings=["mup.parametrization=standard"]),
        settings=["mup.parametrization=standard"],
        also=["the target has mup.parametrization = standard"],
    ),
    "the target is parametrized otherwise": Defect(
        ["not of the sweep's architecture (parametrization: mup there, completep here)"],
        settings=["mup.parametrization=completep", "mup.base.num_layers=4"],
        also=["(mup.base.num_layers: None -> 4)", "the coordinate check is of another architecture"],
    ),
    "the target has another base": Defect(
        ["another base", "mup.base.d_model: 64 -> 128", "set the sweep's in the target"],
        settings=["mup.base.d_model=128"],
    ),
    "the target has another architecture": Defect(
        ["not of the sweep's architecture (norm: rmsnorm there, layernorm here)"],
        settings=["model.norm=layernorm"],
        also=["the coordinate check is of another architecture (norm"],
    ),
    "the target has other heads": Defect(
        ["not of the sweep's architecture (head_dim: 32 there, 64 here)"],
        settings=["model.num_heads=8"],
        also=["the coordinate check is of another architecture (head_dim"],
    ),
    "the target trains for long": Defect(
        ["the target trains on 60 tokens per parameter, the largest proxy", "on 20", "tokens^-0.32 (arXiv 2409.19913)"],
        settings=["train.num_tokens=849.6e6", "schedule.warmup_tokens=84.96e6"],
    ),
    "the target trains briefly": Defect(
        ["the target trains on 5 tokens per parameter"],
        settings=["train.num_tokens=70.8e6", "schedule.warmup_tokens=7.08e6"],
    ),
    "the target has larger batches": Defect(
        ["a step of the target is 16,384 tokens, one of the largest proxy 4,096"],
        settings=["train.global_batch_size=64"],
    ),
    "the target has smaller batches": Defect(
        ["a step of the target is 1,024 tokens, one of the largest proxy 4,096"],
        settings=["model.seq_len=64"],
    ),
    "the target follows another schedule": Defect(
        ["the sweep had another setting (schedule.kind: cosine -> linear)"], settings=["schedule.kind=linear"]
    ),
    "the target falls to another rate": Defect(
        ["(schedule.min_factor: 0.1 -> 0.0)"], settings=["schedule.min_factor=0"]
    ),
    "the target warms up faster": Defect(
        ["schedule.warmup_tokens is 0.35% of the target's budget and 10.00% of the proxies'"],
        settings=["schedule.warmup_tokens=1e6"],
    ),
    "the target decays at another time": Defect(
        ["schedule.decay_tokens is 0.71% of the target's budget and 0.00% of the proxies'"],
        replace(GOOD, settings=["schedule.kind=constant"]),
        settings=["schedule.kind=constant", "schedule.decay_tokens=2e6"],
    ),
    "the target decays its weights otherwise": Defect(
        ["(optimizer.weight_decay: 0.1 -> 0.01)", "sweep with the target's"], settings=["optimizer.weight_decay=0.01"]
    ),
    "the target has another momentum": Defect(["(optimizer.beta2: 0.95 -> 0.99)"], settings=["optimizer.beta2=0.99"]),
    "the target clips otherwise": Defect(["(optimizer.clip_norm: 1.0 -> 0.0)"], settings=["optimizer.clip_norm=0"]),
    "the largest proxies do not agree on another axis": Defect(
        [
            "the largest proxies do not agree on optimizer.weight_decay",
            "0.1 is best at d_model = 256, num_layers = 4, 0.2 at d_model = 128, num_layers = 4",
        ],
        replace(
            GOOD,
            axes={"optimizer.weight_decay": [0.05, 0.1, 0.2, 0.4]},
            loss=other_axis("optimizer.weight_decay", {64: 0.1, 128: 0.2, 256: 0.1}),
        ),
    ),
    "the best value of another axis is at the edge": Defect(
        ["the best optimizer.weight_decay, 0.2", "is the largest swept: sweep larger ones too"],
        replace(
            GOOD,
            axes={"optimizer.weight_decay": [0.05, 0.1, 0.2]},
            loss=other_axis("optimizer.weight_decay", {64: 0.2, 128: 0.2, 256: 0.2}),
        ),
    ),
    "a batch was tuned, which no rule carries over": Defect(
        ["train.global_batch_size was swept (16 is best), and no parametrization transfers it"],
        replace(
            GOOD,
            axes={"train.global_batch_size": [8, 16, 32]},
            loss=other_axis("train.global_batch_size", {64: 16, 128: 16, 256: 16}),
        ),
    ),
    "a small drift leads far on the way to the target": Defect(
        ["as far as the target: as it drifts over the proxies, it would be off by 0.71 over d_model"],
        replace(GOOD, loss=shifted(by_width=-0.14)),
        width=8192,
        settings=["train.num_tokens=1.27e11", "schedule.warmup_tokens=1.27e10"],
    ),
}
