"""Flags that are made from settings, and flags that several commands share."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from spaceclip_plugin.attach.tower_match import OTHER_TOWER, WARN
from spaceclip_plugin.training.config.settings import Config, Setting


def add_flags(
    parser: argparse._ActionsContainer,
    config: type[Config],
    *,
    leave_out: Iterable[str] = (),
    required: Iterable[str] = (),
    default_of: Callable[[str], str] | None = None,  # what help says of the default of a setting, by its name
) -> None:
    """A flag for every setting that a class declares itself. None has a default: what is not given is left open."""
    own = inspect.get_annotations(config)
    for name, setting in config.settings().items():
        if setting.flag is None or name not in own or name in leave_out:
            continue
        about = setting.help + ("" if default_of is None else f" ({default_of(name)})")
        value: dict[str, Any] = {"action": "store_true"}
        if setting.parse is not None:
            value = {"type": _parser(setting), "metavar": setting.metavar, "choices": setting.choices}
        parser.add_argument(_flag(name, setting), default=None, required=name in required, help=about, **value)


def given(args: argparse.Namespace, config: type[Config]) -> dict[str, Any]:
    """What the flags of `config` and of its bases say, by the setting; nothing of those that are not given."""
    flags = {name: _flag(name, setting) for name, setting in config.settings().items() if setting.flag is not None}
    values = {name: getattr(args, flag.removeprefix("--").replace("-", "_")) for name, flag in flags.items()}
    return {name: value for name, value in values.items() if value is not None}


def add_head(parser: argparse.ArgumentParser, *, positional: bool = False, required: bool = True) -> None:
    """HEAD or --head: a folder, a repository of the Hub, or a head of this package."""
    about = "folder of a head, its Hub repository (org/name), or embedded:NAME for one that `spaceclip heads` lists"
    if positional:
        parser.add_argument("head", metavar="HEAD", help=about)
    else:
        parser.add_argument("--head", required=required, metavar="HEAD", help=about)


def add_other_tower(parser: argparse.ArgumentParser) -> None:
    """--other-tower: what to do where the head was trained on other weights."""
    parser.add_argument(
        "--other-tower",
        choices=OTHER_TOWER,
        default=WARN,
        help="where the head was trained on another tower than the host's: warn, error, or ignore (default: warn)",
    )


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    """--overwrite."""
    parser.add_argument(
        "--overwrite", action="store_true", help="replace files that are there (default: nothing is replaced)"
    )


def _flag(name: str, setting: Setting) -> str:
    return setting.flag or "--" + name.replace("_", "-")


def _parser(setting: Setting) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            return text if setting.parse is None else setting.parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"expected {setting.metavar}, got {text!r}") from error

    return parse
