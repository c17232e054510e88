"""The sink that writes the metrics of a run for TensorBoard."""

from collections.abc import Mapping

from foretrain.trainer.sinks.base import Session, Sink

TENSORBOARD_DIR = "tensorboard"


class TensorBoardSink(Sink):
    """Writes every number as a scalar into the folder `tensorboard` of the run folder."""

    def open(self, session: Session) -> None:
        self._folder = str(session.run_dir / TENSORBOARD_DIR)
        self._open_after(session.start_step)

    def rewind(self, step: int) -> None:
        self._writer.close()
        self._open_after(step)

    def _open_after(self, step: int) -> None:
        # Imported here because it can be slow (it imports TensorFlow if that is installed), and only rank 0 writes.
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(self._folder, purge_step=step + 1 if step else 0)

    def step(self, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            if name != "step":
                self._writer.add_scalar(f"train/{name}", value, global_step=int(metrics["step"]))

    def evaluation(self, step: int, val_loss: float, by_source: Mapping[str, float]) -> None:
        self._writer.add_scalar("eval/val_loss", val_loss, global_step=step)
        for name, loss in by_source.items():
            self._writer.add_scalar(f"eval/val_loss/{name}", loss, global_step=step)

    def close(self) -> None:
        self._writer.close()
