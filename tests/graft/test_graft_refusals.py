"""What a graft refuses, and that a refusal leaves the policy as it was; its file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from small_world import tiny_mixer
from tiny_vla import LENSES, TinyVla, attached, observation, opened, tiny_vla
from torch import nn

from spaceclip_plugin.attach import DepthAttachment, UnreadFrames
from spaceclip_plugin.errors import CaptureError, CheckpointError, ConfigError, HeadMismatchError, HostError
from spaceclip_plugin.graft import DepthGraft, GraftConfig


def hooks_of(policy: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in policy.expert.modules())


# --- blocks and cameras ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"blocks": ["expert.1.mpl"]}, HostError, r"did you mean 'expert\.\d\.mlp'"),
        ({"blocks": ["expert.1.mlp.1"]}, HostError, "no linear layer"),
        ({"blocks": 4}, ConfigError, "blocks must be an integer from 1 to 3"),
        ({"blocks": []}, ConfigError, "blocks must be 1 to"),
        ({"frame": "base"}, ConfigError, "frame must be one of camera, placed, image"),
        ({"width": 100}, ConfigError, "multiple of 32"),
        ({"dropout": 1.0}, ConfigError, "dropout"),
    ],
)
def test_what_cannot_be_made(
    policy: TinyVla, depth: DepthAttachment, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        DepthGraft.for_policy(policy, depth, **options)


def test_no_expert_or_several(policy: TinyVla, depth: DepthAttachment) -> None:
    policy.second_expert = nn.ModuleList(policy.expert)
    with pytest.raises(ConfigError, match=r"several may be \(expert, second_expert\).*blocks=\["):
        DepthGraft.for_policy(policy, depth)
    del policy.second_expert
    policy.blocks, policy.expert = policy.expert, nn.ModuleList()
    with pytest.raises(ConfigError, match="none bears the name"):
        DepthGraft.for_policy(policy, depth)


def test_cameras_have_names_and_lenses(policy: TinyVla) -> None:
    with pytest.raises(ConfigError, match="by name"):
        DepthGraft.for_policy(policy, attached(policy, cameras=None))
    depth = attached(policy, cameras=[*LENSES])
    graft = DepthGraft.for_policy(policy, depth)
    with graft.attach(policy, depth), pytest.raises(CaptureError, match=r"lens of camera 'front'.*frame='image'"):
        policy(*observation())
    graft = opened(DepthGraft.for_policy(policy, depth, frame="image"))
    before = policy(*observation())
    depth.skip()
    with graft.attach(policy, depth):
        assert not torch.equal(policy(*observation()), before)
    with pytest.raises(ConfigError, match="reads the cameras front, wrist"):
        graft.attach(policy, attached(policy, cameras=["front", "left"]))


def test_places(policy: TinyVla, depth: DepthAttachment) -> None:
    with pytest.raises(ConfigError, match="'camera' frame and takes none"):
        DepthGraft.for_policy(policy, depth).attach(policy, depth, places={"front": torch.eye(4)})
    graft = DepthGraft.for_policy(policy, depth, frame="placed")
    for places, said in (({"frnt": torch.eye(4)}, "did you mean 'front'"), ({"front": torch.ones(4, 4)}, "rigid")):
        with pytest.raises(ConfigError, match=said):
            graft.attach(policy, depth, places=places)
    assert hooks_of(policy) == 0
    three = dict.fromkeys(LENSES, torch.eye(4).expand(3, 4, 4))
    with graft.attach(policy, depth, places=three), pytest.raises(CaptureError, match="'front' were told, of 2 images"):
        policy(*observation())


# --- another host or head -------------------------------------------------------------------------------------------


def test_another_head_or_host(policy: TinyVla, depth: DepthAttachment) -> None:
    graft = DepthGraft.for_policy(policy, depth)
    other_head = tiny_mixer(policy.tower)
    nn.init.normal_(next(other_head.parameters()))
    with pytest.raises(HeadMismatchError, match="another head"):
        graft.attach(policy, attached(policy, head=other_head))
    expert = tiny_vla()
    nn.init.normal_(expert.expert[1].mlp[0].weight)
    with pytest.raises(HeadMismatchError, match=r"another TinyVla.*other weights"):
        graft.attach(expert, attached(expert))
    tower = tiny_vla()
    nn.init.normal_(tower.tower.blocks[0].mlp.fc1.weight)
    with pytest.raises(HeadMismatchError, match="another tower"):
        graft.attach(tower, attached(tower))
    with pytest.raises(HostError, match="does not hold"):
        graft.attach(tiny_vla(), depth)
    with pytest.raises(ConfigError, match="attach_depth_head"):
        graft.attach(policy, policy)  # type: ignore[arg-type]
    for one in (policy, expert, tower):
        assert hooks_of(one) == 0
    policy.to(torch.bfloat16)  # a cast makes no other host
    graft.attach(policy, depth).close()


def test_states_that_it_cannot_start_in(policy: TinyVla, depth: DepthAttachment) -> None:
    graft = DepthGraft.for_policy(policy, depth, blocks=2)
    with graft.attach(policy, depth), pytest.raises(HostError, match="another graft is on 'expert"):
        DepthGraft.for_policy(policy, depth).attach(policy, depth)
    assert hooks_of(policy) == 0
    policy(*observation())
    with pytest.raises(ConfigError, match=r"2 frame\(s\) wait"):
        graft.attach(policy, depth)
    depth.close()
    with pytest.raises(ConfigError, match="closed"):
        graft.attach(policy, depth)


# --- forwards that cannot be ----------------------------------------------------------------------------------------


def test_forwards_that_cannot_be(policy: TinyVla, depth: DepthAttachment) -> None:
    graft = DepthGraft.for_policy(policy, depth)
    images, noise = observation()
    with graft.attach(policy, depth):
        with pytest.raises(CaptureError, match="before the tower of this policy did"):
            policy.expert[0](noise.new_zeros(2, 4, 16))
        policy(images, noise)
        with pytest.raises(CaptureError, match=r"batch of 3 .*2 image\(s\) of each camera"):
            policy.expert[0](noise.new_zeros(3, 4, 16))
        with pytest.raises(CaptureError, match="three axes"):
            policy.expert[0](noise.new_zeros(2, 16))
        policy.tower(images["front"])
        policy.tower(images["wrist"][:1])
        with pytest.raises(CaptureError, match=r"\[1, 2\] images"):
            policy.expert[0](noise.new_zeros(2, 4, 16))
        with pytest.raises(CaptureError, match="before the tower"):  # nothing goes on with what was
            policy.expert[0](noise.new_zeros(2, 4, 16))
        policy(images, noise)
        depth.close()
        with pytest.raises(ConfigError, match="closed"):
            policy(images, noise)
    policy(images, noise)


def test_a_failed_forward_is_not_mixed_into_the_next(policy: TinyVla, depth: DepthAttachment) -> None:
    images, noise = observation()
    graft = DepthGraft.for_policy(policy, depth)
    with graft.attach(policy, depth) as live:
        for image in images.values():  # and then something failed
            policy.tower(image)
        with pytest.raises(CaptureError, match="failed half way"):
            policy(images, noise)
        policy(images, noise)
        assert len(live.depth) == 2


def test_no_camera_is_lost_unseen(policy: TinyVla) -> None:
    depth = attached(policy, unread=UnreadFrames(max_frames=1))
    graft = DepthGraft.for_policy(policy, depth)
    with graft.attach(policy, depth), pytest.raises(CaptureError, match=r"1 image call\(s\).*UnreadFrames"):
        policy(*observation())


def test_blocks_that_give_no_tensor(policy: TinyVla, depth: DepthAttachment) -> None:
    policy.expert[0].mlp.register_forward_hook(lambda _module, _args, output: (output,))
    graft = DepthGraft.for_policy(policy, depth)
    with graft.attach(policy, depth), pytest.raises(CaptureError, match="gives tuple"):
        policy(*observation())


# --- its file -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frame", ["camera", "image"])
def test_a_saved_graft_acts_the_same(policy: TinyVla, depth: DepthAttachment, tmp_path: Path, frame: str) -> None:
    graft = opened(DepthGraft.for_policy(policy, depth, frame=frame)).eval()
    with graft.attach(policy, depth):
        before = policy(*observation())
    graft.save_pretrained(tmp_path / "graft")
    again = DepthGraft.from_pretrained(tmp_path / "graft")
    assert again.config == graft.config
    assert not again.training
    with again.attach(policy, depth):
        assert torch.equal(policy(*observation()), before)


def test_a_file_that_is_none(policy: TinyVla, depth: DepthAttachment, tmp_path: Path) -> None:
    graft = DepthGraft.for_policy(policy, depth)
    with pytest.raises(CheckpointError, match="cannot read"):
        DepthGraft.from_pretrained(tmp_path)
    path = graft.save_pretrained(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="damaged"):
        DepthGraft.from_pretrained(tmp_path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError):
        DepthGraft.from_pretrained(tmp_path)
    nn.init.constant_(graft.encoder.look.weight, float("nan"))
    path.write_bytes(whole)
    with pytest.raises(CheckpointError, match="NaN"):
        graft.save_pretrained(tmp_path)
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"width": 64}, "the config calls for"),
        ({"width": 1 << 20}, "width must be"),
        ({"cells": 9}, "unknown key 'cells'"),
        ({"frame": None}, "frame must be"),
        ({"blocks": ["expert.0.mlp"]}, "widths must be"),
        ({"tower_fingerprint": []}, "tower_fingerprint must be"),
    ],
)
def test_a_config_that_is_not_its_weights(
    policy: TinyVla, depth: DepthAttachment, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    path = DepthGraft.for_policy(policy, depth).save_pretrained(tmp_path)
    with safe_open(path, "pt") as file:
        note = json.loads(file.metadata()["spaceclip-graft"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    note["config"] = json.dumps({**json.loads(note["config"]), **change})
    save_file(tensors, path, metadata={"spaceclip-graft": json.dumps(note)})
    with pytest.raises(CheckpointError, match=said):
        DepthGraft.from_pretrained(tmp_path)


def test_a_config_is_what_it_says(policy: TinyVla, depth: DepthAttachment) -> None:
    config = DepthGraft.for_policy(policy, depth).config
    assert GraftConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config.tower_fingerprint is not None
