"""Training shown on an embedded default: rendered scenes, a small frozen CLIP-like host, a head trained in a minute.

Nothing is downloaded. The host's weights are random from a fixed seed: what the head learns, it learns from how a
frozen random tower spreads an image over its tokens. A real tower does better; `--host` takes one.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin.data import DepthSample
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.evaluation import DepthMetrics, Protocol, evaluate, mean_metrics, predict
from spaceclip_plugin.towers import TowerSpec, registry
from spaceclip_plugin.training import DepthTrainer, Recipe, RunOptions
from spaceclip_plugin.training.run.folder import RECORD_NAME, foreign_entries
from spaceclip_worlds.demos.demo import (
    SHOWN,
    DemoReport,
    check_demo_folder,
    figures_line,
    write_pictures,
    write_record,
)
from spaceclip_worlds.render.tabletop import TabletopScenes

IMAGE_HW = (112, 112)
WIDTH, PATCH = 192, 8
PROTOCOL = Protocol(
    name="tabletop", description="rendered tabletop scenes, every pixel", depth_scale=1000.0, max_depth_m=10.0
)
RECIPE = Recipe(epochs=10, batch_size=16, learning_rate=3e-3, ema_decay=0.98, views=2)
SEEDS = {"train": 0, "validation": 1, "unseen": 2}


@dataclass(frozen=True)
class TrainingDemo:
    """A head trained on rendered scenes, and measured on others that neither training nor model selection saw.

    Attributes:
        scenes: training scenes, at least 16; an eighth as many serve to choose the best epoch.
        unseen: scenes the figures are measured on, at least 4.
        epochs: passes over the training scenes.
        tower, adapter: which tower, where the host has several; see `attach_depth_head`.
    """

    scenes: int = 800
    unseen: int = 100
    epochs: int = RECIPE.epochs
    tower: str | None = None
    adapter: str | None = None

    def __post_init__(self) -> None:
        if self.scenes < 16 or self.unseen < SHOWN:
            raise ConfigError(
                f"the demo needs at least 16 training and {SHOWN} unseen scenes, got {self.scenes} and {self.unseen}"
            )

    def run(
        self,
        out: Path,
        *,
        host: nn.Module | None = None,
        device: torch.device | str | None = None,
        overwrite: bool = False,
        progress: bool = True,
    ) -> DemoReport:
        """Render scenes, train a head on the frozen host, read depth of unseen scenes, write pictures and figures.

        Args:
            out: folder for the results; an earlier demo there is replaced.
            host: a frozen host; None is `small_clip_host`.
            device: where that one runs; None is the CPU.
            overwrite: replace files of the results' names whoever wrote them; a training run of somebody else's never
                is.

        Raises:
            SpaceClipError: the host has no tower, or the folder cannot be used or holds what no demo wrote.
        """
        run = out / "training"
        check_demo_folder(out, overwrite=overwrite)
        _remove_older_demo(run)
        label = "a random-weight CLIP tower" if host is None else f"the tower of {type(host).__name__}"
        host = small_clip_host().to(device) if host is None else host
        recipe = dataclasses.replace(RECIPE, epochs=self.epochs)
        which: dict[str, Any] = {"tower": self.tower, "adapter": self.adapter}
        head = _head_for(registry.find_tower(host, **which).spec, recipe.seed)
        head.to(next(host.parameters()).device)
        train = _render("train", self.scenes, progress=progress)
        validation = _render("validation", max(self.scenes // 8, 1), progress=progress)
        test = _render("unseen", self.unseen, progress=progress)
        trainer = DepthTrainer(host, head, recipe=recipe, protocol=PROTOCOL, **which)
        about = f"{self.scenes} rendered tabletop scenes"
        trained = trainer.fit(train, validation, run, trained_on=about, options=RunOptions(progress=progress))
        with attach_depth_head(host, trained.folder, tower=registry.find_tower(host, **which)) as attachment:
            predicted = evaluate(attachment, test, protocol=PROTOCOL).mean
            shown = predict(attachment, [sample.image for sample in test[:SHOWN]], output_hw=IMAGE_HW)
        files = write_pictures(out, test[:SHOWN], list(shown))
        depths = np.stack([sample.depth_m for sample in train])
        constant = _score_constant(np.full(IMAGE_HW, np.median(depths), np.float32), test)
        per_pixel = _score_constant(depths.mean(axis=0), test)
        figures: dict[str, object] = {
            "unseen_scenes": self.unseen,
            "protocol": PROTOCOL.description,
            "predicted": dataclasses.asdict(predicted),
            "constant_median": dataclasses.asdict(constant),
            "per_pixel_mean": dataclasses.asdict(per_pixel),
        }
        metrics = write_record(out, figures, files.values())
        lines = (
            f"{self.unseen} unseen scenes, metric scale, one forward",
            figures_line(predicted, f"depth from {label}"),
            figures_line(per_pixel, "per-pixel mean of the training scenes"),
            figures_line(constant, "constant median of the training scenes"),
        )
        return DemoReport(lines, figures, {"head": trained.folder, **files, "metrics": metrics})


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


def _remove_older_demo(run: Path) -> None:
    # A folder that no demo made is left alone; the trainer then refuses it.
    try:
        protocol = json.loads((run / RECORD_NAME).read_text(encoding="utf-8"))["protocol"]
    except (OSError, ValueError, LookupError, TypeError):
        return
    if protocol != PROTOCOL.name:
        return
    foreign = foreign_entries(run)
    if foreign:
        raise ConfigError(
            f"{str(foreign[0])!r} is not of the older demo in {str(run)!r}, which would be removed; nothing was "
            "touched: move it away, or choose another --out"
        )
    try:
        shutil.rmtree(run)
    except OSError as error:
        raise ConfigError(f"cannot replace the older demo in {str(run)!r}: {error}; choose another --out") from error


def _render(split: str, count: int, *, progress: bool) -> list[DepthSample]:
    scenes = TabletopScenes(count, image_hw=IMAGE_HW, seed=SEEDS[split])
    return [scenes[i] for i in tqdm(range(count), desc=f"rendering {split} scenes", unit="scene", disable=not progress)]


def _head_for(spec: TowerSpec, seed: int) -> DepthHead:
    """A small head: two stages after the patch grid are as fine as the demo's images, and it trains in a minute."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return DepthHead.for_tower(spec, options={"channels": (96, 48), "convolutions": (1, 1), "attention": 1})


def _score_constant(depth_m: np.ndarray, samples: list[DepthSample]) -> DepthMetrics:
    guess = torch.from_numpy(depth_m)
    return mean_metrics([PROTOCOL.score(guess, sample) for sample in samples])
