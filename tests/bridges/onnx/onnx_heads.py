"""Small heads whose depth varies, for ONNX files, and an export without the conversion."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from spaceclip_plugin import DepthHead, DepthHeadConfig
from spaceclip_plugin.bridges.onnx import export
from spaceclip_plugin.head.architectures import ARCHITECTURES
from spaceclip_plugin.head.familiarity import Familiarity

WIDTH = 8
SMALL: dict[str, dict[str, Any]] = {  # other architectures: their defaults
    "space-clip": {"channels": (6, 4), "semantic_taps": (5, 3), "structural_taps": (1, 0), "film_hidden": 7},
    "tap-mixer": {"taps": (1, 3, 6), "channels": (48, 6), "convolutions": (1, 1), "attention": 1, "pixels": 4},
}
EMPTY: dict[str, Any] = {"taps": (1, 6), "channels": (6,), "convolutions": (1,), "empty": True}


def half_empty(head: DepthHead) -> DepthHead:
    """The head, saying of about half of all pixels that nothing is there."""
    with torch.no_grad():
        head.decoder.emptiness.bias.zero_()
    return head


def knowing(head: DepthHead) -> DepthHead:
    """The head, having learnt what is familiar from random tokens."""
    tokens = torch.randn(200, 2, WIDTH, generator=torch.Generator().manual_seed(5))
    head.familiarity = Familiarity.learnt(tokens, tap=3)
    return head


def small_head(architecture: str = "space-clip", *, seed: int = 0, config: Any = None, **options: Any) -> DepthHead:
    """A head whose depth varies: batch norms as after training."""
    kind = ARCHITECTURES[architecture].options
    chosen = dataclasses.replace(kind.for_blocks(6), **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = DepthHead(DepthHeadConfig(architecture, chosen, **{"width": WIDTH, "blocks": 6, **(config or {})}))
        for module in head.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean = torch.randn_like(module.running_mean) / 4
                module.running_var = torch.rand_like(module.running_var) / 8 + 0.01
    return head.eval()


@pytest.fixture
def instant(monkeypatch: pytest.MonkeyPatch) -> list[DepthHead]:
    """Without the conversion, for what happens around it: a file of one graph without nodes. Lists what came there."""
    seen: list[DepthHead] = []

    onnx = pytest.importorskip("onnx", reason="needs the packages of the extra `export`")

    def empty(head: DepthHead, size: object, scale: float) -> Any:
        seen.append(head)
        value = onnx.helper.make_tensor_value_info("depth_m", onnx.TensorProto.FLOAT, ["batch", "h", "w"])
        return onnx.helper.make_model(onnx.helper.make_graph([], "empty", [value], [value]))

    monkeypatch.setattr(export, "_converted", empty)
    return seen
