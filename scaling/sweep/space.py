"""Parses the values to try of a setting: `optimizer.lr=2^-10..2^-3`. Pure.

Values are text here: the schema decides what they mean.
"""

import random
import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

EXAMPLES = "such as optimizer.lr=2^-10..2^-3, optimizer.lr=1e-4,3e-4,1e-3 or optimizer.weight_decay=0..0.2:0.05"
MAX_VALUES = 1000
"""Limit for the values of one axis: more are probably a mistake."""

_POWER = re.compile(r"(?P<base>[^\^*]+)(\^|\*\*)(?P<exponent>.+)")


@dataclass(frozen=True)
class Span:
    """Numbers from low to high; with a base, the powers from base^low to base^high."""

    low: Decimal
    high: Decimal
    step: Decimal | None
    """Distance of numbers or exponents; None: any number of the range, which only a random search can use."""
    base: str | None = None

    def values(self) -> tuple[str, ...]:
        """The values at each step, with both ends; empty without a step. Raises ValueError if a step misses the end."""
        if self.step is None:
            return ()
        num_steps = (self.high - self.low) / self.step
        if num_steps != int(num_steps):
            raise ValueError(f"steps of {self.step} from {self.low} do not end at {self.high}: change one of them")
        if num_steps >= MAX_VALUES:
            raise ValueError(f"{int(num_steps) + 1} values are too many: use a larger step than {self.step}")
        return tuple(self._text(self.low + number * self.step) for number in range(int(num_steps) + 1))

    def draw(self, rng: random.Random, *, is_int: bool) -> str:
        """A random number, uniform, or log-uniform with a base; it has four digits, or is an integer if `is_int`."""
        value = rng.uniform(float(self.low), float(self.high))
        if self.base is not None:
            value = float(self.base) ** value
        return str(round(value)) if is_int else f"{value:.4g}"

    def _text(self, number: Decimal) -> str:
        text = f"{number.normalize():f}"
        return text if self.base is None else f"{self.base}^{text}"


@dataclass(frozen=True)
class Axis:
    """A setting, and the values to try."""

    key: str
    """Key of the setting, such as optimizer.lr."""
    values: tuple[str, ...]
    """Empty for a range without steps."""
    span: Span | None = None
    """The range that a random search draws from instead of `values`."""

    def draw(self, rng: random.Random, *, is_int: bool) -> str:
        """A random value, or a random number of the range."""
        return self.span.draw(rng, is_int=is_int) if self.span is not None else rng.choice(self.values)


def parse_axis(text: str) -> Axis:
    """The axis for KEY=SPEC. Raises ValueError, which says what is wrong."""
    key, equals, spec = (part.strip() for part in text.partition("="))
    if not equals or not key or not spec:
        raise ValueError(f"--over '{text}' is not KEY=SPEC, {EXAMPLES}")
    try:
        if ".." in spec and "," not in spec:
            return _range(key, spec)
        values = tuple(value.strip() for value in spec.split(","))
        if "" in values:
            raise ValueError("one of the values is empty: separate them by single commas")
        return Axis(key, values)
    except ValueError as error:
        raise ValueError(f"--over '{text}': {error}") from None


def parse_numbers(option: str, text: str, least: int = 1) -> tuple[int, ...]:
    """Whole numbers separated by commas, each once. Raises ValueError, which names the option."""
    words = [word.strip() for word in text.split(",")] if text.strip() else []
    if not all(word.isdecimal() and int(word) >= least for word in words):
        raise ValueError(f"{option} '{text}': give whole numbers of {least} or more, separated by commas")
    numbers = tuple(int(word) for word in words)
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"{option} '{text}' names a number twice")
    return numbers


def _range(key: str, spec: str) -> Axis:
    ends, colon, step_text = spec.partition(":")
    low_text, _, high_text = ends.partition("..")
    low, high = _POWER.fullmatch(low_text), _POWER.fullmatch(high_text)
    if (low is None) != (high is None) or (low and high and _number(low["base"]) != _number(high["base"])):
        raise ValueError(f"{low_text} and {high_text} must be powers of one base, or both plain numbers")
    step = _number(step_text) if colon else None
    if step is not None and step <= 0:
        raise ValueError(f"the step {step_text} must be greater than 0")
    if low and high:
        base, one = low["base"], Decimal(1)
        if _number(base) <= 0 or _number(base) == 1:
            raise ValueError(f"the base {base} must be positive, and not 1")
        span = Span(_number(low["exponent"]), _number(high["exponent"]), step or one, base)
        _check_powers(span)
    else:
        span = Span(_number(low_text), _number(high_text), step)
    if span.low >= span.high:
        raise ValueError(f"{low_text} must be less than {high_text}")
    return Axis(key, span.values(), None if colon else span)


def _check_powers(span: Span) -> None:
    for exponent in (span.low, span.high):
        try:
            float(span.base or 1) ** float(exponent)
        except OverflowError:
            raise ValueError(f"{span.base}^{exponent} is too large for a number") from None


def _number(text: str) -> Decimal:
    try:
        number = Decimal(text.strip())
    except InvalidOperation:
        number = Decimal("nan")
    if not number.is_finite():
        raise ValueError(f"'{text}' is not a number; ranges are written low..high or low..high:step")
    return number
