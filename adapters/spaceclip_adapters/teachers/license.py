"""The licence that a repository of the Hub, or a folder of a model, states in the metadata of its model card."""

from __future__ import annotations

from pathlib import Path

import yaml

from spaceclip_adapters.hosts.hub_files import fetch
from spaceclip_plugin.errors import HostError

_CARD = "README.md"
_FENCE = "---"
_MAX_BYTES = 1 << 20


def stated_license(name: str, *, commit: str | None) -> str | None:
    """The licence's name, as "apache-2.0"; that of one with a name of its own is that name. None: nothing is stated."""
    folder = Path(name)
    try:
        card = folder / _CARD if folder.is_dir() else fetch(name, [_CARD], revision=commit, remedies="").path
    except HostError:  # no card, or none that can be had
        return None
    if not card.is_file() or card.stat().st_size > _MAX_BYTES:
        return None
    return license_in(card.read_text(encoding="utf-8", errors="replace"))


def license_in(card: str) -> str | None:
    """The licence in the metadata at the head of a model card."""
    lines = card.lstrip("\ufeff").splitlines()
    if not lines or lines[0].strip() != _FENCE:
        return None
    end = next((number for number, line in enumerate(lines[1:], start=1) if line.strip() == _FENCE), None)
    try:
        values = yaml.safe_load("\n".join(lines[1:end])) if end is not None else None
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    if not isinstance(values, dict):
        return None
    stated = values.get("license")
    stated = stated[0] if isinstance(stated, list) and stated else stated
    named = values.get("license_name")
    chosen = named if stated in (None, "other") and isinstance(named, str) else stated
    plain = " ".join(chosen.split())[:100] if isinstance(chosen, str) else ""
    return plain or None
