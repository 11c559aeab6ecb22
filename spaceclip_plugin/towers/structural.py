"""Finding a tower no adapter knows: a stack of blocks of one class, and what holds it and a patch convolution, too."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from typing import TypeGuard

from torch import Tensor, nn

from spaceclip_plugin.towers.adapter import TowerParts, declared_statistics, is_patch_embedding, is_stack, lineage
from spaceclip_plugin.towers.image_statistics import ImageStatistics
from spaceclip_plugin.towers.spec import CLS, MEAN, RAW_CLS, RAW_MEAN, RawFrame, Tower
from spaceclip_plugin.towers.token_adapter import TokenReader

logger = logging.getLogger(__name__)

_SMALLEST_PATCH = 4
_USUAL_IMAGE_SIDE = 224
# Where CaiT and its relatives keep the blocks in which a class token reads patches, after the patches' own blocks.
_CLASS_STACKS = ("blocks_token_only", "cls_attn_blocks")
_CLASS_TOKENS = frozenset({"cls_token", "class_token", "class_embedding", "cls_embedding"})
_IMAGE_SIZES = ("image_size", "img_size", "input_resolution", "config.image_size")


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A stack of blocks, the path of its nearest owner in the host, and paths inside that owner."""

    owner: str
    stack: str
    embedding: str
    blocks: tuple[nn.Module, ...]
    convolution: nn.Conv2d


class StructuralAdapter(TokenReader):
    """Reads token towers of unknown families: what other adapters know by name, it infers."""

    name = "structural"

    def parts(self, module: nn.Module) -> TowerParts | None:
        """None: no class name gives these towers away."""
        return None

    def find(self, host: nn.Module) -> list[Tower]:
        """Every tower that structure gives away, in module order; runs nothing and changes nothing."""
        return self.find_beside(host, [])

    def find_beside(self, host: nn.Module, known: Sequence[Tower]) -> list[Tower]:
        """Every tower that structure gives away and that is none of the known ones, nor a part of one."""
        # Their patch embeddings, too: without one of its own no other stack (a text tower, a resampler) is a tower.
        taken = {id(part) for tower in known for part in (*tower.module.modules(), *tower.blocks, tower.entry)}
        found = []
        for candidate in _candidates(host, taken):
            if declared_statistics(host, candidate.owner) is None:
                logger.info("the tower at %r declares no image statistics: ImageNet's are assumed", candidate.owner)
            owner = host.get_submodule(candidate.owner)
            found.append(self.tower(host, candidate.owner, _parts(owner, candidate, taken)))
        return found

    def batch_first(self, raw: Tensor, frame: RawFrame, tower: Tower) -> Tensor:
        """Tokens as (B, N, C): by shape where it decides, by the blocks' attention where B equals N."""
        if raw.ndim != 3 or raw.shape[1] != frame.call.batch:
            return raw
        if raw.shape[0] != frame.call.batch:
            return raw.transpose(0, 1)
        attentions = (part for part in tower.blocks[0].modules() if isinstance(part, nn.MultiheadAttention))
        attention = next(attentions, None)
        return raw if attention is None or attention.batch_first else raw.transpose(0, 1)

    def min_prefix(self, tower: Tower) -> int:
        """1 where there is a class token that goes through the blocks, else 0."""
        late = any(is_stack(getattr(tower.module, name, None)) for name in _CLASS_STACKS)
        return int(tower.spec.context in (CLS, RAW_CLS) and not late)


def _parts(owner: nn.Module, candidate: _Candidate, taken: Set[int]) -> TowerParts:
    """The parts of a candidate; its context is after the final norm, or after the last block where there is none."""
    convolution = candidate.convolution
    norm = _final_norm(owner, candidate.stack, width=convolution.out_channels)
    kinds = (RAW_MEAN, RAW_CLS) if norm is None else (MEAN, CLS)
    return TowerParts(
        entry=convolution,
        blocks=candidate.blocks,
        context=kinds[_has_class_token(owner, candidate.stack, taken)],
        context_source=candidate.blocks[-1] if norm is None else norm,
        width=convolution.out_channels,
        patch_size=convolution.stride[0],
        image_hw=_image_hw(owner, candidate.embedding, convolution.stride[0]),
        statistics=ImageStatistics.IMAGENET,
    )


def _candidates(host: nn.Module, taken: Set[int]) -> list[_Candidate]:
    """The longest fitting stack of every innermost owner that has no vocabulary, outside the `taken` modules (ids)."""
    # A language model has no patch convolution of its own: its nearest owner is a whole multimodal model, and no
    # innermost one. The blocks of convolutional and hierarchical towers lack norms of the convolution's width.
    by_owner: dict[str, list[_Candidate]] = {}
    for candidate in _all_candidates(host, taken):
        by_owner.setdefault(candidate.owner, []).append(candidate)
    found = []
    for owner, candidates in by_owner.items():
        innermost = not any(_is_inside(other, owner) for other in by_owner)
        fitting = [one for one in candidates if all(_has_norm(block, one.convolution) for block in one.blocks)]
        if innermost and fitting and not _has_vocabulary(host.get_submodule(owner), taken):
            found.append(max(fitting, key=lambda candidate: len(candidate.blocks)))
    return found


