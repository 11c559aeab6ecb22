"""Sharded, offloaded and wrapped towers: known again where their weights can be read, and else said to be unknown."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist
from llava_world import llava_host
from torch import nn
from trained_heads import matched, moved, trained_on
from wrappers import WRAPPERS

from spaceclip_plugin import attach_depth_head
from spaceclip_plugin.attach.tower_match import OTHER, SAME, UNKNOWN
from spaceclip_plugin.towers import registry
from spaceclip_plugin.towers.identity.resting_weights import UnreadableError, _whole

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*`NO_SHARD`:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*FullyShardedDataParallel.*deprecated:FutureWarning"),
]
FLATTENED = ("fsdp1", "fsdp1-named")


@pytest.fixture(scope="module", autouse=True)
def _alone_in_a_process_group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    meeting = tmp_path_factory.mktemp("group") / "meeting"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("name", WRAPPERS)
class TestEveryWrapper:
    def test_the_same_tower(self, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        head, host = trained_on(llava_host()), WRAPPERS[name](llava_host(), tmp_path)
        caplog.clear()
        with attach_depth_head(host, head, other_tower="error") as depth:
            match = depth.tower_match
        assert match is not None
        said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        if name in FLATTENED:
            assert match.verdict == UNKNOWN
            assert ["FSDP" in message for message in said] == [True]
        else:
            assert (match.verdict, match.distance, said) == (SAME, 0.0, [])

    def test_another_tower(self, name: str, tmp_path: Path) -> None:
        host = llava_host()
        moved(registry.find_tower(host).module, 0.05)
        verdict = matched(WRAPPERS[name](host, tmp_path), trained_on(llava_host())).verdict
        assert verdict == (UNKNOWN if name in FLATTENED else OTHER)


def test_a_tensor_of_which_only_a_part_is_here() -> None:
    """Two processes would each hold half; one of them must not ask the other."""

    part = nn.Parameter(nn.Linear(4, 4).weight)
    part._local_tensor = part.detach()[:2]  # type: ignore[attr-defined]
    with pytest.raises(UnreadableError, match="sharded over several processes"):
        _whole(part)
