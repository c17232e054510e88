"""TRL: its SFTTrainer loads an export and takes one step."""

import math

from benchmarks.consumers.consumer import CheckFailedError, Consumer, Job, Measured
from benchmarks.consumers.environments import Environment

TEXTS = (
    "def put_nowait(self, item):\n    return self.put(item, block=False)\n",
    "The heap invariant holds for every item.\n",
    "# 日本 é\nimport re\n",
)
"""Their lengths differ, so that the batch has padding."""
TOLERANCE = 1e-5
"""Largest difference of the losses, relative to ours, as the tests of exports allow for logits."""


class Trl(Consumer):
    """Fine-tuning with TRL."""

    name, way = "trl", "SFTTrainer"
    environment = Environment(("trl==1.16.0", "transformers==5.19.0", "torch==2.13.0"))
    shown_versions = ("trl", "torch", "transformers")

    def check(self, job: Job) -> Measured:
        own = str(job.folder / "run")
        found = job.run_inside("trl_step.py", {"exported": str(job.model.exported), "texts": TEXTS, "own": own})
        rows = found.pop("rows")
        measured = measured_of(found, sum(len(row) - 1 for row in rows), job.ours.loss(rows))
        if reason := refusal(measured, rows, job.ours.ended_rows(TEXTS)):
            raise CheckFailedError(reason, measured)
        return measured


def measured_of(found: Measured, tokens: int, our_loss: float) -> Measured:
    """What is recorded of a step: the answer of its program, with its losses as means over the predicted tokens. Pure.

    The first token of a text is not predicted. transformers' Trainer counts it nevertheless, unless the name of the
    model's class ends with ForCausalLM, so that it reports another mean for GPT-2.
    """
    loss, after = (
        found[name] * (found[divisor] or tokens) / tokens
        for name, divisor in (("loss", "divisor"), ("loss_after", "divisor_after"))
    )
    difference = abs(loss - our_loss) / our_loss
    return {
        **found,
        "loss": loss,
        "loss_after": after,
        "our_loss": our_loss,
        "tokens": tokens,
        "difference": difference,
    }


def refusal(measured: Measured, rows: list[list[int]], expected: list[list[int]]) -> str:
    """Why a step is not one from our model, in words; "" if it is. Pure."""
    if sorted(rows) != sorted(expected):
        return "its rows of tokens are not those of our tokenizer, with the token that ends a document"
    if not (math.isfinite(measured["loss"]) and measured["difference"] <= TOLERANCE):
        return f"its loss is {measured['loss']:.6f}, and ours of the same tokens {measured['our_loss']:.6f}"
    if measured["changed_tensors"] != measured["tensors"]:
        return f"the step has changed {measured['changed_tensors']} of {measured['tensors']} tensors"
    if not measured["loss_after"] < measured["loss"]:
        return f"the step has raised the loss of its batch from {measured['loss']:.6f} to {measured['loss_after']:.6f}"
    return ""
