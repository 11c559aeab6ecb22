"""Heads to the Hub and back: one commit or none, and everything that can be done with a head by its repository's id."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from clip_world import SMALL, clip_host, images
from fresh_heads import fresh_head
from local_hub import READER, WRITER, Commit, LocalHub
from loopback_servers import Fault, Request
from published_head import CONFIG_FILE, NEWER, OLDER, REPO, WEIGHTS_FILE, is_same, publish
from saved_heads import CONFIG, make_head

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin.errors import CheckpointError, ConfigError, SpaceClipError
from spaceclip_plugin.head.model_card import CardDetails

CARD = "README.md"

# The client's own, where it uploads to the store.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload:DeprecationWarning")


def made(hub: LocalHub, repo: str = REPO) -> list[Commit]:
    """The commits of a repository, without the first one, which the Hub makes."""
    return [commit for commit in hub.repositories[repo].commits.values() if commit.message != "initial commit"]


def requests_to(hub: LocalHub, path: str) -> list[Request]:
    return [request for request in hub.requests if request.path.startswith(path)]


class TestPush:
    def test_one_commit_holds_the_two_files_and_the_card(self, hub: LocalHub) -> None:
        address = OLDER.push_to_hub(REPO, token=WRITER)
        [commit] = made(hub)
        assert address == f"{hub.address}/{REPO}/commit/{commit.oid}"
        assert sorted(commit.files) == [".gitattributes", CARD, CONFIG_FILE, WEIGHTS_FILE]
        assert commit.message == "Depth head (space-clip)"
        assert hub.repositories[REPO].refs == {"main": commit.oid}
        assert not hub.repositories[REPO].private
        assert is_same(DepthHead.from_pretrained(REPO), OLDER)

    def test_what_travels_is_what_save_pretrained_writes(self, hub: LocalHub, tmp_path: Path) -> None:
        OLDER.push_to_hub(REPO, token=WRITER)
        [commit] = made(hub)
        for path in OLDER.save_pretrained(tmp_path).iterdir():
            assert commit.files[path.name] == path.read_bytes()

    def test_a_head_that_was_pulled_is_pushed_on(self, hub: LocalHub) -> None:
        OLDER.push_to_hub(REPO, token=WRITER)
        DepthHead.from_pretrained(REPO).push_to_hub("org/copy", token=WRITER)
        [first], [copy] = made(hub), made(hub, "org/copy")
        assert {name: copy.files[name] for name in (CONFIG_FILE, WEIGHTS_FILE)} == {
            name: first.files[name] for name in (CONFIG_FILE, WEIGHTS_FILE)
        }
        assert is_same(DepthHead.from_pretrained("org/copy"), OLDER)

    def test_the_weights_go_to_the_store_without_the_token(self, hub: LocalHub) -> None:
        OLDER.push_to_hub(REPO, token=WRITER)
        uploads = [request for request in hub.requests if request.server == "store"]
        assert [(request.method, request.token) for request in uploads] == [("PUT", None)]
        assert uploads[0].body == made(hub)[0].files[WEIGHTS_FILE]
        assert {request.token for request in hub.requests if request.server == "hub"} == {WRITER}

    @pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
    def test_another_model_is_not_replaced_but_proposed_to(self, hub: LocalHub, name: str) -> None:
        hub.commit(REPO, {name: b'{"model_type": "clip"}'})
        before = hub.repositories[REPO].find("main")
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
            OLDER.push_to_hub(REPO, token=WRITER)
        assert hub.repositories[REPO].find("main") == before
        assert OLDER.push_to_hub(REPO, token=WRITER, create_pr=True)
        assert hub.repositories[REPO].find("main") == before

    def test_a_newer_head_follows_the_older(self, hub: LocalHub) -> None:
        OLDER.push_to_hub(REPO, token=WRITER)
        hub.commit(REPO, {"notes.txt": b"mine"})
        NEWER.push_to_hub(REPO, token=WRITER, commit_message="better: “Küche”")
        latest = hub.repositories[REPO].find("main")
        assert latest is not None
        assert latest.message == "better: “Küche”"
        assert latest.files["notes.txt"] == b"mine"
        assert is_same(DepthHead.from_pretrained(REPO), NEWER)

    def test_the_same_head_again(self, hub: LocalHub) -> None:
        OLDER.push_to_hub(REPO, token=WRITER)
        address = OLDER.push_to_hub(REPO, token=WRITER)
        assert address == f"{hub.address}/{REPO}/commit/{hub.repositories[REPO].refs['main']}"
        assert is_same(DepthHead.from_pretrained(REPO), OLDER)

    @pytest.mark.parametrize("private", [None, False, True])
    def test_private(self, hub: LocalHub, private: bool | None) -> None:
        OLDER.push_to_hub(REPO, private=private, token=WRITER)
        assert hub.repositories[REPO].private is bool(private)
        [request] = requests_to(hub, "/api/repos/create")
        assert None not in json.loads(request.body).values()

    def test_a_pull_request_leaves_main_alone(self, hub: LocalHub) -> None:
        old = publish(hub)
        address = NEWER.push_to_hub(REPO, create_pr=True, token=WRITER)
        assert address == f"{hub.address}/{REPO}/discussions/1"
        assert hub.repositories[REPO].refs["main"] == old
        assert is_same(DepthHead.from_pretrained(REPO), OLDER)
        assert is_same(DepthHead.from_pretrained(REPO, revision="refs/pr/1"), NEWER)

    def test_a_branch(self, hub: LocalHub) -> None:
        old = publish(hub)
        hub.repositories[REPO].refs["try/one"] = old
        NEWER.push_to_hub(REPO, revision="try/one", token=WRITER)
        assert hub.repositories[REPO].refs["main"] == old
        assert is_same(DepthHead.from_pretrained(REPO, revision="try/one"), NEWER)

    def test_a_token_that_may_not_create_repositories(self, hub: LocalHub) -> None:
        """It need not, where there is one."""
        publish(hub)
        hub.faults.append(Fault("POST hub/api/repos/create", status=403))
        NEWER.push_to_hub(REPO, token=WRITER)
        assert is_same(DepthHead.from_pretrained(REPO), NEWER)

    def test_the_token_of_the_machine_is_taken(self, hub: LocalHub, tmp_path: Path) -> None:
        (tmp_path / "hf_home").mkdir()
        (tmp_path / "hf_home" / "token").write_text(WRITER)
        OLDER.push_to_hub(REPO)
        assert len(made(hub)) == 1


class TestRefused:
    @pytest.fixture
    def before(self, hub: LocalHub) -> Iterator[None]:
        """A repository that a push which fails leaves as it was."""
        commit = publish(hub)
        yield
        assert hub.repositories[REPO].refs == {"main": commit}
        assert list(hub.repositories) == [REPO]
        assert is_same(DepthHead.from_pretrained(REPO, token=READER), OLDER)

    def refused(self, repo: str = REPO, **options: object) -> str:
        with pytest.raises(CheckpointError) as caught:
            NEWER.push_to_hub(repo, **options)  # type: ignore[arg-type]
        message = str(caught.value)
        assert f"cannot push to {repo!r}" in message
        assert "your token may write there (token=, or `hf auth login`)" in message
        assert WRITER not in message
        return message

    @pytest.mark.parametrize("token", [None, False, READER, "hf_of_nobody"])
    @pytest.mark.parametrize("repo", [REPO, "org/new"])
    @pytest.mark.usefixtures("before")
    def test_without_the_right_to_write(self, repo: str, token: str | bool | None) -> None:
        self.refused(repo, token=token)

    @pytest.mark.parametrize(
        "request_of",
        ["POST hub/.*/preupload", "POST hub/.*/batch", "PUT store", "POST hub/verify", "POST hub/.*/commit"],
    )
    @pytest.mark.parametrize("status", [403, 500])
    @pytest.mark.usefixtures("before")
    def test_at_any_step(self, hub: LocalHub, request_of: str, status: int) -> None:
        hub.faults.append(Fault(request_of, status=status))
        assert str(status) in self.refused(token=WRITER)

    def test_a_new_repository_stays_empty(self, hub: LocalHub) -> None:
        hub.faults.append(Fault("PUT store", status=403))
        self.refused("org/new", token=WRITER)
        assert made(hub, "org/new") == []

    @pytest.mark.usefixtures("before")
    def test_a_branch_that_is_not_there(self) -> None:
        assert "Revision Not Found" in self.refused(revision="absent", token=WRITER)

    @pytest.mark.usefixtures("before")
    def test_a_picture_that_is_not_there(self, tmp_path: Path) -> None:
        assert "absent.png" in self.refused(card=CardDetails(picture=tmp_path / "absent.png"), token=WRITER)

    def test_nobody_there(self, hub: LocalHub) -> None:
        hub.stop()
        self.refused(token=WRITER)

    @pytest.mark.parametrize(
        "repo", ["../x", "a/b/c", "org/na me", "https://huggingface.co/org/name", "", "name", "org/name/", None, 3]
    )
    def test_what_is_no_id(self, hub: LocalHub, repo: object) -> None:
        with pytest.raises(ConfigError, match="a repository's id is 'org/name', got"):
            OLDER.push_to_hub(repo, token=WRITER)  # type: ignore[arg-type]
        assert hub.requests == []

    @pytest.mark.parametrize("repo", ["org/..", "org/na--me", "org/name.git", "org/" + "x" * 200])
    def test_what_the_client_takes_for_no_id(self, hub: LocalHub, repo: str) -> None:
        with pytest.raises(SpaceClipError, match="cannot push to"):
            OLDER.push_to_hub(repo, token=WRITER)
        assert hub.requests == []

    def test_a_head_that_cannot_be_saved(self, hub: LocalHub) -> None:
        head = make_head()
        head.state_dict()["decoder.depth.3.weight"].fill_(float("nan"))
        with pytest.raises(CheckpointError, match="holds NaN or infinity"):
            head.push_to_hub(REPO, token=WRITER)
        assert hub.requests == []


class TestByItsId:
    def test_attach(self, hub: LocalHub) -> None:
        host = clip_host()
        saved = fresh_head(host, **SMALL).eval()
        saved.push_to_hub("org/for-clip", token=WRITER)
        depths = []
        for head in (saved, "org/for-clip"):
            with attach_depth_head(host, head) as depth, torch.no_grad():
                host(images(3))
                [frame] = depth.read()
                depths.append(frame.depth_m)
        assert torch.equal(*depths)

    @pytest.mark.slow
    def test_verify_in_a_process_of_its_own(self, hub: LocalHub, tmp_path: Path) -> None:
        """The settings come from the environment, as they do for everybody, and nothing is replaced in the client."""
        publish(hub, make_head(CONFIG))
        environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
        environment.pop("HF_HUB_OFFLINE", None)
        environment |= {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
        run = subprocess.run(
            [sys.executable, "-m", "spaceclip_plugin.cli", "verify", REPO, "--json"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert run.returncode == 0, run.stderr
        told = json.loads(run.stdout)
        commit = hub.repositories[REPO].find("main")
        assert commit is not None
        assert told["sha256"].encode() in commit.files[WEIGHTS_FILE]
        assert told["source"] == f"{REPO!r} at {commit.oid[:12]}"
        assert {request.path for request in hub.requests if request.path.startswith(f"/{REPO}")} == {
            f"/{REPO}/resolve/main/{CONFIG_FILE}",
            f"/{REPO}/resolve/{commit.oid}/{WEIGHTS_FILE}",
        }
        assert list((tmp_path / "home").rglob(WEIGHTS_FILE))
