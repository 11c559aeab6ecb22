"""Which policies LeRobot has, by the `type` in their config.json: which release, and which have no vision transformer.

Read in LeRobot 0.4.4 and 0.6.1, which is not imported.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from spaceclip_plugin.errors import HostError, nearest

_RESNET = "a ResNet, which is a convolutional network"
_SMALL = "a small convolutional network"
_VIDEO = "the convolutional autoencoder of a video model"
NO_TOWER: Mapping[str, tuple[str, str]] = {
    "act": ("ACTPolicy", _RESNET),
    "diffusion": ("DiffusionPolicy", _RESNET),
    "vqbet": ("VQBeTPolicy", _RESNET),
    "tdmpc": ("TDMPCPolicy", _SMALL),
    "sac": ("SACPolicy", _SMALL),
    "gaussian_actor": ("GaussianActorPolicy", _SMALL),
    "fastwam": ("FastWAMPolicy", _VIDEO),
    "lingbot_va": ("LingBotVAPolicy", _VIDEO),
}
"""The policies that see without a vision transformer: class, and what they see with."""

_ALWAYS = frozenset(
    {"act", "diffusion", "groot", "pi0", "pi05", "pi0_fast", "smolvla", "tdmpc", "vqbet", "wall_x", "xvla"}
)
RELEASES: Mapping[str, frozenset[str]] = {
    "0.4.4": _ALWAYS | {"sac", "sarm"},
    "0.6.1": _ALWAYS
    | {"eo1", "evo1", "fastwam", "gaussian_actor", "lingbot_va", "molmoact2", "multi_task_dit", "vla_jepa"},
}
"""What these releases of LeRobot bring."""


def check_tower(kind: str, name: str) -> None:
    """Refuse a policy that has no tower, before its library is imported and anything of it is built or downloaded.

    Raises:
        HostError: it has none.
    """
    if kind in NO_TOWER:
        policy, eye = NO_TOWER[kind]
        raise HostError(
            f"{name} is a {policy} ({kind!r}), which sees with {eye}: it has no vision transformer, and depth is "
            "decoded from the patch tokens of one. Run a host that has one beside the policy, for example `--host "
            "timm:vit_base_patch16_siglip_224.webli`, or take a policy whose vision is one, as SmolVLA's is."
        )


def no_such_type(kind: str, name: str, *, installed: str, known: Collection[str]) -> HostError:
    """The error for a policy that the installed LeRobot does not have.

    Args:
        kind: its type.
        name: what the checkpoint is called.
        installed: the version of LeRobot.
        known: the types it has.
    """
    having = [version for version, types in RELEASES.items() if kind in types]
    if having:
        return HostError(
            f"{name} needs another LeRobot: it is a policy {kind!r}, which LeRobot {' and '.join(having)} has and the "
            f"installed {installed} has not. Install that one (0.6 needs Python 3.12 or newer)."
        )
    return HostError(
        f"{name} is of the unknown type {kind!r}{nearest(kind, known)}; LeRobot {installed} has "
        f"{', '.join(sorted(known))}. Mend `type` in config.json, or build the policy yourself and pass "
        "`python:module:function`."
    )
