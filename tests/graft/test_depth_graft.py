"""A graft on a tiny policy: the same bits until it learns, depth in its actions then, and the policy untouched."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from heads_that_tell import telling
from small_world import tiny_mixer
from tiny_vla import LENSES, TinyVla, attached, observation, opened
from torch import Tensor

from spaceclip_plugin._digest import module_digest
from spaceclip_plugin.attach import DepthAttachment
from spaceclip_plugin.errors import CaptureError
from spaceclip_plugin.graft import DepthGraft
from spaceclip_plugin.graft.bank import _pooled
from spaceclip_plugin.graft.layers import add_exactly


def plain(policy: TinyVla, seed: int = 0) -> Tensor:
    """What the policy does, without depth."""
    torch.manual_seed(5)
    return policy(*observation(seed=seed))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("mode", [nullcontext, torch.no_grad, torch.inference_mode])
def test_a_fresh_graft_changes_no_bit(policy: TinyVla, mode: Callable[[], Any], training: bool) -> None:
    policy.train(training)
    before, depth = plain(policy), attached(policy)
    graft = DepthGraft.for_policy(policy, depth).train(training)
    with graft.attach(policy, depth) as live, mode():
        after = plain(policy)  # of the same random numbers: dropout of the policy's own is drawn as before
    assert torch.equal(after, before)
    assert torch.equal(after.signbit(), before.signbit())
    assert [one.camera for one in live.depth] == [*LENSES]


def test_nothing_added_keeps_a_negative_zero() -> None:
    output, added = torch.tensor([-0.0, 1.0]), torch.zeros(2, requires_grad=True)
    result = add_exactly(output, added)
    assert result.signbit().tolist() == [True, False]
    result.sum().backward()
    assert added.grad is not None
    assert added.grad.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("mode", [nullcontext, torch.no_grad, torch.inference_mode])
def test_one_that_learnt_acts_by_what_the_tower_sees(
    policy: TinyVla, depth: DepthAttachment, mode: Callable[[], Any]
) -> None:
    before = plain(policy)
    depth.skip()
    graft = opened(DepthGraft.for_policy(policy, depth, blocks=2)).eval()
    assert graft.config.blocks == ("expert.1.mlp", "expert.2.mlp")
    with graft.attach(policy, depth), mode():
        first, again, other = plain(policy), plain(policy), plain(policy, seed=1)
    assert not torch.allclose(first, before, atol=1e-3)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-3)
    assert torch.equal(plain(policy), before)


def test_an_empty_bank_adds_nothing(policy: TinyVla, depth: DepthAttachment) -> None:
    graft = opened(DepthGraft.for_policy(policy, depth)).eval()
    images, noise = observation()
    blank = {name: torch.full_like(image, 0.5) for name, image in images.items()}  # no image: of one value
    before = policy(blank, noise)
    depth.skip()
    with graft.attach(policy, depth) as live:
        assert torch.equal(policy(blank, noise), before)
        assert not any(one.valid.any() for one in live.depth)
        half = {"front": images["front"], "wrist": blank["wrist"]}
        depth.given(["front"])
        assert not torch.equal(policy(half, noise), before)


def test_cells_without_depth_add_nothing(policy: TinyVla, depth: DepthAttachment) -> None:
    """What the taps saw in them does not get through."""
    graft = opened(DepthGraft.for_policy(policy, depth)).eval()
    with graft.attach(policy, depth) as live:
        plain(policy)
        bank = live._bank
        assert bank is not None
    bank.valid[:, ::2] = False
    keys, values = graft.layer(0).keys_and_values(graft.encoder(bank))
    stream = torch.randn(2, 4, 16)
    before = graft.layer(0)(stream, keys, values, bank.valid)
    bank.look[:, ::2] += 100
    bank.place[:, ::2] -= 100
    keys, values = graft.layer(0).keys_and_values(graft.encoder(bank))
    assert torch.equal(graft.layer(0)(stream, keys, values, bank.valid), before)
    assert before.abs().max() > 0


def test_a_cell_tells_of_its_pixels_with_depth_alone() -> None:
    maps, known = torch.full((1, 2, 16, 16), 3.0), torch.ones(1, 1, 16, 16)
    maps[..., ::2], known[..., ::2] = 100.0, 0.0
    known[..., :2, :2] = 0.0  # and the first has none
    cells, share = _pooled(maps, known)
    assert cells[0, 0].tolist() == [0.0, 0.0]
    assert share[0, :2].tolist() == [0.0, 0.5]
    assert bool((cells[0, 1:] == 3.0).all())


@pytest.mark.parametrize("checkpointing", [None, False, True])
def test_gradients_reach_the_graft_alone(policy: TinyVla, depth: DepthAttachment, checkpointing: bool | None) -> None:
    """With gradient checkpointing, which runs blocks again, they are the same."""
    graft = opened(DepthGraft.for_policy(policy, depth, dropout=0.5))
    grads = []
    for policy.checkpointing in (None, checkpointing):
        torch.manual_seed(0)
        graft.zero_grad()
        images, noise = observation(8)
        with graft.attach(policy, depth):
            policy(images, noise.requires_grad_()).square().sum().backward()
        grads.append([parameter.grad for parameter in graft.parameters()])
    for one, other in zip(*grads, strict=True):
        assert one is not None
        assert one.abs().max() > 0
        torch.testing.assert_close(other, one)
    others = (*policy.parameters(), *depth.head.parameters())
    assert all(parameter.grad is None for parameter in others)


def test_checkpointing_tells_where_it_cannot_know_the_forward(policy: TinyVla, depth: DepthAttachment) -> None:
    policy.checkpointing = False
    graft = DepthGraft.for_policy(policy, depth)
    with graft.attach(policy, depth):
        losses = [plain(policy, seed).sum() for seed in (0, 1)]
        with pytest.raises(CaptureError, match="2 times since the last backward"):
            (losses[0] + losses[1]).backward()
        plain(policy).sum().backward()  # the next ones are learnt from
        plain(policy).sum().backward()


def test_it_learns_what_depends_on_depth(policy: TinyVla, depth: DepthAttachment) -> None:
    """The mean distance of what the head sees, of a policy that is blind without."""
    policy.see.weight.zero_()
    images, noise = observation(8)
    images = {name: image * torch.linspace(0.1, 2, 8)[:, None, None, None] for name, image in images.items()}
    policy(images, noise)
    far = depth.read()[0].depth_m.log().mean(dim=(1, 2))
    wanted = (far - far.mean()) / far.std()
    before = [module_digest(policy), module_digest(depth.head)]
    torch.manual_seed(0)
    graft = DepthGraft.for_policy(policy, depth, dropout=0.0)
    optimiser = torch.optim.AdamW(graft.parameter_groups(3e-4))
    zeros = optimiser.param_groups[1]
    assert (zeros["lr"], zeros["weight_decay"]) == (pytest.approx(3e-3), 0.0)
    losses = []
    with graft.attach(policy, depth):
        for _ in range(11):
            loss = ((policy(images, noise) - noise).mean(dim=(1, 2)) - wanted).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
    assert losses[10] < 0.5 * losses[0]
    assert [module_digest(policy), module_digest(depth.head)] == before


def test_whole_banks_drop_out_in_training_alone(policy: TinyVla, depth: DepthAttachment) -> None:
    graft = DepthGraft.for_policy(policy, depth, dropout=0.5)
    images, noise = observation(64)
    with graft.attach(policy, depth) as live:
        state = torch.get_rng_state()
        shares = []
        for _ in range(2):
            policy(images, noise)
            assert live._bank is not None
            valid = live._bank.valid
            assert all(len(one.unique()) == 1 for one in valid)  # all cameras of an image, or none
            shares.append(valid[:, 0])
        assert torch.equal(torch.get_rng_state(), state)
        assert 16 < shares[0].sum() < 48
        assert not torch.equal(*shares)
        graft.eval()
        policy(images, noise)
        assert live._bank.valid.all()


def test_places_are_metres_in_the_cameras_own_frame(policy: TinyVla) -> None:
    """A longer lens sees the same directions closer to its axis, and where a frame is given places move into it."""
    head = telling(tiny_mixer(policy.tower), familiar=None).eval()
    depth = attached(policy, head=head)
    turned = torch.tensor([[0.0, -1, 0, 0.5], [1, 0, 0, 0], [0, 0, 1, -0.25], [0, 0, 0, 1]])
    banks = []
    for frame, places in (("camera", None), ("placed", dict.fromkeys(LENSES, torch.eye(4))), ("placed", None)):
        graft = opened(DepthGraft.for_policy(policy, depth, frame=frame)).eval()
        with graft.attach(policy, depth, places=places) as live:
            if places is None and frame == "placed":
                live.place({"front": turned, "wrist": turned.expand(2, 4, 4)})
            plain(policy)
            banks.append(live._bank)
            [front, _] = live.depth
            if places is None and frame == "placed":
                with pytest.raises(CaptureError, match="was not told"):  # a place holds for one forward
                    plain(policy)
    points = front.points()[0, :4, :4].reshape(-1, 3).mean(dim=0)  # of the first cell
    moved = turned[:3, :3] @ points + turned[:3, 3]
    for bank, (x, y, z) in zip(banks, (points, points, moved), strict=True):
        assert bank is not None
        waves = bank.place[0, 0]
        for axis, metres in enumerate((x, y, z)):
            assert waves[8 * axis] == pytest.approx(float(torch.sin(metres * 2 * torch.pi / 8)), abs=1e-5)


def test_detaching_restores_the_policy(policy: TinyVla, depth: DepthAttachment) -> None:
    before, names = plain(policy), list(policy.state_dict())
    hooks = [len(module._forward_hooks) for module in policy.modules()]
    depth.skip()
    graft = opened(DepthGraft.for_policy(policy, depth)).eval()
    live = graft.attach(policy, depth)
    assert list(policy.state_dict()) == names
    other = copy.deepcopy(policy)  # carries hooks that do nothing
    assert torch.equal(plain(other), before)
    assert torch.equal(plain(pickle.loads(pickle.dumps(policy))), before)
    live.close()
    live.close()
    assert [len(module._forward_hooks) for module in policy.modules()] == hooks
    assert torch.equal(plain(policy), before)
    assert len(depth.read()) == 2  # the attachment is read on as before


def test_it_reads_once_in_a_forward_and_ends_one_step(policy: TinyVla, depth: DepthAttachment) -> None:
    graft = DepthGraft.for_policy(policy, depth)
    with graft.attach(policy, depth) as live:
        for step in range(3):
            plain(policy)
            assert [(one.step, one.frame) for one in live.depth] == [(step, 2 * step), (step, 2 * step + 1)]
        assert (depth.steps, depth.unread) == (3, 0)
        assert depth.latest_of("wrist") is not None


@pytest.mark.filterwarnings("ignore::UserWarning")  # inside the compiler of some torch versions
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("compiled_first", [True, False])
def test_compiled_blocks(policy: TinyVla, depth: DepthAttachment, compiled_first: bool) -> None:
    """Code that was compiled without the graft is not used with it, nor the other way."""
    dynamo = pytest.importorskip("torch._dynamo", reason="this torch has no compiler")
    graft = opened(DepthGraft.for_policy(policy, depth)).eval()
    before = plain(policy)
    depth.skip()
    with graft.attach(policy, depth):
        wanted = plain(policy)
    try:
        if compiled_first:
            for block in policy.expert:
                block.compile(backend="eager")
            plain(policy)
            depth.skip()
        with graft.attach(policy, depth):
            if not compiled_first:
                for block in policy.expert:
                    block.compile(backend="eager")
            assert torch.equal(plain(policy), wanted)
            assert torch.equal(plain(policy), wanted)
        assert torch.equal(plain(policy), before)
    finally:
        dynamo.reset()
