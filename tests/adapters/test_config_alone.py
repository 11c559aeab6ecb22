"""Models built of their configs alone, where what they are part of would download weights for them or run code."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
import transformers
from safetensors import SafetensorError
from tiny_hosts import VISION
from transformers import dynamic_module_utils

from spaceclip_adapters.hosts.config_alone import of_configs_alone
from spaceclip_plugin.errors import HostError

HERE = importlib.import_module(__name__)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A config, and weights that nobody can read."""
    transformers.CLIPVisionConfig(**VISION).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    return tmp_path


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A config that names code beside it."""
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: ...\n")
    names = {"AutoConfig": "evil.Evil", "AutoTokenizer": ["evil.Evil", None]}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": names}))
    return tmp_path


def test_no_weights_are_read(folder: Path) -> None:
    with of_configs_alone(HERE, {}):
        model = transformers.CLIPVisionModel.from_pretrained(folder, low_cpu_mem_usage=True)
    assert len(model.state_dict()) > VISION["num_hidden_layers"]
    assert not model.training


def test_the_auto_classes_too_and_in_the_kind_of_numbers_asked_for(folder: Path) -> None:
    with of_configs_alone(HERE, {}):
        model = transformers.AutoModel.from_pretrained(folder, torch_dtype=torch.bfloat16)
    assert {value.dtype for value in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("auto", [transformers.AutoConfig, transformers.AutoModel])
def test_code_is_refused_where_it_is_asked_for(auto: type, code: Path) -> None:
    with of_configs_alone(HERE, {}), pytest.raises(HostError, match="code comes with its weights"):
        auto.from_pretrained(code, trust_remote_code=True)
    assert not (code / "ran").exists()


@pytest.mark.parametrize("auto", [transformers.AutoTokenizer, transformers.AutoProcessor])
def test_tokenizers_with_code_are_left_out(auto: type, code: Path) -> None:
    with of_configs_alone(HERE, {}):
        assert auto.from_pretrained(code, trust_remote_code=True) is None
    assert not (code / "ran").exists()


def test_a_module_that_reads_weights_by_itself() -> None:
    module = ModuleType("policy")
    module.read = lambda: "weights"
    with of_configs_alone(module, {"read": lambda: None, "not_in_this_version": lambda: None}):
        assert module.read() is None
    assert module.read() == "weights"
    assert not hasattr(module, "not_in_this_version")


def test_all_is_as_it_was_afterwards(folder: Path) -> None:
    def places() -> list[object]:
        autos = (transformers.AutoTokenizer, transformers.AutoProcessor, transformers.PreTrainedModel)
        return [*(vars(owner)["from_pretrained"] for owner in autos), dynamic_module_utils.get_class_in_module]

    def break_off() -> None:
        with of_configs_alone(HERE, {}):
            assert all(new is not old for new, old in zip(places(), before, strict=True))
            raise ZeroDivisionError

    before = places()
    with pytest.raises(ZeroDivisionError):
        break_off()
    assert all(new is old for new, old in zip(places(), before, strict=True))
    with pytest.raises((SafetensorError, OSError)):
        transformers.CLIPVisionModel.from_pretrained(folder)
