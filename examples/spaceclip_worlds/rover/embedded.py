"""The rover's policy and its depth head as files of this package, and how a policy becomes a file."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from spaceclip_plugin import DepthHead
from spaceclip_plugin.errors import CheckpointError
from spaceclip_worlds.rover.policy import RoverPolicy

WEIGHTS = Path(__file__).parent / "weights"
POLICY_FILE = WEIGHTS / "policy.safetensors"
HEAD_FOLDER = WEIGHTS / "head"


def save_policy(policy: RoverPolicy, path: str | Path) -> None:
    """Write a policy's weights in half precision.

    Raises:
        OSError: the disk refuses the write.
    """
    state = {lasting: tensor.detach().half().contiguous() for lasting, tensor in _by_lasting_name(policy).items()}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path)


def load_policy(path: str | Path = POLICY_FILE) -> RoverPolicy:
    """The policy of this package, or one that `save_policy` wrote: frozen, in eval mode, float32, on the CPU.

    Raises:
        CheckpointError: no such file, a damaged one, or weights that are not this policy's, every one of them.
    """
    try:
        saved = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read a policy from {str(path)!r}: {error}; install the package again") from error
    with torch.random.fork_rng(devices=[]):
        policy = RoverPolicy()
    own = _by_lasting_name(policy)
    for name in sorted({*saved, *own}):
        if name not in saved or name not in own or saved[name].shape != own[name].shape:
            raise CheckpointError(f"{str(path)!r}: {name!r} is missing, unknown or of another shape than the policy's")
        if not torch.isfinite(saved[name]).all():
            raise CheckpointError(f"{str(path)!r}: {name!r} holds NaN or infinity; install the package again")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(saved[name])
    return policy.eval().requires_grad_(False)


def load_head(folder: str | Path = HEAD_FOLDER) -> DepthHead:
    """The depth head of this package, trained for `load_policy()`.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    return DepthHead.from_pretrained(folder)


def _by_lasting_name(policy: RoverPolicy) -> dict[str, Tensor]:
    """The policy's own tensors; transformers renamed the inside of its tower between versions 4 and 5."""
    return {name.replace(".vision_model.", "."): tensor for name, tensor in policy.state_dict().items()}
