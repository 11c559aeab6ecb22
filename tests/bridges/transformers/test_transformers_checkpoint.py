"""Saved models of the wrapper for transformers are loaded strictly or not at all, and execute nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from clip_world import images
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers_world import folder, host, load, model, of, small_head

from spaceclip_plugin.bridges.transformers import SpaceClipDepthConfig, SpaceClipForDepthEstimation, register
from spaceclip_plugin.errors import CheckpointError, ConfigError
from spaceclip_plugin.head.weights import write_weights

__all__ = ["folder", "host", "model"]  # fixtures

# --- files ----------------------------------------------------------------------------------------------------------


def edit_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change config.json, and the copy of it that the weights carry, as someone who forges a model would."""
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    parts = {part: config[part] for part in ("tower", "head", "adapter")}
    write_weights(folder / "model.safetensors", load_file(folder / "model.safetensors"), parts)


def edit_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    path = folder / "model.safetensors"
    with safe_open(path, "pt") as file:
        config = json.loads(json.loads(file.metadata()["spaceclip"])["config"])
    state = load_file(path)
    change(state)
    write_weights(path, state, config)


NORM = "tower.post_layernorm.weight"
BAD_WEIGHTS = {
    "a tower's weight is missing": (lambda state: state.pop(NORM), f"missing.*{NORM}"),
    "a head's weight is missing": (lambda state: state.pop(next(n for n in state if n.startswith("head."))), "missing"),
    "a weight too many": (lambda state: state.update(extra=torch.ones(1)), "unknown.*extra"),
    "another shape": (lambda state: state.update({NORM: torch.ones(31)}), r"shape \(31,\).*shape \(32,\)"),
    "another kind": (lambda state: state.update({NORM: torch.ones(32, dtype=torch.int64)}), "int64.*float32"),
    "NaN": (lambda state: state[NORM].fill_(torch.nan), f"{NORM}.*NaN"),
}


@pytest.mark.parametrize("case", BAD_WEIGHTS)
def test_weights_that_do_not_match_are_refused_everywhere(folder: Path, case: str) -> None:
    change, message = BAD_WEIGHTS[case]
    edit_weights(folder, change)
    register()
    with pytest.raises(CheckpointError, match=message):
        load(folder)
    with pytest.raises(CheckpointError, match=message):
        transformers.AutoModelForDepthEstimation.from_pretrained(folder)
    with pytest.raises(ValueError, match=message):  # some versions wrap what loading raised
        transformers.pipeline("depth-estimation", model=str(folder))


