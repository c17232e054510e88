"""transformers: LlamaForCausalLM in the bare loop, and in the library's own Trainer."""

from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.train.loop import torch_loop
from benchmarks.train.pace import FinishedError, Job
from benchmarks.train.task import read_batches
from benchmarks.train.weights import initial_weights, norm_of
from foretrain.trainer.interop.llama import Llama


def model_of(job: Job) -> nn.Module:
    """The model with the weights of the task, on the device in fp32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = job.task.config(job.shared)
    settings = {**Llama().settings(config.model), "use_cache": False, "tie_word_embeddings": False}
    model: nn.Module = LlamaForCausalLM(LlamaConfig(**settings, attn_implementation="sdpa"))
    model.load_state_dict(initial_weights(config))
    return model.to(job.device).train()


def bare(job: Job, *, is_compiled: bool = False) -> None:
    """The model, with the loss that it computes itself, in the bare loop."""
    model = model_of(job)
    run: Any = torch.compile(model) if is_compiled else model

    def loss_of(tokens_BL: Tensor, targets_BL: Tensor) -> Tensor:
        # It would shift labels by one; the targets of the task are shifted already.
        loss: Tensor = run(input_ids=tokens_BL, labels=targets_BL, shift_labels=targets_BL).loss
        return loss

    torch_loop(job, model, loss_of)


def trainer(job: Job) -> None:
    """The library's own loop, with its data loader, its optimizer and its clipping."""
    import accelerate  # noqa: F401 (the Trainer needs it, and names it in a message of many lines)
    from transformers import Trainer, TrainerCallback, TrainingArguments

    pace, task, model = job.pace, job.task, model_of(job)
    last: list[Tensor] = []

    class Paced(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            pace.report_ready(partial(norm_of, list(model.parameters())))

        def on_step_end(self, *_: Any, **__: Any) -> None:
            pace.end_step(last[-1], None)
            last.clear()

    class InOrder(Trainer):
        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

        def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
            loss: Tensor = super().training_step(*args, **kwargs)
            last.append(loss)
            return loss

    arguments = TrainingArguments(
        output_dir=str(job.own / "run"),
        per_device_train_batch_size=task.batch_size,
        max_steps=task.num_steps,
        learning_rate=task.lr,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        adam_beta1=task.beta1,
        adam_beta2=task.beta2,
        adam_epsilon=task.eps,
        weight_decay=task.weight_decay,
        max_grad_norm=task.clip_norm,
        bf16=task.precision == "bf16",
        use_cpu=task.device == "cpu",
        remove_unused_columns=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    samples = [sample_of(pair) for pair in read_batches(job.shared).swapaxes(1, 2).reshape(-1, 2, task.seq_len)]
    with suppress(FinishedError):
        InOrder(model=model, args=arguments, train_dataset=samples, callbacks=[Paced()]).train()


def sample_of(pair: Any) -> dict[str, Tensor]:
    """One sample as the Trainer takes it."""
    tokens_L, targets_L = torch.from_numpy(pair.copy())
    return {"input_ids": tokens_L, "labels": targets_L, "shift_labels": targets_L}
