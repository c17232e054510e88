"""The table at the end of a run."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table

from foretrain.data_pipeline.stream.data import UnigramLoss
from foretrain.progress import format_duration
from foretrain.trainer.goodput.facts import Fact
from foretrain.trainer.metrics import FINAL_SHARE, VAL_BITS, VAL_LOSS, VAL_LOSS_ERROR
from foretrain.trainer.model.size import ModelSize
from foretrain.trainer.recorded_curve import RecordedCurve


def summary(
    curve: RecordedCurve,
    *,
    run_dir: Path | str,
    layouts: Sequence[tuple[int, str]],
    size: ModelSize,
    unigram: UnigramLoss,
    goodput: str,
    also_files: Sequence[str] = (),
) -> Table:
    """A table of the results of a run, from its curve, which may span several sessions.

    The time is the sum over steps, without evaluations and checkpoints. Losses are in nats per token. The speed is the
    median over steps of `tokens_per_s`.

    `layouts`: those of `layouts_of`. `size`: that of the model. `unigram`: the loss to compare the last one with.
    `goodput`: in words, "" if it is not known. `also_files`: files of the folder that are written later.
    Raises ValueError if the metrics hold no training step.
    """
    if not curve:
        raise ValueError(f"the metrics in {run_dir} hold no training step: there is nothing to summarise")
    final, steps = curve.final_loss, curve.steps
    speed = median(steps["tokens_per_s"])

    table = Table(title="Run", show_header=False, title_justify="left")
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    tokens = int(steps["tokens"][-1])
    table.add_row("tokens trained", f"{tokens:,} in {int(steps['step'][-1]):,} steps")
    table.add_row("time in steps", format_duration(sum(steps["step_s"])))
    if goodput:
        table.add_row("goodput", goodput)
    table.add_row("speed", f"{speed:,.0f} tokens/s (median step)")
    table.add_row("parameters", f"{size.num_params:,} ({size.num_params_without_embeddings:,} without embeddings)")
    table.add_row("training FLOPs", f"{size.flops(tokens):.4g} (6 N D would be {size.flops_6nd(tokens):.4g})")
    table.add_row("layout", _in_words(layouts, int(steps["step"][-1])))
    table.add_row("first training loss", f"{steps['loss'][0]:.4f}")
    table.add_row("final training loss", f"{final:.4f} (mean of the last {FINAL_SHARE:.0%} of steps)")
    evaluation = curve.last_evaluation
    if evaluation is not None:
        table.add_row("held-out loss", _held_out(evaluation), style="bold")
        if parts := _of_parts(evaluation):
            table.add_row("held-out loss of", ", ".join(f"{name} {loss:.4f}" for name, loss in parts.items()))
        if VAL_BITS in evaluation:
            table.add_row("bits per byte", f"{evaluation[VAL_BITS]:.4f}")
    tokens_of = "held-out" if unigram.is_of_held_out else "training"
    table.add_row("unigram loss", f"{unigram.nats:.4f} (on {tokens_of} tokens, knowing only how often each occurs)")
    text = _against_unigram(last_loss(curve), unigram.nats)
    table.add_row("loss against it", text, style="bold red" if has_learned_nothing(curve, unigram) else "")
    names = {path.name for path in Path(run_dir).iterdir() if not path.name.startswith(".")} | {*also_files}
    table.add_row("files", f"{run_dir}{os.sep}: {', '.join(sorted(names))}")
    return table


def layouts_of(ledger: Sequence[Fact], last_layout: str) -> list[tuple[int, str]]:
    """The layouts that have computed the curve of a run, each with the number of steps that were done before it.

    A start takes the steps after its checkpoint again, so it replaces the layouts of those. `last_layout` is the layout
    of the last start, for a ledger of a version that did not write layouts.
    """
    found: list[tuple[int, str]] = []
    for fact in ledger:
        if fact.kind == "begin" and fact.step is not None and fact.layout:
            found = [each for each in found if each[0] < fact.step]
            if not found or found[-1][1] != fact.layout:
                found.append((fact.step, fact.layout))
    return found or [(0, last_layout)]


def _in_words(layouts: Sequence[tuple[int, str]], num_steps: int) -> str:
    if len(layouts) == 1:
        return layouts[0][1]
    ends = [*(start for start, _ in layouts[1:]), num_steps]
    return "\n".join(
        f"{layout} (steps {start + 1:,} to {end:,})" for (start, layout), end in zip(layouts, ends, strict=True)
    )


def last_loss(curve: RecordedCurve) -> float:
    """The last held-out loss; without evaluations, the mean training loss of the last steps."""
    evaluation = curve.last_evaluation
    return curve.final_loss if evaluation is None else float(evaluation["val_loss"])


def has_learned_nothing(curve: RecordedCurve, unigram: UnigramLoss) -> str | None:
    """What to say of a run that ends above the unigram loss; None if it ends below."""
    loss = last_loss(curve)
    if loss < unigram.nats:
        return None
    return (
        f"this run has learned nothing of use: its last loss, {loss:.4f}, is not below {unigram.nats:.4f}, the loss of "
        "a model that knows only how often each token occurs. Train on more tokens (train.num_tokens); if the loss has "
        "stopped falling, or rises, lower optimizer.lr"
    )


def _held_out(evaluation: Mapping[str, Any]) -> str:
    error = evaluation.get(VAL_LOSS_ERROR)
    if error is None:  # one sample, or a record of an older version
        return f"{evaluation['val_loss']:.4f}"
    return f"{evaluation['val_loss']:.4f} ± {error:.4f} (standard error, {evaluation['val_samples']:,} samples)"


def _of_parts(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """The held-out loss of each source of a mixture and of each named set, by name."""
    begin = f"{VAL_LOSS}/"
    return {name.removeprefix(begin): loss for name, loss in evaluation.items() if name.startswith(begin)}


def _against_unigram(loss: float, unigram_entropy_nats: float) -> str:
    gain = unigram_entropy_nats - loss
    if math.isnan(gain):
        return "not a number: the run diverged"
    return f"{abs(gain):.4f} {'below' if gain > 0 else 'ABOVE'}"
