"""Train a head on a frozen host: read its features, fit the head, keep the best by validation AbsRel.

Where the head predicts its uncertainty, that is calibrated at the end, on the validation images.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from spaceclip_plugin import __version__
from spaceclip_plugin._digest import code_digest, module_digest, sha256_of
from spaceclip_plugin.attach.attachment import DepthAttachment, attach_depth_head
from spaceclip_plugin.attach.tower_match import IGNORE, fingerprint_of
from spaceclip_plugin.data.augmentation import Augmentation
from spaceclip_plugin.data.sample import DepthSource
from spaceclip_plugin.data.sources.mixture import shares_of
from spaceclip_plugin.errors import ConfigError, TrainingError
from spaceclip_plugin.evaluation.calibration import Calibration
from spaceclip_plugin.evaluation.evaluate import evaluate
from spaceclip_plugin.evaluation.metrics import DepthMetrics
from spaceclip_plugin.evaluation.protocol import Protocol
from spaceclip_plugin.head.config import DepthHeadConfig
from spaceclip_plugin.head.decoder import predicts_uncertainty
from spaceclip_plugin.head.depth_head import DepthHead
from spaceclip_plugin.towers import registry
from spaceclip_plugin.towers.adapter import Adapter
from spaceclip_plugin.towers.module_state import in_eval_mode
from spaceclip_plugin.training.cache.key import CacheSettings
from spaceclip_plugin.training.cache.maker import make_cache
from spaceclip_plugin.training.config.recipe import LIVE, Recipe
from spaceclip_plugin.training.data_order import DataOrder
from spaceclip_plugin.training.features import FeatureStream
from spaceclip_plugin.training.interruption import watched
from spaceclip_plugin.training.live_features import LiveFeatures
from spaceclip_plugin.training.loop import Best, TrainingLoop
from spaceclip_plugin.training.losses.registry import LOSSES
from spaceclip_plugin.training.optimizer import HeadOptimizer
from spaceclip_plugin.training.processes import Processes, check_tracker
from spaceclip_plugin.training.run.folder import BEST_NAME, LASTING, RunFolder, comparable
from spaceclip_plugin.training.source_checks import checked_sources
from spaceclip_plugin.training.validation_set import HeldOut

PICTURES = 4


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """What a run gave.

    Attributes:
        head: the best head, in eval mode; the same as in `folder`.
        folder: where it was saved.
        best_epoch: epoch (from 1) it comes from.
        validation: its mean metrics on the validation source.
        host_digest: SHA-256 of the host's parameters and buffers, the same before and after.
        seconds_caching, seconds_training: wall-clock times since the run was started or continued; training includes
            validation.
        calibration: how the head's uncertainty was rescaled; None where it predicts none.
        test: mean metrics on the test source, which nothing was chosen on; None where there is none.
    """

    head: DepthHead
    folder: Path
    best_epoch: int
    validation: DepthMetrics
    host_digest: str
    seconds_caching: float
    seconds_training: float
    calibration: Calibration | None = None
    test: DepthMetrics | None = None


class DepthTrainer:
    """Trains one head on one frozen host.

    The host runs in eval mode without gradients, once over every version of an image where its features are cached.
    Its digest is taken before and after, and a single moved bit is an error.
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
        self._chosen: dict[str, Any] = {"tower": tower, "adapter": adapter, "other_tower": IGNORE}  # it learns this one
        self._tower = registry.find_tower(host, tower=tower, adapter=adapter)
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
        test: DepthSource | None = None,
        details: Mapping[str, object] | None = None,
        resume: bool = False,
        workers: int = 0,
        save_every: int | None = None,
        cache: Path | None = None,
        log_with: str | None = None,
        config_yaml: str | None = None,
        progress: bool = True,
    ) -> TrainingResult:
        """Run the recipe and leave the best head in `out`.

        In several processes (`torchrun`; `accelerate launch` on GPUs) all call it alike, and batches are shared out.

        A run that was stopped, however it was, is continued with `resume` and ends with the same bits, by the same code
        on a machine of the same kind. A warning says where `run.json` tells of another code, torch or device.

        Args:
            train: images the head learns from; a `Mixture` is seen in proportion to its weights.
            validation: images the best epoch is chosen on.
            out: folder of the run, made if absent.
            trained_on: what the head's config will say it was trained on.
            test: images that are looked at once, at the end.
            details: where host and data come from, JSON-ready, for the record.
            resume: continue the run in `out`, with the same host, head, recipe and data.
            workers: processes that read images or features ahead.
            save_every: steps between two checkpoints, besides one after every epoch.
            cache: folder of feature caches that outlive the run; None keeps one in `out` while the run lasts.
            log_with: a tracker, one of `TRACKERS`.
            config_yaml: kept as `config.yaml` in `out`.
            progress: show progress bars on standard error, in the main process.

        Raises:
            ConfigError: an impossible setting.
            TrainingError: the folder is taken or holds another run, the loss is not finite, the host changed, or the
                disk is full. What is done stays, and the run can be resumed.
            DataError: a sample that cannot be used, depth in another unit, or the same image in two sources.
            CheckpointError: the newest checkpoint is damaged, or all are gone.
            KeyboardInterrupt: Ctrl-C or SIGTERM; the run can be resumed.
        """
        check_tracker(log_with)
        if workers < 0 or (save_every is not None and save_every < 1):
            raise ConfigError(f"workers must be 0 or more and save_every 1 or more, got {workers} and {save_every}")
        processes = Processes(self._device, log_with=log_with, folder=out)
        shown = progress and processes.main
        sources = {"train": train, "validation": validation, **({} if test is None else {"test": test})}
        fingerprints = checked_sources(sources, self._protocol, processes)
        record = self._record(trained_on, details or {}, train, fingerprints, processes)
        weights = {"weights of the head": module_digest(self.head)}
        processes.check_equal({**weights, **{key: comparable(record)[key] for key in LASTING}})
        folder = RunFolder(out)
        processes.on_main(lambda: folder.open(record, resume=resume, config_yaml=config_yaml))
        try:
            started = time.perf_counter()
            with ExitStack() as stack:
                attachment = stack.enter_context(self._attached())
                place = (lambda name: cache) if cache is not None else folder.cache
                streams = [
                    self._stream(
                        attachment, name, sources[name], fingerprints[name], place(name), processes,
                        keyed=cache is not None, workers=workers, shown=shown,
                    )
                    for name in ("train", "validation")
                ]  # fmt: skip
                if self._recipe.cache != LIVE:
                    stack.close()  # the tower is not needed any more
                self._check_host(record, folder, processes)
                cached_at = time.perf_counter()
                loop, held_out = self._loop(
                    streams, sources, folder, record, processes, save_every=save_every, workers=workers
                )  # fmt: skip
                best, continued_at = self._run(loop, processes, resume=resume, shown=shown)
                calibration = processes.on_main(lambda: self._judge(held_out, folder))
            seconds = (cached_at - started, time.perf_counter() - cached_at)
            tested = None if test is None else processes.on_main(lambda: self._test(folder, test, shown=shown))
            after = self._check_host(record, folder, processes)  # once nothing runs it any more
            head_folder = processes.on_main(folder.publish_best)
            result = TrainingResult(
                DepthHead.from_pretrained(head_folder),
                head_folder, best.epoch, best.metrics, after, *seconds, calibration, tested,
            )  # fmt: skip
            outcome = _outcome(result, sources, continued_at)
            processes.on_main(lambda: folder.write_record({"finished": True, **record, **outcome}))
            processes.on_main(folder.clean)
            return result
        finally:
            self.head.eval()
            processes.end_tracker()
            folder.release()

    @property
    def _device(self) -> torch.device:
        return next(self.head.parameters()).device

    def _record(
        self,
        trained_on: str,
        details: Mapping[str, object],
        train: DepthSource,
        fingerprints: Mapping[str, Sequence[str]],
        processes: Processes,
    ) -> dict[str, Any]:
        """What `run.json` says of the run from its start on."""
        depth_range_m = (self._protocol.min_depth_m, self._protocol.max_depth_m)
        trained = dataclasses.replace(
            self.head.config,
            trained_on=trained_on,
            depth_range_m=depth_range_m,
            tower_fingerprint=fingerprint_of(self._tower, self.head.config),
        )
        return {
            "recipe": dataclasses.asdict(self._recipe),
            "protocol": self._protocol.name,
            "protocol_settings": dataclasses.asdict(self._protocol),
            "tower": dataclasses.asdict(self._tower.spec),
            "head": trained.to_dict(),
            "head_parameters": sum(p.numel() for p in self.head.parameters()),
            "host_digest_before": module_digest(self._host),
            "data": {name: sha256_of(*found) for name, found in fingerprints.items()},
            "shares": [dataclasses.asdict(share) for share in shares_of(train)],
            "processes": processes.count,
            "device": str(self._device),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "spaceclip_plugin": __version__,
            "code": code_digest(),
            "details": dict(details),
        }

    @contextlib.contextmanager
    def _attached(self) -> Iterator[DepthAttachment]:
        with in_eval_mode(self._host), attach_depth_head(self._host, self.head, **self._chosen) as attachment:
            yield attachment

    def _stream(
        self,
        attachment: DepthAttachment,
        name: str,
        source: DepthSource,
        fingerprints: list[str],
        folder: Path,
        processes: Processes,
        *,
        keyed: bool,
        workers: int,
        shown: bool,
    ) -> FeatureStream:
        """Features of a source, cached unless the recipe says otherwise."""
        recipe, training = self._recipe, name == "train"
        settings = CacheSettings(
            protocol=self._protocol,
            views=recipe.views if training else 1,
            augmentation=Augmentation.named(recipe.augmentation),
            seed=recipe.seed,
            storage=recipe.cache,
            targets=training,
        )
        if recipe.cache == LIVE:
            return LiveFeatures(attachment, source, settings=settings, target_side=recipe.target_side)
        with tqdm(total=len(source), desc=f"caching {name} features", unit="image", disable=not shown) as bar:
            return make_cache(
                attachment,
                source,
                folder,
                settings=settings,
                weights=module_digest(self._tower.module),
                fingerprints=fingerprints,
                processes=processes,
                target_side=recipe.target_side,
                workers=workers,
                keyed=keyed,
                progress=bar.update,
            )

    def _loop(
        self,
        streams: Sequence[FeatureStream],
        sources: Mapping[str, DepthSource],
        folder: RunFolder,
        record: Mapping[str, Any],
        processes: Processes,
        *,
        save_every: int | None,
        workers: int,
    ) -> tuple[TrainingLoop, HeldOut]:
        recipe, (learnt, judged) = self._recipe, streams
        order = DataOrder(
            shares_of(sources["train"]),
            batch_size=recipe.batch_size,
            accumulation=recipe.accumulation,
            views=learnt.views,
            seed=recipe.seed,
        )
        stepper = HeadOptimizer(
            self.head, recipe, self._protocol, learnt, order=order, processes=processes, workers=workers
        )
        held_out = HeldOut(judged, sources["validation"], self._protocol, processes)
        loop = TrainingLoop(
            stepper,
            held_out,
            folder,
            epochs=recipe.epochs,
            steps_per_epoch=order.steps_per_epoch,
            trained=DepthHeadConfig.from_dict(record["head"]),
            processes=processes,
            save_every=save_every,
        )
        processes.start_tracker({"protocol": self._protocol.name, **dataclasses.asdict(recipe)})
        return loop, held_out

    def _run(self, loop: TrainingLoop, processes: Processes, *, resume: bool, shown: bool) -> tuple[Best, int | None]:
        """The best epoch, and the step at which the run was continued."""
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), watched() as interruption:
            torch.manual_seed(self._recipe.seed + processes.rank)
            continued_at = processes.together(loop.resume) if resume else None
            processes.check_equal({"newest checkpoint": continued_at})
            return loop.run(interruption, progress=shown), continued_at

    def _judge(self, held_out: HeldOut, folder: RunFolder) -> Calibration | None:
        """The best head's uncertainty, believable, and a picture of its depth."""
        best = DepthHead.from_pretrained(folder.path / BEST_NAME).to(self._device)
        calibration = held_out.calibrate(best)
        if calibration is not None:
            folder.save_best(best)
        folder.save_picture(held_out.pictures(best, PICTURES))
        return calibration

    def _test(self, folder: RunFolder, test: DepthSource, *, shown: bool) -> DepthMetrics:
        head = DepthHead.from_pretrained(folder.path / BEST_NAME).to(self._device)
        with (
            in_eval_mode(self._host),
            attach_depth_head(self._host, head, **self._chosen) as attachment,
            tqdm(total=len(test), desc="testing", unit="image", disable=not shown) as bar,
        ):
            return evaluate(attachment, test, protocol=self._protocol, progress=bar.update).mean

    def _check_host(self, record: Mapping[str, Any], folder: RunFolder, processes: Processes) -> str:
        """The host's digest, that of the record in every process; where it is not, the run ends for good."""
        before: str = record["host_digest_before"]
        found = processes.gathered(processes.together(lambda: module_digest(self._host)))
        moved = [after for after in found if after != before]
        if moved:
            outcome = {"finished": False, **record, "host_digest_after": moved[0]}
            processes.on_main(lambda: folder.write_record(outcome))
            raise TrainingError(
                f"the host changed while a head was trained on it: digest {before[:12]}… before, {moved[0][:12]}… "
                "after. Is something else training it in this process? Keep it as it is and start another run"
            )
        return before


def _outcome(
    result: TrainingResult, sources: Mapping[str, DepthSource], continued_at: int | None
) -> dict[str, object]:  # fmt: skip
    """What `run.json` says more when the run is done."""
    return {
        "host_digest_after": result.host_digest,
        "head_digest": module_digest(result.head),
        **{f"{name}_images": len(source) for name, source in sources.items()},
        "best_epoch": result.best_epoch,
        "validation": dataclasses.asdict(result.validation),
        "uncertainty": None if result.calibration is None else dataclasses.asdict(result.calibration),
        "test": None if result.test is None else dataclasses.asdict(result.test),
        "continued_at_step": continued_at,
        "seconds_caching": round(result.seconds_caching, 1),
        "seconds_training": round(result.seconds_training, 1),
    }
