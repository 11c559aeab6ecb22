"""Where grafted blocks looked: shares that add up, that are those of the attention itself, and only when asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_vla import BLOCKS, LENSES, TinyVla, observation, opened

from spaceclip_plugin.attach import DepthAttachment
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.graft import Attention, DepthGraft, spotlit
from spaceclip_plugin.graft.bank import Bank
from spaceclip_plugin.graft.layers import GraftLayer


@pytest.fixture
def graft(policy: TinyVla, depth: DepthAttachment) -> DepthGraft:
    return opened(DepthGraft.for_policy(policy, depth)).eval()


def watched(policy: TinyVla, depth: DepthAttachment, graft: DepthGraft, **options: int) -> Attention:
    with graft.attach(policy, depth) as live, torch.no_grad():
        live.watching = True
        policy(*observation(), **options)
        assert live.attention is not None
        return live.attention


def test_shares_of_all_cells_and_of_nothing_add_up(policy: TinyVla, depth: DepthAttachment, graft: DepthGraft) -> None:
    seen = watched(policy, depth, graft)
    assert set(seen.cells) == set(LENSES)
    assert all(cells.shape == (2, 8, 8) and (cells >= 0).all() for cells in seen.cells.values())
    total = seen.nothing + sum(cells.sum(dim=(1, 2)) for cells in seen.cells.values())
    torch.testing.assert_close(total, torch.ones(2))
    assert not torch.equal(seen.cells["front"], seen.cells["wrist"])


def test_nothing_is_kept_unless_it_is_asked_for_and_actions_stay(
    policy: TinyVla, depth: DepthAttachment, graft: DepthGraft
) -> None:
    with graft.attach(policy, depth) as live, torch.no_grad():
        plain = policy(*observation())
        assert live.attention is None
        live.watching = True
        assert live.attention is None  # of the forward that was not watched
        assert torch.equal(policy(*observation()), plain)
        assert live.attention is not None
    assert live.attention is None  # closed


def test_it_is_the_mean_over_steps_of_the_newest_forward(
    policy: TinyVla, depth: DepthAttachment, graft: DepthGraft, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, shares = [], GraftLayer.shares
    monkeypatch.setattr(GraftLayer, "shares", lambda *given: found.append(shares(*given)) or found[-1])
    with graft.attach(policy, depth) as live, torch.no_grad():
        live.watching = True
        policy(*observation(seed=1))
        found.clear()
        policy(*observation(), steps=3)
        assert len(found) == 3 * BLOCKS
        assert live.attention is not None
        torch.testing.assert_close(live.attention.nothing, torch.stack(found).mean(dim=0)[:, 0])


def test_shares_are_those_of_the_attention(policy: TinyVla, depth: DepthAttachment, graft: DepthGraft) -> None:
    """Values that tell the tokens apart come out as the shares say."""
    layer, random = graft.layer(0), torch.Generator().manual_seed(0)
    stream, keys = torch.randn(2, 5, 16, generator=random), torch.randn(2, 4, 7, 32, generator=random)
    valid = torch.tensor([[True, False, True, True, False, True], [False] * 6])
    values = torch.zeros(2, 4, 7, 32)
    values[..., range(7), range(7)] = 1.0
    layer.out = torch.nn.Identity()
    read = layer(stream, keys, values, valid).reshape(2, 5, 4, 32)[..., :7].mean(dim=(1, 2))
    found = layer.shares(stream, keys, valid)
    torch.testing.assert_close(found, read)
    assert found[0, 2] == found[0, 5] == 0.0
    assert found[1].tolist() == [1.0] + [0.0] * 6


def test_a_camera_that_is_missing_is_not_told_of() -> None:
    bank = Bank(torch.zeros(1, 64, 3), torch.zeros(1, 64, 3), torch.ones(64, dtype=torch.long), torch.ones(1, 64) > 0)
    seen = Attention.of(torch.arange(65.0)[None], bank, ("front", "wrist"))
    assert set(seen.cells) == {"wrist"}
    assert seen.cells["wrist"][0, 0].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
    assert seen.nothing.tolist() == [0.0]


class TestSpotlit:
    def test_what_drew_most_keeps_its_colours_and_the_rest_is_darker(self) -> None:
        image = np.full((4, 6, 3), 200, np.uint8)
        lit = spotlit(image, np.array([[0.0, 0.1], [0.4, 0.2]]))
        assert (lit[2:, :3] == 200).all()
        assert (lit[:2, :3] == 40).all()
        assert (lit[2:, 3:] == 120).all()
        assert (image == 200).all()

    @pytest.mark.parametrize("cells", [np.zeros((2, 2)), np.full((2, 2), np.nan), -np.ones((2, 2)), np.zeros((0, 2))])
    def test_what_is_no_share_is_refused(self, cells: np.ndarray) -> None:
        with pytest.raises(ConfigError, match="cells must be shares"):
            spotlit(np.zeros((4, 4, 3), np.uint8), cells)

    @pytest.mark.parametrize(
        ("image", "cells"),
        [
            (np.zeros((4, 4, 3), np.uint8), np.ones((1, 2, 2))),
            (np.zeros((4, 4), np.uint8), np.ones((2, 2))),
            (np.zeros((4, 4, 3)), np.ones((2, 2))),
        ],
    )
    def test_other_shapes_are_refused(self, image: np.ndarray, cells: np.ndarray) -> None:
        with pytest.raises(ConfigError, match="expected an image"):
            spotlit(image, cells)
