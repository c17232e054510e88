"""Components that a config names, such as optimizers: those of this project, and those that a plugin adds."""

import importlib
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Generic, TypeVar

from foretrain import inspection

T = TypeVar("T")


class Registry(Generic[T]):
    """The components of one kind by name.

    `kind` says in words what they are ("optimizer"); `key` is the config key that names one ("optimizer.kind").
    """

    def __init__(self, kind: str, key: str) -> None:
        self.kind, self.key = kind, key
        self._entries: dict[str, T] = {}

    def register(self, name: str, entry: T) -> T:
        """Add a component and return it. Raises ValueError if another component has the name."""
        if self._entries.get(name, entry) is not entry:
            raise ValueError(f"there are two {self.kind}s named '{name}': give one of them another name")
        self._entries[name] = entry
        return entry

    def get(self, name: str) -> T:
        """The component of that name. Raises ValueError, which lists the names that exist, if there is none."""
        if name in self._entries:
            return self._entries[name]
        close = get_close_matches(name, self._entries, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(self._entries)}."
        looks = inspection.current()
        remedy = "list the plugin's module in `plugins`"
        if looks is not None and not looks.allows_setting(_SETTING):
            remedy = f"name the plugin yourself ({_SETTING}=[...]): {looks.what} imports none that only a config names"
        raise ValueError(f"{self.key}: there is no {self.kind} named '{name}': {hint} If a plugin defines it, {remedy}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)


_SETTING = "plugins"
"""The setting that names the modules of plugins."""


class PluginNotImportedError(ValueError):
    """A config names plugins, which must not be imported here."""


def import_plugins(modules: Sequence[str]) -> None:
    """Import the modules that a config lists as `plugins`, so that they register their components.

    Every process of a run calls this before it builds anything. Raises ValueError if a module cannot be found, and
    PluginNotImportedError for modules that nobody has typed, inside `inspection.only_looking`.
    """
    looks = inspection.current()
    if modules and looks is not None and not looks.allows_setting(_SETTING):
        raise PluginNotImportedError(
            f"{looks.what} imports no plugin that a config names, so what needs them was not checked. If you trust "
            f"them, name them yourself: '{_SETTING}=[{','.join(modules)}]'"
        )
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise  # the plugin was found, and itself imports something that is missing
            raise ValueError(
                f"plugins: there is no module '{module}': install it, or add its folder to PYTHONPATH"
            ) from error
