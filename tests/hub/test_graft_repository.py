"""Grafts to the Hub and back."""

from __future__ import annotations

import pytest
import torch
from local_hub import READER, WRITER, LocalHub
from published_head import OLDER
from tiny_vla import attached, observation, opened, tiny_vla

from spaceclip_plugin.errors import CheckpointError, ConfigError
from spaceclip_plugin.graft import DepthGraft
from spaceclip_plugin.head.model_card import CardDetails

REPO = "org/kitchen-graft"
FILE = "graft.safetensors"

# The client's own, where it uploads to the store.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload:DeprecationWarning")


def graft() -> DepthGraft:
    policy = tiny_vla()
    return opened(DepthGraft.for_policy(policy, attached(policy))).eval()


def test_one_commit_there_and_the_same_actions_from_back_here(hub: LocalHub) -> None:
    policy = tiny_vla()
    depth = attached(policy)
    first = opened(DepthGraft.for_policy(policy, depth)).eval()
    with first.attach(policy, depth):
        before = policy(*observation())
    address = first.push_to_hub(REPO, token=WRITER, private=True, card=CardDetails(license="apache-2.0"))
    commit = hub.repositories[REPO].find("main")
    assert commit is not None
    assert hub.repositories[REPO].private
    assert address == f"{hub.address}/{REPO}/commit/{commit.oid}"
    assert sorted(commit.files) == [".gitattributes", "README.md", FILE]
    assert commit.message == "Depth graft"
    again = DepthGraft.from_pretrained(REPO, token=READER)
    assert again.config == first.config
    assert not again.training
    with again.attach(policy, depth):
        assert torch.equal(policy(*observation()), before)


def test_its_page_claims_nothing_and_tells_what_it_adds_to(hub: LocalHub) -> None:
    one = graft()
    one.push_to_hub(REPO, token=WRITER, card=CardDetails(license="apache-2.0", datasets=("org/kitchens",)))
    commit = hub.repositories[REPO].find("main")
    assert commit is not None
    page = commit.files["README.md"].decode()
    assert "license: apache-2.0" in page
    assert "- org/kitchens" in page
    assert "is not told here" in page
    assert f'DepthGraft.from_pretrained("{REPO}")' in page
    assert all(f"`{name}`" in page for name in (*one.config.blocks, *one.config.cameras))


def test_a_newer_graft_follows_the_older(hub: LocalHub) -> None:
    one = graft()
    one.push_to_hub(REPO, token=WRITER)
    older = hub.repositories[REPO].refs["main"]
    torch.nn.init.constant_(one.layer(0).out.weight, 0.5)
    one.push_to_hub(REPO, token=WRITER, commit_message="better")
    weights = [
        DepthGraft.from_pretrained(REPO, revision=name).layer(0).out.weight.unique().numel() for name in (older, "main")
    ]
    assert weights[0] > 1
    assert weights[1] == 1


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", FILE])
def test_what_is_no_graft_is_not_replaced(hub: LocalHub, name: str) -> None:
    hub.commit(REPO, {name: b"another's"})
    before = hub.repositories[REPO].find("main")
    with pytest.raises(CheckpointError, match=f"holds a {name} that is not a graft's"):
        graft().push_to_hub(REPO, token=WRITER)
    assert hub.repositories[REPO].find("main") == before
    assert graft().push_to_hub(REPO, token=WRITER, create_pr=True)
    assert hub.repositories[REPO].find("main") == before


def test_the_page_of_a_head_stays(hub: LocalHub) -> None:
    OLDER.push_to_hub(REPO, token=WRITER)
    with pytest.raises(CheckpointError, match="choose another repository"):
        graft().push_to_hub(REPO, token=WRITER)
    with pytest.raises(CheckpointError, match=f"{FILE} of '{REPO}'"):
        DepthGraft.from_pretrained(REPO)


@pytest.mark.parametrize(
    ("repo", "card", "said"),
    [
        ("no id", CardDetails(), "a repository's id is"),
        (REPO, CardDetails(record={"head_digest": "0"}), "record and picture are of a head's run"),
        (REPO, CardDetails(picture="depth.png"), "record and picture are of a head's run"),
    ],
)
def test_said_before_anything_is_sent(hub: LocalHub, repo: str, card: CardDetails, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        graft().push_to_hub(repo, card=card, token=WRITER)
    assert not hub.requests


def test_a_weight_that_is_not_finite(hub: LocalHub) -> None:
    one = graft()
    torch.nn.init.constant_(one.layer(0).out.weight, float("nan"))
    with pytest.raises(CheckpointError, match="NaN"):
        one.push_to_hub(REPO, token=WRITER)
    assert not hub.requests


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [("", {}, "is empty"), (".", {"revision": "main"}, "is for repositories of the Hub")],
)
def test_names_that_mean_nothing(name: str, options: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        DepthGraft.from_pretrained(name, **options)  # type: ignore[arg-type]
