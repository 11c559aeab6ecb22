"""Downloads that go wrong: cut, slow, refused, damaged, too large, of another kind. A head is whole or not there."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from local_hub import LocalHub
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
    other_config,
    publish,
    refused,
)
from saved_heads import HUGE, make_head

from spaceclip_plugin import DepthHead
from spaceclip_plugin.errors import CheckpointError

STORE, CONFIG_GET = "GET store/cdn", f"GET hub/.*/{CONFIG_FILE}"
WEIGHTS_HEAD = f"HEAD hub/.*/{WEIGHTS_FILE}"


class TestCut:
    def test_the_rest_is_fetched_alone(self, hub: LocalHub) -> None:
        """Old clients give up and go on from there the next time, newer ones at once."""
        publish(hub)
        hub.faults.append(Fault(STORE, cut_after=1000, times=1))
        with suppress(CheckpointError):
            DepthHead.from_pretrained(REPO)
        assert is_same(DepthHead.from_pretrained(REPO), OLDER)
        first, second = (request for request in hub.requests if request.server == "store")
        assert (first.status, first.sent) == (200, 1000)
        start = int(second.headers["range"].removeprefix("bytes=").removesuffix("-"))
        assert 0 < start <= 1000
        assert (second.status, second.sent) == (206, len(head_files()[WEIGHTS_FILE]) - start)

    def test_a_server_that_sends_all_again_is_understood(self, hub: LocalHub) -> None:
        publish(hub)
        whole = head_files()[WEIGHTS_FILE]
        hub.faults += [Fault(STORE, cut_after=1000, times=1), Fault(STORE, body=whole, ignore_range=True)]
        try:
            loaded = DepthHead.from_pretrained(REPO)
        except CheckpointError:
            # Clients that append all of it to what they have say so; a new download is right.
            loaded = DepthHead.from_pretrained(REPO, force_download=True)
        assert is_same(loaded, OLDER)

    @pytest.mark.parametrize("request_of", [STORE, CONFIG_GET])
    def test_one_that_never_ends_is_an_error_and_leaves_no_head(
        self, hub: LocalHub, tmp_path: Path, request_of: str
    ) -> None:
        publish(hub)
        hub.faults.append(Fault(request_of, cut_after=0))
        assert "cannot be downloaded from the Hub" in refused()
        assert len(hub.requests) < 20
        hub.faults.clear()
        assert "cannot be downloaded from the Hub" in refused(local_files_only=True)
        assert is_same(DepthHead.from_pretrained(REPO), OLDER)

    def test_one_that_stalls(self, hub: LocalHub, client_setting: Callable[[str, object], None]) -> None:
        publish(hub)
        client_setting("HF_HUB_DOWNLOAD_TIMEOUT", 0.05)
        hub.faults.append(Fault(STORE, delay_s=30.0))
        assert f"{WEIGHTS_FILE} of {REPO!r} at " in refused()


class TestTrouble:
    @pytest.mark.parametrize("status", [503, 418])
    @pytest.mark.parametrize("request_of", ["HEAD hub", CONFIG_GET, WEIGHTS_HEAD, STORE])
    def test_an_answer_that_is_an_error(self, hub: LocalHub, request_of: str, status: int) -> None:
        publish(hub)
        hub.faults.append(Fault(request_of, status=status))
        message = refused()
        assert f"of {REPO!r}" in message
        assert "cannot be downloaded from the Hub" in message
        assert str(status) in message
        assert len(hub.requests) < 20
        hub.faults.clear()
        assert is_same(DepthHead.from_pretrained(REPO), OLDER)

    def test_a_head_in_the_cache_survives_the_trouble(self, hub: LocalHub) -> None:
        publish(hub)
        DepthHead.from_pretrained(REPO)
        publish(hub, NEWER)
        hub.faults.append(Fault("", status=503))
        assert is_same(DepthHead.from_pretrained(REPO), OLDER)

    def test_a_cached_config_is_not_joined_with_newer_weights(self, hub: LocalHub, tmp_path: Path) -> None:
        publish(hub)
        DepthHead.from_pretrained(REPO, cache_dir=tmp_path)
        [weights] = tmp_path.glob(f"models--*/snapshots/*/{WEIGHTS_FILE}")
        weights.unlink()
        publish(hub, NEWER)
        hub.faults.append(Fault(f"HEAD hub/.*/{CONFIG_FILE}", status=503))
        assert is_same(DepthHead.from_pretrained(REPO, cache_dir=tmp_path), OLDER)

    @pytest.mark.parametrize(
        ("header", "value"),
        [
            ("ETag", None),
            ("X-Repo-Commit", None),
            ("X-Repo-Commit", "x" * 300),
            ("X-Repo-Commit", "../../../../escaped"),
        ],
    )
    def test_headers_that_cannot_be(self, hub: LocalHub, tmp_path: Path, header: str, value: str | None) -> None:
        publish(hub)
        hub.faults.append(Fault(f"HEAD hub/.*/{CONFIG_FILE}", headers={header: value}))
        assert f"{CONFIG_FILE} of {REPO!r}" in refused(cache_dir=tmp_path / "a" / "b")
        assert not list(tmp_path.rglob("escaped"))


class TestTooLarge:
    def test_weights_beyond_their_config_are_not_downloaded(self, hub: LocalHub, tmp_path: Path) -> None:
        files = head_files()
        hub.commit(REPO, {**files, WEIGHTS_FILE: files[WEIGHTS_FILE] + bytes(1 << 20)})
        message = refused(cache_dir=tmp_path)
        size = len(files[WEIGHTS_FILE]) + (1 << 20)
        assert f"{WEIGHTS_FILE} of {REPO!r} at " in message
        assert f"has {size} bytes" in message
        assert bodies(hub) == len(files[CONFIG_FILE])
        assert [request for request in hub.requests if request.server == "store"] == []
        assert not list(tmp_path.rglob(WEIGHTS_FILE))

    @pytest.mark.skipif(CLIENT < (1, 0), reason="clients before 1.0 take the length of the redirect's own body for it")
    def test_also_where_the_size_is_not_told(self, hub: LocalHub) -> None:
        publish(hub)
        hub.faults.append(Fault(WEIGHTS_HEAD, headers={"X-Linked-Size": None}))
        assert "does not say how large" in refused()
        assert [request for request in hub.requests if request.server == "store"] == []

    def test_also_where_they_are_in_the_cache(self, hub: LocalHub, tmp_path: Path) -> None:
        publish(hub)
        DepthHead.from_pretrained(REPO, cache_dir=tmp_path)
        [weights] = tmp_path.glob(f"models--*/snapshots/*/{WEIGHTS_FILE}")
        with weights.open("ab") as file:
            file.truncate(weights.stat().st_size + (1 << 20))
        for local_files_only in (False, True):
            message = refused(cache_dir=tmp_path, local_files_only=local_files_only)
            assert "bytes, at most" in message

    def test_a_config_that_calls_for_gigabytes(self, hub: LocalHub) -> None:
        files = head_files()
        config = {**json.loads(files[CONFIG_FILE]), **other_config(options=HUGE).to_dict()}
        hub.commit(REPO, {**files, CONFIG_FILE: json.dumps(config).encode()})
        assert "GB of weights" in refused()
        assert WEIGHTS_FILE not in " ".join(asked(hub))


class TestDamaged:
    @pytest.mark.parametrize("place", [-1, -1000, 200])
    def test_one_byte_is_noticed_and_a_new_download_is_right(self, hub: LocalHub, place: int) -> None:
        publish(hub)
        content = bytearray(head_files()[WEIGHTS_FILE])
        content[place] ^= 1
        hub.faults.append(Fault(STORE, body=bytes(content), times=1))
        message = refused()
        assert WEIGHTS_FILE in message
        if place < 0:
            assert "is damaged or was changed" in message
            assert "download or save the head again" in message
        assert WEIGHTS_FILE in refused()  # it is in the cache now
        assert is_same(DepthHead.from_pretrained(REPO, force_download=True), OLDER)
        assert is_same(DepthHead.from_pretrained(REPO), OLDER)

    def test_weights_of_another_head_under_this_config(self, hub: LocalHub) -> None:
        other = make_head(other_config(image_mean=(0.5, 0.5, 0.5)))
        hub.commit(REPO, {**head_files(), WEIGHTS_FILE: head_files(other)[WEIGHTS_FILE]})
        message = refused()
        assert f"{REPO!r} at {hub.repositories[REPO].refs['main'][:12]} holds two halves" in message
        assert "image_mean is [0.1" in message

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"<html>", b"{}", b" " * (1 << 17)])
    def test_what_is_no_config(self, hub: LocalHub, content: bytes) -> None:
        hub.commit(REPO, {**head_files(), CONFIG_FILE: content})
        assert CONFIG_FILE in refused()
        assert WEIGHTS_FILE not in " ".join(asked(hub))


PICKLE = b"cposix\nsystem\n(S'touch escaped'\ntR."
OTHERS = {"pytorch_model.bin": PICKLE, "model.pt": PICKLE, "head.pkl": PICKLE, "modeling_head.py": b"import os"}


class TestOtherKinds:
    """What is not one of the two files is never asked for, whatever the repository holds."""

    def only_two_files(self, hub: LocalHub) -> None:
        names = {request.path.rpartition("/")[2] for request in hub.requests if request.server == "hub"}
        assert names <= {CONFIG_FILE, WEIGHTS_FILE}

    def test_a_repository_with_pickles_alone(self, hub: LocalHub) -> None:
        hub.commit(REPO, {CONFIG_FILE: head_files()[CONFIG_FILE], **OTHERS})
        assert f"{WEIGHTS_FILE} of {REPO!r}" in refused()
        self.only_two_files(hub)
        assert bodies(hub) == len(head_files()[CONFIG_FILE])

    def test_pickles_beside_a_head(self, hub: LocalHub) -> None:
        hub.commit(REPO, {**head_files(), **OTHERS})
        assert is_same(DepthHead.from_pretrained(REPO), OLDER)
        self.only_two_files(hub)

    def test_a_pickle_under_the_name_of_the_weights(
        self, hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        hub.commit(REPO, {**head_files(), WEIGHTS_FILE: PICKLE})
        assert "is not a safetensors file" in refused()
        assert not (tmp_path / "escaped").exists()

    def test_a_model_of_another_library(self, hub: LocalHub) -> None:
        config = {"model_type": "clip", "architectures": ["CLIPModel"], "auto_map": {"AutoModel": "x--y.Z"}}
        hub.commit(REPO, {**OTHERS, CONFIG_FILE: json.dumps(config).encode()})
        assert "this is not the config of a depth head" in refused()
        assert WEIGHTS_FILE not in " ".join(asked(hub))
        self.only_two_files(hub)
