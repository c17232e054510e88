"""Every setting has a docstring, and impossible values are refused."""

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from foretrain.configs import schema
from foretrain.configs.schema import ModelConfig
from foretrain.configs.sources import PRESETS


def undocumented(source: str) -> Iterator[str]:
    """Class.field of every annotated field that has no docstring, and every class that has none."""
    for node in ast.parse(source).body:
        if not isinstance(node, ast.ClassDef):
            continue
        if not ast.get_docstring(node):
            yield node.name
        for statement, follower in zip(node.body, [*node.body[1:], None], strict=True):
            documented = isinstance(follower, ast.Expr) and isinstance(follower.value, ast.Constant)
            if isinstance(statement, ast.AnnAssign) and not documented:
                yield f"{node.name}.{ast.unparse(statement.target)}"


def sources(root: type = schema.Config) -> Iterator[Path]:
    """The files that define the classes of the tree."""
    yield Path(inspect.getfile(root))
    for field in fields(root):
        nested: object = field.default_factory
        if isinstance(nested, type) and is_dataclass(nested):
            yield from sources(nested)


def test_every_field_has_a_docstring() -> None:
    files = set(sources())
    assert files == {path for path in PRESETS.glob("*.py") if re.search(r"(?m)^class \w+Config:", path.read_text())}
    assert [name for path in files for name in undocumented(path.read_text())] == []


def test_a_field_without_a_docstring_is_found() -> None:
    planted = 'class A:\n    """Doc."""\n    x: int = 1\n    y: int = 2\n    """Doc."""\n    z: int = 3\n'
    assert list(undocumented(planted)) == ["A.x", "A.z"]


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("ModelConfig", "num_layers", 0),
        ("ModelConfig", "num_kv_heads", 3),
        ("ModelConfig", "head_dim", 31),
        ("ModelConfig", "d_model", 130),
        ("DataConfig", "prefetch_batches", -1),
        ("ParallelConfig", "tp", 0),
        ("ParallelConfig", "timeout_s", 0.0),
        ("OptimizerConfig", "lr", float("nan")),
        ("OptimizerConfig", "lr", float("inf")),
        ("OptimizerConfig", "lr", 1e38),
        ("ModelConfig", "init_std", float("inf")),
        ("OptimizerConfig", "beta2", 1.0),
        ("OptimizerConfig", "weight_decay", -0.1),
        ("ScheduleConfig", "min_factor", -0.1),
        ("TrainConfig", "num_tokens", 0),
        ("TrainConfig", "stop_after", 0),
        ("TrainConfig", "eval_every", -1),
        ("SampleConfig", "temperature", -1.0),
        ("ClusterConfig", "num_nodes", 0),
        ("OptimizerConfig", "eps", 1e-46),
        ("OptimizerConfig", "eps", 1e38),
        ("OptimizerConfig", "weight_decay", float("inf")),
        ("OptimizerConfig", "clip_norm", float("nan")),
        ("ScheduleConfig", "min_factor", float("inf")),
        ("ScheduleConfig", "min_factor", 1.5),
        ("ScheduleConfig", "warmup_tokens", 10**30),
        ("TrainConfig", "num_tokens", 10**30),
        ("TrainConfig", "global_batch_size", 2**63),
        ("TrainConfig", "seed", -(2**64)),
        ("DataConfig", "seed", 2**64),
        ("SampleConfig", "seed", 2**64),
        ("SampleConfig", "temperature", float("inf")),
        ("SampleConfig", "temperature", 1e-320),
        ("SampleConfig", "top_p", 0.0),
        ("SampleConfig", "top_p", 1.5),
        ("SampleConfig", "min_p", -0.1),
        ("SampleConfig", "stop", [""]),
    ],
)
def test_an_impossible_value_is_refused_by_name(section: str, field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        getattr(schema, section)(**{field: value})


def test_learned_positions_take_an_odd_head_dim() -> None:
    assert ModelConfig(head_dim=31, position="learned").head_dim == 31


@pytest.mark.parametrize("name", ["checkpoint_folder", "init_from", "branch_from"])
def test_a_password_in_a_url_is_refused_and_not_shown(name: str) -> None:
    def made(url: str) -> schema.TrainConfig:
        settings: dict[str, Any] = {name: url}
        return schema.TrainConfig(**settings)

    for url in ("ftp://me:hush@host/run", "simplecache::ssh://:hush@host:22"):
        with pytest.raises(ValueError, match=rf"^{name} has a password in its URL.*configuration of fsspec") as found:
            made(url)
        assert "hush" not in str(found.value)
    for url in ("s3://bucket/me:a@b", "ssh://me@host/run", "http://host:80/run", "runs/a:b@c"):
        made(url)
