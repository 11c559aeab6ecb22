"""One unusable image is refused before a run has begun, not when it has ended."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_world import PROTOCOL, RESUMED, scenes, settings, tiny_head, tiny_host, tiny_mixer

from spaceclip_plugin import attach_depth_head
from spaceclip_plugin.cli import main
from spaceclip_plugin.data.sample import DepthSample, DepthSource
from spaceclip_plugin.data.sources.mixture import Mixture
from spaceclip_plugin.errors import CaptureError, DataError
from spaceclip_plugin.evaluation.evaluate import evaluate
from spaceclip_plugin.training import DepthTrainer, RunOptions
from spaceclip_plugin.training.data_camera import LOOKED_AT
from spaceclip_plugin.training.live_features import LiveFeatures
from spaceclip_plugin.training.processes import Processes
from spaceclip_plugin.training.source_checks import checked_sources
from spaceclip_worlds.render.tabletop import TabletopScenes


def far(sample: DepthSample) -> DepthSample:
    """The sample with all of its depth beyond the protocol's range."""
    return dataclasses.replace(sample, depth_m=np.full_like(sample.depth_m, 50.0), name="list.txt:3 far.png")


def with_one_far(count: int, seed: int) -> list[DepthSample]:
    first, *others = scenes(count, seed=seed)
    return [*others, far(first)]


@pytest.mark.parametrize("cache", ["fp16", "none"])
@pytest.mark.parametrize("name", ["validation", "test"])
def test_an_image_that_cannot_be_scored_is_refused_before_anything_is_written(
    tmp_path: Path, name: str, cache: str
) -> None:
    host = tiny_host()
    sources = {"validation": scenes(3, seed=1), "test": scenes(3, seed=2)}
    sources[name] = with_one_far(3, seed=3)
    trainer = DepthTrainer(host, tiny_mixer(host), recipe=dataclasses.replace(RESUMED, cache=cache), protocol=PROTOCOL)
    with pytest.raises(DataError) as caught:
        trainer.fit(
            scenes(4),
            sources["validation"],
            tmp_path / "out",
            test=sources["test"],
            trained_on="x",
            options=RunOptions(progress=False, cache=tmp_path / "cache"),
        )
    assert f"1 of 3 samples of the {name} source cannot be used" in str(caught.value)
    assert "with --skip-bad:\n  list.txt:3 far.png: no ground truth between 0.001 and 10.0 m" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_only_the_first_of_many_are_told() -> None:
    validation = [*scenes(16, seed=1), *(far(sample) for sample in scenes(8, seed=2))]
    with pytest.raises(DataError, match="8 of 24 samples") as caught:
        checked_sources({"train": scenes(2), "validation": validation}, PROTOCOL, Processes(torch.device("cpu")))
    assert str(caught.value).count("far.png") == 5
    assert str(caught.value).endswith("\n  … and 3 more")


@pytest.mark.parametrize(
    ("train", "validation", "advice"),
    [
        (TabletopScenes(3, image_hw=(8, 8)), TabletopScenes(2, image_hw=(8, 8)), "scenes:2:1"),
        (
            Mixture([TabletopScenes(2, image_hw=(8, 8), seed=1), TabletopScenes(2, image_hw=(8, 8))]),
            Mixture([TabletopScenes(5, image_hw=(8, 8), seed=1)]),
            "scenes:5:2",
        ),
    ],
)
def test_scenes_that_overlap_are_told_another_seed(train: DepthSource, validation: DepthSource, advice: str) -> None:
    with pytest.raises(DataError, match="validation source are in the train source too") as caught:
        checked_sources({"train": train, "validation": validation}, PROTOCOL, Processes(torch.device("cpu")))
    assert advice in str(caught.value)
    assert "COUNT:SEED" in str(caught.value)


def test_photos_that_overlap_are_told_no_seed() -> None:
    sources = {"train": scenes(3), "validation": scenes(2)}
    with pytest.raises(DataError, match=r"Take them out of one$"):
        checked_sources(sources, PROTOCOL, Processes(torch.device("cpu")))


class Counted(list):
    """Samples that count how often they were decoded, and know their fingerprints."""

    decoded = 0

    def __getitem__(self, index: int) -> DepthSample:  # type: ignore[override]
        self.decoded += 1
        return super().__getitem__(index)

    def fingerprint(self, index: int) -> str:
        return f"{id(self):056x}{index:08x}" + 64 * "0"


def test_images_to_learn_from_are_not_all_decoded() -> None:
    train, validation = Counted(scenes(90)), Counted(scenes(3, seed=1))
    checked_sources({"train": train, "validation": validation}, PROTOCOL, Processes(torch.device("cpu")))
    assert train.decoded == 24 + LOOKED_AT < len(train)  # for the unit of their depth, and for their lens
    assert validation.decoded == 6


def test_live_features_refuse_an_image_without_a_valid_pixel() -> None:
    host = tiny_host().eval()
    with attach_depth_head(host, tiny_head(host)) as attachment:
        stream = LiveFeatures(attachment, with_one_far(3, seed=0), settings=settings())
        stream.load([0, 1], [0, 1])
        with pytest.raises(DataError, match=r"far\.png: no ground truth .* leave this sample out \(--skip-bad does\)"):
            stream.load([0, 2], [0, 1])


def test_images_that_the_tower_cannot_take_are_named() -> None:
    host = tiny_host().eval()
    host.blocks[0].register_forward_hook(lambda _module, _args, output: output * float("nan"))
    samples = scenes(3)
    with attach_depth_head(host, tiny_head(host)) as attachment:
        stream = LiveFeatures(attachment, samples, settings=settings())
        with pytest.raises(CaptureError, match=f"^one of {samples[2].name}, {samples[0].name}: .*NaN or infinity"):
            stream.decode(stream.load([2, 0], [0, 1]), torch.device("cpu"))
        with pytest.raises(CaptureError, match=f"^{samples[0].name}: .*NaN or infinity"):
            evaluate(attachment, samples, protocol=PROTOCOL)


def written(folder: Path, name: str, samples: list[DepthSample]) -> Path:
    lines = []
    for i, sample in enumerate(samples):
        Image.fromarray(sample.image).save(folder / f"{name}_{i}.png")
        Image.fromarray((sample.depth_m * 1000).astype(np.uint16)).save(folder / f"{name}_{i}_depth.png")
        lines.append(f"{name}_{i}.png {name}_{i}_depth.png\n")
    path = folder / f"{name}.txt"
    path.write_text("".join(lines))
    return path


def test_the_command_says_what_to_do_and_doing_it_helps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lists = {
        "--data": written(tmp_path, "learnt", scenes(4)),
        "--val": written(tmp_path, "judged", scenes(2, seed=1)),
        "--test": written(tmp_path, "held", with_one_far(3, seed=2)),
    }
    argv = ["train", "--host", "python:small_world:tiny_host", "--protocol", "whole-image", "--epochs", "1"]
    argv += ["--views", "2", "--out", str(tmp_path / "out")]
    argv += [str(word) for pair in lists.items() for word in pair]
    assert main(argv) == 1
    error = capsys.readouterr().err
    assert "1 of 3 samples of the test source cannot be used" in error
    assert "with --skip-bad:\n  held.txt:3 held_2.png: no ground truth" in error
    assert not (tmp_path / "out").exists()
    assert main([*argv, "--skip-bad"]) == 0
    assert "test: AbsRel" in capsys.readouterr().out
