"""A head knows the tower it was trained on: other weights are said, refused or ignored, and the same ones never."""

from __future__ import annotations

import copy
import dataclasses
import functools
import logging
from collections.abc import Callable

import pytest
import torch
from clip_world import SMALL, clip_host, hook_count, images
from llava_world import llava_host
from torch import nn
from trained_heads import matched, moved, trained_on

from spaceclip_plugin import attach_depth_head
from spaceclip_plugin.attach.tower_match import MAX_DISTANCE, MAX_ROUNDED, OTHER, SAME, UNKNOWN
from spaceclip_plugin.errors import ConfigError, HeadMismatchError
from spaceclip_plugin.towers import registry


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def tower_of(host: nn.Module) -> registry.Tower:
    return registry.find_tower(host)


class TestTheSame:
    def test_it_is_found_the_same(self) -> None:
        match = matched(clip_host(), trained_on(clip_host()))
        assert (match.verdict, match.distance, match.adapted, match.reason) == (SAME, 0.0, (), None)
        assert [part.part for part in match.distances] == ["input", "block 1", "block 2", "block 3"]

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_in_another_dtype(self, dtype: torch.dtype) -> None:
        match = matched(clip_host().to(dtype), trained_on(clip_host()))
        assert match.verdict == SAME
        assert match.distance is not None
        assert match.distance < MAX_ROUNDED / 1.5 if dtype == torch.float16 else match.distance == 0.0

    @pytest.mark.parametrize("ours", [torch.bfloat16, torch.float16])
    def test_trained_in_half_precision(self, ours: torch.dtype) -> None:
        head = trained_on(clip_host().to(ours))
        assert [matched(clip_host().to(d), head).verdict for d in (torch.float32, torch.bfloat16, torch.float16)] == [
            SAME
        ] * 3

    def test_rounded_to_float16_and_kept_in_float32(self) -> None:
        rounded = clip_host().half().float()
        assert matched(rounded, trained_on(clip_host())).verdict == SAME
        assert matched(clip_host(), trained_on(rounded)).verdict == SAME
        assert matched(clip_host().half(), trained_on(rounded)).distance == 0.0
        moved(tower_of(rounded).blocks[1], 0.01)
        assert matched(rounded, trained_on(clip_host())).verdict == OTHER

    def test_inside_another_host(self) -> None:
        inside = llava_host()
        head = trained_on(copy.deepcopy(tower_of(inside).module))
        assert matched(inside, head).distance == 0.0

    def test_whatever_lies_behind_what_the_head_reads(self) -> None:
        host = clip_host()
        head = trained_on(host, architecture="tap-mixer", taps=(1, 2), channels=(4, 4), attention=0,
                          convolutions=(0, 0))  # fmt: skip
        moved(tower_of(host).blocks[2], 0.5)
        moved(tower_of(host).module.get_submodule("post_layernorm"), 0.5)
        assert matched(host, head).distance == 0.0

    def test_saved_and_loaded(self) -> None:
        host, other = clip_host(), clip_host()
        moved(other, 0.3)
        other.load_state_dict(host.state_dict())
        assert matched(other, trained_on(host)).distance == 0.0

    @pytest.mark.parametrize("way", [functools.partial(torch.compile, backend="eager"), nn.DataParallel])
    def test_in_a_wrapper(self, way: Callable[[nn.Module], nn.Module]) -> None:
        assert matched(way(clip_host()), trained_on(clip_host())).distance == 0.0

    def test_nothing_is_said(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.DEBUG), attach_depth_head(clip_host(), trained_on(clip_host())) as depth:
            assert depth.tower_match is not None
            assert depth.tower_match.verdict == SAME
        assert warnings(caplog) == []

    def test_another_size_of_image_has_other_positions(self) -> None:
        match = matched(clip_host(image_size=64), trained_on(clip_host()))
        blocks = [part.distance for part in match.distances if part.part.startswith("block")]
        assert len(blocks) == 3  # of other weights here, but compared: positions alone are left out
        resized = clip_host(image_size=64)
        own = {k: v for k, v in clip_host().state_dict().items() if "position" not in k}
        resized.load_state_dict(own, strict=False)
        assert matched(resized, trained_on(clip_host())).verdict == SAME


