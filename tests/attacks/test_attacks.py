"""Every attack there is: refused by an error of ours that names the file, nothing wrong loaded, nothing run."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from clip_world import clip_host, hook_count
from forged_weights import foreign_heads
from hostile_configs import hostile_configs
from hostile_repositories import CONFIG, WEIGHTS, hostile_repositories, pickles
from hypothesis import given, settings
from hypothesis import strategies as st
from targets import CONFIGS, LENGTH, split, target

from spaceclip_plugin import DepthHead, DepthHeadConfig, attach_depth_head
from spaceclip_plugin._digest import module_digest
from spaceclip_plugin._files import MAX_JSON_DEPTH, parse_json_object
from spaceclip_plugin.errors import CheckpointError, SpaceClipError
from spaceclip_plugin.head import folder as head_folder
from spaceclip_plugin.head import weights
from spaceclip_plugin.head.space_clip.published import read as read_published

HERE = Path(__file__).parent
EXPECTED = target(CONFIGS["tap-mixer"]).state_dict()
SORTS = ("weights", "configs", "repositories", "grafts")
linux = pytest.mark.skipif(sys.platform != "linux", reason="memory and special files are those of Linux")


def said_by(script: str) -> dict[str, Any]:
    """What a script of this folder printed; a process of its own, since nobody can stop an audit hook."""
    done = subprocess.run([sys.executable, str(HERE / script)], stdout=subprocess.PIPE, check=True, timeout=1800)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return said_by("attack.py")


@linux
@pytest.mark.slow
class TestEveryAttack:
    @pytest.mark.parametrize("sort", SORTS)
    def test_none_gets_through(self, found: dict[str, Any], sort: str) -> None:
        tally = found[sort]
        assert tally["failures"] == []
        assert (tally["loaded_wrong"], tally["refused_otherwise"], tally["executed"]) == (0, 0, 0)
        assert tally["refused"] + tally["loaded_unharmed"] == tally["attacks"] == sum(tally["kinds"].values())

    def test_there_are_as_many_as_promised(self, found: dict[str, Any]) -> None:
        assert found["weights"]["attacks"] >= 16_000
        assert found["configs"]["attacks"] >= 2_000
        assert found["repositories"]["kinds"]["no head"] >= 100
        assert found["grafts"]["attacks"] >= 16_000
        # Only where a good head lies beside the hostile file is anything loaded.
        assert [found[sort]["loaded_unharmed"] for sort in SORTS if sort != "repositories"] == [0, 0, 0]
        assert found["repositories"]["loaded_unharmed"] == found["repositories"]["kinds"]["good head beside"] >= 100

    def test_every_length_and_every_bit_of_the_header_was_tried(self, found: dict[str, Any], tmp_path: Path) -> None:
        files = [
            (target(config).save_pretrained(tmp_path / name) / WEIGHTS).read_bytes() for name, config in CONFIGS.items()
        ]
        assert found["weights"]["kinds"]["truncated"] == sum(len(raw) for raw in files)
        header_bytes = sum(LENGTH.size + len(split(raw)[0]) for raw in files)
        assert found["weights"]["kinds"]["header bit"] == 8 * header_bytes

    def test_none_takes_memory_time_or_patience(self, found: dict[str, Any]) -> None:
        assert found["extra_peak_bytes"] < 50e6
        assert found["slowest_load_s"] < 10
        assert found["longest_message"] < 900


@pytest.mark.slow
@linux
def test_a_reader_with_any_fault_is_found_out() -> None:
    assert said_by("faulty_reader.py") == {
        "refuses": {"attacks": 1, "refused": 1},
        "refuses a good head": {"attacks": 1, "refused_otherwise": 1},
        "loads the good head": {"attacks": 1, "loaded_unharmed": 1},
        "loads what is no head": {"attacks": 1, "loaded_wrong": 1},
        "loads other values": {"attacks": 1, "loaded_wrong": 1},
        "loads another config": {"attacks": 1, "loaded_wrong": 1},
        **{
            name: {"attacks": 1, "refused_otherwise": 1}
            for name in (
                *("raises KeyError", "exits", "names no folder", "names no file", "gives no reason"),
                "writes to the terminal",
            )
        },
        **{
            name: {"attacks": 1, "refused": 1, "executed": 1}
            for name in (
                *("unpickles", "opens the pickle", "writes", "removes", "evaluates", "starts a program"),
                "asks the network",
            )
        },
        "imports": {"attacks": 1, "refused_otherwise": 1, "executed": 1},
    }


@linux
class TestHostUntouched:
    """What is refused by `attach_depth_head` leaves no hook and no changed bit."""

    @pytest.mark.parametrize("name", CONFIGS)
    def test_by_hostile_folders(self, tmp_path: Path, name: str) -> None:
        marker = tmp_path / "pwned"
        host = clip_host()
        before = module_digest(host)
        good = target(CONFIGS[name]).save_pretrained(tmp_path / "good")
        hostile = [repository for repository in hostile_repositories(marker) if not repository.is_good]
        assert len(hostile) >= 50
        for number, repository in enumerate(hostile):
            folder = Path(shutil.copytree(good, tmp_path / str(number)))
            repository.change(folder)
            with pytest.raises(CheckpointError):
                attach_depth_head(host, folder)
            assert hook_count(host) == 0, repository.name
        assert module_digest(host) == before
        assert not marker.exists()

    @pytest.mark.parametrize("name", CONFIGS)
    def test_by_forged_files(self, tmp_path: Path, name: str) -> None:
        host = clip_host()
        before = module_digest(host)
        head = target(CONFIGS[name])
        folder = head.save_pretrained(tmp_path / "head")
        whole = {file: (folder / file).read_bytes() for file in (CONFIG, WEIGHTS)}
        forged = [(WEIGHTS, forgery) for forgery in foreign_heads(head, tmp_path / "scratch")]
        forged += [(CONFIG, forgery) for forgery in [*hostile_configs(whole[CONFIG], whole[CONFIG])][::150]]
        assert len(forged) > 40
        for file, forgery in forged:
            (folder / file).write_bytes(forgery.raw)
            with pytest.raises(CheckpointError):
                attach_depth_head(host, folder)
            (folder / file).write_bytes(whole[file])
            assert hook_count(host) == 0, forgery.name
        assert module_digest(host) == before


class TestWhileItIsRead:
    """A file that changes under the reader is refused, or was read before."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return target(CONFIGS["tap-mixer"]).save_pretrained(tmp_path / "head")

    def during(self, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, deed: Callable[[], object]) -> None:
        """Do something as soon as that function of the reader is done."""
        function = getattr(module, name)

        def reading(*args: Any, **kwargs: Any) -> Any:
            found = function(*args, **kwargs)
            deed()
            return found

        monkeypatch.setattr(module, name, reading)

    def test_weights_that_vanish(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.during(monkeypatch, head_folder, "read_config", (folder / WEIGHTS).unlink)
        with pytest.raises(CheckpointError, match=r"cannot read .*model\.safetensors"):
            DepthHead.from_pretrained(folder)

    @pytest.mark.parametrize("name", ["_read_header", "check_kinds"])
    def test_weights_that_vanish_once_the_header_is_read(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        self.during(monkeypatch, weights, name, lambda: (folder / WEIGHTS).unlink(missing_ok=True))
        with pytest.raises(CheckpointError, match=r"model\.safetensors"):
            DepthHead.from_pretrained(folder)

    def test_another_head_once_the_header_is_read(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = target(CONFIGS["tap-mixer"], seed=1).save_pretrained(tmp_path / "other")
        self.during(monkeypatch, weights, "_read_header", lambda: (other / WEIGHTS).replace(folder / WEIGHTS))
        with pytest.raises(CheckpointError, match="is damaged or was changed"):
            DepthHead.from_pretrained(folder)


@pytest.mark.parametrize("file", [CONFIG, WEIGHTS])
def test_a_file_nobody_may_read(tmp_path: Path, file: str) -> None:
    if not hasattr(os, "geteuid") or os.geteuid() == 0:
        pytest.skip("root may read every file")
    folder = target(CONFIGS["tap-mixer"]).save_pretrained(tmp_path / "head")
    (folder / file).chmod(0)
    with pytest.raises(CheckpointError, match=f"cannot read .*{file}"):
        DepthHead.from_pretrained(folder)


def test_the_importer_of_checkpoints_runs_no_pickle(tmp_path: Path) -> None:
    marker = tmp_path / "pwned"
    for name, raw in pickles(marker).items():
        path = tmp_path / f"{name}.pt"
        path.write_bytes(raw)
        with pytest.raises(CheckpointError, match="not a checkpoint that can be read without running code"):
            read_published(path)
        assert not marker.exists(), name


def test_those_pickles_run_what_they_say(tmp_path: Path) -> None:
    """Else nothing is proven by their not having been run."""
    for name, raw in pickles(tmp_path / "pwned").items():
        if name.startswith("pickle"):
            pickle.loads(raw)
            (tmp_path / "pwned").unlink()


@pytest.fixture(scope="module")
def any_path() -> Iterator[Path]:
    """One file for all examples of a property."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / WEIGHTS


class TestAnyBytes:
    json_values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
        max_leaves=12,
    )
    entry = st.fixed_dictionaries(
        {"dtype": st.sampled_from(["F32", "I64", "F16", 3]), "shape": st.lists(st.integers(-1, 4), max_size=3)},
        optional={"data_offsets": st.lists(st.integers(-1, 99), max_size=3), "x": json_values},
    )
    headers = st.dictionaries(
        st.sampled_from(["__metadata__", "decoder.norm.bias", "decoder.norm.weight"]) | st.text(max_size=5),
        entry | json_values | st.just({"spaceclip": '{"sha256": "", "config": "{}"}'}),
        max_size=5,
    ).map(lambda header: json.dumps(header).encode())

    @pytest.mark.slow
    @settings(max_examples=300, deadline=None)
    @given(raw=st.binary(max_size=200) | headers, data=st.binary(max_size=40), is_told=st.booleans())
    def test_are_no_weights(self, any_path: Path, raw: bytes, data: bytes, is_told: bool) -> None:
        any_path.write_bytes((LENGTH.pack(len(raw)) if is_told else b"") + raw + data)
        with pytest.raises(CheckpointError) as caught:
            weights.read_weights(any_path, EXPECTED)
        assert str(any_path) in str(caught.value)

    @settings(max_examples=300, deadline=None)
    @given(raw=st.binary(max_size=200) | headers)
    def test_are_an_object_or_an_error(self, raw: bytes) -> None:
        with contextlib.suppress(CheckpointError):
            assert parse_json_object(raw, source="it") == json.loads(raw)

    @settings(max_examples=100, deadline=None)
    @given(values=json_values)
    def test_are_no_config(self, values: Any) -> None:
        with pytest.raises(SpaceClipError):
            DepthHeadConfig.from_dict(values)


@pytest.mark.parametrize("objects", [False, True])
def test_how_deep_json_may_nest(objects: bool) -> None:
    def holding(depth: int) -> bytes:
        opening, closing = (b'{"a":', b"}") if objects else (b"[", b"]")
        return b'{"a":' + opening * (depth - 1) + b"1" + closing * (depth - 1) + b"}"

    assert parse_json_object(holding(MAX_JSON_DEPTH), source="it").keys() == {"a"}
    with pytest.raises(CheckpointError, match="it nests too deeply to be one of our JSON files: more than 64"):
        parse_json_object(holding(MAX_JSON_DEPTH + 1), source="it")
