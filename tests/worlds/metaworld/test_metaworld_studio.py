"""The process that draws: it is one's own, its errors come back, and whoever kills it loses nothing."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from spaceclip_plugin.errors import ConfigError, DataError
from spaceclip_worlds.metaworld import studio
from spaceclip_worlds.metaworld.episode import FRAMES, VARIED, Episode, Picture
from spaceclip_worlds.metaworld.frame import Frame, read_frame
from spaceclip_worlds.metaworld.order import Order
from spaceclip_worlds.metaworld.studio import Studio

Draw = Callable[..., list[Frame]]


def order(folder: Path, *, task: str = "reach-v3") -> Order:
    picture = Picture((16, 20), ("corner2",), VARIED)
    return Order(Episode(3, "train", task, 0), picture, str(folder / task), "a key")


def depths(made: Order) -> list[bytes]:
    return [read_frame(made.file(number), shows=made.shows(number)).depth_m.tobytes() for number in range(FRAMES)]


@pytest.fixture
def own() -> Iterator[Studio]:
    made = Studio()
    yield made
    made.close()


@pytest.mark.slow
def test_it_draws_what_this_process_would(draw: Draw, own: Studio, tmp_path: Path) -> None:
    own.carry_out(order(tmp_path))
    here = draw("reach-v3", image_hw=(16, 20))
    assert depths(order(tmp_path)) == [frame.depth_m.tobytes() for frame in here]
    kept = read_frame(order(tmp_path).file(1), shows=order(tmp_path).shows(1))
    np.testing.assert_array_equal(kept.image, here[1].image)


@pytest.mark.slow
def test_one_that_was_killed_is_started_again(draw: Draw, own: Studio, tmp_path: Path) -> None:
    own.carry_out(order(tmp_path))
    pid = own._drawer._process.pid
    os.kill(pid, signal.SIGKILL)
    own._drawer._process.wait()
    own.carry_out(order(tmp_path, task="sweep-v3"))
    assert own._drawer._process.pid != pid
    assert len(depths(order(tmp_path, task="sweep-v3"))) == FRAMES


@pytest.mark.slow
def test_without_opengl_an_error_names_what_is_missing(
    own: Studio, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("metaworld.env_dict", reason="Meta-World is not installed")
    monkeypatch.setenv("MUJOCO_GL", "paint")
    with pytest.raises(ConfigError, match=r"MUJOCO_GL.*libegl1 and libgl1-mesa-dri.*libosmesa6"):
        own.carry_out(order(tmp_path))


def test_an_answer_nobody_waited_for_is_not_taken_for_the_next(own: Studio) -> None:
    class Waiting:
        """A process whose user loses patience."""

        closed = False

        def lives(self) -> bool:
            return True

        def answer(self, question: str) -> str:
            raise KeyboardInterrupt

        def said(self) -> str:
            return ""

        def close(self) -> None:
            self.closed = True

    own._drawer = waiting = Waiting()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        own.carry_out(order(Path()))
    assert waiting.closed
    assert own._drawer is None


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a script of the shell")
def test_a_death_is_told_with_its_last_words(own: Studio, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho hello >&2\necho out of paint >&2\n")
    python.chmod(0o755)
    monkeypatch.setattr(studio.sys, "executable", str(python))
    for _ in range(2):
        with pytest.raises(DataError, match=r"reach-v3 .*died.*'out of paint'"):
            own.carry_out(order(tmp_path))


@pytest.mark.slow
def test_a_forked_process_draws_though_its_parent_did(draw: Draw, drawing_process: None, tmp_path: Path) -> None:
    studio.studio().carry_out(order(tmp_path))
    child = multiprocessing.get_context("fork").Process(target=_draw, args=(order(tmp_path, task="sweep-v3"),))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert len(depths(order(tmp_path, task="sweep-v3"))) == FRAMES


def _draw(wanted: Order) -> None:
    studio.studio().carry_out(wanted)
    studio.studio().close()
