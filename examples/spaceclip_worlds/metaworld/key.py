"""What decides how a drawing comes out, beside what is drawn: code, and the versions of what it draws with."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from spaceclip_plugin._digest import code_digest, sha256_of
from spaceclip_plugin.errors import ConfigError
from spaceclip_worlds.metaworld.episode import Picture

# Files here that can change without a picture's changing, and those of them that are for clips.
_DRAW_NOTHING = (
    *("source.py", "spec.py", "order.py", "studio.py", "kept.py", "key.py", "clip.py", "clip_order.py"),
    *("live.py", "acting.py", "belief.py", "told.py"),
)
_OF_CLIPS = ("film.py", "clip_file.py")
_WORLDS = Path(__file__).parents[1]


@functools.lru_cache
def picture_key(picture: Picture) -> str:
    """SHA-256 (hex) of what decides the pictures of an episode, beside the episode itself."""
    return _key(repr(picture), without=(*_DRAW_NOTHING, *_OF_CLIPS), borrowed=("render/textures.py",))


@functools.lru_cache
def clip_key(image_hw: tuple[int, int]) -> str:
    """SHA-256 (hex) of what decides clips of that size, beside what happens in them."""
    return _key(f"clip {image_hw}", without=_DRAW_NOTHING, borrowed=("clip.py", "orbit.py", "render/scene.py"))


@functools.lru_cache
def versions() -> str:
    """Of what draws.

    Raises:
        ConfigError: it is not installed; names the extra.
    """
    try:
        return ", ".join(f"{package} {metadata.version(package)}" for package in ("metaworld", "mujoco", "numpy"))
    except metadata.PackageNotFoundError as error:
        raise ConfigError(
            f"the data source metaworld draws with {error.name}, which is not installed; "
            "pip install 'spaceclip-plugin[metaworld]'"
        ) from error


def _key(what: str, *, without: Sequence[str], borrowed: Sequence[str]) -> str:
    """Args: `without` names files of this folder, `borrowed` such of the other worlds."""
    drawing = code_digest(Path(__file__).parent, without=without)
    texts = [(_WORLDS / name).read_bytes().replace(b"\r\n", b"\n") for name in borrowed]
    return sha256_of(f"{what} {versions()} {drawing} ", *texts)