def _all_candidates(host: nn.Module, taken: Set[int]) -> Iterator[_Candidate]:
    """Every outermost stack of blocks with its nearest owner, fitting or not."""
    modules = {path: module for path, module in host.named_modules() if id(module) not in taken}
    convolutions = {
        path: module
        for path, module in modules.items()
        if is_patch_embedding(module) and module.stride[0] >= _SMALLEST_PATCH
    }
    stacks: dict[str, tuple[nn.Module, ...]] = {}
    for path, module in modules.items():
        if (
            _is_block_stack(module)
            and not taken & {id(block) for block in module}
            and not any(_is_inside(path, outer) for outer in stacks)
        ):
            stacks[path] = tuple(module)
    for stack, blocks in stacks.items():
        owner = stack
        while owner:  # outwards, to the nearest module with a patch convolution that is not in the stack
            owner = owner.rpartition(".")[0]
            outside = [path for path in convolutions if _is_inside(path, owner) and not _is_inside(path, stack)]
            if outside:
                inside, embedding = (path.removeprefix(f"{owner}.") if owner else path for path in (stack, outside[0]))
                yield _Candidate(owner, inside, embedding, blocks, convolutions[outside[0]])
                break


def _is_inside(path: str, outer: str) -> bool:
    """Whether the module at `path` lies strictly below the one at `outer`."""
    return path != outer and (not outer or path.startswith(f"{outer}."))


def _is_block_stack(module: nn.Module) -> TypeGuard[nn.ModuleList | nn.Sequential]:
    """Whether this is two or more modules of one class, each with a norm and at least two linear layers."""
    if not is_stack(module) or len(module) < 2 or len({type(block) for block in module}) != 1:
        return False
    parts = list(module[0].modules())
    return sum(isinstance(part, nn.Linear) for part in parts) >= 2 and any(_is_norm(part) for part in parts)


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()


def _norm_width(module: nn.Module) -> int | None:
    """Channels that a norm normalises over, or None for any other module."""
    if not _is_norm(module):
        return None
    shape = getattr(module, "normalized_shape", None) or getattr(getattr(module, "weight", None), "shape", None)
    return int(shape[-1]) if shape else None


def _has_norm(block: nn.Module, convolution: nn.Conv2d) -> bool:
    """Whether the block works at the width that the patch convolution gives."""
    return any(_norm_width(part) == convolution.out_channels for part in block.modules())


def _has_vocabulary(owner: nn.Module, taken: Set[int]) -> bool:
    """Whether the module embeds words: an embedding table whose path does not speak of positions."""
    parts = ((path, part) for path, part in owner.named_modules() if id(part) not in taken)
    return any(isinstance(part, nn.Embedding) and "pos" not in path for path, part in parts)


def _has_class_token(owner: nn.Module, stack: str, taken: Set[int]) -> bool:
    """Whether a class token may join the patches: one behind the blocks is the query of a pooling head (AIMv2)."""
    parts = dict(owner.named_children())
    later = list(parts)[list(parts).index(stack.partition(".")[0]) + 1 :]
    behind = {name for name in later if any(isinstance(part, nn.Linear) for part in parts[name].modules())}
    for path, part in owner.named_modules():
        if path.partition(".")[0] in behind or id(part) in taken:
            continue
        names = {name for name, _ in part.named_parameters(recurse=False)}
        # FSDP leaves plain tensors where parameters were.
        names |= {name for name, value in vars(part).items() if isinstance(value, Tensor)}
        if names & _CLASS_TOKENS:
            return True
    return False


def _final_norm(owner: nn.Module, stack: str, *, width: int) -> nn.Module | None:
    """The first norm of this width after the stack: among its siblings, else its parent's, up to the owner's own."""
    inner, *outers = lineage(owner, stack)
    for outer in outers:
        siblings = list(outer.children())
        for sibling in siblings[siblings.index(inner) + 1 :]:
            if _norm_width(sibling) == width:
                return sibling
        inner = outer
    return None


def _image_hw(owner: nn.Module, embedding: str, patch: int) -> tuple[int, int]:
    """The input size declared between the patch convolution and the owner, else the patches nearest to 224 pixels."""
    for module in lineage(owner, embedding):
        if (declared := StructuralAdapter.size_at(module, *_IMAGE_SIZES)) is not None:
            return declared
    side = patch * max(1, round(_USUAL_IMAGE_SIDE / patch))
    return side, side
