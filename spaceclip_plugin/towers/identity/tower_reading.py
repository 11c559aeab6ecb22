"""What a tower's depth depends on, read part by part: what comes before its blocks, the blocks, and the context.

What comes before are the modules that stand before the stack of blocks on the way down to it, and the tokens and
positions that lie on that way. The context's part stands after the stack, up to the module that gives it. Poolers,
projections and whatever else a host has or leaves out are in none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from spaceclip_plugin.towers.identity.adapted_layers import Holders, is_norm
from spaceclip_plugin.towers.identity.part_reader import KINDS, MOST_EFFECT, Addition, PartReader, own_weights
from spaceclip_plugin.towers.identity.resting_weights import UnreadableError
from spaceclip_plugin.towers.identity.weight_sketch import Sketch
from spaceclip_plugin.towers.spec import Tower

INPUT, CONTEXT = "input", "context"
MOST_SHAPES = 32


@dataclass(frozen=True)
class Part:
    """What was read of one part.

    Attributes:
        name: "input", "block 1" and so on, "context".
        sketches: by kind of weight, or by shape (of the input's matrices); empty where it could not be read.
        additions: what was added to its layers.
        trouble: why it could not be read, for the inside of a sentence; None where it was.
        dtypes: of its matrices.
    """

    name: str
    sketches: dict[str, Sketch]
    additions: tuple[Addition, ...] = ()
    trouble: str | None = None
    dtypes: frozenset[str] = frozenset()

    @property
    def is_adapted(self) -> bool:
        """Whether what was added to its layers has an effect, or may have."""
        return any(addition.effect is None or addition.effect > MOST_EFFECT for addition in self.additions)


def read_tower(tower: Tower, *, blocks: int, context: bool, sketching: bool = True, plain: bool = False) -> list[Part]:
    """The parts of a tower in order: input, blocks, context.

    Args:
        tower: to read; nothing of it is run as a whole, moved or changed.
        blocks: how many blocks from the first on.
        context: whether to read what gives the context, too.
        sketching: whether to read weights; else additions alone are looked for.
        plain: whether to leave out what was added to layers and is not merged.
    """
    way = way_to_blocks(tower)
    spec = tower.spec

    def part(name: str, width: int, modules: list[Holders], weights: Iterable[tuple[Holders, str]] = ()) -> Part:
        return _part(name, PartReader(width, sketching=sketching, plain=plain), modules, weights, sketching)

    parts = [part(INPUT, spec.width_of(0), list(_before(way)), _tokens(way))]
    for number, block in enumerate(tower.blocks[:blocks], 1):
        parts.append(part(f"block {number}", spec.width_of(number), [(*way, ("", block))]))
    if context and tower.context_source is not None and tower.context_source not in tower.blocks:
        parts.append(part(CONTEXT, spec.width, list(_after(way, tower.context_source))))
    return parts


def way_to_blocks(tower: Tower) -> Holders:
    """The tower and what is inside, down to the stack that holds its first block; at least the tower."""
    path = next((path for path, part in tower.module.named_modules() if part is tower.blocks[0]), "")
    way: list[tuple[str, nn.Module]] = [("", tower.module)]
    for step in path.split(".")[:-1]:
        way.append((step, way[-1][1].get_submodule(step)))
    return tuple(way)


def _part(
    name: str, reader: PartReader, modules: list[Holders], weights: Iterable[tuple[Holders, str]], sketching: bool
) -> Part:
    by_shape = name == INPUT
    wrapped = [] if by_shape else [holders[-1][1] for holders in modules if _wraps(holders[-1][1])]
    reader.additions += [Addition(type(module).__name__, None) for module in wrapped]
    for holders, weight in weights:
        reader.add(holders, weight, by_shape=by_shape)
    for holders in modules:
        reader.read(holders, by_shape=by_shape)
    reader.finish()
    additions = tuple(reader.additions)
    if reader.trouble is not None or not sketching:
        return Part(name, {}, additions, reader.trouble if sketching else None)
    keys = reader.keys[:MOST_SHAPES] if by_shape else KINDS
    try:
        return Part(name, {key: reader.sketch(key) for key in keys}, additions, None, frozenset(reader.dtypes))
    except UnreadableError as error:
        return Part(name, {}, additions, str(error))


def _wraps(module: nn.Module) -> bool:
    """Whether this is a block inside another module that has matrices beside it (FiLM around a block, for one).

    A plain block has its norms beside its layers; a wrapped one has all of them in one child.
    """
    children = list(module.children())
    with_norms = [child for child in children if _norms(child) >= 2]
    if len(with_norms) != 1 or sum(map(_norms, children)) != _norms(with_norms[0]):
        return False
    [inner] = with_norms
    ours = {id(value) for value in inner.parameters()}
    beside = [value for value in module.parameters() if id(value) not in ours and value.ndim >= 2]
    return any(type(value).__name__ == "DTensor" or value.is_meta or bool(value.any()) for value in beside)


def _norms(module: nn.Module) -> int:
    return sum(is_norm(part) for part in module.modules())


def _before(way: Holders) -> Iterator[Holders]:
    """Modules that stand before the stack of blocks, on every level of the way to it."""
    for level, ((_, holder), (step, _)) in enumerate(pairwise(way), 1):
        for name, child in holder.named_children():
            if name == step:
                break
            yield (*way[:level], (name, child))


def _tokens(way: Holders) -> Iterator[tuple[Holders, str]]:
    """Class tokens, registers and positions that lie on the way itself; no projection, and no token for masks."""
    for level, (_, holder) in enumerate(way, 1):
        for name in own_weights(holder):
            if not any(word in name for word in ("mask", "proj", "flat_param")):
                yield way[:level], name


def _after(way: Holders, last: nn.Module) -> Iterator[Holders]:
    """Modules that stand after the stack of blocks, up to the one that is or holds `last`."""
    for level in range(len(way) - 1, 0, -1):
        names = [name for name, _ in way[level - 1][1].named_children()]
        later = names[names.index(way[level][0]) + 1 :]
        for name in later:
            child = way[level - 1][1].get_submodule(name)
            yield (*way[:level], (name, child))
            if any(part is last for part in child.modules()):
                return
