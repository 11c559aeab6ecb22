"""Checkpoints of the published SPACE-CLIP code, made here by giving a head's weights their published names."""

from __future__ import annotations

import io
import os
import pickle
import random
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from published_decoder import PublishedDecoder
from torch import Tensor

from spaceclip_plugin import DepthHead, DepthHeadConfig
from spaceclip_plugin.errors import CheckpointError, ConfigError
from spaceclip_plugin.head.space_clip.decoder import SpaceClipOptions
from spaceclip_plugin.towers.spec import TowerFeatures

CHANNELS = (8, 6, 4, 2)
# Ours → published, as the published code's nn.Sequentials number them; written down anew, not taken from the package.
PUBLISHED_NAMES = {
    r"^film\.": "film_param_generators.",
    r"^semantic_projections\.": "main_path_projections.",
    r"^structural_projections\.": "structural_path_projections.",
    r"^semantic_stages\.": "main_decoder_blocks.",
    r"^structural_stages\.": "structural_decoder_blocks.",
    r"^depth\.": "depth_prediction_head.",
    r"^auxiliary\.": "aux_depth_heads.",
    r"\.up\.transpose\.": ".upsample_low.upsample.",
    r"\.up\.conv\.": ".upsample_low.conv.0.",
    r"\.up\.norm\.": ".upsample_low.conv.1.",
    r"\.semantic_gate\.": ".skip_clip_gate.0.",
    r"\.structural_gate\.": ".skip_struct_gate.0.",
    r"\.fuse\.": ".fusion_conv.0.",
    r"\.fuse_norm\.": ".fusion_conv.1.",
    r"\.residual\.": ".fusion_conv.3.",
}
FIRST = "main_path_projections.0.weight"


def make_head(*, width: int = 5, **options: Any) -> DepthHead:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        chosen = SpaceClipOptions(**{"channels": CHANNELS, "film_hidden": 3, **options})
        head = DepthHead(DepthHeadConfig(width=width, blocks=None, options=chosen)).eval()
        for name, value in head.state_dict().items():
            if "running" in name:
                value.uniform_(0.5, 1.5)
    return head


def published(head: DepthHead) -> dict[str, Tensor]:
    """The weights of a head as the published code names them."""
    state = {}
    for name, value in head.state_dict().items():
        name = name.removeprefix("decoder.")
        for ours, theirs in PUBLISHED_NAMES.items():
            name = re.sub(ours, theirs, name)
        state[name] = value
    return state


def tower_keys(*names: str, blocks: int = 0) -> dict[str, Tensor]:
    numbered = [f"encoder.layers.{i}.mlp.fc1.weight" for i in range(blocks)]
    return {f"clip_vision_model.vision_model.{name}": torch.ones(1) for name in [*names, *numbered]}


def write(path: Path, model: Any, **others: Any) -> Path:
    torch.save({"model": model, **others}, path)
    return path


def refused(path: Path, kind: type[Exception] = CheckpointError, **taps: Any) -> str:
    with pytest.raises(kind) as caught:
        DepthHead.from_spaceclip_checkpoint(path, **taps)
    assert type(caught.value) is kind
    assert repr(str(path)) in str(caught.value)
    assert "weights_only" not in str(caught.value)  # torch's advice is to load the file unsafely
    return str(caught.value)


def assert_same(loaded: DepthHead, head: DepthHead) -> None:
    """Same options, same bits, same depth."""
    assert loaded.config.options.channels == head.config.options.channels
    assert list(loaded.state_dict()) == list(head.state_dict())
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in head.state_dict().items())
    width = head.config.width
    hidden = {tap: torch.randn(1, width, 1, 2) for tap in {*loaded.taps, *head.taps}}
    features = TowerFeatures(hidden, torch.randn(1, width), (16, 32))
    if loaded.taps == head.taps:
        with torch.no_grad():
            assert torch.equal(loaded(features).depth_m, head(features).depth_m)


