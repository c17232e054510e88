"""The registry of components, and plugins that add to one."""

import re
from pathlib import Path

import pytest

from foretrain.registry import Registry, import_plugins


def test_an_unknown_name_is_refused_with_the_nearest_name_or_all_names() -> None:
    optimizers: Registry[int] = Registry("optimizer", "optimizer.kind")
    optimizers.register("adamw", 1)
    optimizers.register("sgd", 2)
    assert (optimizers.get("sgd"), list(optimizers)) == (2, ["adamw", "sgd"])
    with pytest.raises(ValueError, match=r"optimizer\.kind: there is no optimizer named 'adamv': did you mean adamw\?"):
        optimizers.get("adamv")
    with pytest.raises(ValueError, match=re.escape("known are adamw, sgd. If a plugin defines it")):
        optimizers.get("muon")


def test_a_name_has_one_component() -> None:
    optimizers: Registry[int] = Registry("optimizer", "optimizer.kind")
    optimizers.register("adamw", 1)
    optimizers.register("adamw", 1)
    with pytest.raises(ValueError, match="two optimizers named 'adamw'"):
        optimizers.register("adamw", 2)


def test_a_missing_plugin_is_refused_and_an_error_inside_a_plugin_is_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match="there is no module 'absent_plugin': install it"):
        import_plugins(["absent_plugin"])
    (tmp_path / "needy_plugin.py").write_text("import absent_library")
    with pytest.raises(ModuleNotFoundError, match="absent_library"):
        import_plugins(["needy_plugin"])
