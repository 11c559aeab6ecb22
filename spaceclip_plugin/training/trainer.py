"""Train a head on a frozen host: read its features, fit the head, keep the best by validation AbsRel.
Where the head predicts its uncertainty, that is calibrated at the end, on the validation images."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from spaceclip_plugin import __version__
from spaceclip_plugin._digest import code_digest, module_digest, sha256_of
from spaceclip_plugin.attach import DepthAttachment, attach_depth_head
from spaceclip_plugin.attach.preparations import preparation_of
from spaceclip_plugin.attach.tower_match import IGNORE, fingerprint_of
from spaceclip_plugin.data import Augmentation, DepthSource
from spaceclip_plugin.data.sources.mixture import shares_of
from spaceclip_plugin.depth.camera import FocalLength, checked_focal_length
from spaceclip_plugin.errors import ConfigError, TrainingError
from spaceclip_plugin.evaluation import Calibration, DepthMetrics, Protocol, evaluate
from spaceclip_plugin.head import DepthHead, DepthHeadConfig
from spaceclip_plugin.head.decoder import predicts_empty, predicts_uncertainty
from spaceclip_plugin.towers import Adapter, registry
from spaceclip_plugin.towers.module_state import in_eval_mode
from spaceclip_plugin.training.cache.key import cache_key
from spaceclip_plugin.training.cache.maker import make_cache
from spaceclip_plugin.training.config.recipe import LIVE, Recipe
from spaceclip_plugin.training.data_order import DataOrder
from spaceclip_plugin.training.familiar_images import MOST_IMAGES, familiarity_record, training_tokens
from spaceclip_plugin.training.features import FeatureSettings, FeatureStream
from spaceclip_plugin.training.interruption import watched
from spaceclip_plugin.training.live_features import LiveFeatures
from spaceclip_plugin.training.loop import Best, TrainingLoop
from spaceclip_plugin.training.losses import LOSSES
from spaceclip_plugin.training.optimizer import HeadOptimizer
from spaceclip_plugin.training.processes import Processes
from spaceclip_plugin.training.result import TrainingResult, outcome
from spaceclip_plugin.training.run.folder import RunFolder
from spaceclip_plugin.training.run.options import RunOptions
from spaceclip_plugin.training.run.record import MUST_MATCH, comparable
from spaceclip_plugin.training.source_checks import CheckedSources, check_tells_of_nothing, checked_sources
from spaceclip_plugin.training.tower_precision import OWN, check_tower_precision
from spaceclip_plugin.training.validation_set import ValidationSet

PICTURES = 4


class DepthTrainer:
    """Trains one head on one frozen host.

    The host runs in eval mode without gradients, once over every version of an image where its features are cached.
    Its digest is taken before and after, and a single moved bit is an error.

    Attributes:
        head: the head that is trained.

    Example:
        >>> import tempfile, timm, torch
        >>> import numpy as np
        >>> from pathlib import Path
        >>> from spaceclip_plugin.data import DepthSample
        >>> from spaceclip_plugin.evaluation import get_protocol
        >>> from spaceclip_plugin.training import DepthTrainer, Recipe, RunOptions
        >>> host = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=2)
        >>> photos = np.random.default_rng(0).integers(0, 255, (6, 32, 32, 3), dtype=np.uint8)
        >>> depths_m = photos[..., 0] / np.float32(100) + np.float32(0.1)
        >>> samples = [DepthSample(photos[i], depths_m[i], f"photo {i}") for i in range(6)]
        >>> recipe = Recipe(epochs=1, batch_size=4, views=2)
        >>> trainer = DepthTrainer(host, recipe=recipe, protocol=get_protocol("whole-image"))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     out, quietly = Path(folder) / "run", RunOptions(progress=False)
        ...     result = trainer.fit(samples[:4], samples[4:], out, trained_on="noise", options=quietly)
        >>> result.best_epoch, result.head.config.trained_on
        (1, 'noise')
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
        focal_length: FocalLength | None = None,
    ) -> None:
        """See `attach_depth_head` for host, head, tower and adapter; a fresh head is made from the recipe's seed.

        Args:
            focal_length: of data without intrinsics, over the width and height of its photos: (fx / width, fy /
                height). None: not known, and data with and without intrinsics cannot be mixed.

        Raises:
            ConfigError: the head predicts uncertainty and the recipe's loss does not teach it; a focal length that no
                camera has; or a precision of the tower that is not its own, and that its device is not made for.
        """
        self._untold = None if focal_length is None else checked_focal_length(focal_length)
        self._host = host
        self._recipe = recipe
        self._protocol = protocol
        self._tower = registry.find_tower(host, tower=tower, adapter=adapter)
        if head is None:
            with torch.random.fork_rng():
                torch.manual_seed(recipe.seed)
                head = DepthHead.for_tower(self._tower).to(next(self._tower.module.parameters()).device)
        head.check_fits(self._tower.spec)
        if predicts_uncertainty(head.decoder) and not LOSSES[recipe.loss]().learns_uncertainty:
            raise ConfigError(
                f"the head predicts its uncertainty, which the loss {recipe.loss!r} does not teach: it would stay "
                "random. Make the head with uncertainty=False, or take the loss 'relative' or 'sharp'"
            )
        self.head = head
        check_tower_precision(recipe.tower_precision, self._tower.module)
        self._preparation = preparation_of(host, self._tower.spec)

    def fit(
        self,
        train: DepthSource,
        validation: DepthSource,
        out: Path,
        *,
        trained_on: str,
        test: DepthSource | None = None,
        details: Mapping[str, object] | None = None,
        options: RunOptions | None = None,
    ) -> TrainingResult:
        """Run the recipe and leave the best head in `out`.

        In several processes (`torchrun`; `accelerate launch` on GPUs) all call it alike, and batches are shared out.

        A run that was stopped, however it was, is continued with `RunOptions(resume=True)` and ends with the same bits,
        by the same code on a machine of the same kind. A warning says where `run.json` tells of another code, torch or
        device.

        Args:
            train: images the head learns from; a `Mixture` is seen in proportion to its weights.
            validation: images the best epoch is chosen on.
            out: folder of the run, made if absent.
            trained_on: what the head's config will say it was trained on.
            test: images that are looked at once, at the end.
            details: where host and data come from, JSON-ready, for the record.
            options: how the run is carried out; None: in one process, with progress bars.

        Raises:
            ConfigError: an impossible setting.
            TrainingError: the folder is taken or holds another run, the loss is not finite, the host changed, or the
                disk is full. What is done stays, and the run can be resumed.
            DataError: a sample that cannot be used, depth in another unit, or the same image in two sources; or the
                head shall tell where nothing is, and no training sample does.
            CheckpointError: the newest checkpoint is damaged, or all are gone.
            KeyboardInterrupt: Ctrl-C or SIGTERM; the run can be resumed.
        """
        options = options or RunOptions()
        processes = Processes(self._device, workers=options.workers, log_with=options.log_with, folder=out)
        sources = {"train": train, "validation": validation, **({} if test is None else {"test": test})}
        self.head.familiarity = None  # what it may know of other images
        kind = self._preparation.kind
        self.head.config = dataclasses.replace(self.head.config, familiarity=None, preparation=kind)
        told = {"untold": self._untold, "head": self._camera_of_head()}
        checked = checked_sources(sources, self._protocol, processes, **told, preparation=self._preparation)
        if predicts_empty(self.head.decoder):
            check_tells_of_nothing(train, processes)
        record = self._record(trained_on, details or {}, train, checked, processes)
        weights = {"weights of the head": module_digest(self.head)}
        processes.check_equal({**weights, **{key: comparable(record)[key] for key in MUST_MATCH}})
        run = _Run(sources, checked, RunFolder(out), record, options, processes)
        processes.on_main(lambda: run.folder.open(record, resume=options.resume, config_yaml=options.config_yaml))
        try:
            return self._carry_out(run)
        finally:
            self.head.eval()
            processes.end_tracker()
            run.folder.close()

    def _carry_out(self, run: _Run) -> TrainingResult:
        """The run, once its folder is open: cache, train, calibrate, test, publish."""
        processes, folder = run.processes, run.folder
        started = time.perf_counter()
        with ExitStack() as stack:
            attachment = stack.enter_context(self._attached(self.head))
            train, validation = (self._stream(run, attachment, name) for name in ("train", "validation"))
            if self._recipe.cache != LIVE:
                stack.close()  # the tower is not needed any more
            self._check_host(run)
            cached_at = time.perf_counter()
            validation_set = ValidationSet(
                validation,
                run.sources["validation"],
                self._protocol,
                processes,
                run.checked.camera,
                self._preparation,
            )
            best, continued_at = self._optimize(run, train, validation_set)
            tokens = self._tokens(run, train)
            calibration, familiarity = processes.on_main(lambda: self._complete(run, validation_set, tokens))
        seconds = (cached_at - started, time.perf_counter() - cached_at)
        tested = processes.on_main(lambda: self._test(run)) if "test" in run.sources else None
        host_digest = self._check_host(run)  # once nothing runs it any more
        head_folder = processes.on_main(folder.publish_best)
        head = DepthHead.from_pretrained(head_folder)
        result = TrainingResult(
            head, head_folder, best.epoch, best.metrics, host_digest, *seconds, calibration, tested, familiarity
        )  # fmt: skip
        record = {"finished": True, **run.record, **outcome(result, run.sources, continued_at)}
        processes.on_main(lambda: folder.save_card(head, record))
        processes.on_main(lambda: folder.write_record(record))
        processes.on_main(folder.clean)
        return result

    @property
    def _device(self) -> torch.device:
        return next(self.head.parameters()).device

    def _record(
        self,
        trained_on: str,
        details: Mapping[str, object],
        train: DepthSource,
        checked: CheckedSources,
        processes: Processes,
    ) -> dict[str, Any]:
        """What `run.json` says of the run from its start on."""
        trained = dataclasses.replace(
            self.head.config,
            trained_on=trained_on,
            depth_range_m=(self._protocol.min_depth_m, self._protocol.max_depth_m),
            tower_fingerprint=fingerprint_of(self._tower, self.head.config),
            focal_length=checked.camera.focal_length,
            focal_length_assumed=checked.camera.assumed,
        )
        return {
            "recipe": dataclasses.asdict(self._recipe),
            "protocol": self._protocol.name,
            "protocol_settings": dataclasses.asdict(self._protocol),
            "camera": dataclasses.asdict(checked.camera),
            "preparation": self._preparation.name,
            "tower": dataclasses.asdict(self._tower.spec),
            "head": trained.to_dict(),
            "head_parameters": sum(p.numel() for p in self.head.parameters()),
            "host_digest_before": module_digest(self._host),
            "data": {name: sha256_of(*found) for name, found in checked.fingerprints.items()},
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
    def _attached(self, head: DepthHead) -> Iterator[DepthAttachment]:
        with (
            in_eval_mode(self._host),
            attach_depth_head(self._host, head, tower=self._tower, other_tower=IGNORE) as attachment,
        ):
            yield attachment

    def _stream(self, run: _Run, attachment: DepthAttachment, name: str) -> FeatureStream:
        """Features of a source, cached unless the recipe says otherwise."""
        recipe, source, training = self._recipe, run.sources[name], name == "train"
        settings = FeatureSettings(
            protocol=self._protocol,
            versions=recipe.views if training else 1,
            augmentation=Augmentation.named(recipe.augmentation),
            seed=recipe.seed,
            storage=recipe.cache,
            targets=training,
            camera=run.checked.camera if training else None,
            target_side=recipe.target_side,
            preparation=self._preparation,
            tower_precision=recipe.tower_precision if training else OWN,
        )
        if recipe.cache == LIVE:
            return LiveFeatures(attachment, source, settings=settings)
        key = cache_key(
            settings,
            tower=attachment.tower,
            weights=module_digest(self._tower.module),
            taps=attachment.head.taps,
            context=attachment.head.uses_context,
            pixels=attachment.head.uses_pixels,
            fingerprints=run.checked.fingerprints[name],
        )
        shared = run.options.cache
        folder = run.folder.cache(name) if shared is None else shared / key[:16]
        with tqdm(total=len(source), desc=f"caching {name} features", unit="image", disable=not run.shown) as bar:
            make = functools.partial(make_cache, key=key, settings=settings, processes=run.processes)
            return make(attachment, source, folder, progress=bar.update)

    def _optimize(self, run: _Run, train: FeatureStream, validation: ValidationSet) -> tuple[Best, int | None]:
        """The best epoch, and the step at which the run was continued."""
        recipe, processes = self._recipe, run.processes
        order = DataOrder(
            shares_of(run.sources["train"]), recipe.batch_size, recipe.accumulation, train.versions, recipe.seed
        )
        optimizer = HeadOptimizer(self.head, recipe, train, order=order, processes=processes)
        loop = TrainingLoop(
            optimizer, validation, run.folder, DepthHeadConfig.from_dict(run.record["head"]), run.options.save_every
        )
        processes.start_tracker({"protocol": self._protocol.name, **dataclasses.asdict(recipe)})
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), watched() as interruption:
            torch.manual_seed(recipe.seed + processes.rank)
            continued_at = processes.together(loop.resume) if run.options.resume else None
            processes.check_equal({"newest checkpoint": continued_at})
            return loop.run(interruption, progress=run.shown), continued_at

    def _tokens(self, run: _Run, train: FeatureStream) -> Tensor | None:
        """What the head is to know the training images by; see `training_tokens`."""
        total = min(len(train), MOST_IMAGES)
        with tqdm(total=total, desc="learning their look", unit="image", disable=not run.shown) as bar:
            return training_tokens(
                train,
                tap=self.head.familiar_tap,
                device=self._device,
                processes=run.processes,
                progress=bar.update,
            )

    def _complete(
        self, run: _Run, validation_set: ValidationSet, tokens: Tensor | None
    ) -> tuple[Calibration | None, dict[str, Any] | None]:
        """Teach the best head the look of its images, rescale its uncertainty, and draw a picture of its depth."""
        best = run.folder.load_best().to(self._device)
        if tokens is not None:
            best.learn_familiarity(tokens)
        calibration, familiarity = validation_set.calibrate(best), validation_set.familiarity(best)
        if calibration is not None or tokens is not None:
            run.folder.save_best(best)
        run.folder.save_picture(validation_set.pictures(best, PICTURES))
        if tokens is None or familiarity is None:
            return calibration, None
        return calibration, familiarity_record(len(tokens), familiarity)

    def _camera_of_head(self) -> FocalLength | None:
        """The focal length that a trained head was made for and that data told; None: the data may choose."""
        config = self.head.config
        return None if config.focal_length_assumed else config.focal_length

    def _test(self, run: _Run) -> DepthMetrics:
        test = run.checked.camera.told(run.sources["test"])
        with (
            self._attached(run.folder.load_best().to(self._device)) as attachment,
            tqdm(total=len(test), desc="testing", unit="image", disable=not run.shown) as bar,
        ):
            return evaluate(attachment, test, protocol=self._protocol, edges=False, progress=bar.update).mean

    def _check_host(self, run: _Run) -> str:
        """The host's digest, that of the record in every process; where it is not, the run ends for good."""
        before: str = run.record["host_digest_before"]
        found = run.processes.gathered(run.processes.together(lambda: module_digest(self._host)))
        moved = [after for after in found if after != before]
        if moved:
            outcome = {"finished": False, **run.record, "host_digest_after": moved[0]}
            run.processes.on_main(lambda: run.folder.write_record(outcome))
            raise TrainingError(
                f"the host changed while a head was trained on it: digest {before[:12]}… before, {moved[0][:12]}… "
                "after. Is something else training it in this process? Keep it as it is and start another run"
            )
        return before


@dataclass(frozen=True, eq=False)
class _Run:
    """A run as every part of it needs it: its data by what they are for, its folder and record, and who works on it."""

    sources: Mapping[str, DepthSource]
    checked: CheckedSources
    folder: RunFolder
    record: Mapping[str, Any]
    options: RunOptions
    processes: Processes

    @property
    def shown(self) -> bool:
        """Whether this process shows progress."""
        return self.options.progress and self.processes.main
