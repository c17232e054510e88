"""A table of what the parametrization gives each parameter, with one line for the same parameter of all blocks."""

from collections.abc import Iterator
from dataclasses import replace

from rich.console import Console
from rich.table import Table

from foretrain.configs.schema import Config, ModelConfig
from foretrain.trainer.model.spec import Param
from foretrain.trainer.mup.parametrize import ScaledParam, base_model, blueprint, scaled_table
from foretrain.trainer.optimizers.entry import entry_of

UNKNOWN = 1
"""Placeholder for the size of a vocabulary that the config leaves to the data."""


def show(config: Config, console: Console) -> None:
    """Print the table of the config's model. Its vocabulary may be unknown, since no factor depends on it."""
    if config.model.vocab_size is None:
        config = replace(config, model=replace(config.model, vocab_size=UNKNOWN))
    optimizer, plan = config.optimizer, blueprint(config)
    base = base_model(config.model, config.mup.base)
    console.print(
        f"{config.mup.parametrization}, {_shape(config.model)}, from the base {_shape(base)}", highlight=False
    )
    columns = ["parameter", "role", "shape", "fan in", "fan out", "init std", "multiplier", "lr"]
    uses_eps = entry_of(optimizer).uses_eps
    columns += ["eps", "decay"] if uses_eps else ["decay"]
    table = Table(*columns, box=None, header_style="bold")
    for column in table.columns[3:]:
        column.justify = "right"
    for name, row in _rows_by_name(scaled_table(config)):
        param, scale = row.param, row.param.scale
        cells = [name, param.role, _sizes(param)]
        cells += [f"x{_number(row.ratios.fan_in)}", f"x{_number(row.ratios.fan_out)}"]
        cells += [_initial(param), _number(param.multiplier), _number(optimizer.lr * scale.lr)]
        cells += [_number(optimizer.eps * scale.eps)] if uses_eps else []
        cells += [_number(optimizer.weight_decay * scale.weight_decay) if param.is_matrix else "-"]
        table.add_row(*cells)
    console.print(table)
    extra = plan.multipliers
    depth = config.model.num_layers / base.num_layers
    tied = f"; tied head x{_number(extra.head)}" if config.model.tie_embeddings else ""
    console.print(
        f"depth x{_number(depth)}; attention logits x{_number(extra.attention)} beside 1/sqrt(head_dim); "
        f"what a layer adds to the residual stream x{_number(extra.residual)}{tied}",
        highlight=False,
    )


def _rows_by_name(rows: list[ScaledParam]) -> Iterator[tuple[str, ScaledParam]]:
    """One row for each name, with `*` for the number of the block, in the table's order."""
    by_name: dict[str, ScaledParam] = {}
    for row in rows:
        first = by_name.setdefault(row.param.name_in_any_block, row)
        assert _values(row) == _values(first), f"{row.param.name} and {first.param.name} have different values"
    yield from by_name.items()


def _values(row: ScaledParam) -> tuple[object, ...]:
    return row.param.std, row.param.scale, row.param.shape, row.param.multiplier


def _initial(param: Param) -> str:
    return _number(param.std) if param.std else f"= {param.fill:g}"


def _sizes(param: Param) -> str:
    sizes = zip(param.axes, param.shape, strict=True)
    return " x ".join(axis if (axis, size) == ("vocab", UNKNOWN) else str(size) for axis, size in sizes)


def _shape(model: ModelConfig) -> str:
    return f"d_model={model.d_model} num_layers={model.num_layers}"


def _number(value: float) -> str:
    return f"{value:.3g}"
