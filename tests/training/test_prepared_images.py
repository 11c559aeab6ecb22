"""A head learns and is judged on the images that its host makes of photos, with depth where their pixels are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from padding_policy import SmolVLAPolicy
from small_world import PROTOCOL, cached, scenes, settings, tiny_head, tiny_host, tiny_mixer
from torch import nn

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin.data.preparation import DeclaredPreparation, ImagePreparation
from spaceclip_plugin.data.version import Version
from spaceclip_plugin.errors import TrainingError
from spaceclip_plugin.evaluation import evaluate
from spaceclip_plugin.head.familiarity import mean_tokens
from spaceclip_plugin.towers import ImageGeometry, TowerFeatures
from spaceclip_plugin.training import DepthTrainer, Recipe, RunOptions
from spaceclip_plugin.training.data_camera import DataCamera, data_camera, focal_length_of
from spaceclip_plugin.training.live_features import LiveFeatures
from spaceclip_plugin.training.processes import Processes
from spaceclip_plugin.training.run.record import check_same_run
from spaceclip_worlds.render.tabletop import TabletopScenes

CPU = torch.device("cpu")
HW = (36, 48)
WORDS = ["stretch", "letterbox:bottom-right", "centre-crop"]
each = pytest.mark.parametrize("words", WORDS)


def wide_scenes(count: int, seed: int = 0) -> list:
    source = TabletopScenes(count, image_hw=HW, seed=seed)
    return [source[i] for i in range(count)]


def prepared(host: nn.Module, words: str) -> ImagePreparation:
    ImageGeometry.parse(words).declare(host)
    with attach_depth_head(host, tiny_head(host)) as attachment:
        return attachment.preparation


def policy() -> SmolVLAPolicy:
    return SmolVLAPolicy(HW).eval()


class TestTargets:
    @each
    def test_kept_and_live_ones_are_over_the_towers_image(self, words: str, tmp_path: Path) -> None:
        host, samples = tiny_host(), wide_scenes(3)
        preparation = prepared(host, words)
        with attach_depth_head(host, tiny_head(host)) as attachment:
            kept = cached(attachment, samples, tmp_path, versions=3, preparation=preparation)
            live = LiveFeatures(attachment, samples, settings=settings(versions=3, preparation=preparation))
            for number in (2, 1, 0):
                both = [one.decode(one.load([2, 0], [number, number]), CPU) for one in (kept, live)]
                assert torch.equal(both[0].target_m, both[1].target_m)
                torch.testing.assert_close(both[0].features.hidden[2], both[1].features.hidden[2], atol=0.01, rtol=0.01)
        shown = preparation.mapping(HW).valid_tower_pixels(both[0].target_m.shape[1:])
        assert not both[0].target_m[:, ~shown].any()
        assert (both[0].target_m[:, shown] > 0).all()

    def test_their_pixels_are_about_as_large_as_those_of_the_depth(self) -> None:
        host = tiny_host()
        # Of the crop: the photo is resized to 42 columns, not 42.67.
        sizes = {words: settings(preparation=prepared(host, words)).target_hw((72, 96), HW) for words in WORDS}
        assert sizes == {
            "stretch": (72, 96),
            "letterbox:bottom-right": (96, 96),
            "centre-crop": (72, 73),
        }  # 42 of 42.67 columns
        capped = settings(preparation=prepared(host, "letterbox"), target_side=24)
        assert capped.target_hw((72, 96), HW) == (24, 24)

    def test_a_stretch_changes_nothing(self, tmp_path: Path) -> None:
        """Without a preparation, as before there were any, and with the stretch: the same key and the same bits."""
        host, samples = tiny_host(), wide_scenes(2)
        preparation = prepared(host, "stretch")
        with attach_depth_head(host, tiny_head(host)) as attachment:
            plain = cached(attachment, samples, tmp_path, keyed=True)
            [folder] = [path for path in tmp_path.iterdir() if path.is_dir()]
            again = cached(attachment, samples, tmp_path, keyed=True, preparation=preparation)
            assert [path for path in tmp_path.iterdir() if path.is_dir()] == [folder]
            cached(attachment, samples, tmp_path, keyed=True, preparation=prepared(host, "centre-crop"))
            assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 2
        assert torch.equal(plain.load([1], [0])["target_m"], again.load([1], [0])["target_m"])

    def test_a_crop_of_another_shape_is_enlarged_otherwise(self) -> None:
        """Half the width of a photo fills a letterbox no more than all of it where its height decides."""
        preparation = prepared(tiny_host(), "letterbox")
        told, [sample] = settings(preparation=preparation), wide_scenes(1)
        half = Version(left=0.25, width=0.5)  # 36x24: it becomes 32x21, and the whole photo 24x32
        target_m = told.target(sample.depth_m, half, image_hw=HW, hw=(32, 32))
        known = target_m > 0
        seen = half.target(sample.depth_m, (32, 32), mapping=preparation.mapping((36, 24))) / half.scale
        assert target_m[known] == pytest.approx(
            seen[known] * ((24 / 36) * (32 / 48) / (32 / 36) / (21 / 24)) ** 0.5, rel=1e-5
        )


class TestCamera:
    @each
    def test_its_focal_length_is_over_the_towers_image(self, words: str) -> None:
        [sample] = wide_scenes(1)
        preparation = prepared(tiny_host(), words)
        found = focal_length_of(sample, PROTOCOL, preparation=preparation)
        assert found == pytest.approx(preparation.mapping(HW).to_tower(sample.intrinsics).focal_length)
        run = data_camera([sample], PROTOCOL, Processes(CPU), preparation=preparation)
        assert run == DataCamera(found)
        assert run.to_head(sample, PROTOCOL, preparation=preparation) == 1.0

    def test_that_of_a_stretch_is_kept_to_the_bit(self) -> None:
        [sample] = wide_scenes(1)
        stretch = prepared(tiny_host(), "stretch")
        assert focal_length_of(sample, PROTOCOL, preparation=stretch) == focal_length_of(sample, PROTOCOL)

    def test_an_assumed_one_goes_the_same_way(self) -> None:

        sample = replace(wide_scenes(1)[0], intrinsics=None)
        letterbox = prepared(tiny_host(), "letterbox")
        plain = data_camera([sample], PROTOCOL, Processes(CPU)).focal_length
        boxed = data_camera([sample], PROTOCOL, Processes(CPU), preparation=letterbox).focal_length
        assert boxed == pytest.approx((plain[0], plain[1] * 36 / 48))


def run(host: nn.Module, out: Path, *, cache: str = "fp16", workers: int = 0, head: DepthHead | None = None) -> Any:
    recipe = Recipe(epochs=1, batch_size=4, views=3, cache=cache)
    trainer = DepthTrainer(host, head or tiny_mixer(host), recipe=recipe, protocol=PROTOCOL)
    options = RunOptions(progress=False, workers=workers)
    return trainer.fit(wide_scenes(6), wide_scenes(3, seed=9), out, trained_on="scenes", options=options)


def scored(host: nn.Module, head: DepthHead, *, cache: str = "fp16") -> float:
    """AbsRel by the host's own steps, with features as rounded as a run with such a cache sees them."""
    rounding = head.register_forward_pre_hook(halved) if cache == "fp16" else None
    with attach_depth_head(host, head) as attachment:
        found = evaluate(attachment, wide_scenes(3, seed=9), protocol=PROTOCOL).mean.abs_rel
    if rounding is not None:
        rounding.remove()
    return found


