"""How long the settings of a config become when their references to other settings are filled in. Pure."""

import re
from collections.abc import Iterator, Sequence

from foretrain import limits
from foretrain.configs.sources import ConfigError, Setting, Value

_REFERENCE = re.compile(r"\$\{\s*([^${}]*?)\s*\}")


def check_lengths(settings: Sequence[Setting]) -> None:
    """Raise ConfigError for references that repeat too much text.

    OmegaConf would fill them in again and again: ten references in each of seven settings are 10^7 copies.
    """
    last = {setting.key: setting for setting in settings}
    lengths: dict[str, int] = {}
    on_path: set[str] = set()

    def length_of(key: str) -> int:
        if key not in last:
            return sum(length_of(below) for below in last if below.startswith(f"{key}."))
        if key not in lengths:
            setting = last[key]
            if key in on_path:
                return 0  # it refers to itself, which OmegaConf refuses
            on_path.add(key)
            texts = [*_texts(setting.value)]
            references = [_absolute(found, key) for text in texts for found in _REFERENCE.findall(text)]
            lengths[key] = sum(map(len, texts)) + sum(map(length_of, references))
            on_path.remove(key)
            if lengths[key] > limits.CONFIG_BYTES:
                raise ConfigError(
                    f"{key} has more than {limits.CONFIG_BYTES} characters when its references are filled in "
                    f"({setting.origin}): refer to less"
                )
        return lengths[key]

    for key in last:
        length_of(key)


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
