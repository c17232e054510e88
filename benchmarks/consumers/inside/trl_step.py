"""Lets TRL's SFTTrainer take one step from an export: `python trl_step.py ASKED ANSWER`.

ASKED is a JSON file with "exported", "texts" and "own", a folder. ANSWER gets the rows of tokens that the trainer has
made of the texts, the loss of the step, that of the same batch after it, what each was divided by (null: the predicted
tokens), and the number of changed tensors.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer


class Counting(SFTTrainer):
    """The trainer, which notes the number of tokens by which it divides the loss of each batch."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.divisors: list[int | None] = []
        super().__init__(*args, **kwargs)

    def compute_loss(self, *args: Any, num_items_in_batch: Any = None, **kwargs: Any) -> Any:
        self.divisors.append(None if num_items_in_batch is None else int(num_items_in_batch))
        return super().compute_loss(*args, num_items_in_batch=num_items_in_batch, **kwargs)


def step(asked: dict[str, Any]) -> dict[str, Any]:
    """One step on all texts, and what it did."""
    arguments = SFTConfig(
        output_dir=asked["own"],
        per_device_train_batch_size=len(asked["texts"]),
        per_device_eval_batch_size=len(asked["texts"]),
        max_steps=1,
        learning_rate=1e-4,
        lr_scheduler_type="constant",
        logging_steps=1,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataset_num_proc=None,
    )
    data = Dataset.from_list([{"text": text} for text in asked["texts"]])
    # The folder itself, so that the trainer loads model and tokenizer as it does for a user.
    trainer = Counting(asked["exported"], args=arguments, train_dataset=data, eval_dataset=data)
    before = {name: values.detach().clone() for name, values in trainer.model.named_parameters()}
    result = trainer.train()
    changed = sum(not torch.equal(before[name], values) for name, values in trainer.model.named_parameters())
    loss_after = trainer.evaluate()["eval_loss"]
    divisor, divisor_after = trainer.divisors
    return {
        "dtype": str(next(trainer.model.parameters()).dtype),
        "rows": [list(each["input_ids"]) for each in trainer.train_dataset],
        "loss": result.training_loss,
        "divisor": divisor,
        "loss_after": loss_after,
        "divisor_after": divisor_after,
        "tensors": len(before),
        "changed_tensors": changed,
    }


if __name__ == "__main__":
    order = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(json.dumps(step(order)), encoding="utf-8")