class TestAnother:
    @pytest.mark.parametrize("by", [0.01, 0.03, 0.3])
    def test_fine_tuned(self, by: float) -> None:
        host, head = clip_host(), trained_on(clip_host())
        moved(host, by)
        match = matched(host, head)
        assert match.verdict == OTHER
        assert {part.part for part in match.distances if part.distance > MAX_DISTANCE} == {
            "input", "block 1", "block 2", "block 3",
        }  # fmt: skip
        matrices = [part.distance for part in match.distances if part.kind == "matrices"]
        assert all(by / 2 < distance < 2 * by for distance in matrices)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_far_less_than_a_cast_moves_is_noticed(self, dtype: torch.dtype) -> None:
        """A few steps of an optimizer move weights by less than rounding does, and activations by far more."""
        host, head = clip_host(), trained_on(clip_host())
        moved(host, 0.0003)
        assert matched(host.to(dtype), head).verdict == OTHER

    def test_one_step_of_an_optimizer_is_noticed(self) -> None:
        host, head = clip_host(), trained_on(clip_host())
        optimizer = torch.optim.AdamW(host.parameters(), lr=1e-5)
        host(images(1)).last_hidden_state.square().mean().backward()
        optimizer.step()
        match = matched(host, head)
        assert match.verdict == OTHER
        assert match.distance is not None
        assert MAX_DISTANCE < match.distance < 0.02

    def test_of_another_seed(self) -> None:
        host = clip_host()
        for part in host.modules():
            if hasattr(part, "reset_parameters"):
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(9)
                    part.reset_parameters()
        match = matched(host, trained_on(clip_host()))
        assert match.verdict == OTHER
        assert match.distance is not None
        assert match.distance > 0.9

    @pytest.mark.parametrize(
        ("part", "where"),
        [
            ("embeddings.patch_embedding", "input"),
            ("embeddings.position_embedding", "input"),
            ("pre_layrnorm", "input"),
            ("encoder.layers.1.layer_norm2", "block 2"),
            ("encoder.layers.0.mlp.fc1", "block 1"),
            ("encoder.layers.2.self_attn.v_proj", "block 3"),
        ],
    )
    def test_one_part_alone_shows_and_no_other(self, part: str, where: str) -> None:
        host, head = clip_host(), trained_on(clip_host())
        moved(tower_of(host).module.get_submodule(part), 0.2)
        match = matched(host, head)
        assert [part.part for part in match.distances if part.distance > MAX_DISTANCE] == [where]

    def test_a_class_token(self) -> None:
        host, head = clip_host(), trained_on(clip_host())
        with torch.no_grad():
            tower_of(host).module.get_parameter("embeddings.class_embedding").add_(1.0)
        assert matched(host, head).verdict == OTHER

    def test_what_gives_the_context_counts_where_it_is_read(self) -> None:
        host = clip_host()
        with_context, without = trained_on(host, **SMALL), trained_on(host)
        moved(tower_of(host).module.get_submodule("post_layernorm"), 0.2)
        assert matched(host, without).verdict == SAME
        match = matched(host, with_context)
        assert [part.part for part in match.distances if part.distance > MAX_DISTANCE] == ["context"]

    def test_one_warning_names_the_tower_and_the_distance(self, caplog: pytest.LogCaptureFixture) -> None:
        host, head = clip_host(), trained_on(clip_host())
        moved(host, 0.05)
        with attach_depth_head(host, head) as depth:
            [message] = warnings(caplog)
            assert depth.tower_match is not None
            high = max(depth.tower_match.distances, key=lambda part: part.distance)
        assert "timm:the_one" in message
        assert "blocks 1 to 3" in message
        assert "--other-tower ignore" in message
        assert f"{100 * high.distance:.2g} %" in message
        assert high.part in message

    def test_an_error_leaves_the_host_alone(self) -> None:
        host, head = clip_host(), trained_on(clip_host())
        moved(host, 0.05)
        with pytest.raises(HeadMismatchError, match=r"timm:the_one.*blocks 1 to 3"):
            attach_depth_head(host, head, other_tower="error")
        assert hook_count(host) == 0

    def test_ignored_it_is_not_looked_at(self, caplog: pytest.LogCaptureFixture) -> None:
        host, head = clip_host(), trained_on(clip_host())
        moved(host, 0.05)
        with attach_depth_head(host, head, other_tower="ignore") as depth:
            assert depth.tower_match is None
        assert warnings(caplog) == []

    def test_another_choice(self) -> None:
        with pytest.raises(ConfigError, match=r"other_tower must be one of warn, error, ignore, got 'eror'.*'error'"):
            attach_depth_head(clip_host(), trained_on(clip_host()), other_tower="eror")


