"""A trained model on tensor-parallel ranks: which numbers of them divide it, and what each rank does."""

from collections.abc import Callable
from typing import Any

from foretrain.configs.model import ModelConfig
from foretrain.parallel.groups import Groups, destroy_groups, init_groups
from foretrain.parallel.layout import Layout, LayoutError, tensor_problems
from foretrain.streams import discard_stdout
from foretrain.trainer.checkpoint.places import Place
from foretrain.trainer.model.table import check_sharding
from foretrain.trainer.text.inference import Model, read_model
from foretrain.trainer.text.sharded import ShardedNetwork

TIMEOUT_S = 7 * 86_400.0
"""How long ranks wait for what rank 0 asks next. It may wait for a download, or for a reader of its output."""

Job = Callable[[Model], Any]
"""What rank 0 does with a model. It and its result can be pickled."""


def check_tp(tp: int, model: ModelConfig) -> None:
    """Raise ValueError, with the numbers that fit, if `tp` ranks cannot divide a model as in training."""
    if not _divides(tp, model):
        fitting = [str(each) for each in range(1, model.num_heads + 1) if _divides(each, model)]
        sizes = f"num_heads = {model.num_heads}, num_kv_heads = {model.block_shape.num_kv_heads}"
        raise ValueError(
            f"--tp {tp} cannot divide the model ({sizes}, d_ff = {model.block_shape.d_ff}): use --tp "
            + " or ".join(filter(None, (", ".join(fitting[:-1]), fitting[-1])))
        )


def _divides(tp: int, model: ModelConfig) -> bool:
    layout = Layout(tp=tp)
    try:
        check_sharding(model, layout)
    except LayoutError:
        return False
    return not any(tensor_problems(layout, model))


def on_rank(checkpoint: Place, device: str, tp: int, job: Job) -> Any:
    """Be one of `tp` ranks: what the job returns on rank 0, and None on the others. `device`: auto, cpu or cuda.

    It returns an OSError that the job has raised, so that who started the ranks can raise it.
    """
    groups = init_groups(Layout(tp=tp), device, TIMEOUT_S)
    found = with_groups(groups, checkpoint, job)
    destroy_groups()
    return found


def with_groups(groups: Groups, checkpoint: Place, job: Job) -> Any:
    """Read a model onto the ranks of `groups`; returns as `on_rank` does.

    If the job raises another exception, the other ranks continue to wait: who started the ranks ends them.
    """
    model = read_model(checkpoint, groups.device, groups)
    assert isinstance(model.network, ShardedNetwork)
    if groups.rank > 0:
        model.network.serve()
        return None
    found: Any
    try:
        found = job(model)
    except OSError as error:
        discard_stdout()  # what could not be printed
        if error.errno is None:  # that of a server: its text says everything
            raise ValueError(str(error)) from error
        found = OSError(error.errno, error.strerror, error.filename)
    model.network.release()
    return found
