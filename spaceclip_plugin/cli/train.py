"""`spaceclip train`: a depth head for a frozen host."""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spaceclip_plugin.cli.data import SOURCE_HELP, add_reading, open_specs, skipped
from spaceclip_plugin.cli.flags import add_flags
from spaceclip_plugin.cli.hosts import add_host, open_host
from spaceclip_plugin.cli.outputs import Result
from spaceclip_plugin.cli.taught_training import RunTeaching
from spaceclip_plugin.cli.train_config import SOURCE_FLAGS, new_run, resumed_run
from spaceclip_plugin.data import DepthSource
from spaceclip_plugin.errors import DataError
from spaceclip_plugin.evaluation import Calibration, DepthMetrics
from spaceclip_plugin.head import DepthHead, DepthHeadConfig
from spaceclip_plugin.teaching.told import told_of_teachers
from spaceclip_plugin.towers.hosts import RANDOM, revision_of
from spaceclip_plugin.towers.registry import find_tower
from spaceclip_plugin.training import DepthTrainer, RunOptions, TrainingResult
from spaceclip_plugin.training.config.recipe import RECIPES, Recipe
from spaceclip_plugin.training.config.recordings import told_of_recordings
from spaceclip_plugin.training.config.run_config import CODE, SOURCES_OF_A_RUN, HeadChoice, RunConfig, WeightedSource
from spaceclip_plugin.training.processes import check_launched
from spaceclip_plugin.training.run.folder import CARD_NAME, CONFIG_NAME, PICTURE_NAME

