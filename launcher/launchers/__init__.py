"""The launchers by name: those of this project, and those that plugins add."""

from foretrain.launcher.launchers.local import LocalLauncher
from foretrain.launcher.launchers.ray import RayLauncher
from foretrain.launcher.launchers.slurm import SlurmLauncher
from foretrain.launcher.protocol import Launcher
from foretrain.registry import Registry

LAUNCHERS: Registry[Launcher] = Registry("launcher", "--on")

for _launcher in (LocalLauncher(), SlurmLauncher(), RayLauncher()):
    LAUNCHERS.register(_launcher.name, _launcher)
