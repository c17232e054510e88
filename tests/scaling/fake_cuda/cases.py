"""The tiny model of these tests."""

from tests.scaling.fake_cuda.worker import Case

TINY = (
    *("model.num_layers=2", "model.d_model=32", "model.num_heads=4", "model.num_kv_heads=2", "model.d_ff=64"),
    *("model.vocab_size=61", "model.seq_len=16", "train.micro_batch_size=1", "train.global_batch_size=2"),
    *("parallel.dp=1", "parallel.tp=1", "parallel.pp=1"),
)


def tiny(overrides: str = "", **options: object) -> Case:
    """A case of the tiny model; `overrides` are separated by spaces."""
    return Case("runs/dry_run", (*TINY, *overrides.split()), **options)  # type: ignore[arg-type]