class TestReading:
    @pytest.mark.parametrize("prefix", ["", "module."])
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"film_hidden": None},
            {"auxiliary": False},
            {"structural_taps": ()},
            {"structural_taps": (), "film_hidden": None, "auxiliary": False},
        ],
    )
    def test_a_head_comes_back(self, tmp_path: Path, options: dict[str, Any], prefix: str) -> None:
        head = make_head(**options)
        state = {prefix + name: value for name, value in published(head).items()}
        path = write(tmp_path / "best.pt", state, optimizer={"state": {0: torch.ones(3)}}, epoch=7, args={"lr": 1e-4})
        loaded = DepthHead.from_spaceclip_checkpoint(str(path))
        assert loaded.config.options == head.config.options
        assert loaded.config.width == 5
        assert loaded.config.trained_on == "SPACE-CLIP checkpoint best.pt"
        assert loaded.trained
        assert not loaded.training
        assert_same(loaded, head)

    def test_it_is_the_published_function(self, tmp_path: Path) -> None:
        state, dice = published(make_head(channels=(16, 12, 10, 8))), torch.Generator().manual_seed(0)
        for name, value in state.items():
            if value.is_floating_point() and "running" not in name:
                value.add_(
                    torch.randn(value.shape, generator=dice), alpha=0.2
                )  # a fresh head's depth is nearly one metre everywhere
        head = DepthHead.from_spaceclip_checkpoint(write(tmp_path / "m.pt", state))
        hidden = {tap: torch.randn(2, 5, 2, 3, generator=dice) for tap in head.taps}
        context = torch.randn(2, 5, generator=dice)
        expected = PublishedDecoder(state).depth(
            [hidden[tap] for tap in (12, 9, 6, 3)], [hidden[tap] for tap in (2, 1, 0)], context, (37, 50)
        )
        with torch.no_grad():
            depth = head(TowerFeatures(hidden, context, (32, 48)), (37, 50)).depth_m
        assert expected.std() > 0.1
        assert (expected > 0).float().mean() > 0.2
        torch.testing.assert_close(depth, expected, rtol=1e-5, atol=1e-5)

    def test_the_published_names_are_these(self) -> None:
        names = published(make_head())
        for name in (
            "film_param_generators.0.2.bias",
            "main_path_projections.3.weight",
            "structural_path_projections.2.bias",
            "main_decoder_blocks.3.upsample_low.upsample.weight",
            "main_decoder_blocks.0.upsample_low.conv.1.running_mean",
            "main_decoder_blocks.0.skip_struct_gate.0.weight",
            "main_decoder_blocks.1.skip_clip_gate.0.bias",
            "main_decoder_blocks.2.fusion_conv.3.conv2.weight",
            "main_decoder_blocks.2.fusion_conv.3.norm1.num_batches_tracked",
            "structural_decoder_blocks.2.fusion_conv.1.weight",
            "depth_prediction_head.3.bias",
            "aux_depth_heads.2.0.weight",
        ):
            assert name in names

    @pytest.mark.parametrize(
        ("tower", "blocks", "context"),
        [
            ({}, None, None),
            (tower_keys("embeddings.class_embedding", blocks=12), 12, "cls"),
            (tower_keys("embeddings.class_embedding", blocks=24), 24, "cls"),
            (tower_keys("head.probe", "head.attention.in_proj_weight", blocks=27), 27, "attention-pool"),
            (tower_keys("embeddings.position_embedding.weight", blocks=13), 13, None),
        ],
    )
    @pytest.mark.parametrize("prefix", ["", "module."])
    def test_the_tower_tells_its_depth_and_context_and_is_left_out(
        self, tmp_path: Path, tower: dict[str, Tensor], blocks: int | None, context: str | None, prefix: str
    ) -> None:
        head = make_head()
        state = {prefix + name: value for name, value in {**tower, **published(head)}.items()}
        loaded = DepthHead.from_spaceclip_checkpoint(write(tmp_path / "m.pt", state))
        assert (loaded.config.blocks, loaded.config.context) == (blocks, context)
        assert_same(loaded, head)

    def test_taps_are_taken_as_given(self, tmp_path: Path) -> None:
        path = write(tmp_path / "m.pt", published(make_head()))
        loaded = DepthHead.from_spaceclip_checkpoint(path, semantic_taps=[11, 8, 5, 2], structural_taps=(3, 2, 1))
        assert loaded.config.options.semantic_taps == (11, 8, 5, 2)
        assert loaded.config.options.structural_taps == (3, 2, 1)

    @pytest.mark.parametrize(("stages", "structural"), [(1, 0), (2, 1), (3, 3), (6, 2)])
    def test_other_numbers_of_stages_with_their_taps(self, tmp_path: Path, stages: int, structural: int) -> None:
        taps = {"semantic_taps": tuple(range(stages)), "structural_taps": tuple(range(structural))}
        head = make_head(channels=(4,) * stages, **taps)
        assert_same(DepthHead.from_spaceclip_checkpoint(write(tmp_path / "m.pt", published(head)), **taps), head)

    def test_half_precision_parameters_in_the_old_format_are_taken(self, tmp_path: Path) -> None:
        state = {
            name: torch.nn.Parameter(value.half()) if value.is_floating_point() else value
            for name, value in published(make_head()).items()
        }
        torch.save({"model": state}, tmp_path / "m.pt", _use_new_zipfile_serialization=False)
        loaded = DepthHead.from_spaceclip_checkpoint(tmp_path / "m.pt")
        weight = loaded.state_dict()["decoder.depth.3.weight"]
        assert weight.dtype == torch.float32
        assert torch.equal(weight, state["depth_prediction_head.3.weight"].float())
        assert all(parameter.is_leaf for parameter in loaded.parameters())
        assert not any(buffer.requires_grad for buffer in loaded.buffers())

    def test_it_can_be_saved_whatever_its_name(self, tmp_path: Path) -> None:
        path = write(tmp_path / os.fsdecode(b"b\xffd \x1b[31m\n.pt"), published(make_head()))
        loaded = DepthHead.from_spaceclip_checkpoint(path)
        assert loaded.config.trained_on == "SPACE-CLIP checkpoint b?d ?[31m?.pt"
        assert DepthHead.from_pretrained(loaded.save_pretrained(tmp_path / "head")).config == loaded.config


