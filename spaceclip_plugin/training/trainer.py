"""Train a head on a frozen host: cache its features once, fit the head, keep the best by validation AbsRel.

Where the head predicts its uncertainty, that is calibrated at the end, on the validation images.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from spaceclip_plugin import registry
from spaceclip_plugin.attachment import DepthAttachment, attach_depth_head
from spaceclip_plugin.data.sample import DepthSource
from spaceclip_plugin.digest import module_digest
from spaceclip_plugin.errors import ConfigError, DataError, TrainingError
from spaceclip_plugin.evaluation.calibration import Calibration
from spaceclip_plugin.evaluation.metrics import DepthMetrics
from spaceclip_plugin.evaluation.protocols import Protocol
from spaceclip_plugin.head.config import DepthHeadConfig
from spaceclip_plugin.head.decoder import predicts_uncertainty
from spaceclip_plugin.head.depth_head import DepthHead
from spaceclip_plugin.module_state import in_eval_mode
from spaceclip_plugin.tower import Adapter
from spaceclip_plugin.training.feature_cache import FeatureCache, cache_features
from spaceclip_plugin.training.held_out import HeldOut
from spaceclip_plugin.training.losses import LOSSES
from spaceclip_plugin.training.optimization import HeadOptimizer
from spaceclip_plugin.training.recipe import Recipe
from spaceclip_plugin.training.run_folder import RunFolder


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """What a run gave.

    Attributes:
        head: the best head, in eval mode; the same as in `folder`.
        folder: where it was saved.
        best_epoch: epoch (from 1) it comes from.
        validation: its mean metrics on the validation source.
        host_digest: SHA-256 of the host's parameters and buffers, the same before and after.
        seconds_caching, seconds_training: wall-clock times; training includes validation.
        calibration: how the head's uncertainty was rescaled; None where it predicts none.
    """

    head: DepthHead
    folder: Path
    best_epoch: int
    validation: DepthMetrics
    host_digest: str
    seconds_caching: float
    seconds_training: float
    calibration: Calibration | None = None


class DepthTrainer:
    """Trains one head on one frozen host.

    The host runs in eval mode without gradients while its features are cached, and never again; its digest is taken
    before and after, and a single moved bit is an error.
    """

    def __init__(
        self,
        host: nn.Module,
        head: DepthHead | None = None,
        *,
        recipe: Recipe,
        protocol: Protocol,
        tower: str | None = None,
        adapter: str | Adapter | None = None,
    ) -> None:
        """See `attach_depth_head` for host, head, tower and adapter; a fresh head is made from the recipe's seed.

        Raises:
            ConfigError: the head predicts uncertainty and the recipe's loss does not teach it.
        """
        self._host = host
        self._recipe = recipe
        self._protocol = protocol
        self._chosen: dict[str, Any] = {"tower": tower, "adapter": adapter}
        self._tower = registry.choose_tower(host, tower=tower, adapter=adapter)
        if head is None:
            with torch.random.fork_rng():
                torch.manual_seed(recipe.seed)
                head = DepthHead.for_tower(self._tower).to(next(self._tower.module.parameters()).device)
        head.check_fits(self._tower.spec)
        if predicts_uncertainty(head.decoder) and not LOSSES[recipe.loss]().learns_uncertainty:
            raise ConfigError(
                f"the head predicts its uncertainty, which the loss {recipe.loss!r} does not teach: it would stay "
                "random. Make the head with uncertainty=False, or take the loss 'relative'"
            )
        self.head = head

    def fit(
        self,
        train: DepthSource,
        validation: DepthSource,
        out: Path,
        *,
        trained_on: str,
        details: Mapping[str, object] | None = None,
        progress: bool = True,
    ) -> TrainingResult:
        """Run the recipe and leave the best head in `out`.

        Args:
            train: images the head learns from; depth maps of one size.
            validation: images the best epoch is chosen on.
            out: folder of the run, made if absent.
            trained_on: what the head's config will say it was trained on.
            details: where host and data come from, JSON-ready, for the record.
            progress: show progress bars on standard error.

        Raises:
            TrainingError: the folder is taken, the loss is not finite, or the host changed.
            DataError: a sample that cannot be used.
        """
        if len(train) == 0 or len(validation) == 0:
            raise DataError(f"a source is empty: {len(train)} training images, {len(validation)} validation images")
        depth_range_m = (self._protocol.min_depth_m, self._protocol.max_depth_m)
        trained = dataclasses.replace(self.head.config, trained_on=trained_on, depth_range_m=depth_range_m)
        folder = RunFolder(out)
        before = module_digest(self._host)
        started = time.perf_counter()
        try:
            with (
                in_eval_mode(self._host),
                attach_depth_head(self._host, self.head, **self._chosen) as attachment,
            ):
                cached = self._cache(attachment, train, folder, training=True, progress=progress)
                features = self._cache(attachment, validation, folder, training=False, progress=progress)
            cached_at = time.perf_counter()
            self._check_host(before)
            record = self._record(trained, before, details or {})
            folder.write_record({"finished": False, **record})
            with torch.random.fork_rng():
                torch.manual_seed(self._recipe.seed)
                held_out = HeldOut(features, validation, self._protocol)
                best_epoch, best = self._epochs(cached, held_out, folder, trained, progress=progress)
            calibration = self._calibrate(held_out, folder)
        finally:
            folder.drop_cache()
        after = self._check_host(before)
        seconds = (cached_at - started, time.perf_counter() - cached_at)
        head_folder = folder.finish()
        head = DepthHead.from_pretrained(head_folder)
        result = TrainingResult(head, head_folder, best_epoch, best, after, seconds[0], seconds[1], calibration)
        outcome = {
            "host_digest_after": after,
            "train_images": len(train),
            "validation_images": len(validation),
            "best_epoch": best_epoch,
            "validation": dataclasses.asdict(best),
            "uncertainty": None if calibration is None else dataclasses.asdict(calibration),
            "seconds_caching": round(seconds[0], 1),
            "seconds_training": round(seconds[1], 1),
        }
        folder.write_record({"finished": True, **record, **outcome})
        return result

    def _cache(
        self, attachment: DepthAttachment, source: DepthSource, folder: RunFolder, *, training: bool, progress: bool
    ) -> FeatureCache:
        recipe, name = self._recipe, "train" if training else "validation"
        with tqdm(total=len(source), desc=f"caching {name} features", unit="image", disable=not progress) as bar:
            return cache_features(
                attachment,
                source,
                folder.cache(name),
                protocol=self._protocol,
                views=recipe.views if training else 1,
                seed=recipe.seed,
                targets=training,
                target_side=recipe.target_side,
                progress=bar.update,
            )

    def _epochs(
        self, cached: FeatureCache, held_out: HeldOut, folder: RunFolder, trained: DepthHeadConfig, *, progress: bool
    ) -> tuple[int, DepthMetrics]:
        recipe = self._recipe
        stepper = HeadOptimizer(self.head, recipe, self._protocol, cached)
        best: tuple[int, DepthMetrics] | None = None
        with tqdm(total=stepper.steps, desc="training", unit="step", disable=not progress) as bar:
            for epoch in range(1, recipe.epochs + 1):
                started = time.perf_counter()
                losses = list(_advancing(stepper.epoch(), bar))
                metrics = held_out.metrics(stepper.average.head)
                folder.log(
                    {
                        "epoch": epoch,
                        "loss": sum(losses) / len(losses),
                        "learning_rate": stepper.learning_rate,
                        "seconds": round(time.perf_counter() - started, 2),
                        **{f"val_{name}": value for name, value in dataclasses.asdict(metrics).items()},
                    }
                )
                bar.set_postfix(val_abs_rel=f"{metrics.abs_rel:.4f}")
                if best is None or metrics.abs_rel < best[1].abs_rel:
                    best = (epoch, metrics)
                    stepper.average.head.config = trained
                    folder.save_best(stepper.average.head)
        if best is None:
            raise TrainingError("the run had no epoch")
        return best

    def _calibrate(self, held_out: HeldOut, folder: RunFolder) -> Calibration | None:
        best = folder.best().to(next(self.head.parameters()).device)
        calibration = held_out.calibrate(best)
        if calibration is not None:
            folder.save_best(best)
        return calibration

    def _check_host(self, before: str) -> str:
        after = module_digest(self._host)
        if after != before:
            raise TrainingError(
                f"the host changed while a head was trained on it: digest {before[:12]}… before, {after[:12]}… after. "
                "Is something else training it in this process?"
            )
        return after

    def _record(self, trained: DepthHeadConfig, digest: str, details: Mapping[str, object]) -> dict[str, object]:
        return {
            "recipe": dataclasses.asdict(self._recipe),
            "protocol": self._protocol.name,
            "tower": dataclasses.asdict(self._tower.spec),
            "head": trained.to_dict(),
            "head_parameters": sum(p.numel() for p in self.head.parameters()),
            "host_digest_before": digest,
            "device": str(next(self.head.parameters()).device),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "details": dict(details),
        }


def _advancing(losses: Iterator[float], bar: tqdm) -> Iterator[float]:
    for loss in losses:
        bar.update(1)
        yield loss
