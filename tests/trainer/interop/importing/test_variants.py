"""Whatever config.json is accepted, the imported model computes what transformers computes with it."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from foretrain.trainer.interop.importing.declared import declared_model
from foretrain.trainer.interop.importing.errors import UnfitError
from foretrain.trainer.interop.importing.kinds import KINDS
from foretrain.trainer.interop.importing.run import import_model
from tests.trainer.interop.cases import TOLERANCE, apart
from tests.trainer.interop.importing.test_import import loaded
from tests.trainer.interop.importing.theirs import ABSENT, CLASSES, change, their_config
from tests.trainer.interop.made import tokenizer_json

OF_ALL: dict[str, list[Any]] = {
    "tie_word_embeddings": [True, False, ABSENT],
    "partial_rotary_factor": [1.0, 0.5],
    "final_logit_softcapping": [None, 1.0],
    "is_decoder": [True],
    "chunk_size_feed_forward": [4],
    "_attn_implementation": ["eager"],
}
OF_LLAMA: dict[str, list[Any]] = {
    "num_key_value_heads": [1, 2, 4, 3, None, ABSENT],
    "head_dim": [ABSENT, None, 4, 12, 7],
    "hidden_act": ["silu", "swish", "gelu", ABSENT],
    "rms_norm_eps": [1e-3, ABSENT],
    "rope_theta": [500.0, 10_000, ABSENT],
    "rope_scaling": [None, {"rope_type": "default"}, {"type": "default", "rope_theta": 77.0}, {"type": "linear"}],
    "rope_parameters": [None, ABSENT, {"rope_type": "default", "rope_theta": 123.0}, {"rope_theta": 99.0}, {}],
    "attention_bias": [True, False, ABSENT],
    "mlp_bias": [True, False, ABSENT],
    "sliding_window": [None, 8, 24, 100, ABSENT],
    "use_sliding_window": [True, False, ABSENT],
    "max_window_layers": [0, 1, 28],
    "layer_types": [["full_attention"] * 2, ["full_attention", "sliding_attention"], None],
    "pretraining_tp": [2],
}
OF_GPT2: dict[str, list[Any]] = {
    "activation_function": ["gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "relu", ABSENT],
    "n_inner": [None, 40, ABSENT],
    "n_ctx": [24, 12],
    "layer_norm_epsilon": [1e-3, ABSENT],
    "scale_attn_weights": [True, False, ABSENT],
    "scale_attn_by_inverse_layer_idx": [True, False],
    "reorder_and_upcast_attn": [True],
    "add_cross_attention": [True, False],
}


def imported(kind: str, fields: dict[str, Any], folder: Path) -> float | None:
    """How far the logits of an imported model with these fields are from the library's; None if one refuses it."""
    shutil.rmtree(folder, ignore_errors=True)
    their_config(kind, architectures=[KINDS[kind].architecture]).save_pretrained(folder / "hf")
    change(folder / "hf", **fields)
    written = json.loads((folder / "hf/config.json").read_text())
    try:
        declared_model(folder / "hf", None, "m")
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder / "hf"))
    except (UnfitError, TypeError, ValueError):  # the library has errors of both kinds
        return None
    torch.manual_seed(1)
    with torch.no_grad():
        for param in model.parameters():
            param.add_(0.2 * torch.randn_like(param))
    model.save_pretrained(folder / "hf")
    (folder / "hf/config.json").write_text(json.dumps(written))  # the library writes it in another way
    (folder / "hf/tokenizer.json").write_text(tokenizer_json(), encoding="utf-8")
    import_model(folder / "hf", folder / "out", eot_token="<|endoftext|>")
    config, stage = loaded(folder / "out")
    return apart(stage, folder / "hf", config.model)


@pytest.mark.long
def test_whatever_is_accepted_computes_the_same(tmp_path: Path) -> None:
    results: Counter[bool] = Counter()

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.data())
    def draw(data: st.DataObject) -> None:
        kind = data.draw(st.sampled_from([*CLASSES]))
        pool = OF_ALL | (OF_GPT2 if kind == "gpt2" else OF_LLAMA)
        names = data.draw(st.lists(st.sampled_from([*pool]), max_size=3, unique=True))
        distance = imported(kind, {name: data.draw(st.sampled_from(pool[name])) for name in names}, tmp_path)
        results[distance is not None] += 1
        assert distance is None or distance <= TOLERANCE

    draw()
    assert min(results[True], results[False]) >= 5, results


def test_a_field_that_was_ignored_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert imported("gpt2", {"scale_attn_weights": False}, tmp_path) is None
    kind = KINDS["gpt2"]
    others = {name: value for name, value in kind.fixed.items() if name != "scale_attn_weights"}
    monkeypatch.setattr(type(kind), "fixed", others)
    monkeypatch.setattr(type(kind), "no_matter", kind.no_matter | {"scale_attn_weights"})
    distance = imported("gpt2", {"scale_attn_weights": False}, tmp_path)
    assert distance is not None and distance > 100 * TOLERANCE