class TestTaps:
    @pytest.mark.parametrize(
        ("taps", "message"),
        [
            ({"semantic_taps": (12, 9, 6)}, "semantic_taps must be a list of 4 values, got (12, 9, 6)"),
            ({"semantic_taps": 12}, "semantic_taps must be a list of 4 values, got 12"),
            ({"semantic_taps": (12, 9, 6, -3)}, "semantic_taps[3] must be an integer from 0 to 512"),
            ({"structural_taps": ()}, "structural_taps must be a list of 3 values, got ()"),
            ({"structural_taps": (2, 1, 0.5)}, "structural_taps[2] must be an integer"),
            ({"semantic_taps": (13, 9, 6, 3)}, "tap 13 lies beyond a tower of 12 blocks"),
        ],
    )
    def test_taps_that_do_not_fit(self, tmp_path: Path, taps: dict[str, Any], message: str) -> None:
        path = write(tmp_path / "m.pt", {**tower_keys(blocks=12), **published(make_head())})
        assert message in refused(path, ConfigError, **taps)

    @pytest.mark.parametrize(
        ("stages", "structural", "message"),
        [
            (3, 3, "semantic_taps: the published (12, 9, 6, 3) are for 4 stages, this head has 3"),
            (5, 0, "semantic_taps: the published (12, 9, 6, 3) are for 4 stages, this head has 5"),
            (4, 1, "structural_taps: the published (2, 1, 0) are for 3 stages, this head has 1"),
            (4, 4, "structural_taps: the published (2, 1, 0) are for 3 stages, this head has 4"),
        ],
    )
    def test_taps_are_not_guessed(self, tmp_path: Path, stages: int, structural: int, message: str) -> None:
        head = make_head(channels=(4,) * stages, semantic_taps=(0,) * stages, structural_taps=(0,) * structural)
        told = refused(write(tmp_path / "m.pt", published(head)), ConfigError)
        assert message in told
        assert "pass those it was trained with" in told

    def test_the_published_taps_beyond_a_small_tower(self, tmp_path: Path) -> None:
        path = write(tmp_path / "m.pt", {**tower_keys(blocks=6), **published(make_head())})
        assert "tap 12 lies beyond a tower of 6 blocks" in refused(path, ConfigError)


