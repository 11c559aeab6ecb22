"""Heads from the Hub: what is loaded, from which commit, how often it is asked for, and who may."""

from __future__ import annotations

from pathlib import Path

import pytest
from local_hub import READER, WRITER, LocalHub, Repository
from loopback_servers import Fault
from published_head import (
    CLIENT,
    CONFIG_FILE,
    NEWER,
    OLDER,
    REPO,
    WEIGHTS_FILE,
    asked,
    bodies,
    head_files,
    is_same,
    publish,
    refused,
)

from spaceclip_plugin import DepthHead, __version__
from spaceclip_plugin.errors import CheckpointError, ConfigError


class TestLoading:
    def test_a_head_comes_bit_for_bit_and_each_file_once(self, hub: LocalHub, tmp_path: Path) -> None:
        commit = publish(hub)
        hub.commit(REPO, {"README.md": b"# a head", "big.bin": b"x"})
        loaded = DepthHead.from_pretrained(REPO, cache_dir=tmp_path / "cache")
        assert is_same(loaded, OLDER)
        assert not loaded.training
        assert bodies(hub) == sum(len(content) for content in head_files().values())
        asked_for = {request.path for request in hub.requests if request.server == "hub"}
        latest = hub.repositories[REPO].refs["main"]
        assert latest != commit
        assert asked_for == {f"/{REPO}/resolve/main/{CONFIG_FILE}", f"/{REPO}/resolve/{latest}/{WEIGHTS_FILE}"}

    def test_it_says_who_asks(self, hub: LocalHub) -> None:
        publish(hub)
        DepthHead.from_pretrained(REPO)
        for request in hub.requests:
            assert f"spaceclip_plugin/{__version__}" in request.headers["user-agent"], str(request)

    def test_the_second_load_asks_once_and_downloads_nothing(self, hub: LocalHub) -> None:
        publish(hub)
        DepthHead.from_pretrained(REPO)
        before = len(hub.requests)
        assert is_same(DepthHead.from_pretrained(REPO), OLDER)
        assert asked(hub, since=before) == [f"HEAD hub/{REPO}/resolve/main/{CONFIG_FILE} 200"]
        assert bodies(hub, since=before) == 0

    def test_a_commit_that_is_in_the_cache_is_not_asked_for(self, hub: LocalHub) -> None:
        commit = publish(hub)
        DepthHead.from_pretrained(REPO)
        before = len(hub.requests)
        assert is_same(DepthHead.from_pretrained(REPO, revision=commit), OLDER)
        assert len(hub.requests) == before

    def test_downloads_are_kept_where_they_shall_be(self, hub: LocalHub, tmp_path: Path) -> None:
        publish(hub)
        DepthHead.from_pretrained(REPO, cache_dir=tmp_path / "mine")
        assert {path.name for path in tmp_path.glob("mine/models--org--name/snapshots/*/*")} == {
            CONFIG_FILE,
            WEIGHTS_FILE,
        }
        assert not (tmp_path / "hf_home" / "hub").exists()

    def test_force_download_fetches_both_files_again(self, hub: LocalHub) -> None:
        publish(hub)
        DepthHead.from_pretrained(REPO)
        before = len(hub.requests)
        assert is_same(DepthHead.from_pretrained(REPO, force_download=True), OLDER)
        assert bodies(hub, since=before) == sum(len(content) for content in head_files().values())

    def test_a_folder_of_that_name_comes_first(
        self, hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        publish(hub)
        NEWER.save_pretrained(tmp_path / REPO)
        monkeypatch.chdir(tmp_path)
        assert is_same(DepthHead.from_pretrained(REPO), NEWER)
        with pytest.raises(ConfigError, match="'org/name' is a folder"):
            DepthHead.from_pretrained(REPO, revision="main")
        with pytest.raises(CheckpointError, match="no head at"):
            DepthHead.from_pretrained(Path("org/other"))
        assert hub.requests == []


class TestOffline:
    def test_a_head_that_was_loaded_once_is_read_with_nobody_there(self, hub: LocalHub) -> None:
        publish(hub)
        DepthHead.from_pretrained(REPO)
        hub.stop()
        assert is_same(DepthHead.from_pretrained(REPO), OLDER)
        assert is_same(DepthHead.from_pretrained(REPO, local_files_only=True), OLDER)

    def test_local_files_only_asks_nobody(self, hub: LocalHub) -> None:
        publish(hub)
        assert "cannot be downloaded from the Hub" in refused(local_files_only=True)
        assert hub.requests == []
        DepthHead.from_pretrained(REPO)
        publish(hub, NEWER)
        before = len(hub.requests)
        assert is_same(DepthHead.from_pretrained(REPO, local_files_only=True), OLDER)
        assert len(hub.requests) == before

    def test_a_cache_with_half_a_head(self, hub: LocalHub, tmp_path: Path) -> None:
        publish(hub)
        DepthHead.from_pretrained(REPO, cache_dir=tmp_path / "cache")
        [weights] = tmp_path.glob(f"cache/*/snapshots/*/{WEIGHTS_FILE}")
        weights.unlink()
        message = refused(cache_dir=tmp_path / "cache", local_files_only=True)
        assert WEIGHTS_FILE in message
        hub.stop()
        message = refused(cache_dir=tmp_path / "cache")
        assert WEIGHTS_FILE in message

    @pytest.mark.parametrize("force_download", [False, True])
    def test_nobody_there_and_nothing_kept(self, hub: LocalHub, force_download: bool) -> None:
        hub.stop()
        message = refused(force_download=force_download)
        assert f"there is no folder '{REPO}', and {CONFIG_FILE} of '{REPO}' cannot be downloaded" in message
        assert "offline, what was downloaded once is read from the cache" in message

    def test_force_download_is_not_answered_from_the_cache(self, hub: LocalHub) -> None:
        publish(hub)
        DepthHead.from_pretrained(REPO)
        assert "cannot be downloaded from the Hub" in refused(force_download=True, local_files_only=True)
        hub.stop()
        assert "cannot be downloaded from the Hub" in refused(force_download=True)


class TestRevisions:
    @pytest.mark.parametrize("kind", ["branch", "tag", "commit", "pull request"])
    def test_an_old_version_stays_to_be_had(self, hub: LocalHub, kind: str) -> None:
        old = publish(hub)
        refs = hub.repositories[REPO].refs
        refs.update({"v1": old, "keep/old": old, "refs/pr/3": old})
        publish(hub, NEWER)
        revision = {"branch": "keep/old", "tag": "v1", "commit": old, "pull request": "refs/pr/3"}[kind]
        for _ in range(2):
            assert is_same(DepthHead.from_pretrained(REPO, revision=revision), OLDER)
            assert is_same(DepthHead.from_pretrained(REPO), NEWER)

    def test_a_branch_that_moved_is_followed(self, hub: LocalHub) -> None:
        publish(hub)
        DepthHead.from_pretrained(REPO)
        new = publish(hub, NEWER)
        assert is_same(DepthHead.from_pretrained(REPO), NEWER)
        assert is_same(DepthHead.from_pretrained(REPO, revision=new), NEWER)

    @pytest.mark.parametrize("revision", [None, "main", "v1"])
    def test_both_files_are_of_one_commit(self, hub: LocalHub, revision: str | None) -> None:
        """The same config, other weights: nothing but the commit tells them apart."""
        hub.repositories[REPO] = repository = Repository()
        repository.refs["v1"] = repository.commit(head_files())

        def move() -> None:
            repository.refs["v1"] = repository.commit(head_files(NEWER))

        hub.faults.append(Fault(f"GET hub/.*/{CONFIG_FILE}", then=move, times=1))
        assert is_same(DepthHead.from_pretrained(REPO, revision=revision), OLDER)
        assert is_same(DepthHead.from_pretrained(REPO, revision=revision), NEWER)

    @pytest.mark.parametrize("revision", ["absent", "0" * 40, "", "../../main", "a b\n", "\ud800"])
    def test_no_such_version(self, hub: LocalHub, revision: str) -> None:
        publish(hub)
        message = refused(revision=revision)
        assert "Check the id, the revision" in message


class TestAccess:
    @pytest.fixture(autouse=True)
    def _private(self, hub: LocalHub) -> None:
        publish(hub)
        hub.repositories[REPO].private = True

    def test_a_token_opens_it_and_stays_with_the_hub(self, hub: LocalHub) -> None:
        assert is_same(DepthHead.from_pretrained(REPO, token=READER), OLDER)
        assert {request.token for request in hub.requests if request.server == "hub"} == {READER}
        assert [request.token for request in hub.requests if request.server == "store"] == [None]

    def test_the_token_of_the_machine_is_taken(self, hub: LocalHub, tmp_path: Path) -> None:
        (tmp_path / "hf_home").mkdir()
        (tmp_path / "hf_home" / "token").write_text(READER)
        assert "Check the id, the revision and your access" in refused(token=False)
        if CLIENT > (0, 23):  # that one sends it all the same with the first of its requests
            assert {request.token for request in hub.requests} == {None}
        assert is_same(DepthHead.from_pretrained(REPO), OLDER)
        assert is_same(DepthHead.from_pretrained(REPO, token=True, force_download=True), OLDER)

    @pytest.mark.parametrize("token", [None, True, "hf_of_nobody"])
    def test_closed_without_one(self, hub: LocalHub, token: str | bool | None) -> None:
        message = refused(token=token)
        assert f"{CONFIG_FILE} of {REPO!r} cannot be downloaded from the Hub" in message
        assert "(token=, or `hf auth login`)" in message
        assert "hf_of_nobody" not in message
        assert bodies(hub) == 0

    def test_closed_between_the_two_files(self, hub: LocalHub) -> None:
        hub.faults.append(
            Fault(f"GET hub/.*/{CONFIG_FILE}", then=lambda: setattr(hub.repositories[REPO], "gated", True))
        )
        message = refused(token=READER)
        assert f"{WEIGHTS_FILE} of {REPO!r} at " in message

    @pytest.mark.parametrize("token", [None, READER, WRITER])
    def test_gated(self, hub: LocalHub, token: str | None) -> None:
        hub.repositories[REPO].gated = True
        hub.repositories[REPO].private = False
        message = refused(token=token)
        assert "gated" in message
        assert "your access" in message


class TestAbsent:
    @pytest.mark.parametrize("token", [None, READER])
    def test_a_repository(self, hub: LocalHub, token: str | None) -> None:
        message = refused("org/absent", token=token)
        assert "there is no folder 'org/absent'" in message
        assert "Repository Not Found" in message

    @pytest.mark.parametrize("missing", [CONFIG_FILE, WEIGHTS_FILE])
    def test_a_file(self, hub: LocalHub, missing: str) -> None:
        hub.commit(REPO, {name: content for name, content in head_files().items() if name != missing})
        message = refused()
        assert f"{missing} of {REPO!r}" in message
        assert "Entry Not Found" in message

    @pytest.mark.parametrize("missing", [CONFIG_FILE, WEIGHTS_FILE])
    def test_a_file_that_is_there_the_next_time(self, hub: LocalHub, missing: str) -> None:
        hub.commit(REPO, {name: content for name, content in head_files().items() if name != missing})
        refused()
        publish(hub)
        assert is_same(DepthHead.from_pretrained(REPO), OLDER)

    @pytest.mark.parametrize(
        "repo",
        [
            *(
                "../x",
                "a/b/c",
                "org/na me",
                "https://huggingface.co/org/name",
                "name",
                "/org/name",
                "org/",
                "org/name/",
            ),
            *("org/..", "org/na--me", "org/name.git", "org/name?x", "org/näme", "org/" + "x" * 200, "nul/\0", "org/-x"),
        ],
    )
    def test_what_is_no_id_is_not_asked_for(self, hub: LocalHub, repo: str) -> None:
        with pytest.raises(
            CheckpointError, match=r"expected a folder with|cannot be downloaded from the Hub"
        ) as caught:
            DepthHead.from_pretrained(repo)
        assert repr(str(Path(repo))) in str(caught.value)
        assert hub.requests == []

    def test_the_empty_name_is_not_the_current_folder(
        self, hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        OLDER.save_pretrained(tmp_path)
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ConfigError, match="the name of a head is empty"):
            DepthHead.from_pretrained("")
        assert is_same(DepthHead.from_pretrained("."), OLDER)
