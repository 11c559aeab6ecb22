"""Banks that are given to a live graft: a kept one does what the policy's own did, and others take its place."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny_vla import TinyVla, observation, opened
from torch import Tensor

from spaceclip_plugin.attach import DepthAttachment
from spaceclip_plugin.attach.featured_read import read_with_features
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.graft import DepthGraft
from spaceclip_plugin.graft.bank import Bank


def act(policy: TinyVla) -> Tensor:
    """What the expert does when the tower does not run: the same tokens, the same noise."""
    _, noise = observation()
    x = policy.inward(noise)
    for block in policy.expert:
        x = block(x)
    return x


def kept(policy: TinyVla, depth: DepthAttachment, graft: DepthGraft, seed: int = 0) -> Bank:
    """The bank of an observation, as an experiment keeps it."""
    with torch.no_grad():
        policy(*observation(seed=seed))
        return Bank.of(read_with_features(depth), graft.config, {}, next(graft.parameters()))


def test_a_kept_bank_does_what_the_policys_own_did(policy: TinyVla, depth: DepthAttachment) -> None:
    graft = opened(DepthGraft.for_policy(policy, depth)).eval()
    bank, other = (kept(policy, depth, graft, seed) for seed in (0, 1))
    with graft.attach(policy, depth) as live, torch.no_grad():
        policy(*observation())
        own = act(policy)
        live.give(other)
        assert live.depth == ()
        assert not torch.equal(act(policy), own)
        live.give(bank)
        assert torch.equal(act(policy), own)
        policy(*observation(seed=1))  # the tower runs, and its own bank is read again
        assert len(live.depth) == 2
        live.give(other)
        again = act(policy)
        policy(*observation(seed=1))
        assert torch.equal(act(policy), again)


def test_a_graft_learns_from_kept_banks_as_from_its_own(policy: TinyVla, depth: DepthAttachment) -> None:
    graft = opened(DepthGraft.for_policy(policy, depth, dropout=0.5))
    bank, before = kept(policy, depth, graft), None
    for _ in range(2):
        graft.zero_grad()
        with graft.attach(policy, depth) as live:
            live._random.manual_seed(2)
            if before is None:
                with torch.no_grad():
                    policy(*observation())
            else:
                live.give(bank)
            act(policy).square().sum().backward()
            assert live._bank is not None
            valid = live._bank.valid
        grads = [parameter.grad for parameter in graft.parameters()]
        if before is not None:
            assert torch.equal(valid, before[0])
            torch.testing.assert_close(grads, before[1])
        before = valid, grads
    assert bank.valid.all()  # what was given is left as it was


def test_an_empty_bank_that_is_given_adds_nothing(policy: TinyVla, depth: DepthAttachment) -> None:
    plain = act(policy)
    graft = opened(DepthGraft.for_policy(policy, depth)).eval()
    bank = kept(policy, depth, graft)
    with graft.attach(policy, depth) as live:
        live.give(dataclasses.replace(bank, valid=torch.zeros_like(bank.valid)))
        assert torch.equal(act(policy), plain)


def test_what_cannot_be_given_is_said(policy: TinyVla, depth: DepthAttachment) -> None:
    graft = DepthGraft.for_policy(policy, depth)
    bank = kept(policy, depth, graft)
    with graft.attach(policy, depth) as live:
        with pytest.raises(ConfigError, match=r"has 7 channels, the graft reads \d+"):
            live.give(dataclasses.replace(bank, look=bank.look[..., :7]))
        policy.tower(observation()[0]["front"])
        with pytest.raises(ConfigError, match=r"1 frame\(s\) wait for a read"):
            live.give(bank)
