"""A trained model for a job: in this process, or on tensor-parallel ranks of this machine."""

from typing import Any

from foretrain.launcher.local.forkserver import ServerEndedError
from foretrain.launcher.local.outcome import Exited, Raised
from foretrain.launcher.local.report import headline
from foretrain.launcher.local.run import RankError, call_local, check_fits
from foretrain.launcher.local.slots import visible_gpus
from foretrain.parallel import shim
from foretrain.trainer.checkpoint.places import Place
from foretrain.trainer.checkpoint.record import config_of
from foretrain.trainer.text.inference import find_checkpoint, read_model
from foretrain.trainer.text.ranks import Job, check_tp

TARGET = "foretrain.trainer.text.ranks:on_rank"


class RanksFailedError(ValueError):
    """A rank of a job failed; the message is for the user."""


def with_model(run_dir: Place, checkpoint: Place | None, device: str, tp: int, job: Job) -> Any:
    """What job(model) returns, for the model of a run's newest checkpoint, or of `checkpoint`.

    `device`: auto, cpu or cuda. With a `tp` above 1 the model is on as many ranks, and rank 0 runs the job: it prints
    where this process prints, and has no standard input. No rank outlives this call.

    Raises ValueError if there is no such checkpoint, if the model or this machine does not fit `tp`, and if a rank
    fails; OSError if the job does; SystemExit if the job has called sys.exit.
    """
    checkpoint = find_checkpoint(run_dir, checkpoint)
    if tp == 1:
        return job(read_model(checkpoint, shim.device_of(device, local_rank=0)))
    check_tp(tp, config_of(checkpoint).model)
    _check_machine(tp, device)
    try:
        result = call_local(TARGET, (checkpoint, device, tp, job), tp)[0]
    except ServerEndedError as error:
        raise RanksFailedError(str(error)) from error
    except RankError as error:
        raise RanksFailedError(_in_a_line(error)) from error
    if isinstance(result, OSError):
        raise result
    return result


def _check_machine(tp: int, device: str) -> None:
    """Raise ValueError unless this machine can run `tp` ranks, each on a GPU if there are any."""
    check_fits(tp)
    if device == "cpu" or shim.device_of(device, local_rank=0).type == "cpu":
        return
    num_gpus = len(visible_gpus())
    if num_gpus < tp:
        raise ValueError(
            f"--tp {tp} needs a GPU for each rank, and torch can use {num_gpus} here: use a smaller --tp, or --device "
            "cpu"
        )


def _in_a_line(error: RankError) -> str:
    """The cause of a failure. Raises SystemExit if it is that the job has called sys.exit: it has said why."""
    assert error.outcome is not None
    report = error.outcome.report
    if isinstance(report, Exited) and not report.message:
        raise SystemExit(report.code) from None
    if isinstance(report, Raised) and report.is_user_error and report.message:
        return report.message
    return f"{headline(error.outcome).splitlines()[0]} (FORETRAIN_TRACEBACK=1 shows more)"
