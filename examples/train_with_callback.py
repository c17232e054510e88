"""Train a small model from Python, with a callback and a sink of your own.

foretrain prepare --stdlib --out data/stdlib --reuse
python examples/train_with_callback.py data/stdlib
torchrun --nproc-per-node 4 examples/train_with_callback.py data/stdlib parallel.tp=2 parallel.pp=2
"""

import os
import sys
from collections.abc import Mapping

import foretrain


class StopWhenGood(foretrain.Callback):
    """Stops the run as soon as the held-out loss is below a goal."""

    name = "stop_when_good"  # the key of its state in a checkpoint

    def __init__(self, goal: float) -> None:
        self.goal = goal
        self.best = float("inf")

    def on_evaluation(self, trainer: foretrain.Trainer, step: int, loss: foretrain.HeldOutLoss) -> None:
        self.best = min(self.best, loss.total)

    def on_step(self, trainer: foretrain.Trainer, step: foretrain.Step) -> None:
        step.metrics["best_val_loss"] = self.best
        if self.best < self.goal:
            step.stop = "callback"

    def state(self) -> dict[str, float]:
        return {"best": self.best}

    def load_state(self, state: dict[str, float]) -> None:
        self.best = state["best"]


class PrintEveryTenth(foretrain.Sink):
    """Prints a short line for every tenth step."""

    def step(self, metrics: Mapping[str, float]) -> None:
        if metrics["step"] % 10 == 0:
            print(f"{metrics['step']:4.0f}  {metrics['loss']:.3f}  best held-out {metrics['best_val_loss']:.3f}")


def main(data: str, *overrides: str) -> foretrain.Outcome:
    settings = [
        "run_dir=runs/example",
        f"data.path={data}",
        "train.num_tokens=1e5",
        "train.eval_every=10",
        "train.sinks=[]",  # the metrics file is always written; nothing else is shown but what the sink prints
        "parallel.dp=null",
        "parallel.tp=1",
        "parallel.pp=1",
    ]
    config = foretrain.load_config("runs/dry_run", [*settings, *overrides])
    # RANK and WORLD_SIZE are set by torchrun; without them this process is the only rank.
    run = foretrain.prepare_run(config, world_size=int(os.environ.get("WORLD_SIZE", "1")))
    with foretrain.process_groups(run) as groups:
        trainer = foretrain.Trainer(run, groups, callbacks=[StopWhenGood(5.0)], sinks=[PrintEveryTenth()])
        return trainer.fit()


if __name__ == "__main__":
    outcome = main(*sys.argv[1:])
    print(f"ended after step {outcome.step}, stopped by: {outcome.stopped_by or 'the end of the budget'}")
