"""From a policy and its data to a head, in one call."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from spaceclip_plugin.data import DepthSource, SourceSpec, parse_source
from spaceclip_plugin.data.sources.spec import is_recording
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.evaluation import Protocol, get_protocol
from spaceclip_plugin.teaching.taught import TaughtDepth
from spaceclip_plugin.teaching.teach import TeachOptions, teach
from spaceclip_plugin.teaching.teacher import DepthTeacher, load_teacher
from spaceclip_plugin.teaching.told import told_of_teachers
from spaceclip_plugin.training import DepthTrainer, Recipe, TrainingResult
from spaceclip_plugin.training.config.recordings import held_out, thinned, told_of_recordings
from spaceclip_plugin.training.run.folder import CACHE_NAME, TAUGHT_PREFIX


def train_head(
    policy: nn.Module,
    data: DepthSource | SourceSpec | str,
    *,
    out: str | Path,
    validation: DepthSource | SourceSpec | str | None = None,
    teacher: DepthTeacher | str | None = None,
    protocol: Protocol | None = None,
    recipe: Recipe | None = None,
) -> TrainingResult:
    """Train the default head on a live policy, which stays as it is, and leave it in `out/head`.

    As `spaceclip train` does: of a LeRobot data set, or what was taught of one, about two frames a second are taken,
    and a tenth of the episodes is held out where no validation data is given. What else can be said of a run,
    `DepthTrainer` takes.

    Args:
        policy: the frozen host, on the device to train on.
        data: to learn from: samples, or as `parse_source` takes it, "lerobot:lab/kitchen"; of several cameras one is
            chosen by `LeRobotData("lab/kitchen", camera="front")`.
        out: folder of the run, made if absent.
        validation: what the best epoch is chosen on; None only for a LeRobot data set, or what was taught of one.
        teacher: gives the training data its depth, whatever it has: a teacher, or its name as `load_teacher` takes it.
            Validation data keeps its own, unless it is a LeRobot data set without.
        protocol: how depth is read and scored; None: over the whole image.
        recipe: None: the recommended one.

    Raises:
        ConfigError: data that needs validation data beside it; samples, which a teacher cannot be shown by name; or an
            impossible setting.
        DataError: data that cannot be used, or one episode, which cannot be split.
        TeacherError: see `teach`.
        TrainingError: see `DepthTrainer.fit`.

    Example:
        >>> import timm
        >>> from spaceclip_plugin.training import Recipe
        >>> host = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=4)
        >>> result = train_head(host, "scenes:4", validation="scenes:2:1", out="run", recipe=Recipe(epochs=1, views=1))
        >>> result.head.config.trained_on, result.folder.as_posix()
        ('scenes (4) (4 images)', 'run/head')
    """
    learnt, judged = _thinned(data), None if validation is None else _thinned(validation)
    if judged is None:
        if not is_recording(learnt):
            raise ConfigError(
                "only LeRobot data sets, and what was taught of them, are split by themselves; give validation= beside "
                "this data"
            )
        learnt, judged = held_out(learnt)
    device = next(policy.parameters()).device
    protocol = get_protocol("whole-image") if protocol is None else protocol
    asked = load_teacher(teacher, device=device) if isinstance(teacher, str) else teacher
    trainer = DepthTrainer(policy, recipe=Recipe() if recipe is None else recipe, protocol=protocol)
    reading = _Reading(protocol, asked, device, Path(out) / CACHE_NAME)
    lacking = is_recording(judged) and not judged.tells_depth()
    validation = reading.taught(judged, "validation") if lacking else reading.opened(judged)
    train = reading.opened(learnt) if asked is None else reading.taught(learnt, "train")
    details = {
        "host": type(policy).__name__,
        "data": _title(learnt),
        "val": _title(judged),
        "recordings": told_of_recordings({"data": [learnt], "validation": [judged]}),
        **told_of_teachers(train, validation),
    }
    return trainer.fit(
        train, validation, Path(out), trained_on=f"{_title(learnt)} ({len(train)} images)", details=details
    )


def _title(data: DepthSource | SourceSpec) -> str:
    return data.title if isinstance(data, SourceSpec) else "samples"


@dataclass(frozen=True)
class _Reading:
    """How samples come of what was given."""

    protocol: Protocol
    teacher: DepthTeacher | None
    device: torch.device
    cache: Path

    def opened(self, data: DepthSource | SourceSpec) -> DepthSource:
        """Samples as they are."""
        return data.open(units_per_metre=self.protocol.depth_scale) if isinstance(data, SourceSpec) else data

    def taught(self, data: DepthSource | SourceSpec, name: str) -> DepthSource:
        """Samples with depth by the teacher."""
        if self.teacher is None:
            return self.opened(data)
        if not isinstance(data, SourceSpec):
            raise ConfigError("a teacher is shown data that has a name, such as folder:DIR or lerobot:ID, not samples")
        protocol, folder = self.protocol, self.cache / f"{TAUGHT_PREFIX}{name}"
        range_m = (max(protocol.min_depth_m, 1e-6), protocol.max_depth_m)
        options = TeachOptions(range_m=range_m, units_per_metre=protocol.depth_scale)
        teach(data, self.teacher, folder, device=self.device, options=options)
        return TaughtDepth(folder)


def _thinned(data: DepthSource | SourceSpec | str) -> DepthSource | SourceSpec:
    """What is given, by its spec where it has one."""
    named = parse_source(data) if isinstance(data, str) else data
    return thinned(named) if isinstance(named, SourceSpec) else named
