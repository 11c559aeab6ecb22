"""Training shown on an embedded default: rendered scenes, a small frozen CLIP-like host, a head trained in a minute.

Nothing is downloaded. The host's weights are random from a fixed seed: what the head learns, it learns from how a
frozen random tower spreads an image over its tokens. A real tower does better; `--host` takes one.
"""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from spaceclip_plugin._files import read_json_object, write_json
from spaceclip_plugin.attach.attachment import DepthAttachment, attach_depth_head
from spaceclip_plugin.data.sample import DepthSample
from spaceclip_plugin.depth.pictures import PanelRow, depth_panel, write_png
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.evaluation import DepthMetrics, Protocol, evaluate, mean_metrics, predict
from spaceclip_plugin.head.depth_head import DepthHead
from spaceclip_plugin.towers import registry
from spaceclip_plugin.towers.spec import TowerSpec
from spaceclip_plugin.training.config.recipe import Recipe
from spaceclip_plugin.training.run.folder import RECORD_NAME, foreign_entries
from spaceclip_plugin.training.trainer import DepthTrainer
from spaceclip_worlds.demos.folder import RECORD_NAME as METRICS_NAME
from spaceclip_worlds.demos.folder import WRITTEN, check_demo_folder, digests
from spaceclip_worlds.render.tabletop import TabletopScenes

IMAGE_HW = (112, 112)
WIDTH, PATCH = 192, 8
PROTOCOL = Protocol(
    name="tabletop", description="rendered tabletop scenes, every pixel", depth_scale=1000.0, max_depth_m=10.0
)
RECIPE = Recipe(epochs=10, batch_size=16, learning_rate=3e-3, ema_decay=0.98, views=2)
SEEDS = {"train": 0, "validation": 1, "unseen": 2}
SHOWN = 4
FILES = {"picture": "depth.png", "points": "points.ply", "depth_mm": "depth_mm.png"}
"""What a demo writes beside its record and its run, by kind."""


@dataclass(frozen=True, eq=False)
class DemoResult:
    """What the demo measured on scenes that neither training nor model selection saw.

    Attributes:
        predicted: the attached head's metrics.
        constant: those of the constant median depth of the training scenes.
        per_pixel: those of the per-pixel mean depth of the training scenes.
        files: what was written, by kind.
        unseen: how many scenes the metrics are means of.
    """

    predicted: DepthMetrics
    constant: DepthMetrics
    per_pixel: DepthMetrics
    files: dict[str, Path]
    unseen: int