class TestDamagedWeights:
    @pytest.mark.parametrize(
        ("name", "told"),
        [
            (FIRST, f"'{FIRST}' is missing"),
            ("main_path_projections.2.weight", "'main_path_projections.2.weight' is missing"),
            ("film_param_generators.1.0.weight", "'film_param_generators.1.0.weight' is missing"),
            ("main_path_projections.2.bias", "missing 'decoder.semantic_projections.2.bias'"),
            ("aux_depth_heads.1.3.bias", "missing 'decoder.auxiliary.1.3.bias'"),
            ("structural_decoder_blocks.0.fusion_conv.1.running_var", "missing 'decoder.structural_stages.0.fuse_norm"),
        ],
    )
    def test_a_missing_weight(self, tmp_path: Path, name: str, told: str) -> None:
        state = published(make_head())
        del state[name]
        assert told in refused(write(tmp_path / "m.pt", state))

    @pytest.mark.parametrize(
        ("name", "value", "told"),
        [
            (
                "depth_prediction_head.0.weight",
                torch.ones(1, 2, 3, 4),
                "float32 of shape (1, 2, 3, 4), the config calls",
            ),
            ("depth_prediction_head.0.weight", torch.ones(1, 2, 3, 3).int(), "int32 of shape (1, 2, 3, 3)"),
            ("depth_prediction_head.3.bias", torch.tensor([float("nan")]), "holds NaN"),
            (FIRST, torch.ones(8, 5), f"'{FIRST}' has shape (8, 5), expected 4 dimensions"),
            (FIRST, torch.tensor(1.0), f"'{FIRST}' has shape (), expected 4 dimensions"),
            (FIRST, torch.ones(1, 5, 1, 1), "channels[0] must be an integer from 2 to 2048, got 1"),
            (FIRST, torch.ones(2049, 5, 1, 1), "channels[0] must be"),
            (FIRST, torch.ones(8, 0, 1, 1), "width must be an integer from 1 to 16384, got 0"),
            (FIRST, torch.ones(8, 7, 1, 1), "'decoder.film.0.0.weight' is float32 of shape (3, 5), the config calls"),
            ("film_param_generators.0.0.weight", torch.ones(3), "has shape (3,), expected 2 dimensions"),
            ("film_param_generators.0.0.weight", torch.ones(0, 5), "film_hidden must be"),
            (FIRST, torch.ones(1).expand(2048, 16384, 1, 1), f"'{FIRST}' is not stored in full"),
            (FIRST, torch.ones(8, 5, 1, 1, device="meta"), f"'{FIRST}' is not stored in full"),
            (FIRST, torch.ones(8, 5, 1, 1).to_sparse(), f"'{FIRST}' is not stored in full"),
            ("extra.weight", torch.ones(1), "missing none; unknown 'decoder.extra.weight'"),
            ("semantic_stages.9.fuse.weight", torch.ones(1), "unknown 'decoder.semantic_stages.9.fuse.weight'"),
            ("main_path_projections.999999.weight", torch.ones(1), "unknown 'decoder.semantic_projections.999999"),
            ("main_path_projections.999.weight", torch.ones(1), "'main_path_projections.4.weight' is missing"),
            ("clip_vision_model.encoder.layers.900.x", torch.ones(1), "blocks must be an integer from 1 to 512"),
        ],
    )
    def test_a_weight_of_another_shape(self, tmp_path: Path, name: str, value: Tensor, told: str) -> None:
        assert told in refused(write(tmp_path / "m.pt", {**published(make_head()), name: value}))

    def test_too_many_stages(self, tmp_path: Path) -> None:
        state = {f"main_path_projections.{i}.weight": torch.ones(4, 5, 1, 1) for i in range(7)}
        assert "channels must be a list of 1 to 6 values" in refused(write(tmp_path / "m.pt", state))

    def test_no_decoder(self, tmp_path: Path) -> None:
        told = refused(write(tmp_path / "m.pt", tower_keys("embeddings.class_embedding", blocks=2)))
        assert "holds no SPACE-CLIP decoder: no 'main_path_projections.0.weight' in it" in told


