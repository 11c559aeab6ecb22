"""What others add to a tower without PEFT: noticed where it does something, with and without a fingerprint."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import pytest
import torch
from clip_world import clip_host
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from trained_heads import matched, trained_on

from spaceclip_plugin import attach_depth_head
from spaceclip_plugin.attach.tower_match import OTHER, SAME, foreign_hooks
from spaceclip_plugin.towers import registry


class LinearWithFactors(nn.Linear):
    """As loralib writes it: parameters of a subclass."""

    def __init__(self, layer: nn.Linear, *, active: bool) -> None:
        super().__init__(layer.in_features, layer.out_features)
        self.weight, self.bias = layer.weight, layer.bias
        self.lora_A = nn.Parameter(0.1 * torch.ones(2, layer.in_features))
        self.lora_B = nn.Parameter(0.1 * torch.ones(layer.out_features, 2) * active)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x @ self.lora_A.T @ self.lora_B.T


class WrappedLinear(nn.Module):
    """Two thin layers beside the linear one."""

    def __init__(self, layer: nn.Linear, *, active: bool) -> None:
        super().__init__()
        self.layer = layer
        self.down, self.up = nn.Linear(layer.in_features, 2, bias=False), nn.Linear(2, layer.out_features, bias=False)
        nn.init.constant_(self.down.weight, 0.1)
        nn.init.constant_(self.up.weight, 0.1 * active)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.up(self.down(x))  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """Houlsby's: behind the whole MLP."""

    def __init__(self, inner: nn.Module, *, active: bool) -> None:
        super().__init__()
        self.inner, self.down, self.up = inner, nn.Linear(32, 4), nn.Linear(4, 32)
        nn.init.constant_(self.up.weight, 0.1 * active)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        return y + self.up(torch.relu(self.down(y)))  # type: ignore[no-any-return]


class Film(nn.Module):
    """OpenVLA-OFT's: scale and shift from the language, around a block."""

    def __init__(self, block: nn.Module, *, active: bool) -> None:
        super().__init__()
        self.block, self.scale, self.shift = block, nn.Linear(48, 32), nn.Linear(48, 32)
        for layer in (self.scale, self.shift):
            nn.init.constant_(layer.weight, 0.1 * active)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        return self.block(x, *args, **kwargs)  # type: ignore[no-any-return]


