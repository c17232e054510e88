"""Which trials there are, and which of them are the same."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretrain.configs import load as configs
from foretrain.configs.schema import Config
from foretrain.scaling.layouts import parse_layout
from foretrain.scaling.sweep.plan import Ask, Setting, check_axes, setting_of, trials_of
from foretrain.scaling.trials.trial import Corpus, Trial, shown
from foretrain.trainer.schedule import factor

OVER = ("optimizer.lr=1e-3",)


@cache
def load(*overrides: str) -> Config:
    return configs.load("runs/dry_run", overrides)


def corpus_of(config: Config) -> Corpus:
    return Corpus(300, dict.fromkeys(config.data.sources or [""], "tokens"))


def trials(*overrides: str, share: Fraction = Fraction(1), values: Sequence[str] = OVER, **asked: Any) -> list[Trial]:
    setting = setting_of(lambda more: load(*overrides, *more), values)
    return trials_of([setting], Ask(OVER, **asked), corpus_of, share)


def key(*overrides: str, **asked: Any) -> str:
    (trial,) = trials(*overrides, **asked)
    return trial.key


def test_a_trial_has_the_full_config_with_its_shape_and_seed() -> None:
    found = trials(widths=(64, 128), depths=(1, 2), seeds=(0, 5))
    assert [(trial.shape, trial.seed) for trial in found] == [
        ((width, depth), seed) for width in (64, 128) for depth in (1, 2) for seed in (0, 5)
    ]
    for trial in found:
        model = trial.config.model
        assert (model.d_ff, model.num_heads, model.vocab_size) == (model.d_model * 3, model.d_model // 32, 300)
        assert trial.config.data.seed == trial.config.train.seed == trial.seed
        assert trial.config.parallel.dp == 1 and trial.config.parallel.tp == 1
        assert trial.config.optimizer.lr == trial.values["optimizer.lr"] == 1e-3
        assert not trial.config.sample.prompts
    assert len({trial.key for trial in found}) == len(found)


def test_the_base_shape_stays_that_of_the_config() -> None:
    found = trials("mup.parametrization=mup", "mup.base.d_model=64", widths=(64, 256))
    assert [trial.config.mup.base.d_model for trial in found] == [64, 64]


@pytest.mark.parametrize(
    "override",
    [
        "run_dir=elsewhere",
        "model.name=other",
        "mup.evidence=[said so]",
        "sample.prompts=[a]",
        "cluster.num_nodes=7",
        "launch.cpus_per_rank=3",
        "parallel.tp=1",
        "train.log_every=1",
        "train.checkpoint_every=5",
        "train.stop_after=3",
        "data.path=moved",
        "data.cache.dir=x",
    ],
)
def test_a_setting_that_keeps_the_result_keeps_the_key(override: str) -> None:
    assert key(override) == key()


@pytest.mark.parametrize(
    "override",
    [
        "optimizer.beta1=0.8",
        "train.num_tokens=2e6",
        "train.global_batch_size=32",
        "train.eval_samples=32",
        "train.eval_standard_error=0.01",
        "train.precision=bf16",
        "model.seq_len=128",
        "data.packing=documents",
        "schedule.kind=linear",
        "mup.base.num_layers=2",
    ],
)
def test_a_setting_that_changes_the_result_changes_the_key(override: str) -> None:
    assert key(override) != key()


def test_trials_keep_the_names_that_the_first_release_gave_them() -> None:
    assert key() == "c1c711b01b56993652101f060b9ad2a4aabb59fded726cdbb0d0fad6aca9187c"


def test_other_tokens_are_another_trial() -> None:
    (trial,) = trials()
    assert replace(trial, fingerprints={"": "others"}).key != trial.key
    (mixed,) = trials("data.sources.a.path=x", "data.sources.b.path=y")
    assert replace(mixed, fingerprints={"a": "tokens", "b": "others"}).key != mixed.key
    assert key("data.sources.a.path=z", "data.sources.b.path=y") == mixed.key


def test_another_layout_is_the_same_trial_with_a_micro_batch_that_fits() -> None:
    (trial,) = trials("train.global_batch_size=4", "train.micro_batch_size=4", layout="dp=2 tp=2")
    assert (trial.config.parallel.dp, trial.config.parallel.tp, trial.config.train.micro_batch_size) == (2, 2, 2)
    assert trial.key == key("train.global_batch_size=4", "train.micro_batch_size=4")


@given(st.integers(1, 50), st.integers(0, 40), st.sampled_from([Fraction(1, 3), Fraction(1, 9)]))
def test_a_rung_is_the_same_schedule_on_fewer_tokens(num_steps: int, warmup: int, share: Fraction) -> None:
    tokens, config = 9 * num_steps * 1000, load()
    train = replace(config.train, num_tokens=tokens)
    setting = Setting(
        replace(config, train=train, schedule=replace(config.schedule, warmup_tokens=tokens * warmup // 100)), {}
    )
    (rung,), (full,) = (trials_of([setting], Ask(OVER), corpus_of, part) for part in (share, Fraction(1)))
    assert rung.is_rung and not full.is_rung and rung.key != full.key
    assert (rung.num_tokens, full.num_tokens) == (tokens, tokens)
    budget = rung.config.train.num_tokens
    assert budget == tokens * share
    for part in range(1, 10):
        of_rung, of_full = (
            factor(0, end * part // 9, end, trial.config.schedule) for trial, end in ((rung, budget), (full, tokens))
        )
        assert of_rung == pytest.approx(of_full, abs=0.01)


def test_a_rung_changes_its_mixture_at_the_same_share_of_its_tokens() -> None:
    names = ("data.sources.a.path=x", "data.sources.b.path=y", "data.stages.end.from_tokens=900000")
    (rung,) = trials(*names, "data.stages.end.weights.a=1", share=Fraction(1, 9))
    assert rung.config.data.stages["end"].from_tokens == 100_000


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (["optimizer.lr", "optimizer.lr"], "names optimizer.lr twice"),
        (["model.d_model"], "use --widths"),
        (["model.num_layers"], "use --depths"),
        (["train.seed"], "use --seeds"),
        (["parallel.tp"], "--layout sets that"),
        (["train.log_every"], "does not change the curve"),
    ],
)
def test_settings_that_cannot_be_compared_are_refused_as_axes(keys: list[str], says: str) -> None:
    with pytest.raises(ValueError, match="--over") as error:
        check_axes(keys)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"widths": (100,)}, "take a multiple of"),
        ({"layout": "tp=3"}, "parallel.tp = 3"),
        ({"layout": "dp=3"}, "global_batch_size"),
        ({"layout": "ep=2"}, "'ep=2' in 'ep=2' is not understood"),
        ({"layout": "dp=1,dp=2"}, "names 2 layouts"),
        ({"search": "bayes"}, "--search bayes: use one of grid, random, halving"),
        ({"search": "random"}, "--search random needs --num-trials"),
        ({"num_trials": 3}, "a grid takes every point"),
        ({"search": "random", "num_trials": 0}, "use 1 or more"),
        ({"seeds": ()}, "--seeds is missing"),
    ],
)
def test_a_sweep_that_cannot_be_planned_is_refused(asked: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=r"\w") as error:
        trials(**asked)
    assert says in str(error.value)


def test_values_are_read_by_the_schema() -> None:
    (trial,) = trials(values=("optimizer.lr=2^-9.5", "train.global_batch_size=2^4", "schedule.kind=linear"))
    assert trial.values == {"optimizer.lr": 2**-9.5, "train.global_batch_size": 16, "schedule.kind": "linear"}
    with pytest.raises(ValueError, match=r"there is no key optimizer.learning"):
        trials(values=("optimizer.learning=1",))
    with pytest.raises(ValueError, match=r"lr = -1.0 must be greater than 0"):
        trials(values=("optimizer.lr=-1",))


def test_powers_of_two_are_shown_as_such() -> None:
    assert [shown(value) for value in (2**-7, 0.001, 0.5, 3, "cosine")] == ["2^-7", "0.001", "0.5", "3", "cosine"]
    assert str(parse_layout("dp=2 tp=2")) == "dp=2 tp=2 pp=1 zero=1"
