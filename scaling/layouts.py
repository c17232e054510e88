"""Layouts to try: all of them up to some number of processes, or those that a user names. Pure."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from math import prod
from typing import Any, get_args, get_type_hints

from foretrain.configs.schema import ParallelConfig
from foretrain.parallel.layout import Layout

SCHEDULES: tuple[str, ...] = get_args(get_type_hints(ParallelConfig)["schedule"])
ZERO_STAGES: tuple[int, ...] = get_args(get_type_hints(ParallelConfig)["zero_stage"])
MAX_VPP = 2
"""Two virtual stages stand for more; `--layouts` takes any number."""

_SIZES = ("dp", "tp", "cp", "pp", "vpp")


def all_layouts(max_processes: int) -> Iterator[Layout]:
    """Every combination of up to `max_processes` ranks, small meshes first; many of them are refused by their layout.

    Without a pipeline the schedule means nothing, so there is one layout for all of them.
    """
    sizes = range(1, max_processes + 1)
    meshes = [mesh for mesh in product(sizes, repeat=4) if prod(mesh) <= max_processes]
    for pp, cp, tp, dp in sorted(meshes, key=lambda mesh: (prod(mesh), mesh)):
        schedules = SCHEDULES if pp > 1 else SCHEDULES[:1]
        for vpp, schedule, sp, zero in product(range(1, MAX_VPP + 1), schedules, (False, True), ZERO_STAGES):
            yield Layout(dp, tp, pp, vpp, sp, schedule, zero, cp=cp)


def parse_layouts(text: str) -> list[Layout]:
    """Layouts separated by commas, each in words: "dp=2 tp=2 sp zero=1, pp=2 vpp=2 zbv". The inverse of str(layout).

    Raises ValueError that says which word is not understood.
    """
    return [_parse(part) for part in text.split(",")]


def _parse(text: str) -> Layout:
    layout = Layout()
    if not text.split():
        raise ValueError("--layouts: one of the layouts is empty: separate them by single commas, as in 'dp=2,tp=2 sp'")
    for word in text.split():
        layout = replace(layout, **_setting(word, text.strip()))
    return layout


def _setting(word: str, text: str) -> dict[str, Any]:
    key, is_pair, value = word.partition("=")
    if key in _SIZES and value.isdecimal() and int(value) > 0:
        return {key: int(value)}
    if key in ("zero", "zero_stage") and value in map(str, ZERO_STAGES):
        return {"zero_stage": int(value)}
    if key == "sp" and (not is_pair or value in ("true", "false")):
        return {"sp": value != "false"}
    schedule = value if key == "schedule" else word
    if schedule in SCHEDULES:
        return {"schedule": schedule}
    raise ValueError(
        f"--layouts: {word!r} in '{text}' is not understood: use dp=N, tp=N, cp=N, pp=N, vpp=N, zero=0|1|2|3, sp, or a "
        f"schedule ({', '.join(SCHEDULES)})"
    )
