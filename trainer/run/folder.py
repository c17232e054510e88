"""The names of the files in a run folder, and where the checkpoints of a run are."""

from pathlib import Path
from typing import Any

from foretrain.configs.sources import ConfigError, Setting
from foretrain.configs.sources import read as read_settings
from foretrain.files import is_file
from foretrain.trainer.checkpoint.folders import RECORD as RECORD  # where most look for the names of files
from foretrain.trainer.checkpoint.folders import CheckpointFolder, folder_of
from foretrain.trainer.checkpoint.places import Place, place_of
from foretrain.trainer.checkpoint.remote.path import RemotePath

CONFIG_FILE = "config.yaml"
"""Every setting of the run."""
ENVIRONMENT_FILE = "environment.json"
"""Versions and machines that the run uses."""
DESCRIPTION_FILE = "description.json"
"""What the run trains: parameters, FLOPs, tokens, and fingerprints of its data; see trainer/run/description.py."""
PREDICTION_FILE = "prediction.json"
"""A copy of the sealed prediction of the run; see trainer/run/predicted.py."""
CHECKPOINTS = "checkpoints"
LOGS = "logs"
"""Folder of the output of each rank."""
RUN_LOG = "run.log"
"""What rank 0 reported, with times, over all starts; see trainer/sinks/run_log.py."""
SUMMARY_FILE = "summary.txt"
"""The table at the end of the run."""
SAMPLES_FILE = "samples.jsonl"
"""The continuations of `sample.prompts` at the end of the run: a JSON object with `prompt` and `text` in each line."""
PROFILES = "profiles"
"""Folder of what `train.profile_steps` records; see trainer/callbacks/profile.py."""
HANGS = "hangs"
"""Folder of the reports of hangs: a folder for each, with report.txt and a file for each rank."""
CODE = "code"
"""Folder of a copy of the code, for jobs that start later than they are submitted."""


def checkpoints_of(run_dir: Path, setting: str | None) -> CheckpointFolder[Any]:
    """The checkpoints of a run whose `train.checkpoint_folder` is `setting`."""
    return folder_of(place_of(setting) if setting else run_dir / CHECKPOINTS)


def checkpoints_in(run: Place) -> CheckpointFolder[Any]:
    """The checkpoints of a run, by the config in its folder, or those in a folder of a server.

    Raises ConfigError, which names the place, if the config is none, and OSError if it cannot be read now: the run
    would seem to have no checkpoint.
    """
    if isinstance(run, RemotePath):
        return folder_of(run)
    path = (run / CONFIG_FILE).absolute()
    for setting in read_settings(path) if is_file(path) else ():
        if setting.key == "train.checkpoint_folder" and setting.value is not None:
            return checkpoints_of(run, _text(setting))
    return checkpoints_of(run, None)


def _text(setting: Setting) -> str:
    if not isinstance(setting.value, str):
        raise ConfigError(f"{setting.key} is no folder ({setting.origin}): write the path or the URL of one")
    return setting.value


def newest_checkpoint(run: Place) -> Any:
    """The newest complete checkpoint of a run, a Place; None if there is none."""
    return checkpoints_in(run).newest()


def step_of(checkpoint: Place) -> int:
    """Steps that were done when a checkpoint was written."""
    return int(checkpoint.name.removeprefix("step-"))
