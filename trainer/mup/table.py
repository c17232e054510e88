"""Parametrizations as data: for each role of a parameter, exponents over how much larger it is than at the base shape.

All entries are ratios to the base model, so that at the base shape every parametrization is the standard one. The form
is that of Tensor Programs V (arXiv 2203.03466), table 8, which permits tied embeddings. No torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from foretrain.trainer.model.spec import Role


@dataclass(frozen=True)
class Ratios:
    """How many times larger a parameter's fans and its model's depth are than at the base shape."""

    fan_in: float = 1.0
    fan_out: float = 1.0
    depth: float = 1.0
    """1 for parameters outside the blocks, which do not repeat."""


@dataclass(frozen=True)
class Power:
    """fan_in^a * fan_out^b * depth^c of ratios."""

    fan_in: float = 0.0
    fan_out: float = 0.0
    depth: float = 0.0

    def __call__(self, ratios: Ratios) -> float:
        return ratios.fan_in**self.fan_in * ratios.fan_out**self.fan_out * ratios.depth**self.depth

    def __mul__(self, other: "Power") -> "Power":
        return Power(self.fan_in + other.fan_in, self.fan_out + other.fan_out, self.depth + other.depth)

    def __pow__(self, exponent: float) -> "Power":
        return Power(self.fan_in * exponent, self.fan_out * exponent, self.depth * exponent)


ONE = Power()


@dataclass(frozen=True)
class Rule:
    """What multiplies the standard parametrization's values for one role.

    Weight decay is no entry: a step takes lr * weight_decay off a weight, which has to stay as it is at the base, so
    its factor is 1 / lr.
    """

    std: Power = ONE
    """Of the initial standard deviation."""
    multiplier: Power = ONE
    """On the way forward."""
    update: Power = ONE
    """Of an entry's change in one step."""
    gradient: Power = ONE
    """Size of the gradient's entries. As Adam's eps grows with it, eps is as large beside them at every shape."""

    def lr(self, step_degree: float) -> Power:
        """The learning rate's factor for an optimizer whose steps are proportional to lr * gradient^step_degree."""
        return self.update * self.gradient**-step_degree

    def rescaled(self, t: Power) -> "Rule":
        """The same function trained in the same way, with weights t times smaller behind a multiplier t times larger.

        abc-symmetry: arXiv 2203.03466, appendix J.2.1. Of gains and biases only ONE makes sense: their start is fixed.
        """
        inverse = t**-1
        return Rule(
            std=self.std * inverse,
            multiplier=self.multiplier * t,
            update=self.update * inverse,
            gradient=self.gradient * t,
        )


@dataclass(frozen=True)
class Parametrization:
    """A rule for each role, and the multipliers that belong to no parameter."""

    name: str
    rules: Mapping[Role, Rule]
    attention: float = 0.0
    """Exponent of head_dim's ratio, of attention logits beside 1 / sqrt(head_dim)."""
    residual: float = 0.0
    """Exponent of depth's ratio, of what a layer adds to the residual stream."""

    def rescaled(self, shifts: Mapping[Role, Power]) -> "Parametrization":
        """An abc-equivalent form, by what each role's multiplier grows."""
        rules = {role: rule.rescaled(shifts.get(role, ONE)) for role, rule in self.rules.items()}
        return replace(self, name=f"{self.name}, rescaled", rules=rules)


STANDARD = Parametrization(
    "standard", dict.fromkeys(("embedding", "hidden", "residual", "output", "gain", "bias"), Rule())
)

_VECTOR = Rule(gradient=Power(fan_out=-1))
"""What adds to or scales a finite number of inputs for each output."""
_HIDDEN = Rule(std=Power(fan_in=-0.5), update=Power(fan_in=-1), gradient=Power(fan_out=-1))
MUP = Parametrization(
    "mup",
    {
        "embedding": _VECTOR,
        "hidden": _HIDDEN,
        "residual": _HIDDEN,
        "output": Rule(multiplier=Power(fan_in=-1), gradient=Power(fan_in=-1)),
        "gain": _VECTOR,
        "bias": _VECTOR,
    },
    attention=-0.5,
)
"""Maximal update parametrization: transfers over width."""


def over_depth(alpha: float) -> Parametrization:
    """muP over depth too: each layer adds depth^-alpha of itself. 1: CompleteP; 1/2: depth-muP (arXiv 2505.01618).

    A block's gradients shrink as depth^-alpha, and the updates of as many blocks as the model is deep add up. GPT-2's
    1 / sqrt(2 L) on what writes into the residual stream is undone beyond the base's, or depth would count twice.
    """
    block = Rule(update=Power(depth=alpha - 1), gradient=Power(depth=-alpha))
    undo = Rule(std=Power(depth=0.5))
    rules = {role: _times(rule, block) for role, rule in MUP.rules.items()}
    rules["residual"] = _times(rules["residual"], undo)
    return replace(MUP, name=f"depth^-{alpha:g}", rules=rules, residual=-alpha)


def _times(a: Rule, b: Rule) -> Rule:
    return Rule(a.std * b.std, a.multiplier * b.multiplier, a.update * b.update, a.gradient * b.gradient)


COMPLETEP = replace(over_depth(1.0), name="completep")
PARAMETRIZATIONS = {table.name: table for table in (STANDARD, MUP, COMPLETEP)}
"""By the names that `mup.parametrization` takes."""
