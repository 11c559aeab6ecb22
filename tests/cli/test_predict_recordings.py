"""`spaceclip predict --rerun … --mcap …`: all photos of a call in one file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import users_policy
from PIL import Image

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin.cli import main

INTRINSICS = ["--intrinsics", "50,50,30.5,22.5"]


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parent)


@pytest.fixture
def predict(tmp_path: Path) -> list[str]:
    """A command for two photos, with an untrained head."""
    with attach_depth_head(users_policy.build()) as depth:
        DepthHead.for_tower(depth.tower).save_pretrained(tmp_path / "head")
    random = np.random.default_rng(0)
    photos = [tmp_path / f"{name}.png" for name in ("hall", "stairs")]
    for path in photos:
        Image.fromarray(random.integers(0, 256, (45, 61, 3), dtype=np.uint8)).save(path)
    head = ["--host", "python:users_policy:build", "--head", str(tmp_path / "head")]
    return ["predict", *head, *map(str, photos), "--out", str(tmp_path / "out"), "--json"]


def test_an_mcap_file_holds_what_the_png_files_hold(
    predict: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mcap_ros2", reason="needs mcap-ros2-support: pip install mcap-ros2-support")
    from mcap.reader import make_reader
    from mcap_ros2.decoder import DecoderFactory

    file = tmp_path / "photos.mcap"
    assert main([*predict, *INTRINSICS, "--mcap", str(file)]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["recordings"] == {"mcap": str(file)}
    with file.open("rb") as handle:
        reader = make_reader(handle, decoder_factories=[DecoderFactory()])
        read = list(reader.iter_decoded_messages(topics=["/camera/depth/image_rect_raw"]))
    assert [message.log_time for _, _, message, _ in read] == [0, 10**9]
    for (_, _, _, image), prediction in zip(read, said["predictions"], strict=True):
        depth_m = np.frombuffer(bytes(image.data), "<f4").reshape(45, 61)
        with Image.open(prediction["files"]["depth_mm"]) as png:
            np.testing.assert_array_equal(np.rint(np.nan_to_num(depth_m).astype(np.float64) * 1000), np.asarray(png))


def test_a_rerun_file(predict: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rerun", reason="needs rerun: pip install 'spaceclip-plugin[viz]'")
    file = tmp_path / "photos.rrd"
    assert main([*predict, "--rerun", str(file)]) == 0
    assert json.loads(capsys.readouterr().out)["recordings"] == {"rerun": str(file)}
    content = file.read_bytes()
    assert content[:3] == b"RRF"
    assert len(content) > 2 * 45 * 61 * 3  # both photos


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--mcap", "a.mcap"], "give --intrinsics"),
        ([*INTRINSICS, "--mcap", ".."], "is a folder"),
        (["--rerun", ".."], "is a folder"),
    ],
)
def test_slips_cost_nothing(
    predict: list[str], more: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(users_policy, "build", lambda: pytest.fail("the host was loaded"))
    monkeypatch.setitem(sys.modules, "rerun", sys)
    monkeypatch.setitem(sys.modules, "mcap.writer", sys)
    monkeypatch.setitem(sys.modules, "rosbags.typesys", sys)
    assert main([*predict, *more]) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("option", "module", "extra"), [("--rerun", "rerun", "viz"), ("--mcap", "mcap.writer", "ros")])
def test_a_library_that_is_not_installed(
    predict: list[str],
    option: str,
    module: str,
    extra: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert main([*predict, *INTRINSICS, option, str(tmp_path / "a.file")]) == 1
    assert f"spaceclip-plugin[{extra}]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "a.file").exists()


def test_a_photo_is_never_overwritten(predict: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (tmp_path / "hall.png").read_bytes()
    assert main([*predict, "--rerun", str(tmp_path / "hall.png")]) == 1
    assert "would be overwritten" in capsys.readouterr().err
    assert (tmp_path / "hall.png").read_bytes() == before
