"""Parametrizations as data: for each role of a parameter, exponents of the ratio of its size to that at the base shape.

All entries are relative to the base model, so at the base shape every parametrization is the standard one. The form is
that of Tensor Programs V (arXiv 2203.03466), table 8, which permits tied embeddings. Imports no torch.
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
    """Factors on the values of the standard parametrization, for one role.

    Weight decay has no entry: its factor is 1 / lr, so that the share lr * weight_decay that a step takes off a weight
    is the same at every shape.
    """

    std: Power = ONE
    """Factor of the initial standard deviation."""
    multiplier: Power = ONE
    """What the forward pass multiplies the parameter's input or output by."""
    update: Power = ONE
    """Factor of an entry's change in one step."""
    gradient: Power = ONE
    """Size of the gradient's entries. As Adam's eps grows with it, eps is as large beside them at every shape."""

    def lr(self, step_degree: float) -> Power:
        """The learning rate's factor for an optimizer whose steps are proportional to lr * gradient^step_degree."""
        return self.update * self.gradient**-step_degree

    def rescaled(self, t: Power) -> "Rule":
        """The same function trained in the same way, with weights t times smaller behind a multiplier t times larger.

        This is abc-symmetry (arXiv 2203.03466, appendix J.2.1). For gains and biases only t = ONE makes sense, because
        their initial values are fixed.
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
    """Exponent of the ratio of head_dim, in a factor on attention logits beside 1 / sqrt(head_dim)."""
    residual: float = 0.0
    """Exponent of the ratio of depth, in a factor on what a layer adds to the residual stream."""

    def rescaled(self, shifts: Mapping[Role, Power]) -> "Parametrization":
        """An abc-equivalent form; `shifts` has the factor by which the multiplier of a role grows."""
        rules = {role: rule.rescaled(shifts.get(role, ONE)) for role, rule in self.rules.items()}
        return replace(self, name=f"{self.name}, rescaled", rules=rules)


STANDARD = Parametrization(
    "standard", dict.fromkeys(("embedding", "hidden", "residual", "output", "gain", "bias"), Rule())
)

_VECTOR = Rule(gradient=Power(fan_out=-1))
"""The rule of a parameter whose outputs depend on a constant number of inputs each."""
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
"""Maximal update parametrization: values transfer over width."""


def over_depth(alpha: float) -> Parametrization:
    """muP over depth too: the output of each layer is multiplied by depth^-alpha before it is added.

    alpha = 1 is CompleteP, and 1/2 is depth-muP (arXiv 2505.01618). A block's gradients shrink as depth^-alpha, and the
    updates of all blocks add up. GPT-2's factor 1 / sqrt(2 L) on matrices that write into the residual stream stays as
    it is at the base; otherwise depth would count twice.
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
"""The parametrizations by the name that `mup.parametrization` takes."""
