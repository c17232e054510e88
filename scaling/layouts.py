"""Layouts to try: every one up to some number of processes, or those that a user names. Pure."""

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
"""Virtual stages of a rank that are tried unasked: more behave as two do. `--layouts` takes any number."""

_SIZES = ("dp", "tp", "cp", "pp", "vpp")


def all_layouts(max_processes: int) -> Iterator[Layout]:
    """Every combination of up to `max_processes` ranks, small meshes first. Many of them are not legal for a model.

    Without a pipeline the schedule has no effect, so only one is tried.
    """
    sizes = range(1, max_processes + 1)
    meshes = [mesh for mesh in product(sizes, repeat=4) if prod(mesh) <= max_processes]
    for pp, cp, tp, dp in sorted(meshes, key=lambda mesh: (prod(mesh), mesh)):
        schedules = SCHEDULES if pp > 1 else SCHEDULES[:1]
        for vpp, schedule, sp, zero in product(range(1, MAX_VPP + 1), schedules, (False, True), ZERO_STAGES):
            yield Layout(dp, tp, pp, vpp, sp, schedule, zero, cp=cp)


def parallel_config(layout: Layout, options: ParallelConfig) -> ParallelConfig:
    """The settings of a layout, with the offloading and overlap of `options` if the layout allows them."""
    return ParallelConfig(
        **{name: getattr(layout, name) for name in (*_SIZES, "sp", "schedule", "zero_stage")},
        offload_optimizer=options.offload_optimizer and layout.zero_stage >= 1,
        offload_params=options.offload_params and layout.zero_stage == 3,
        overlap_comm=options.overlap_comm and layout.zero_stage >= 1 and layout.pp == 1,
        timeout_s=options.timeout_s,
    )


def parse_layout(text: str) -> Layout:
    """One layout in words, such as "tp=2 sp". Raises ValueError, which names the word that is not understood."""
    parts = text.split(",")
    if len(parts) != 1:
        raise ValueError(f"--layout '{text}' names {len(parts)} layouts: name one")
    return _parse(text, "--layout")


def parse_layouts(text: str) -> list[Layout]:
    """Layouts separated by commas, each in words: "dp=2 tp=2 sp zero=1, pp=2 vpp=2 zbv". The inverse of str(layout).

    Raises ValueError, which names the word that is not understood.
    """
    return [_parse(part, "--layouts") for part in text.split(",")]


def _parse(text: str, option: str) -> Layout:
    layout = Layout()
    if not text.split():
        raise ValueError(
            f"{option}: one of the layouts is empty: separate them by single commas, for example 'dp=2,tp=2 sp'"
        )
    for word in text.split():
        setting = _setting(word)
        if setting is None:
            raise ValueError(
                f"{option}: {word!r} in '{text.strip()}' is not understood: use dp=N, tp=N, cp=N, pp=N, vpp=N, "
                f"zero=0|1|2|3, sp, or a schedule ({', '.join(SCHEDULES)})"
            )
        layout = replace(layout, **setting)
    return layout


def _setting(word: str) -> dict[str, Any] | None:
    key, is_pair, value = word.partition("=")
    if key in _SIZES and value.isdecimal() and int(value) > 0:
        return {key: int(value)}
    if key in ("zero", "zero_stage") and value in map(str, ZERO_STAGES):
        return {"zero_stage": int(value)}
    if key == "sp" and (not is_pair or value in ("true", "false")):
        return {"sp": value != "false"}
    schedule = value if key == "schedule" else word
    return {"schedule": schedule} if schedule in SCHEDULES else None
