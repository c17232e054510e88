"""Your own training loop around foretrain's token stream and its engine.

    foretrain prepare --stdlib --out data/stdlib --reuse
    python examples/own_loop.py data/stdlib
    torchrun --nproc-per-node 4 examples/own_loop.py data/stdlib parallel.tp=2 parallel.pp=2

The stream gives each data-parallel rank its samples; the engine does one optimizer step on any layout. Everything else
(schedule, metrics, checkpoints) is yours.
"""

import os
import sys

import torch

import foretrain

NUM_STEPS = 20


def main(data: str, *overrides: str) -> list[float]:
    settings = [f"data.path={data}", "parallel.dp=null", "parallel.tp=1", "parallel.pp=1"]
    config = foretrain.load_config("runs/dry_run", [*settings, *overrides])
    run = foretrain.prepare_run(config, world_size=int(os.environ.get("WORLD_SIZE", "1")))
    losses = []
    with foretrain.process_groups(run) as groups:
        engine, _ = foretrain.build_engine(run.config, groups)
        batches = run.data.batches(config.train.global_batch_size, dp_rank=groups.at.dp, dp_size=run.layout.dp)
        for step, batch in zip(range(NUM_STEPS), batches, strict=False):
            engine.set_lr(min(1.0, (step + 1) / 5))  # a factor on optimizer.lr: a warm-up of five steps
            result = engine.train_step(torch.from_numpy(batch.tokens_BL), torch.from_numpy(batch.targets_BL))
            losses.append(result.loss)
            if groups.rank == 0:
                print(f"step {step + 1:3}  loss {result.loss:.4f}  gradient norm {result.grad_norm:.3f}")
    return losses


if __name__ == "__main__":
    main(*sys.argv[1:])
