"""Other surfaces, colours and lights for a compiled MuJoCo model: depth shall not be read from a table's colour."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
import numpy.typing as npt

from spaceclip_worlds.render.textures import TEXTURE_NAMES, TEXTURE_VARIANTS, texture_bank

_SKYBOX = 2  # mjTEXTURE_SKYBOX
_UNTOUCHED = 0.25  # share of the episodes that look as Meta-World draws them
_SURFACES, _COLOURS = 0.7, 0.6  # share of the textures and of the plain colours that are changed in the others
_VIVID = 0.4


def vary(model: Any, generator: np.random.Generator) -> None:
    """Change how a model looks, in place and before anything is drawn; what is where stays.

    Args:
        model: an `mjModel`.
        generator: source of every choice.
    """
    if generator.random() < _UNTOUCHED:
        return
    _textures(model, generator)
    _materials(model, generator)
    _plain_geoms(model, generator)
    _lights(model, generator)


def _textures(model: Any, generator: np.random.Generator) -> None:
    for index in range(model.ntex):
        start, height, width = (int(array[index]) for array in (model.tex_adr, model.tex_height, model.tex_width))
        channels = int(model.tex_nchannel[index])
        if channels != 3 or generator.random() >= _SURFACES:
            continue
        texels = model.tex_data[start : start + height * width * channels].reshape(height, width, channels)
        is_sky = model.tex_type[index] == _SKYBOX
        texels[:] = 255.0 * (_colour(generator) if is_sky else _pattern(generator, height, width))


def _pattern(generator: np.random.Generator, height: int, width: int) -> npt.NDArray[np.float64]:
    """(height, width, 3) in [0, 1]: one of the ray-caster's patterns between two colours."""
    name, variant = TEXTURE_NAMES[generator.integers(len(TEXTURE_NAMES))], int(generator.integers(TEXTURE_VARIANTS))
    grey = texture_bank().pattern(name, variant)
    rows, columns = np.arange(height) * len(grey) // height, np.arange(width) * len(grey) // width
    mix = grey[rows[:, None], columns, None]
    one, other = _colour(generator), _colour(generator)
    other = one + generator.uniform(0.2, 0.6) * (other - one)
    return one + mix * (other - one)


def _materials(model: Any, generator: np.random.Generator) -> None:
    textured = (model.mat_texid >= 0).any(axis=1)
    for index in range(model.nmat):
        if not textured[index] and generator.random() < _COLOURS:
            model.mat_rgba[index, :3] = _colour(generator)
        model.mat_specular[index] = generator.uniform(0.0, 0.6)
        model.mat_shininess[index] = generator.uniform(0.1, 0.9)
        model.mat_reflectance[index] *= generator.uniform(0.0, 1.0)


def _plain_geoms(model: Any, generator: np.random.Generator) -> None:
    """Geoms without a material, among them the robot: what had one colour has one colour."""
    plain = model.geom_matid < 0
    for colour in np.unique(model.geom_rgba[plain, :3], axis=0):
        same = plain & (model.geom_rgba[:, :3] == colour).all(axis=1)
        if generator.random() < _COLOURS:
            model.geom_rgba[same, :3] = _colour(generator)


def _lights(model: Any, generator: np.random.Generator) -> None:
    model.vis.headlight.ambient[:] = generator.uniform(0.2, 0.5)
    for index in range(model.nlight):
        tint = generator.uniform(0.75, 1.0, 3)
        model.light_diffuse[index] = generator.uniform(0.1, 0.7) * tint
        model.light_specular[index] = generator.uniform(0.0, 0.4) * tint
        direction = model.light_dir[index] + generator.normal(0.0, 0.4, 3)
        direction[2] = min(direction[2], -0.3)  # from above
        model.light_dir[index] = direction / np.linalg.norm(direction)


def _colour(generator: np.random.Generator) -> npt.NDArray[np.float64]:
    """(3,) in [0, 1]: mostly greys and pastels, as rooms are, and some vivid ones."""
    hue, saturation, value = generator.random(3)
    saturation = 0.4 + 0.5 * saturation if generator.random() < _VIVID else 0.3 * saturation
    return np.array(colorsys.hsv_to_rgb(hue, saturation, 0.2 + 0.75 * value))
