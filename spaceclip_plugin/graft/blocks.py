"""Which modules of a policy a graft adds to: those of its action expert, or those that are named."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from spaceclip_plugin._checks import integer, shown
from spaceclip_plugin._digest import tensors_digest
from spaceclip_plugin.errors import ConfigError, HostError, nearest

USUAL = 4  # blocks of an action expert, where it has so many

_EXPERT, _MLP = "expert", "mlp"
_SAY_NOTHING = ("model", "layers", "blocks")


def chosen_blocks(policy: nn.Module, blocks: int | Sequence[str] | None) -> tuple[str, ...]:
    """Names of modules of the policy: those given, or the `.mlp` of the last so many blocks of its action expert."""
    if blocks is None or not isinstance(blocks, (list, tuple)):
        found = _expert(policy)
        count = min(USUAL, len(found)) if blocks is None else integer("blocks", blocks, 1, len(found))
        return found[-count:]
    return tuple(blocks)


def modules_of(policy: nn.Module, names: Sequence[str]) -> tuple[nn.Module, ...]:
    """The modules of these names; HostError for one that is not there."""
    known = dict(policy.named_modules())
    for name in names:
        if not name or name not in known:
            raise HostError(
                f"this {type(policy).__name__} has no module {shown(name)}{nearest(name, known)}; give names of its "
                "modules whose input and output are its hidden stream: blocks=[…]"
            )
    return tuple(known[name] for name in names)


def widths_of(name: str, module: nn.Module) -> tuple[int, int]:
    """Channels (in, out) of a module, by its first and its last linear layer."""
    linear = [part for part in module.modules() if hasattr(part, "in_features") and hasattr(part, "out_features")]
    if not linear:
        raise HostError(
            f"{name!r} ({type(module).__name__}) holds no linear layer to tell its channels by; name one that does, "
            "such as the block's MLP"
        )
    return int(linear[0].in_features), int(linear[-1].out_features)  # type: ignore[arg-type]


def rounded_digest(*modules: nn.Module) -> str:
    """SHA-256 (hex) over the weights of modules in bfloat16, which a cast to that does not change."""
    named = ((f"{i} {name}", value) for i, one in enumerate(modules) for name, value in one.state_dict().items())
    return tensors_digest([(name, value.bfloat16() if value.is_floating_point() else value) for name, value in named])


def _expert(policy: nn.Module) -> tuple[str, ...]:
    """The MLPs of the blocks of the only action expert."""
    stacks: dict[str, tuple[str, ...]] = {}
    for path, module in policy.named_modules():
        # The nearest part that says what it is: `….vlm_with_expert.vlm.model.layers` is none of an expert's.
        owner = [part for part in path.split(".") if part not in _SAY_NOTHING][-1:]
        if isinstance(module, nn.ModuleList) and owner and _EXPERT in owner[0]:
            names = tuple(f"{path}.{name}.{_MLP}" for name, block in module.named_children() if hasattr(block, _MLP))
            if names and len(names) == len(module):
                stacks[path] = names
    if len(stacks) != 1:
        found = f"several may be ({', '.join(stacks)})" if stacks else "none bears the name"
        raise ConfigError(
            f"which blocks of this {type(policy).__name__} are its action expert's cannot be told: {found}. Name the "
            "modules to add to: blocks=['….mlp', …]"
        )
    return next(iter(stacks.values()))
