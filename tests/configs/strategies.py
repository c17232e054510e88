"""Hypothesis strategies for configs, made from the types of the schema."""

from dataclasses import is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

from foretrain.configs.schema import Config

TEXT = (st.text(max_size=20) | st.text(r"\${}'\": #-~[]\n", max_size=8)).filter(lambda text: text != "???")
"""Any text except OmegaConf's mark of a missing value, which `load` never returns."""

PATH = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), max_size=20).filter(lambda text: text != "???")
"""Text without control characters."""

BY_TYPE: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXT,
    bool: st.booleans(),
    int: st.integers(1, 10**15),
    float: st.floats(min_value=1e-30, max_value=1e30),
}
WORDS = st.none() | st.from_regex(r"[\w.:,+@-]+", fullmatch=True)
NAMES = st.sampled_from(["web", "code", "books_2"])
BY_NAME: dict[str, st.SearchStrategy[Any]] = {
    "beta1": st.floats(0, 0.999),
    "beta2": st.floats(0, 0.999),
    "min_factor": st.floats(0, 1),
    "top_p": st.floats(0, 1, exclude_min=True),
    "min_p": st.floats(0, 1),
    "stop": st.lists(TEXT.filter(bool), max_size=2),
    "head_dim": st.integers(1, 1000).map(lambda half: 2 * half),
    "num_kv_heads": st.none(),
    "sha256": st.none(),
    "max_epochs": st.none() | st.floats(1e-3, 1e3),
    "path": TEXT.filter(bool),
    "run_dir": PATH,
    "plugins": st.lists(st.sampled_from(["json", "logging.handlers"]), max_size=2),
    "partition": WORDS,
    "account": WORDS,
    "qos": WORDS,
    "time": WORDS,
    "options": st.lists(TEXT.filter(lambda text: "\n" not in text).map(lambda text: f"--x{text}"), max_size=3),
    "env": st.lists(st.sampled_from(["HOME", "NCCL_*", "A=", "B=${x} = 'y'"]), max_size=3),
    "setup": st.lists(TEXT.filter(lambda text: "\0" not in text), max_size=3),
    "address": st.sampled_from([None, "http://head:8265"]),
    "elastic": st.sampled_from([None, "1:4", "3:3"]),
    "profile_steps": st.sampled_from([[], [20, 22], [1, 1]]),
    "stage_layers": st.none() | st.lists(st.integers(1, 100), min_size=1, max_size=3),
}


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a field of this type that no section refuses on its own."""
    if is_dataclass(kind):
        assert isinstance(kind, type)
        hints = get_type_hints(kind)
        fields = {
            name: values(hint) if get_origin(hint) is dict else BY_NAME.get(name, values(hint))
            for name, hint in hints.items()
        }
        return st.fixed_dictionaries(fields).map(lambda chosen: kind(**_agreeing(chosen)))
    if get_origin(kind) is UnionType:
        return st.one_of([values(option) for option in get_args(kind)])
    if get_origin(kind) is Literal:
        return st.sampled_from(get_args(kind))
    if get_origin(kind) is dict:
        least = 1 if kind == dict[str, str] else 0  # options of a sink: a file cannot say that it has none
        return st.dictionaries(NAMES, values(get_args(kind)[1]), min_size=least, max_size=3)
    if get_origin(kind) is list:
        return st.lists(values(*get_args(kind)), max_size=3)
    return st.none() if kind is NoneType else BY_TYPE[kind]


def _agreeing(chosen: dict[str, Any]) -> dict[str, Any]:
    """The settings of a section, without those that another setting of the section forbids."""
    for name, least in (("offload_optimizer", 1), ("offload_params", 3), ("overlap_comm", 1)):
        if name in chosen:
            chosen[name] = chosen[name] and chosen["zero_stage"] >= least
    if "overlap_comm" in chosen:
        chosen["overlap_comm"] = chosen["overlap_comm"] and chosen["pp"] == 1
    if "init_from" in chosen:
        chosen["branch_from"] = None if chosen["init_from"] else chosen["branch_from"]
        chosen["init_optimizer"] = chosen["init_optimizer"] and chosen["init_from"] is not None
    if "eval_samples" in chosen:
        chosen["eval_tasks"] = list(dict.fromkeys(chosen["eval_tasks"]))
        least = len(chosen["eval_tasks"]) if chosen["eval_standard_error"] is None else 2
        chosen["eval_samples"] = max(least, chosen["eval_samples"])
    if chosen.get("tie_embeddings"):
        chosen["head_init_std"] = None
    if "parametrization" in chosen:
        chosen["base"].d_model = chosen["base"].d_model or 64
        chosen["base"].num_layers = chosen["base"].num_layers or 2
    if "weights" in chosen and not any(chosen["weights"].values()):
        chosen["weights"] = {"web": 1.0}
    if "stages" in chosen:
        known = chosen["sources"].keys()
        starts: set[int] = set()
        for name, stage in list(chosen["stages"].items()):
            if stage.from_tokens in starts or not stage.weights.keys() <= known:
                del chosen["stages"][name]
            starts.add(stage.from_tokens)
    return chosen


CONFIGS = values(Config)
