"""The config of a trial, made from the user's."""

from dataclasses import replace
from fractions import Fraction

from hypothesis import example, given
from hypothesis import strategies as st

from foretrain.configs.optimization import ScheduleConfig
from foretrain.configs.schema import Config
from foretrain.scaling.trials.proxy import on_share
from foretrain.trainer import schedule


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.fractions(0, 1))
@example(10, 7, Fraction(1, 2))  # 3.5 tokens of warm-up and 3.5 of decay
def test_warm_up_and_decay_fit_into_every_share_of_a_budget(num_tokens: int, shorter: int, warmup: Fraction) -> None:
    warmup_tokens = int(num_tokens * warmup)
    config = Config(schedule=ScheduleConfig("constant", warmup_tokens, num_tokens - warmup_tokens))
    config = replace(config, train=replace(config.train, num_tokens=num_tokens))
    short = on_share(config, Fraction(shorter, num_tokens))
    assert short.train.num_tokens == shorter
    schedule.check(short.schedule, shorter)
    assert abs(short.schedule.decay_tokens - Fraction(shorter * (num_tokens - warmup_tokens), num_tokens)) <= 1