def halved(_head: nn.Module, args: tuple[TowerFeatures, Any]) -> tuple[TowerFeatures, Any]:
    features, output_hw = args
    hidden = {tap: value.half().float() for tap, value in features.hidden.items()}
    return replace(features, hidden=hidden), output_hw


class TestRuns:
    @each
    def test_what_a_run_says_of_itself_is_what_its_head_scores(self, words: str, tmp_path: Path) -> None:
        host = tiny_host()
        ImageGeometry.parse(words).declare(host)
        result = run(host, tmp_path / "run")
        assert scored(host, result.head) == pytest.approx(result.validation.abs_rel, abs=1e-6)
        assert json.loads((tmp_path / "run" / "run.json").read_text())["preparation"] == ImageGeometry.parse(words).name
        assert result.head.config.preparation == ImageGeometry.parse(words).kind
        assert f"prepared by `{words}`" in (tmp_path / "run" / "README.md").read_text(encoding="utf-8")

    @pytest.mark.parametrize("cache", [pytest.param("fp16", marks=pytest.mark.slow), "none"])
    def test_on_the_images_that_a_policy_makes(self, cache: str, tmp_path: Path) -> None:
        host = policy()
        result = run(host, tmp_path / "run", cache=cache)
        # A cache keeps the image that the head reads in 8 bits, and the policy's pixels lie between.
        assert scored(host, result.head, cache=cache) == pytest.approx(result.validation.abs_rel, abs=2e-5)
        assert result.head.config.preparation == "letterbox:bottom-right"
        said = json.loads((tmp_path / "run" / "run.json").read_text())["preparation"]
        assert said.startswith("SmolVLAPolicy.prepare_images of LeRobot ")
        ImageGeometry.STRETCH.declare(host)
        assert scored(host, result.head, cache=cache) != pytest.approx(result.validation.abs_rel, abs=1e-3)

    def test_a_head_that_learns_anew_tells_of_its_new_images(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        host = policy()
        first = tiny_mixer(host)
        first.config = replace(first.config, preparation="stretch")
        result = run(host, tmp_path / "run", head=first)
        assert result.head.config.preparation == "letterbox:bottom-right"
        assert "prepared otherwise" not in caplog.text

    @pytest.mark.slow
    @pytest.mark.parametrize("cache", ["fp16", "none"])
    def test_which_processes_that_read_ahead_leave_to_it(self, cache: str, tmp_path: Path) -> None:
        alone, helped = (run(policy(), tmp_path / str(n), cache=cache, workers=n) for n in (0, 1))
        for one, other in zip(alone.head.parameters(), helped.head.parameters(), strict=True):
            assert torch.equal(one, other)

    def test_an_older_run_that_said_nothing_was_stretched(self, tmp_path: Path) -> None:
        host = tiny_host()
        run(host, tmp_path / "run")
        record = json.loads((tmp_path / "run" / "run.json").read_text())
        before = {key: value for key, value in record.items() if key != "preparation"}
        before["head"] = {key: value for key, value in record["head"].items() if key != "preparation"}
        before["head"]["format_version"] = 4
        check_same_run(tmp_path, before, record)
        with pytest.raises(TrainingError, match="preparation was"):
            check_same_run(tmp_path, before, {**record, "preparation": "centre-crop-bicubic-1"})


def test_padding_is_nothing_that_images_are_known_by(tmp_path: Path) -> None:
    """Mean tokens are of the patches that show a photo, live, kept, and as `read` takes them."""
    host = tiny_host()
    preparation = prepared(host, "letterbox:bottom-right")
    assert isinstance(preparation, DeclaredPreparation)
    head = tiny_mixer(host)
    samples = scenes(1) + wide_scenes(1)
    with attach_depth_head(host, head) as attachment:
        live = LiveFeatures(attachment, samples, settings=settings(preparation=preparation))
        kept = cached(attachment, samples, tmp_path, preparation=preparation)
        square, wide = (live.tokens(index, tap=2, versions=2, device=CPU) for index in (0, 1))
        hidden = [live.decode(live.load([i, i], [0, 1]), CPU).features.hidden[2] for i in (0, 1)]
        torch.testing.assert_close(kept.tokens(1, tap=2, versions=2, device=CPU), wide, atol=0.01, rtol=0.01)
    torch.testing.assert_close(square, mean_tokens(hidden[0])[0])
    torch.testing.assert_close(wide, mean_tokens(hidden[1][:, :, 1:])[0])  # the first of four rows is padding
