"""Hosts of transformers from the Hub: weights, commit and the image processor beside them, then all from the cache."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
import transformers.utils.hub
from local_hub import LocalHub
from safetensors.torch import load_file

from spaceclip_plugin.errors import HostError
from spaceclip_plugin.towers.hosts import load_host, revision_of
from spaceclip_plugin.towers.registry import find_tower

REPO = "org/tiny-vit"
OWN = {"image_mean": [0.11, 0.22, 0.33], "image_std": [0.44, 0.55, 0.66]}
Setting = Callable[[str, object], None]


@pytest.fixture(autouse=True)
def _transformers_cache(hub: LocalHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Older versions of transformers copy where the cache is when they are imported."""
    for name in ("TRANSFORMERS_CACHE", "PYTORCH_TRANSFORMERS_CACHE", "PYTORCH_PRETRAINED_BERT_CACHE", "HF_HUB_CACHE"):
        if hasattr(transformers.utils.hub, name):
            monkeypatch.setattr(transformers.utils.hub, name, str(tmp_path / "hf_home" / "hub"))
    if hasattr(transformers.utils.hub, "_is_offline_mode"):
        monkeypatch.setattr(transformers.utils.hub, "_is_offline_mode", False)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("vit")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.ViTConfig(**sizes, image_size=32, patch_size=16)
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_processor_of_the_repository_decides_offline_too(
    hub: LocalHub, files: dict[str, bytes], client_setting: Setting, tmp_path: Path
) -> None:
    commit = hub.commit(REPO, {**files, "preprocessor_config.json": json.dumps(OWN).encode()})
    host = load_host(f"hf:{REPO}")
    hub.stop()
    client_setting("HF_HUB_OFFLINE", True)
    again = load_host(f"hf:{REPO}")
    for found in (host, again):
        spec = find_tower(found).spec
        assert (spec.image_mean, spec.image_std) == ((0.11, 0.22, 0.33), (0.44, 0.55, 0.66))
        assert revision_of(found) == commit
    (tmp_path / "w.safetensors").write_bytes(files["model.safetensors"])
    saved = load_file(tmp_path / "w.safetensors")
    name = "embeddings.cls_token"
    assert torch.equal(host.state_dict()[name], saved[name])


def test_a_composite_processor(hub: LocalHub, files: dict[str, bytes]) -> None:
    composite = {"processor_class": "SomeProcessor", "image_processor": OWN}
    hub.commit(REPO, {**files, "processor_config.json": json.dumps(composite).encode()})
    assert find_tower(load_host(f"hf:{REPO}")).spec.image_mean == (0.11, 0.22, 0.33)


def test_a_repository_without_one(hub: LocalHub, files: dict[str, bytes], caplog: pytest.LogCaptureFixture) -> None:
    hub.commit(REPO, files)
    assert find_tower(load_host(f"hf:{REPO}")).spec.image_mean == (0.5, 0.5, 0.5)
    assert "its image processor is not known (none lies beside its weights)" in caplog.text


def test_pickle_alone_is_refused(hub: LocalHub, files: dict[str, bytes]) -> None:
    hub.commit(REPO, {"config.json": files["config.json"], "pytorch_model.bin": b"pickle"})
    with pytest.raises(HostError, match="no safetensors weights could be loaded"):
        load_host(f"hf:{REPO}")
    assert not any(request.path.endswith(".bin") and request.method == "GET" for request in hub.requests)
