"""How long the settings of a config become when their references are filled in, and through how many. Pure."""

import re
from collections.abc import Iterator, Sequence

from foretrain import limits
from foretrain.configs.sources import ConfigError, Setting, Value

_REFERENCE = re.compile(r"\$\{\s*([^${}]*?)\s*\}")


def check_references(settings: Sequence[Setting]) -> None:
    """Raise ConfigError for references that repeat too much text, or that lead through too many settings.

    OmegaConf would fill them in again and again: ten references in each of seven settings are 10^7 copies. Each setting
    on the way costs it a few calls, of which Python allows a thousand.
    """
    last = {setting.key: setting for setting in settings}
    sizes: dict[str, tuple[int, int]] = {}
    on_path: set[str] = set()

    def size_of(key: str) -> tuple[int, int]:
        """The number of characters of a setting, and the most settings that lead from it to a text."""
        if key not in last:
            below = [size_of(other) for other in last if other.startswith(f"{key}.")]
            return sum(length for length, _ in below), max((depth for _, depth in below), default=0)
        if key not in sizes:
            setting = last[key]
            if key in on_path:
                return 0, 0  # it refers to itself, which OmegaConf refuses
            _require_depth(setting, len(on_path))
            on_path.add(key)
            texts = [*_texts(setting.value)]
            found = [size_of(_absolute(name, key)) for text in texts for name in _REFERENCE.findall(text)]
            on_path.remove(key)
            length = sum(map(len, texts)) + sum(length for length, _ in found)
            depth = 1 + max((depth for _, depth in found), default=0)
            if length > limits.CONFIG_BYTES:
                raise ConfigError(
                    f"{key} has more than {limits.CONFIG_BYTES} characters when its references are filled in "
                    f"({setting.origin}): refer to less"
                )
            _require_depth(setting, depth)
            sizes[key] = length, depth
        return sizes[key]

    for key in last:
        size_of(key)


def _require_depth(setting: Setting, depth: int) -> None:
    if depth > limits.CONFIG_DEPTH:
        raise ConfigError(
            f"{setting.key} refers to a setting that refers to another, through more than {limits.CONFIG_DEPTH} of "
            f"them ({setting.origin}): write the value itself"
        )


def _texts(value: Value) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif value is not None:
        yield value


def _absolute(reference: str, key: str) -> str:
    """The key that a reference in the setting `key` means: `.x` is beside it, `..x` one section above, and so on."""
    name = re.sub(r"\[([^\]]*)\]", r".\1", reference)
    num_dots = len(name) - len(name.lstrip("."))
    if not num_dots:
        return name
    section = key.split(".")[:-num_dots] if num_dots <= key.count(".") else []
    return ".".join([*section, name.lstrip(".")])
