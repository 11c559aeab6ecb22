"""A host with two towers asks which is meant, whether adapters know both, one or none; with one it never does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from families import HOSTS
from tiny_hosts import BLOCKS, PATCH, SQUARE, TRANSFORMERS, WIDE, WIDTH, TinyHost
from torch import Tensor, nn

from spaceclip_plugin import attach_depth_head
from spaceclip_plugin.errors import AmbiguousTowerError, TowerNotFoundError
from spaceclip_plugin.towers import registry

CLIP = next(host for host in TRANSFORMERS if host.name == "clip-vision")


class Eye(nn.Module):
    """A tower of no known family."""

    def __init__(self, blocks: int = 2, width: int = 16) -> None:
        super().__init__()
        self.cut = nn.Conv2d(3, width, 8, 8)
        layer = nn.TransformerEncoderLayer(width, 2, 2 * width, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, blocks, enable_nested_tensor=False).layers
        self.norm = nn.LayerNorm(width)

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.cut(pixels).flatten(2).transpose(1, 2)
        for layer in self.layers:
            tokens = layer(tokens)
        return self.norm(tokens)  # type: ignore[no-any-return]


class Pair(nn.Module):
    """Two parts side by side, in either order."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


class Around(Eye):
    """An unknown tower whose own parts lie beside a known one, in the host itself."""

    def __init__(self) -> None:
        super().__init__()
        self.known = CLIP.seeded()


PAIRS: dict[str, Callable[[], nn.Module]] = {
    "known first": lambda: Pair(known=CLIP.seeded(), unknown=Eye()),
    "unknown first": lambda: Pair(unknown=Eye(), known=CLIP.seeded()),
    "as wide as each other": lambda: Pair(known=CLIP.seeded(), unknown=Eye(width=WIDTH)),
    "deeper": lambda: Pair(policy=Pair(known=CLIP.seeded(), wrist=Pair(unknown=Eye()))),
    "around": Around,
}


@pytest.mark.parametrize("name", PAIRS)
class TestOneOfThemUnknown:
    def towers(self, name: str) -> tuple[nn.Module, dict[str, str]]:
        host = PAIRS[name]()
        return host, {tower.spec.adapter: tower.spec.path for tower in registry.find_towers(host)}

    def test_both_are_found(self, name: str) -> None:
        host, towers = self.towers(name)
        assert towers.keys() == {"clip", "structural"}
        assert {type(host.get_submodule(path)).__name__ for path in towers.values()} <= {
            "CLIPVisionModel", "CLIPVisionTransformer", "Eye", "Around",
        }  # fmt: skip

    def test_it_asks_and_names_both(self, name: str) -> None:
        host, towers = self.towers(name)
        with pytest.raises(AmbiguousTowerError, match=r"2 towers.*tower=PATH") as caught:
            attach_depth_head(host)
        for adapter, path in towers.items():
            assert f"adapter {adapter!r}" in str(caught.value)
            assert (repr(path) if path else "the host itself") in str(caught.value)

    def test_either_can_be_chosen(self, name: str) -> None:
        host, towers = self.towers(name)
        for adapter, path in towers.items():
            assert registry.find_tower(host, tower=path).spec.adapter == adapter
        assert registry.find_tower(host, adapter="clip").spec.path == towers["clip"]

    def test_the_unknown_one_is_read(self, name: str) -> None:
        host, towers = self.towers(name)
        host.eval()
        path = towers["structural"]
        with attach_depth_head(host, tower=path) as depth, torch.no_grad():
            eye = host.get_submodule(path)
            assert depth.tower.blocks == 2
            eye(torch.randn(1, 3, 32, 32))
            assert len(depth.read((8, 8))) == 1


def test_none_is_at_that_path() -> None:
    with pytest.raises(TowerNotFoundError, match=r"'unknwon'.*'unknown'"):
        registry.find_tower(PAIRS["known first"](), tower="unknwon")


def test_two_unknown_ones() -> None:
    with pytest.raises(AmbiguousTowerError, match=r"'left'.*'right'"):
        registry.find_tower(Pair(left=Eye(), right=Eye()))


def test_one_tower_in_two_places_is_one() -> None:
    eye, known = Eye(), CLIP.seeded()
    assert len(registry.find_towers(Pair(a=eye, b=eye))) == 1
    assert len(registry.find_towers(Pair(a=known, b=known))) == 1


@pytest.mark.parametrize("host", HOSTS, ids=lambda host: host.name)
def test_a_host_with_one_tower_has_one(host: TinyHost) -> None:
    [tower] = registry.find_towers(host.seeded())
    assert tower.spec.adapter == host.adapter


class Resampler(nn.Module):
    """A stack of blocks without an eye of its own, as wide as the tower before it: a Q-Former, an action expert."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 64, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False).layers
        self.queries = nn.Parameter(torch.zeros(4, WIDTH))


@pytest.mark.parametrize("beside", [Resampler, lambda: nn.TransformerEncoder(
    nn.TransformerEncoderLayer(WIDTH, 4, 64, batch_first=True), 5, enable_nested_tensor=False)])  # fmt: skip
@pytest.mark.parametrize("known", [host for host in HOSTS if host.path == ""], ids=lambda host: host.name)
def test_other_stacks_are_no_towers(known: TinyHost, beside: Callable[[], nn.Module]) -> None:
    [tower] = registry.find_towers(Pair(vision=known.seeded(), other=beside()))
    assert tower.spec.adapter == known.adapter


def test_two_known_ones_are_as_before() -> None:
    shape: dict[str, Any] = {"img_size": WIDE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": BLOCKS, "num_heads": 4}
    host = Pair(clip=CLIP.seeded(), timm=timm.create_model("vit_tiny_patch16_224", pretrained=False, **shape))
    assert [tower.spec.adapter for tower in registry.find_towers(host)] == ["clip", "timm-vit"]
    assert SQUARE != WIDE
