"""What a policy is shown of a photo when it acts: a batch with it in every camera, as its preprocessor leaves it."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from hosted_policies import HostedPolicy
from lerobot.configs.types import FeatureType, NormalizationMode
from lerobot.policies.factory import make_pre_post_processors
from lerobot.processor import NormalizerProcessorStep, PolicyProcessorPipeline
from packed_policies import MOLMO_PROCESSOR, molmo_inputs
from processor_files import save_qwen
from row_policies import token_ids
from step_world import shown
from tiny_policy import CAMERAS, observation
from torch import Tensor, nn

from spaceclip_plugin.towers import load_host
from spaceclip_plugin.towers.registry import find_tower

_MEAN, _STD = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])
STATISTICS = {"mean": _MEAN[:, None, None], "std": _STD[:, None, None]}
_OF_ACTIONS = {
    name: {each: torch.full((6,), value) for each, value in (("mean", 0.0), ("std", 1.0), ("min", -1.0), ("max", 1.0))}
    for name in ("observation.state", "action")
}


def saved(hosted: HostedPolicy, folder: Path) -> Any:
    """The policy, after it was saved with its preprocessor, as `--host lerobot:` takes it."""
    policy = hosted.saved(folder)
    if hosted.kind == "multi_task_dit":
        stats = dict.fromkeys(CAMERAS, STATISTICS)
        _normalizer(policy, stats).save_pretrained(folder, config_filename="policy_preprocessor.json")
    if hosted.kind == "groot":
        save_qwen(folder / "clip", "Qwen3VLProcessor", patch=16)
        with _backbone(folder / "clip"):
            before, _ = make_pre_post_processors(policy.config, dataset_stats=_OF_ACTIONS)
        before.save_pretrained(folder, config_filename="policy_preprocessor.json")
    if hosted.kind == "molmoact2":
        (folder / "clip" / "processor_config.json").write_text(json.dumps({"image_processor": MOLMO_PROCESSOR}))
    return policy


def loaded(hosted: HostedPolicy, folder: Path) -> Any:
    """The policy of a folder that `saved` wrote, able to act."""
    with hosted.sizes():
        policy: Any = load_host(f"lerobot:{folder}")
    if hosted.kind == "pi0_fast":  # whose tokenizer a tower does not need, and acting does
        policy.model._paligemma_tokenizer = SimpleNamespace(bos_token_id=2, convert_tokens_to_ids=lambda _: 1)
        policy.detokenize_actions = token_ids
    return policy


def batch_of(hosted: HostedPolicy, policy: Any, photo: Any) -> dict[str, Any]:
    """What its preprocessor makes of the photo (H, W, 3) in every camera."""
    image = torch.from_numpy(photo).permute(2, 0, 1)[None] / 255
    plain = {**observation(1), **dict.fromkeys(CAMERAS, image), "task": ["drive"]}
    if hosted.kind == "multi_task_dit":
        return _normalizer(policy, dict.fromkeys(CAMERAS, STATISTICS))(plain)
    if hosted.kind == "molmoact2":
        return {**plain, **molmo_inputs([image[0]] * len(CAMERAS), 1, crop_mode="resize")}
    if hosted.kind in ("eo1", "groot"):
        before = _steps(hosted, policy)
        return before(plain)
    return shown(hosted.tiny, photo) if hosted.tiny is not None else plain


def _steps(hosted: HostedPolicy, policy: Any) -> Any:
    with _backbone(Path(policy.config.pretrained_path) / "clip"):
        before, _ = make_pre_post_processors(policy.config, dataset_stats=_OF_ACTIONS)
    return before


def _normalizer(policy: Any, stats: Any) -> Any:
    step = NormalizerProcessorStep(
        features=policy.config.input_features,
        norm_map={FeatureType.VISUAL: NormalizationMode.MEAN_STD},
        stats=stats,
    )
    return PolicyProcessorPipeline(steps=[step], name="policy_preprocessor")


@contextmanager
def _backbone(folder: Path) -> Iterator[None]:
    """GR00T's step names the model whose processor it uses; here a small one."""
    groot = importlib.import_module("lerobot.policies.groot.processor_groot")
    with mock.patch.object(groot, "GROOT_N1_7_BACKBONE_MODEL", str(folder)):
        yield


class _SeenError(Exception):
    pass


def tower_input(policy: nn.Module, run: Callable[[], object]) -> Tensor:
    """What the policy's tower is given, by the first call that `run` makes of it; nothing behind it runs."""
    found: list[Tensor] = []

    def stop(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append(args[0] if args else kwargs.get("hidden_states", kwargs.get("pixel_values")))
        raise _SeenError

    handle = find_tower(policy).entry.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        run()
    except _SeenError:
        pass
    finally:
        handle.remove()
    return found[0]
