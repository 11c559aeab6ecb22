"""The settings of a run: what a config file and the flags of `spaceclip train` say together."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

from spaceclip_plugin import __version__
from spaceclip_plugin._digest import code_digest
from spaceclip_plugin._files import read_json_object
from spaceclip_plugin.cli.data import as_flagged
from spaceclip_plugin.cli.flags import given
from spaceclip_plugin.data import parse_source
from spaceclip_plugin.errors import CheckpointError, ConfigError
from spaceclip_plugin.head.architectures import DEFAULT_ARCHITECTURE
from spaceclip_plugin.head.decoder import STANDARD
from spaceclip_plugin.training.config.recipe import RECIPES, Recipe
from spaceclip_plugin.training.config.recordings import of_recordings, with_recordings
from spaceclip_plugin.training.config.run_config import HeadChoice, RunConfig, WeightedSource
from spaceclip_plugin.training.config.strict_yaml import read_mapping
from spaceclip_plugin.training.run.folder import CONFIG_NAME, RECORD_NAME
from spaceclip_plugin.training.run.record import code_of

_logger = logging.getLogger(__name__)

SOURCE_FLAGS = {"data": "data", "val": "validation", "test": "test"}  # flag → setting
_PUBLISHED_HEAD = "space-clip"
_WITH_RESUME = ("host", "device", "workers", "cache", "log_with")
_OF_RECORDINGS = "whole-image"  # the default is for NYU's photos, and sees a part of others
_OF_ANY_COMMAND = ("command", "run", "json")


def new_run(args: argparse.Namespace) -> RunConfig:
    """The settings of a new run: those of --config, or the defaults, and over them what the other flags say."""
    if args.config is not None:
        config = RunConfig.from_file(args.config, host=args.host)
    else:
        published = args.recipe is not None and args.recipe.startswith("published")
        config = RunConfig(head=HeadChoice(_PUBLISHED_HEAD if published else DEFAULT_ARCHITECTURE))
    changes = given(args, RunConfig)
    for flag, name in SOURCE_FLAGS.items():
        if getattr(args, flag) is not None:
            changes[name] = tuple(WeightedSource(parse_source(text)) for text in getattr(args, flag))
    if args.config is None and "protocol" not in changes and of_recordings(changes.get("data", ())):
        changes["protocol"] = _OF_RECORDINGS
        _logger.info("recordings are scored over the whole image, protocol %s; --protocol is another", _OF_RECORDINGS)
    config = dataclasses.replace(config, **changes, head=_head(args, config.head), recipe=_recipe(args, config.recipe))
    splits = not config.validation and of_recordings(config.data)
    open_ones = [name for name in config.missing if not (name == "validation" and splits)]
    missing = ["--val" if name == "validation" else f"--{name}" for name in open_ones]
    missing += ["--out"] if args.out is None else []
    if missing:
        raise argparse.ArgumentError(
            None, f"{', '.join(missing)} missing; give it here, or host, data and validation in a --config"
        )
    config = _with_flagged_sources(config, args)
    config.check_validation()
    return with_recordings(config)


def _with_flagged_sources(config: RunConfig, args: argparse.Namespace) -> RunConfig:
    """The config with what --root, --ray-distance and --units-per-metre say of all its data."""
    parts = {name: getattr(config, name) for name in SOURCE_FLAGS.values()}
    flagged = iter(as_flagged([part.source for several in parts.values() for part in several], args))
    changes: dict[str, Any] = {
        name: tuple(dataclasses.replace(part, source=next(flagged)) for part in several)
        for name, several in parts.items()
    }
    return dataclasses.replace(config, **changes)


def resumed_run(args: argparse.Namespace) -> RunConfig:
    """The settings of the run that --resume names."""
    other = (*_WITH_RESUME, *_OF_ANY_COMMAND, "resume")
    settled = [_flag(name) for name, value in vars(args).items() if value is not None and name not in other]
    if settled:
        allowed = ", ".join(map(_flag, _WITH_RESUME))
        raise argparse.ArgumentError(
            None, f"{', '.join(settled)} cannot be given with --resume: a run keeps its settings, all but {allowed}"
        )
    path = args.resume / CONFIG_NAME
    if not path.is_file():
        raise ConfigError(f"there is no run to continue in {str(args.resume)!r}: it holds no {CONFIG_NAME}")
    values = read_mapping(path)
    if args.host is not None and args.host != values.get("host"):
        raise ConfigError(
            f"the run in {str(args.resume)!r} is on host {values.get('host')!r}, not on {args.host!r}; leave --host "
            "out, or start another run"
        )
    try:
        # As if the user had named the host: whether a file may, which is no question of versions, is asked below.
        RunConfig.from_mapping(values, where=str(path), host=str(values.get("host")))
    except ConfigError as error:
        raise ConfigError(f"{error}; {_advice(args.resume)}") from error
    config = RunConfig.from_mapping(values, where=str(path), host=args.host).resolved(args.resume)
    if config.missing:
        raise ConfigError(f"{path}: {', '.join(config.missing)} missing, which no run goes without; was it edited?")
    return dataclasses.replace(config, **given(args, RunConfig))


def _advice(run: Path) -> str:
    """What to do about settings that cannot be: a run writes only what its own version knows."""
    try:
        begun = code_of(read_json_object(run / RECORD_NAME))
    except CheckpointError:  # without a record, nothing is known
        begun = code_of({})
    now = code_of({"spaceclip_plugin": __version__, "code": code_digest()})
    if begun == now:
        return "the run wrote what this version knows, so undo what was edited there"
    return (
        f"the run was begun with {begun}, this is {now}: resume it with the version it was begun with, or undo what "
        "was edited there"
    )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _recipe(args: argparse.Namespace, configured: Recipe) -> Recipe:
    changes = given(args, Recipe)
    if changes.get("target_side") == 0:
        changes["target_side"] = None
    return dataclasses.replace(configured if args.recipe is None else RECIPES[args.recipe], **changes)


def _head(args: argparse.Namespace, configured: HeadChoice) -> HeadChoice:
    """The head of the config with --set's options in it; another architecture or preset starts without any."""
    name = args.arch or configured.architecture
    preset = args.preset or (configured.preset if name == configured.architecture else STANDARD)
    options = dict(configured.options) if (name, preset) == (configured.architecture, configured.preset) else {}
    for word in args.set or []:
        key, _, value = word.partition("=")
        try:
            options[key] = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"--set {word[:80]}: the value is not JSON, as 3, true or [1,2]: {error}") from error
    return HeadChoice(name, options, preset)