class TestUnknown:
    def test_a_head_without_fingerprint_says_so_quietly(self, caplog: pytest.LogCaptureFixture) -> None:
        head = trained_on(clip_host(), known=False)
        with caplog.at_level(logging.INFO), attach_depth_head(clip_host(), head, other_tower="error") as depth:
            assert depth.tower_match is not None
            assert (depth.tower_match.verdict, depth.tower_match.distance) == (UNKNOWN, None)
        [record] = [r for r in caplog.records if "tower_match" in r.name]
        assert record.levelno == logging.INFO
        assert "no fingerprint" in record.getMessage()

    def test_an_untrained_head_says_nothing(self, caplog: pytest.LogCaptureFixture) -> None:
        head = trained_on(clip_host(), known=False)
        head.config = dataclasses.replace(head.config, trained_on=None)
        with caplog.at_level(logging.INFO), attach_depth_head(clip_host(), head):
            assert [r for r in caplog.records if "tower_match" in r.name] == []

    @pytest.mark.parametrize(
        ("spoil", "reason"),
        [
            (lambda fc1: fc1.to("meta"), "meta device"),
            (lambda fc1: setattr(fc1, "weight", nn.Parameter(fc1.weight.to(torch.int8), False)), "int8|quantised"),
            (lambda fc1: nn.init.constant_(fc1.weight, float("nan")), "NaN"),
            (lambda fc1: setattr(fc1, "weight", nn.Parameter(torch.empty(0))), "holds no data"),
        ],
        ids=["meta", "int8", "nan", "empty"],
    )
    def test_what_cannot_be_read_is_said_once(self, spoil, reason: str, caplog: pytest.LogCaptureFixture) -> None:
        host, head = clip_host(), trained_on(clip_host())
        spoil(tower_of(host).blocks[1].mlp.fc1)
        with attach_depth_head(host, head, other_tower="error") as depth:
            assert depth.tower_match is not None
            assert depth.tower_match.verdict == UNKNOWN
            assert len(depth.tower_match.distances) == 3  # the others were compared
        [message] = warnings(caplog)
        assert "block 2" in message
        assert any(word in message for word in reason.split("|"))

    def test_what_can_be_read_still_speaks(self) -> None:
        host, head = clip_host(), trained_on(clip_host())
        tower_of(host).blocks[1].mlp.fc1.to("meta")
        moved(tower_of(host).blocks[0], 0.1)
        assert matched(host, head).verdict == OTHER


@pytest.mark.filterwarnings("ignore")  # torch means to remove it, and says so
def test_torchs_own_quantisation_cannot_be_read() -> None:
    quantised = torch.ao.quantization.quantize_dynamic(clip_host(), {nn.Linear}, dtype=torch.qint8)  # type: ignore
    match = matched(quantised, trained_on(clip_host()))
    assert match.verdict == UNKNOWN
    assert "quantised" in str(match)


def test_nothing_of_the_host_moves() -> None:
    from spaceclip_plugin._digest import module_digest

    host, head = clip_host().train(), trained_on(clip_host())
    before, state = module_digest(host), torch.random.get_rng_state()
    matched(host, head)
    assert module_digest(host) == before
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(part.training for part in host.modules())
