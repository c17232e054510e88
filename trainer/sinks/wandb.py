"""The sink that sends the curve of a run to Weights & Biases."""

import netrc
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from foretrain.configs.load import values_of
from foretrain.trainer.sinks.base import Session
from foretrain.trainer.sinks.extra import need_library
from foretrain.trainer.sinks.follower import Point
from foretrain.trainer.sinks.tracker import Tracker, TrackerSink

MODES = ("online", "offline")
KEY_VARIABLES = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
HOSTS = ("api.wandb.ai", "api.forge.coreweave.com")
"""The public server, by its names of earlier and later versions of the library."""
DEFAULTS = {
    "WANDB_ERROR_REPORTING": "false",  # a run sends what it was asked to, and no more
    "WANDB_SILENT": "true",  # the sink reports what fails
}
"""Variables of the library that are set unless they are set already."""
STEP = "step"
"""The horizontal axis of all charts. The library's own count of rows cannot go back with a run."""


class WandbSink(TrackerSink):
    """Sends each step and each evaluation as a row (`train/loss`, `eval/val_loss`), and the settings of the run. All
    starts of a run are one W&B run. `mode: offline` writes files below `wandb` in the run folder, for `wandb sync`.

    A process of the library sends the rows, and says only at the end of a session that it has. After a start that was
    killed, all rows since the last end of a session are sent again. W&B forgets no row: if there are two for a step,
    the later one is that of metrics.jsonl.
    """

    name = "wandb"
    options: ClassVar[Mapping[str, str]] = {"project": "foretrain", "entity": "", "mode": "online"}
    settings = options
    stores_at_once = False
    init_s, finish_s = 30.0, 15.0
    """Seconds in which the library must have started a session, and must have sent everything at its end."""

    @classmethod
    def check(cls, settings: Mapping[str, str]) -> None:
        need_library("wandb", "wandb")
        if not settings["project"]:
            raise ValueError("project is empty: name one, or leave it out")
        if settings["mode"] not in MODES:
            raise ValueError(f"mode = {settings['mode']} is none: use {' or '.join(MODES)}")
        if settings["mode"] == "online" and not _has_key():
            raise ValueError(
                f"there is no key for W&B: set {KEY_VARIABLES[0]} in the environment of the ranks, run `wandb login`, "
                "or set train.sink_options.wandb.mode=offline"
            )

    def open(self, session: Session) -> str | None:
        for name, value in DEFAULTS.items():
            os.environ.setdefault(name, value)
        self._hook = sys.excepthook
        super().open(session)
        where = f"files in {session.run_dir / 'wandb'}" if self.settings["mode"] == "offline" else "its server"
        return f"metrics go to W&B, project {self.settings['project']}, {where}"

    def close(self) -> None:
        super().close()
        sys.excepthook = self._hook  # which the library has replaced

    def connect(self, session: Session, key: str) -> Tracker:
        import wandb

        quiet = {"console": "off", "silent": True, "x_disable_stats": True, "x_disable_meta": True}
        nothing_else = {"disable_git": True, "disable_code": True, "save_code": False, "x_save_requirements": False}
        limits = {"init_timeout": self.init_s, "finish_timeout": self.finish_s, "finish_timeout_raises": True}
        try:
            run = wandb.init(
                project=self.settings["project"],
                entity=self.settings["entity"] or None,
                mode=self.settings["mode"],
                id=key,
                name=session.run_dir.name,
                dir=str(session.run_dir),
                config=_public(values_of(session.config)),
                resume="allow",
                reinit="create_new",
                allow_val_change=True,
                settings=wandb.Settings(**quiet, **nothing_else, **limits),
            )
        except BaseException:
            wandb.teardown()  # else its process takes the name of the run for one that is in use
            raise
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP)
        return _WandbRun(run)


class _WandbRun:
    def __init__(self, run: Any) -> None:
        self._run = run

    def send(self, points: Sequence[Point]) -> None:
        for each in points:
            self._run.log({STEP: each.step, **each.values})

    def close(self, is_complete: bool) -> None:
        self._run.finish(exit_code=0 if is_complete else 1)


def _has_key() -> bool:
    """Whether the library finds a key. Without one it would ask for it on the terminal."""
    if any(os.environ.get(name) for name in KEY_VARIABLES):
        return True
    own = os.environ.get("WANDB_BASE_URL")
    hosts = (urlsplit(own).hostname or "",) if own else HOSTS
    path = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        known = netrc.netrc(path)
    except (OSError, ValueError, netrc.NetrcParseError):
        return False
    return any(known.authenticators(host) for host in hosts)


def _public(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without those of `launch`, in which users may write values of the environment."""
    return {name: value for name, value in settings.items() if not name.startswith("launch.")}