class Exploit:
    """Unpickled by a reader that runs code, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.folder),)


class TestOtherFiles:
    @pytest.mark.parametrize("format_", ["pickle", "torch", "torch-legacy"])
    def test_code_in_a_pickle_is_not_run(self, tmp_path: Path, format_: str) -> None:
        path, trap = tmp_path / "m.pt", tmp_path / "owned"
        payload = {"model": {**published(make_head()), "x": Exploit(trap)}}
        if format_ == "pickle":
            path.write_bytes(pickle.dumps(payload))
        else:
            torch.save(payload, path, _use_new_zipfile_serialization=format_ == "torch")
        told = refused(path)
        assert not trap.exists()
        assert "read without running code from it (UnpicklingError" in told
        torch.load(path, weights_only=False) if format_ != "pickle" else pickle.loads(path.read_bytes())
        assert trap.is_dir()  # the trap works: only the reader stood between

    @pytest.mark.parametrize(
        "payload", [[1, 2], {"a": 1}, {"model": 3}, {"model": {"a": 1}}, {"model": {1: torch.ones(1)}}]
    )
    def test_what_is_no_checkpoint(self, tmp_path: Path, payload: Any) -> None:
        torch.save(payload, tmp_path / "m.pt")
        assert 'expected {"model": state_dict' in refused(tmp_path / "m.pt")

    def test_a_state_dict_alone(self, tmp_path: Path) -> None:
        torch.save(published(make_head()), tmp_path / "m.pt")
        assert 'expected {"model": state_dict' in refused(tmp_path / "m.pt")

    @pytest.mark.parametrize(
        "content", [b"", b"hello, world\n", b"{}", random.Random(0).randbytes(500), b"\x80\x02J\x01", b"PK\x03\x04"]
    )
    def test_what_is_no_torch_file(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "m.pt").write_bytes(content)
        assert "is not a checkpoint that can be read without running code from it" in refused(tmp_path / "m.pt")

    @pytest.mark.parametrize("name", ["absent.pt", "folder", "x" * 5000, "nul\0"])
    def test_what_is_no_file(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "folder").mkdir()
        assert "expected a file of the published SPACE-CLIP code" in refused(tmp_path / name)

    @pytest.mark.parametrize("zipped", [True, False])
    def test_damage_anywhere_is_told_or_harmless(self, tmp_path: Path, zipped: bool) -> None:
        buffer = io.BytesIO()
        torch.save({"model": {FIRST: torch.ones(2, 2)}}, buffer, _use_new_zipfile_serialization=zipped)
        dice, path = random.Random(0), tmp_path / "m.pt"
        for round_ in range(300):
            damaged = bytearray(buffer.getvalue())
            if round_ % 3 == 0:
                del damaged[dice.randrange(len(damaged)) :]
            else:
                for _ in range(dice.randint(1, 4)):
                    damaged[dice.randrange(len(damaged))] = dice.randrange(256)
            path.write_bytes(damaged)
            refused(path)  # unharmed, it would still be no head

    def test_reading_leaves_the_warning_filters_as_they_were(self, tmp_path: Path) -> None:
        before = list(warnings.filters)
        DepthHead.from_spaceclip_checkpoint(write(tmp_path / "m.pt", published(make_head())))
        assert warnings.filters == before