def a_tower(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda config: config["tower"].update(changes)


BAD_CONFIGS = {
    "of another model": (lambda config: config.update(model_type="vit"), "'vit'"),
    "no tower": (lambda config: config.update(tower=None), "tower"),
    "a tower in itself": (a_tower(model_type="spaceclip_depth"), "of type 'spaceclip_depth'.*expected one of"),
    "a tower that loads others": (
        a_tower(model_type="timm_wrapper", architecture="hf-hub:a/b"),
        "of type 'timm_wrapper'.*expected one",
    ),
    "a type that is no name": (a_tower(model_type=["vit"]), "of type"),
    "code from elsewhere": (a_tower(auto_map={"AutoModel": "a/b--c.D"}), "auto_map"),
    "a kernel from elsewhere": (a_tower(attn_implementation="a/b"), "attn_implementation"),
    "an inner setting": (a_tower(_attn_implementation="a/b"), "_attn_implementation"),
    "an impossible size": (a_tower(hidden_size="wide"), "cannot build"),
    "a tower of terabytes": (a_tower(hidden_size=4_000_000), "config calls for"),
    "another tower": (a_tower(num_hidden_layers=4), "missing"),
    "another head": (lambda config: config["head"].update(width=64), "config calls for"),
    "no head": (lambda config: config.update(head=None), "head's config"),
    "an unknown key of the head": (lambda config: config["head"].update(color="red"), "color"),
    "an unknown adapter": (lambda config: config.update(adapter="clop"), "'clop'"),
    "an adapter that is no name": (lambda config: config.update(adapter=7), "adapter, got .*7"),
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_configs_that_cannot_be_are_refused(folder: Path, case: str) -> None:
    change, message = BAD_CONFIGS[case]
    edit_config(folder, change)
    with pytest.raises(CheckpointError, match=message):
        load(folder)


def test_config_and_weights_of_two_models_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["head"]["options"]["semantic_taps"] = [3, 2]  # the same shapes, another depth
    config["head"]["tap_fractions"] = [tap / 3 for tap in (0, 2, 3)]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="was not saved with the config beside it"):
        load(folder)


def test_a_weight_that_changed_is_noticed(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="is damaged or was changed"):
        load(folder)


def test_files_that_are_no_safetensors_are_refused(folder: Path, tmp_path: Path) -> None:
    weights = folder / "model.safetensors"
    state = load_file(weights)
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load(folder)
    weights.unlink()
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickles are never read"):
        load(folder)
    with pytest.raises(CheckpointError, match="absent"):
        load(tmp_path / "absent")


def test_settings_that_load_from_elsewhere_have_no_effect(folder: Path, model: SpaceClipForDepthEstimation) -> None:
    elsewhere = {"auto_map": {"AutoModelForDepthEstimation": "a/b--c.D"}, "attn_implementation": "a/b"}
    edit_config(folder, lambda config: config.update(elsewhere))
    register()
    loaded = transformers.AutoModelForDepthEstimation.from_pretrained(folder)
    assert type(loaded) is SpaceClipForDepthEstimation
    assert torch.equal(loaded(images(3)).predicted_depth, model(images(3)).predicted_depth)


def test_arguments_of_from_pretrained(folder: Path) -> None:
    random_state = torch.get_rng_state()
    assert load(folder, trust_remote_code=True, use_safetensors=True, device_map=None).device.type == "cpu"
    assert torch.equal(torch.get_rng_state(), random_state)
    assert load(str(folder), dtype="auto").dtype == torch.float32
    assert load(folder, torch_dtype="float16").dtype == torch.float16
    halved = load(folder, dtype=torch.bfloat16)
    assert {value.dtype for value in halved.tower.parameters()} == {torch.bfloat16}
    assert {value.dtype for value in halved.head.parameters()} == {torch.float32}
    assert halved(images(3)).predicted_depth.dtype == torch.float32
    for wrong in (
        {"device_map": {"tower": "cpu", "head": "disk"}},
        {"use_safetensors": False},
        {"quantization_config": {"a": 1}},
    ):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            load(folder, **wrong)
    with pytest.raises(ConfigError, match="int8"):
        load(folder, dtype=torch.int8)
    with pytest.raises(ConfigError, match="SpaceClipDepthConfig"):
        load(folder, config=transformers.ViTConfig())


def test_towers_that_their_config_would_not_build_are_not_saved(host: nn.Module, tmp_path: Path) -> None:
    no_pooling = of("ViTForImageClassification", "ViTConfig")()
    changed = [
        (SpaceClipForDepthEstimation.from_host(no_pooling, small_head(no_pooling)), "pooler"),
        (SpaceClipForDepthEstimation.from_host(host, small_head(host).fuse()), "head"),
    ]
    for wrapped, name in changed:
        wrapped(images(3))
        with pytest.raises(CheckpointError, match=f"missing.*{name}"):
            wrapped.save_pretrained(tmp_path / "model")
    with pytest.raises(ConfigError, match="safetensors"):
        SpaceClipForDepthEstimation.from_host(host, small_head(host)).save_pretrained(
            tmp_path, safe_serialization=False
        )
    assert not any(tmp_path.iterdir())


def test_a_model_made_of_a_config_alone_is_not_trained(folder: Path) -> None:
    register()
    config = transformers.AutoConfig.from_pretrained(folder)
    assert isinstance(config, SpaceClipDepthConfig)
    assert config.head["trained_on"]
    assert not transformers.AutoModelForDepthEstimation.from_config(config).head.trained


@pytest.mark.parametrize("missing", [None, "config.json", "model.safetensors"])
def test_the_hosts_own_checkpoint_is_not_replaced(
    model: SpaceClipForDepthEstimation, tmp_path: Path, missing: str | None
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "clip_vision_model"}')
    save_file({"weight": torch.ones(2)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    if missing is not None:
        (tmp_path / missing).unlink()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(CheckpointError, match="model.safetensors" if missing == "config.json" else "config.json"):
        model.save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
