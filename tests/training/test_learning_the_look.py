"""At its end a run learns what its training images look like, the same from kept features and from live ones."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from small_world import PROTOCOL, RESUMED, cached, scenes, settings, tiny_host, tiny_mixer
from torch import nn

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin.data import DepthSample
from spaceclip_plugin.evaluation import evaluate
from spaceclip_plugin.head.decoder import HeadOutput
from spaceclip_plugin.head.familiarity import LEAST_IMAGES
from spaceclip_plugin.towers import TowerFeatures
from spaceclip_plugin.training import DepthTrainer, RunOptions, TrainingResult
from spaceclip_plugin.training import familiar_images as familiar_images_module
from spaceclip_plugin.training.familiar_images import familiarity_record, training_tokens
from spaceclip_plugin.training.features import Batch
from spaceclip_plugin.training.live_features import LiveFeatures
from spaceclip_plugin.training.processes import Processes
from spaceclip_plugin.training.validation_set import ValidationSet

CPU = torch.device("cpu")
ONE = Processes(CPU)


def fit(out: Path, train: list[DepthSample], *, cache: str = "fp16", validation: object = None) -> TrainingResult:
    host = tiny_host()
    recipe = dataclasses.replace(RESUMED, epochs=1, batch_size=16, cache=cache)
    trainer = DepthTrainer(host, tiny_mixer(host), recipe=recipe, protocol=PROTOCOL)
    judged = scenes(8, seed=1) if validation is None else validation
    return trainer.fit(train, judged, out, trained_on="x", options=RunOptions(progress=False))


@pytest.fixture(scope="module")
def many() -> list[DepthSample]:
    return scenes(LEAST_IMAGES + 4)


@pytest.fixture(scope="module")
def run(many: list[DepthSample], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainingResult]:
    out = tmp_path_factory.mktemp("run") / "out"
    return out, fit(out, many)


def strange(count: int) -> list[DepthSample]:
    """Scenes of another world: the same depth, under stripes."""
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[::2] = 255
    return [dataclasses.replace(one, image=np.roll(stripes, i, axis=0)) for i, one in enumerate(scenes(count, seed=5))]


class TestARun:
    def test_the_saved_head_knows_its_images(self, run: tuple) -> None:
        out, result = run
        head = DepthHead.from_pretrained(out / "head")
        assert head.familiarity is not None
        assert head.config.familiarity.tap == head.familiar_tap
        with attach_depth_head(tiny_host().eval(), head) as depth:
            familiar, odd = (evaluate(depth, some, protocol=PROTOCOL) for some in (scenes(8, seed=1), strange(8)))
        known = [score.familiarity for score in familiar.per_image]
        assert sum(known) > 1 + sum(score.familiarity for score in odd.per_image)
        assert result.familiarity["validation_unfamiliar"] == sum(one < 0.05 for one in known) / 8

    def test_its_intervals_hold_what_the_record_says(self, run: tuple) -> None:
        _, result = run
        with attach_depth_head(tiny_host().eval(), result.head) as depth:
            again = evaluate(depth, scenes(8, seed=1), protocol=PROTOCOL)
        assert again.coverage == pytest.approx(result.calibration.after, abs=0.02)

    def test_the_record(self, run: tuple) -> None:
        out, result = run
        record = json.loads((out / "run.json").read_text())
        assert record["familiarity"] == result.familiarity
        assert record["familiarity"]["images"] == LEAST_IMAGES + 4
        assert list(record["familiarity"]["validation_quantiles"]) == ["0.05", "0.25", "0.5", "0.75"]
        assert record["head"] == json.loads(json.dumps(result.head.config.to_dict()))
        assert record["head"]["familiarity"]["references"] == LEAST_IMAGES + 4

    def test_it_is_the_same_every_time(self, run: tuple, many: list[DepthSample], tmp_path: Path) -> None:
        fit(tmp_path / "out", many)
        first, second = (folder / "head" / "model.safetensors" for folder in (run[0], tmp_path / "out"))
        assert first.read_bytes() == second.read_bytes()


def test_too_few_images_teach_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="spaceclip_plugin"):
        result = fit(tmp_path / "out", scenes(LEAST_IMAGES - 1))
    assert result.familiarity is None
    assert result.head.config.familiarity is None
    assert json.loads((tmp_path / "out" / "run.json").read_text())["familiarity"] is None
    assert f"{LEAST_IMAGES - 1} training images are too few" in caplog.text


def test_what_a_head_knew_of_other_images_goes(tmp_path: Path) -> None:
    host = tiny_host()
    head = tiny_mixer(host)
    head.learn_familiarity(torch.randn(50, 2, 24))
    recipe = dataclasses.replace(RESUMED, epochs=1)
    trainer = DepthTrainer(host, head, recipe=recipe, protocol=PROTOCOL)
    quietly = RunOptions(progress=False)
    result = trainer.fit(scenes(8), scenes(3, seed=1), tmp_path / "out", trained_on="x", options=quietly)
    assert result.head.familiarity is None


class TestTokens:
    @pytest.mark.parametrize(("storage", "tolerance"), [("fp16", 2e-3), ("int8", 2e-2)])
    def test_kept_and_live_features_give_the_same(
        self, many: list[DepthSample], tmp_path: Path, storage: str, tolerance: float
    ) -> None:
        host = tiny_host().eval()
        with attach_depth_head(host, tiny_mixer(host)) as attachment:
            kept = cached(attachment, many, tmp_path, storage=storage, versions=3)
            live = LiveFeatures(attachment, many, settings=settings(versions=3))
            one, other = (training_tokens(stream, tap=2, device=CPU, processes=ONE) for stream in (kept, live))
            hidden = live.decode(live.load([7, 7], [0, 1]), CPU).features.hidden[2]
        assert one.shape == other.shape == (LEAST_IMAGES + 4, 2, 24)
        assert torch.allclose(one, other, atol=tolerance)
        assert not torch.equal(one, other)
        assert torch.allclose(other[7], hidden.mean(dim=(2, 3)), atol=1e-6)

    def test_images_are_spread_and_versions_few(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Numbered:
            versions = 30

            def __len__(self) -> int:
                return 1000

            def tokens(self, index: int, *, tap: int, versions: int, device: torch.device) -> torch.Tensor:
                return torch.full((versions, tap), float(index))

        monkeypatch.setattr(familiar_images_module, "MOST_IMAGES", 50)
        told: list[int] = []
        tokens = training_tokens(Numbered(), tap=3, device=CPU, processes=ONE, progress=told.append)
        assert tokens.shape == (50, 2, 3)
        assert tokens[:, 0, 0].tolist() == list(range(0, 1000, 20))
        assert sum(told) == 50

    def test_padding_does_not_count(self, many: list[DepthSample], monkeypatch: pytest.MonkeyPatch) -> None:
        host = tiny_host().eval()
        with attach_depth_head(host, tiny_mixer(host)) as attachment:
            live = LiveFeatures(attachment, many, settings=settings())
            hidden = torch.arange(32.0).reshape(1, 2, 4, 4)
            valid = torch.zeros(1, 4, 4, dtype=torch.bool)
            valid[0, 0, :2] = True
            features = TowerFeatures({0: hidden}, None, (32, 32), valid=valid)
            monkeypatch.setattr(live, "decode", lambda loaded, device: Batch(features, torch.zeros(1, 0, 0)))
            assert live.tokens(0, tap=0, versions=1, device=CPU).tolist() == [[0.5, 16.5]]


def test_the_record_counts_what_is_unfamiliar() -> None:
    told = familiarity_record(99, torch.tensor([0.0, 0.04, 0.5, 1.0]))
    assert told["validation_unfamiliar"] == 0.5
    assert told["validation_quantiles"]["0.5"] == 0.27


class Spread(nn.Module):
    """Depth of 1 m and a deviation of 10 %, which a factor rescales."""

    predicts_uncertainty = True

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, features: object, output_hw: tuple[int, int], *, auxiliary: bool) -> HeadOutput:
        depth_m = torch.ones(1, *output_hw)
        return HeadOutput(depth_m, (), 0.1 * self.factor.detach() * depth_m)

    def rescale_uncertainty(self, factor: float) -> None:
        with torch.no_grad():
            self.factor.mul_(factor)


def test_the_widening_is_not_rescaled(many: list[DepthSample]) -> None:
    """Images of which some are strange are covered as `evaluate` finds them, whatever the factor."""
    host = tiny_host().eval()
    errors = torch.distributions.Laplace(0.0, 0.3).sample((8, 32, 32)).exp().numpy()
    judged = [*scenes(5, seed=1), *strange(3)]
    judged = [dataclasses.replace(one, depth_m=error) for one, error in zip(judged, errors, strict=True)]
    with attach_depth_head(host, tiny_mixer(host)) as attachment:
        head = attachment.head
        head.decoder = Spread()
        learnt = training_tokens(
            LiveFeatures(attachment, many, settings=settings()), tap=head.familiar_tap, device=CPU, processes=ONE
        )
        head.learn_familiarity(learnt)
        live = LiveFeatures(attachment, judged, settings=settings(targets=False))
        validation_set = ValidationSet(live, judged, PROTOCOL, ONE)
        familiarity = validation_set.familiarity(head)
        assert (familiarity < 0.05).any()
        assert (familiarity > 0.25).any()
        before = evaluate(attachment, judged, protocol=PROTOCOL).coverage
        calibration = validation_set.calibrate(head)
        assert calibration.before == pytest.approx(before, abs=1e-3)
        assert evaluate(attachment, judged, protocol=PROTOCOL).coverage == pytest.approx(calibration.after, abs=1e-3)
        assert head.decoder.factor.item() == pytest.approx(calibration.factor)