class LowRank(nn.Module):
    """A parametrization."""

    def __init__(self, *, active: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(0.1 * torch.ones(32, 2)), nn.Parameter(0.1 * torch.ones(2, 32) * active)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.a @ self.b


def block_of(host: nn.Module) -> nn.Module:
    return registry.find_tower(host).blocks[1]


def with_parameters(host: nn.Module, *, active: bool) -> None:
    block_of(host).mlp.fc1 = LinearWithFactors(block_of(host).mlp.fc1, active=active)  # type: ignore


def with_wrapper(host: nn.Module, *, active: bool) -> None:
    block_of(host).mlp.fc1 = WrappedLinear(block_of(host).mlp.fc1, active=active)  # type: ignore


def with_bottleneck(host: nn.Module, *, active: bool) -> None:
    block_of(host).mlp = Bottleneck(block_of(host).mlp, active=active)  # type: ignore


def with_parametrization(host: nn.Module, *, active: bool) -> None:
    parametrize.register_parametrization(block_of(host).self_attn.q_proj, "weight", LowRank(active=active))  # type: ignore


def with_film(host: nn.Module, *, active: bool) -> None:
    [stack] = [m for m in host.modules() if isinstance(m, nn.ModuleList) and len(m) == 3]
    stack[1] = Film(stack[1], active=active)


WAYS = (with_parameters, with_wrapper, with_bottleneck, with_parametrization, with_film)


@pytest.mark.parametrize("way", WAYS)
class TestEveryWay:
    def test_one_that_does_something(self, way: Callable[..., None]) -> None:
        host = clip_host()
        way(host, active=True)
        known, unknown = matched(host, trained_on(clip_host())), matched(host, trained_on(clip_host(), known=False))
        assert known.verdict == OTHER or known.adapted == (2,)
        assert unknown.adapted == (2,)

    def test_one_that_does_nothing_yet(self, way: Callable[..., None]) -> None:
        host = clip_host()
        way(host, active=False)
        assert matched(host, trained_on(clip_host(), known=False)).adapted == ()
        if way is not with_film:  # its matrices are no factors: by weights alone it is another block
            match = matched(host, trained_on(clip_host()))
            assert (match.verdict, match.distance, match.adapted) == (SAME, 0.0, ())

    def test_it_is_warned_of(self, way: Callable[..., None], caplog: pytest.LogCaptureFixture) -> None:
        host = clip_host()
        way(host, active=True)
        for known in (True, False):
            caplog.clear()
            with attach_depth_head(host, trained_on(clip_host(), known=known)):
                [message] = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
            assert "block" in message
            assert "2" in message


def test_more_weights_are_counted() -> None:
    host = clip_host()
    with_film(host, active=True)
    match = matched(host, trained_on(clip_host()))
    assert [part.added for part in match.distances] == [0, 0, 2 * 48 * 32, 0]
    assert "3072 weights were added" in str(match)


def test_weight_norm_is_the_same_weight() -> None:
    new, old = clip_host(), clip_host()
    torch.nn.utils.parametrizations.weight_norm(block_of(new).self_attn.q_proj)  # type: ignore
    with pytest.warns((FutureWarning, UserWarning)):  # the second before torch 2.5
        torch.nn.utils.weight_norm(block_of(old).self_attn.q_proj)  # type: ignore
    for host in (new, old):
        match = matched(host, trained_on(clip_host()))
        assert (match.verdict, match.adapted) == (SAME, ())


def test_pruned_weights_are_those_that_are_left() -> None:
    host = clip_host()
    prune.l1_unstructured(block_of(host).self_attn.q_proj, "weight", amount=0.0)
    assert matched(host, trained_on(clip_host())).verdict == SAME
    prune.l1_unstructured(block_of(host).self_attn.q_proj, "weight", amount=0.5)
    match = matched(host, trained_on(clip_host()))
    assert (match.verdict, match.reason) == (OTHER, None)


class TestHooks:
    seen: list[object] = []  # noqa: RUF012 - what hooks wrote

    def test_one_that_may_change_the_output_is_warned_of(self, caplog: pytest.LogCaptureFixture) -> None:
        host = clip_host()
        block_of(host).register_forward_hook(lambda _module, _inputs, output: output)
        with attach_depth_head(host, trained_on(clip_host())):
            [message] = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
        assert "test_one_that_may_change_the_output" in message

    def test_those_that_return_nothing_are_not(self) -> None:
        def note(_module: nn.Module, _inputs: object, output: object, place: str = "") -> None:
            if place:
                self.seen.append(place)
                return
            self.seen.append(output)

        host = clip_host()
        block_of(host).register_forward_hook(note)
        block_of(host).register_forward_hook(functools.partial(note, place="here"))
        assert foreign_hooks(block_of(host)) == []

    def test_our_own_are_not(self) -> None:
        host = clip_host()
        with attach_depth_head(host, trained_on(clip_host())):
            assert [foreign_hooks(block) for block in registry.find_tower(host).blocks] == [[], [], []]

    def test_a_hook_of_any_shape_is_named(self) -> None:
        class Steer:
            def __call__(self, _module: nn.Module, _inputs: object, output: object) -> object:
                return output

            def method(self, _module: nn.Module, _inputs: object) -> object:
                return _inputs

        host = clip_host()
        block_of(host).mlp.register_forward_hook(Steer())  # type: ignore
        block_of(host).mlp.register_forward_pre_hook(Steer().method)  # type: ignore
        names = foreign_hooks(block_of(host))
        assert [name.rpartition(".")[2] for name in names] == ["method", "__call__"]
