"""Teachers of transformers: real classes with small random weights, saved to a folder and loaded from it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tiny_teachers import TEACHERS, depth_anything, depth_pro, save_teacher

from spaceclip_adapters.teachers.depth_classes import TRAINING_CAMERAS, TrainingCamera, meaning_of, training_camera
from spaceclip_adapters.teachers.license import license_in
from spaceclip_adapters.teachers.transformers import TransformersTeacher, load_hf_teacher
from spaceclip_plugin.depth import Intrinsics
from spaceclip_plugin.errors import TeacherError

HW = (48, 64)
PHOTOS = np.random.default_rng(0).integers(0, 256, (2, *HW, 3), dtype=np.uint8)
LENS = Intrinsics(60.0, 60.0, 32.0, 24.0, HW)
KINDS = [
    pytest.param(
        kind, marks=pytest.mark.skipif(not hasattr(transformers, name), reason=f"this transformers has no {name}")
    )
    for kind, name in {
        "depth_anything": "DepthAnythingForDepthEstimation",
        "glpn": "GLPNForDepthEstimation",
        "dpt": "DPTForDepthEstimation",
        "zoedepth": "ZoeDepthForDepthEstimation",
        "depth_pro": "DepthProForDepthEstimation",
        "tipsv2_dpt": "Tipsv2DptForDepthEstimation",
    }.items()
]
CPU = torch.device("cpu")


def loaded(folder: Path, kind: str = "depth_anything", **changes: Any) -> TransformersTeacher:
    return load_hf_teacher(str(save_teacher(folder / kind, kind, **changes)), device=CPU)


def test_there_is_a_case_of_each() -> None:
    assert [case.values[0] for case in KINDS] == list(TEACHERS)


@pytest.mark.parametrize("kind", KINDS)
def test_depth_is_that_of_the_class_at_the_photos_size(kind: str, tmp_path: Path) -> None:
    teacher = loaded(tmp_path, kind)
    depth = teacher.depth(PHOTOS, [LENS, LENS])
    assert (depth.shape, depth.dtype) == ((2, *HW), np.float32)
    assert np.isfinite(depth).all()
    assert depth.min() >= 0
    np.testing.assert_array_equal(depth, teacher.depth(PHOTOS, [LENS, LENS]))
    again = load_hf_teacher(str(tmp_path / kind), device=CPU)
    assert again.card == teacher.card
    assert teacher.card.metric == (kind != "dpt")
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())


@pytest.mark.parametrize("kind", [case for case in KINDS if case.values[0] in ("depth_anything", "glpn", "zoedepth")])
def test_metres_agree_with_the_library_s_own_way(kind: str, tmp_path: Path) -> None:
    teacher = loaded(tmp_path, kind)
    if not hasattr(teacher.processor, "post_process_depth_estimation"):
        pytest.skip("this transformers leaves what becomes of the depth to its users")
    inputs = teacher.processor(images=list(PHOTOS), return_tensors="pt")
    with torch.no_grad():
        outputs = teacher.model(**inputs)
    sizes = {"source_sizes": [HW] * 2} if kind == "zoedepth" else {"target_sizes": [HW] * 2}
    theirs = teacher.processor.post_process_depth_estimation(outputs, **sizes)
    ours = teacher.depth(PHOTOS, [None, None])
    for mine, other in zip(ours, theirs, strict=True):  # which resizes with cubic steps
        np.testing.assert_allclose(mine, other["predicted_depth"].numpy(), rtol=0.05)


class OldConfig:
    """As a version of transformers makes it whose Depth Anything gives relative depth whatever its file says."""

    def __init__(self, **said: object) -> None:
        self.__dict__.update(said)


def test_metres_that_this_transformers_would_not_give() -> None:
    config = OldConfig(model_type="depth_anything", depth_estimation_type="metric", max_depth=20)
    with pytest.raises(TeacherError, match=r"'lab/metric' gives metres.*install a newer transformers"):
        meaning_of("lab/metric", config)


@pytest.mark.skipif(not hasattr(transformers, "DepthProConfig"), reason="this transformers has no Depth Pro")
class TestDepthPro:
    def test_its_own_field_of_view_as_its_library_uses_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        teacher = loaded(tmp_path, "depth_pro")
        field_deg = 50.0
        forward = teacher.model.forward

        def seeing(**inputs: Any) -> Any:
            told = forward(**inputs)
            told.field_of_view = torch.full_like(told.field_of_view, field_deg)
            return told

        monkeypatch.setattr(teacher.model, "forward", seeing)
        inputs = teacher.processor(images=list(PHOTOS), return_tensors="pt")
        with torch.no_grad():
            theirs = teacher.processor.post_process_depth_estimation(seeing(**inputs), target_sizes=[HW] * 2)
        ours = teacher.depth(PHOTOS, [None, None])
        for mine, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(mine, other["predicted_depth"].numpy(), rtol=1e-4)
        focal_px = 0.5 * HW[1] / math.tan(math.radians(field_deg / 2))
        told = Intrinsics(focal_px, focal_px, 32.0, 24.0, HW)
        np.testing.assert_allclose(teacher.depth(PHOTOS, [told, told]), ours, rtol=1e-5)

    def test_a_known_focal_length_takes_its_place(self, tmp_path: Path) -> None:
        teacher = loaded(tmp_path, "depth_pro")
        twice = Intrinsics(120.0, 120.0, 32.0, 24.0, HW)
        depth = teacher.depth(PHOTOS, [LENS, LENS])
        np.testing.assert_allclose(teacher.depth(PHOTOS, [twice, twice]), 2 * depth, rtol=1e-6)

    def test_without_either_it_refuses(self, tmp_path: Path) -> None:
        teacher = loaded(tmp_path, "depth_pro", model=depth_pro(fov=False))
        with pytest.raises(TeacherError, match="needs the focal length of the camera"):
            teacher.depth(PHOTOS, [LENS, None])


class TestTrainingCamera:
    def of(self, folder: Path, camera: TrainingCamera | None) -> TransformersTeacher:
        teacher = loaded(folder)
        return TransformersTeacher(teacher.card, teacher.model, teacher.processor, teacher.kind, camera)

    def test_metres_are_brought_from_it_to_the_photo_s(self, tmp_path: Path) -> None:
        teacher = self.of(tmp_path, TrainingCamera.of("rooms", 120.0, (96, 128)))  # the lens of 60 px at 48x64
        untold = teacher.depth(PHOTOS[:1], [None])
        np.testing.assert_allclose(teacher.depth(PHOTOS[:1], [LENS]), untold, rtol=1e-6)
        longer = Intrinsics(90.0, 90.0, 32.0, 24.0, HW)
        np.testing.assert_allclose(teacher.depth(PHOTOS[:1], [longer]), 1.5 * untold, rtol=1e-6)

    def test_where_it_is_not_known_metres_stay(self, tmp_path: Path) -> None:
        teacher = self.of(tmp_path, None)
        np.testing.assert_array_equal(teacher.depth(PHOTOS[:1], [LENS]), teacher.depth(PHOTOS[:1], [None]))
        assert "not known" in teacher.card.lens

    def test_it_is_known_by_the_whole_id(self) -> None:
        found = training_camera("depth-anything/Depth-Anything-V2-Metric-Indoor-Small-hf")
        assert found is not None
        assert found.data == "Hypersim"
        assert training_camera("my/Depth-Anything-V2-Metric-Indoor-Small-hf") is None
        assert len(TRAINING_CAMERAS) == 6


class TestWhatItSays:
    def test_metric_or_not_stands_in_the_config(self, tmp_path: Path) -> None:
        metric = loaded(tmp_path)
        relative = loaded(tmp_path / "other", model=depth_anything(depth_estimation_type="relative"))
        assert (metric.card.gives, metric.card.range_m) == ("metres", (0.0, 20.0))
        assert (relative.card.gives, relative.card.range_m) == ("inverse", None)
        assert metric.card.weights != relative.card.weights
        assert metric.depth(PHOTOS, [None, None]).max() <= 20

    def test_its_licence_is_that_of_its_card(self, tmp_path: Path) -> None:
        folder = save_teacher(tmp_path / "teacher")
        assert load_hf_teacher(str(folder), device=CPU).card.license is None
        (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# Card\n")
        card = load_hf_teacher(str(folder), device=CPU).card
        assert (card.license, card.commercial) == ("cc-by-nc-4.0", False)
        assert "non-commercial" in card.terms

    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ("---\nlicense: apache-2.0\n---\n", "apache-2.0"),
            ("---\nlicense: other\nlicense_name: apple-amlr\n---\n", "apple-amlr"),
            ("---\nlicense: [mit, apache-2.0]\n---\n", "mit"),
            ("---\nlicense: other\n---\n", "other"),
            ("---\nlicense: mit\n", None),
            ("license: mit", None),
            ("---\n- license\n---\n", None),
            ("---\nlicense: !!python/object/apply:os.getcwd []\n---\n", None),
            ("", None),
        ],
    )
    def test_licences_in_cards(self, text: str, found: str | None) -> None:
        assert license_in(text) == found


class TestRefusals:
    def test_no_config(self, tmp_path: Path) -> None:
        with pytest.raises(TeacherError, match=r"has no config\.json"):
            load_hf_teacher(str(tmp_path), device=CPU)

    def test_no_safetensors(self, tmp_path: Path) -> None:
        folder = save_teacher(tmp_path / "teacher")
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        with pytest.raises(TeacherError, match=r"no safetensors weights \(its \.bin weights are pickle"):
            load_hf_teacher(str(folder), device=CPU)

    def test_weights_that_are_cut(self, tmp_path: Path) -> None:
        weights = save_teacher(tmp_path / "teacher") / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
        with pytest.raises(TeacherError, match="cannot load"):
            load_hf_teacher(str(weights.parent), device=CPU)

    def test_weights_of_another_model(self, tmp_path: Path) -> None:
        folder, other = save_teacher(tmp_path / "a"), save_teacher(tmp_path / "b", "glpn")
        (other / "model.safetensors").replace(folder / "model.safetensors")
        with pytest.raises(TeacherError, match="not whole"):
            load_hf_teacher(str(folder), device=CPU)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"model_type": "vit"}, "a model of the type 'vit'"),
            ({"depth_estimation_type": "both"}, "both|cannot load"),
            ({"max_depth": None}, "max_depth None"),
            ({"auto_map": {"AutoConfig": "evil.Config"}, "model_type": "evil"}, "cannot load"),
        ],
    )
    def test_configs_of_no_teacher(self, tmp_path: Path, change: dict[str, Any], message: str) -> None:
        config = save_teacher(tmp_path / "teacher") / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), **change}))
        with pytest.raises(TeacherError, match=message):
            load_hf_teacher(str(config.parent), device=CPU)

    @pytest.mark.parametrize("name", ["no/such/folder", "nothing", "../x"])
    def test_names_of_nothing(self, name: str) -> None:
        with pytest.raises(TeacherError, match="no folder, and no id"):
            load_hf_teacher(name, device=CPU)