_LONGEST_TITLE = 400


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Everything a run needs; no flag has a default, so that what is not given is left to the config."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML with settings; flags go before it")
    parser.add_argument(
        "--resume", type=Path, metavar="DIR", help="continue the stopped run in DIR to its end, with its own settings"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the run, made if absent")
    add_host(parser, required=False)
    add_reading(parser)
    group = parser.add_argument_group("training data", f"SOURCE is {SOURCE_HELP}; each flag may be repeated")
    for flag, name in SOURCE_FLAGS.items():
        group.add_argument(f"--{flag}", action="append", metavar="SOURCE", help=RunConfig.settings()[name].help)
    group = parser.add_argument_group("head")
    add_flags(group, HeadChoice)
    group.add_argument(
        "--set",
        action="append",
        metavar="NAME=VALUE",
        help="an option of the head, VALUE as JSON: --set attention=0 --set taps=[3,6,9,12]; may be repeated",
    )
    group = parser.add_argument_group("recipe")
    group.add_argument(
        "--recipe",
        choices=tuple(RECIPES),
        help="what every setting below is unless it is given (default: recommended; published: arXiv 2601.17657)",
    )
    add_flags(group, Recipe, default_of=_in_the_recipes)
    add_flags(parser.add_argument_group("running"), RunConfig)


def _in_the_recipes(name: str) -> str:
    """What the recipes say of a setting: "recommended 8, published 32", or one value where they agree."""
    values = {recipe: getattr(settings, name) for recipe, settings in RECIPES.items()}
    agreed = set(values.values())
    return f"{agreed.pop()}" if len(agreed) == 1 else ", ".join(f"{recipe} {value}" for recipe, value in values.items())


def run(args: argparse.Namespace) -> Result | None:
    """Check the settings and the data, load the host, train; None in all processes but the main one."""
    check_launched()  # before a host is loaded for nothing
    config = new_run(args) if args.resume is None else resumed_run(args)
    out = args.out if args.resume is None else args.resume
    teaching = RunTeaching(config, out)
    try:
        test = _opened(config, config.test) if config.test else None
        validation = _opened(config, teaching.validation())
        train = _opened(config, teaching.data())
    except DataError as error:
        if args.resume is None:
            raise
        raise DataError(
            f"{error}\nThe paths stand in {str(args.resume / CONFIG_NAME)!r}: if the data lies elsewhere now, under "
            "the same names, say so there and resume again; the run goes on as if nothing had moved"
        ) from error
    host = open_host(config)
    head = _fresh_head(config, host)
    trainer = DepthTrainer(
        host,
        head,
        recipe=config.recipe,
        protocol=config.evaluation,
        tower=config.tower,
        adapter=config.adapter,
        focal_length=config.focal_length,
    )
    left_out = skipped(train, validation, *([] if test is None else [test]))
    details = {
        "host": config.host,
        "host_weights": getattr(config.host_weights, "name", config.host_weights),
        "host_revision": None if config.host_weights else revision_of(host),
        "image_hw": config.image_hw,
        "image_mean": head.config.image_mean,
        "image_std": head.config.image_std,
        "data": _title(config.data),
        "val": _title(config.validation),
        "test": _title(config.test) if config.test else None,
        "select_on_test": config.select_on_test,
        "recordings": told_of_recordings(
            {name: [part.source for part in getattr(config, name)] for name in SOURCES_OF_A_RUN}
        ),
        "skipped": left_out,
        **told_of_teachers(train, validation),
    }
    # What the tower suggested for the head is kept, too: a later version may suggest something else.
    settled = HeadChoice(head.config.architecture, dataclasses.asdict(head.config)["options"], config.head.preset)
    try:
        result = trainer.fit(
            train,
            validation,
            out,
            trained_on=f"{_title(config.data)} ({len(train)} images{_taught_by(details)})",
            test=test,
            details=details,
            options=RunOptions(
                resume=args.resume is not None,
                workers=config.workers,
                save_every=config.save_every,
                cache=config.cache,
                log_with=config.log_with,
                config_yaml=dataclasses.replace(config, head=settled).to_yaml(),
            ),
        )
    except KeyboardInterrupt as error:
        if not (out / CONFIG_NAME).is_file():  # nothing has begun
            raise
        words = ["spaceclip", "train", "--resume", str(out)]
        words += ["--host", str(config.host)] if str(config.host).startswith(CODE) else []
        raise KeyboardInterrupt(f"continue with: {shlex.join(words)}") from error
    if os.environ.get("RANK", "0") != "0":  # set by `accelerate launch` and torchrun
        return None
    return _with_terms(_result(result, config, validation, left_out), details)


def _opened(config: RunConfig, parts: Sequence[WeightedSource]) -> DepthSource:
    weights = [part.weight for part in parts if part.weight is not None]
    return open_specs([part.source for part in parts], config, weights=weights or None)


def _fresh_head(config: RunConfig, host: nn.Module) -> DepthHead:
    tower = find_tower(host, tower=config.tower, adapter=config.adapter)
    head_config = DepthHeadConfig.for_tower(
        tower.spec,
        architecture=config.head.architecture,
        preset=config.head.preset,
        options=config.head.options,
        base_model=f"{config.host} (random weights)" if config.host_weights == RANDOM else config.host,
    )
    revision = None if config.host_weights else revision_of(host)
    with torch.random.fork_rng():
        torch.manual_seed(config.recipe.seed)
        head = DepthHead(dataclasses.replace(head_config, base_model_revision=revision))
    return head.to(next(host.parameters()).device)


def _title(parts: Sequence[WeightedSource]) -> str:
    """What the data is called in records; short enough for a head's config."""
    titles = [part.source.resolved(Path.cwd()).title for part in parts]
    title = " + ".join(titles)
    return title if len(title) <= _LONGEST_TITLE else f"{title[:_LONGEST_TITLE]}…"


def _taught_by(details: Mapping[str, Any]) -> str:
    """Who gave the depth, for the head's config."""
    names = [str(card["name"]) for card in details["teachers"]]
    return f", depth by {' and '.join(names)}" if names else ""


def _with_terms(result: Result, details: Mapping[str, Any]) -> Result:
    """What the command says, with who taught, on which terms, and what the figures are of."""
    if not details["teachers"]:
        return result
    terms = "".join(f"\n{card['terms']}" for card in details["teachers"])
    told = {name: details[name] for name in ("teachers", "validated_on")}
    return Result(f"{result.text}\nvalidated on {details['validated_on']}{terms}", {**result.data, **told})


def _result(
    result: TrainingResult, config: RunConfig, validation: DepthSource, left_out: list[dict[str, str | int]]
) -> Result:
    attach, run = _attaching(result, config), result.folder.parent
    data = {
        "head": str(result.folder),
        "attach": attach,
        "best_epoch": result.best_epoch,
        "validation": dataclasses.asdict(result.validation),
        "test": None if result.test is None else dataclasses.asdict(result.test),
        "uncertainty": None if result.calibration is None else dataclasses.asdict(result.calibration),
        "camera": {
            "focal_length": result.head.config.focal_length,
            "assumed": result.head.config.focal_length_assumed,
        },
        "familiarity": result.familiarity,
        "host_digest": result.host_digest,
        "host_unchanged": True,
        "seconds_caching": result.seconds_caching,
        "seconds_training": result.seconds_training,
        "skipped": left_out,
    }
    where = f"{_title(config.validation)} ({len(validation)} images, {config.evaluation.name}, no flip)"
    text = f"best epoch {result.best_epoch} of {config.recipe.epochs}: {_scores(result.validation)} on {where}\n"
    if config.select_on_test:
        text += "select_on_test: the best epoch may be chosen on a test set; the figure above then says too much\n"
    if result.test is not None:
        text += f"test: {_scores(result.test)} on {_title(config.test)}\n"
    text += (
        f"{_uncertainty(result.calibration)}camera: {result.head.config.camera_in_words}\n{_familiarity(result)}"
        f"host unchanged (sha256 {result.host_digest[:16]}…); caching {result.seconds_caching:.0f} s, "
        f"training {result.seconds_training:.0f} s\nhead: {result.folder}\n"
        f"its card: {run / CARD_NAME}, with a picture of validation images, {PICTURE_NAME}\n"
        f"attach it: {attach}"
    )
    return Result(text, data)


def _attaching(result: TrainingResult, config: RunConfig) -> str:
    """The line of Python that attaches the head to the host that it was trained on."""
    which = {"tower": config.tower, "adapter": config.adapter}
    told = "".join(f", {name}={value!r}" for name, value in which.items() if value is not None)
    return f"depth = spaceclip_plugin.attach_depth_head({_variable(config)}, {str(result.folder)!r}{told})"


def _variable(config: RunConfig) -> str:
    """What people call such a host in their code."""
    return "policy" if str(config.host).startswith("lerobot:") else "host"


def _scores(metrics: DepthMetrics) -> str:
    return f"AbsRel {metrics.abs_rel:.4f}, RMSE {metrics.rmse:.3f} m, delta1 {metrics.delta1:.3f}"


def _familiarity(result: TrainingResult) -> str:
    known = result.familiarity
    if known is None:
        return ""
    return (
        f"familiarity learnt from {known['images']} images; {100 * known['validation_unfamiliar']:.1f} % of the "
        "validation images are unfamiliar\n"
    )


def _uncertainty(calibration: Calibration | None) -> str:
    if calibration is None:
        return ""
    checked = calibration.cross_checked or calibration.after
    held = " and ".join(f"{100 * share:.1f} % in {100 * level:.0f} % intervals" for level, share in checked.items())
    how = "cross-checked" if calibration.cross_checked else "on the image it was fitted on"
    return f"uncertainty rescaled by {calibration.factor:.3f}: {held} ({how})\n"
