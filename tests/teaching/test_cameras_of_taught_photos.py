"""Taught photos tell as their own source does which of them have a camera, so that a lens alone is found beforehand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from wall_teacher import WallTeacher, save_photos

from spaceclip_plugin.data import Mixture, SourceSpec
from spaceclip_plugin.data.sources.depth_list import ListData
from spaceclip_plugin.data.sources.image_folder import FolderData
from spaceclip_plugin.errors import DataError
from spaceclip_plugin.evaluation import get_protocol
from spaceclip_plugin.teaching import TaughtDepth, TeachOptions, teach
from spaceclip_plugin.training import data_camera
from spaceclip_plugin.training.processes import Processes


def taught(spec: SourceSpec, out: Path) -> TaughtDepth:
    teach(spec, WallTeacher(), out, options=TeachOptions(progress=False))
    return TaughtDepth(out)


def test_one_photo_of_many_that_has_a_lens_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_photos(tmp_path)
    lines = [f"rgb/{index:02}.png None" + " 30" * (index == 4) for index in range(6)]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    source = taught(ListData(str(tmp_path / "list.txt")), tmp_path / "taught")
    assert [source.tells_camera(index) for index in range(6)] == [False, False, False, False, True, False]
    monkeypatch.setattr(data_camera, "LOOKED_AT", 2)  # the first and the fourth: neither has one
    protocol, processes = get_protocol("whole-image"), Processes(torch.device("cpu"))
    with pytest.raises(DataError, match=r"such as list\.txt:5"):
        data_camera.data_camera(source, protocol, processes)


def test_those_that_are_left_out_are_not_counted(tmp_path: Path) -> None:
    save_photos(tmp_path)
    lines = [f"rgb/{index:02}.png None" + " 30" * (index > 2) for index in range(6)]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    (tmp_path / "rgb" / "01.png").write_bytes(b"no photo")
    options = TeachOptions(progress=False, skip_bad=True)
    teach(ListData(str(tmp_path / "list.txt")), WallTeacher(), tmp_path / "taught", options=options)
    source = TaughtDepth(tmp_path / "taught")
    assert [source.tells_camera(index) for index in range(5)] == [False, False, True, True, True]


def test_a_source_that_tells_nothing_is_looked_at_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_photos(tmp_path / "kitchen", lens=True)
    source = taught(FolderData(str(tmp_path / "kitchen")), tmp_path / "taught")
    assert all(source.tells_camera(index) for index in range(6))
    source._source = Mixture([source._source])
    assert source.tells_camera(0) is None
    protocol, processes = get_protocol("whole-image"), Processes(torch.device("cpu"))
    assert not data_camera.data_camera(source, protocol, processes).assumed