def small_clip_host(seed: int = 0) -> nn.Module:
    """A CLIP vision model of six blocks with random weights from `seed`, frozen; 112x112 images, patch 8.

    Its position embeddings are smooth (sines and cosines of row and column), as training makes them: with random ones
    a head knows where it is only near the border, and its depth shows a seam there.
    """
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=384,
        num_hidden_layers=6,
        num_attention_heads=3,
        image_size=IMAGE_HW[0],
        patch_size=PATCH,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        host: nn.Module = CLIPVisionModel(config)
    rows, columns = (side // PATCH for side in IMAGE_HW)
    [positions] = (part for name, part in host.named_modules() if name.endswith("position_embedding"))
    with torch.no_grad():
        positions.weight[1:] = _smooth_positions(rows, columns)  # row 0 is the class token's
    return host.eval().requires_grad_(False)


def _smooth_positions(rows: int, columns: int) -> Tensor:
    """(rows * columns, WIDTH) sines and cosines of both coordinates, about as strong as the patch embeddings."""
    place = torch.cartesian_prod((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns)
    phase = place[:, :, None] * torch.pi * 2.0 ** torch.linspace(-1, 3, WIDTH // 4)
    return 0.2 * torch.cat([phase.sin(), phase.cos()], dim=-1).flatten(1)


def run_demo(
    host: nn.Module,
    out: Path,
    *,
    tower: str | None = None,
    adapter: str | None = None,
    scenes: int = 800,
    unseen: int = 100,
    recipe: Recipe = RECIPE,
    overwrite: bool = False,
    progress: bool = True,
) -> DemoResult:
    """Render scenes, train a head on the frozen host, read depth of unseen scenes, write pictures and figures.

    Args:
        host: a frozen host.
        out: folder for the results; an earlier demo there is replaced.
        tower, adapter: which tower, where the host has several; see `attach_depth_head`.
        scenes: training scenes; an eighth as many serve to choose the best epoch.
        unseen: scenes the figures are measured on.
        overwrite: replace files of the results' names whoever wrote them; a training run of somebody else's never is.

    Raises:
        SpaceClipError: the host has no tower, or the folder cannot be used or holds what no demo wrote.
    """
    run = out / "training"
    check_demo_folder(out, FILES.values(), overwrite=overwrite)
    _remove_older_demo(run)
    head = _head_for(registry.find_tower(host, tower=tower, adapter=adapter).spec, recipe.seed)
    head.to(next(host.parameters()).device)
    train = _render("train", scenes, progress=progress)
    validation = _render("validation", max(scenes // 8, 1), progress=progress)
    test = _render("unseen", unseen, progress=progress)
    trainer = DepthTrainer(host, head, recipe=recipe, protocol=PROTOCOL, tower=tower, adapter=adapter)
    trained = trainer.fit(train, validation, run, trained_on=f"{scenes} rendered tabletop scenes", progress=progress)
    with attach_depth_head(host, trained.folder, tower=tower, adapter=adapter) as attachment:
        predicted = evaluate(attachment, test, protocol=PROTOCOL).mean
        files = _write_pictures(attachment, test[:SHOWN], out)
    depths = np.stack([sample.depth_m for sample in train])
    constant = _score_constant(np.full(IMAGE_HW, np.median(depths), np.float32), test)
    per_pixel = _score_constant(depths.mean(axis=0), test)
    result = DemoResult(predicted, constant, per_pixel, {"head": trained.folder, **files}, unseen)
    written = digests(files.values())
    files["metrics"] = out / METRICS_NAME
    write_json(files["metrics"], {**_record(result), WRITTEN: written})
    return dataclasses.replace(result, files={"head": trained.folder, **files})


def _remove_older_demo(run: Path) -> None:
    # A folder that no demo made is left alone; the trainer then refuses it.
    if (run / RECORD_NAME).is_file() and read_json_object(run / RECORD_NAME).get("protocol") == PROTOCOL.name:
        foreign = foreign_entries(run)
        if foreign:
            raise ConfigError(
                f"{str(foreign[0])!r} is not of the older demo in {str(run)!r}, which would be removed; nothing was "
                "touched: move it away, or choose another --out"
            )
        try:
            shutil.rmtree(run)
        except OSError as error:
            raise ConfigError(
                f"cannot replace the older demo in {str(run)!r}: {error}; choose another --out"
            ) from error


def _render(split: str, count: int, *, progress: bool) -> list[DepthSample]:
    scenes = TabletopScenes(count, image_hw=IMAGE_HW, seed=SEEDS[split])
    return [scenes[i] for i in tqdm(range(count), desc=f"rendering {split} scenes", unit="scene", disable=not progress)]


def _head_for(spec: TowerSpec, seed: int) -> DepthHead:
    """A small head: two stages after the patch grid are as fine as the demo's images, and it trains in a minute."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return DepthHead.for_tower(spec, channels=(96, 48), convolutions=(1, 1), attention=1)


def _score_constant(depth_m: np.ndarray, samples: list[DepthSample]) -> DepthMetrics:
    guess = torch.from_numpy(depth_m)
    return mean_metrics([PROTOCOL.score(guess, sample) for sample in samples])


def _write_pictures(attachment: DepthAttachment, samples: list[DepthSample], out: Path) -> dict[str, Path]:
    depth = predict(attachment, [sample.image for sample in samples], output_hw=IMAGE_HW)
    files = {kind: out / name for kind, name in FILES.items()}
    rows = [
        PanelRow(sample.image, depth.depth_m[i].cpu().numpy(), sample.depth_m, depth.valid[i].cpu().numpy())
        for i, sample in enumerate(samples)
    ]
    write_png(files["picture"], depth_panel(rows))
    first, camera = depth[0], samples[0].intrinsics
    first.save_png16(files["depth_mm"])
    if camera is not None:
        first.save_ply(files["points"], camera, image=samples[0].image)
    return files


def _record(result: DemoResult) -> dict[str, object]:
    return {
        "unseen_scenes": result.unseen,
        "protocol": PROTOCOL.description,
        "predicted": dataclasses.asdict(result.predicted),
        "constant_median": dataclasses.asdict(result.constant),
        "per_pixel_mean": dataclasses.asdict(result.per_pixel),
    }
