"""The arm's depth head as a file of this package, for the tower of the rover's policy of this package."""

from __future__ import annotations

import hashlib
from pathlib import Path

from spaceclip_plugin import DepthHead
from spaceclip_worlds.rover.embedded import POLICY_FILE

HEAD_FOLDER = Path(__file__).parent / "weights" / "head"


def load_arm_head(folder: str | Path = HEAD_FOLDER) -> DepthHead:
    """The depth head of this package that was trained on pictures of the arm's tables.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    return DepthHead.from_pretrained(folder)


def tower_note(file: Path = POLICY_FILE) -> str:
    """Which tower a head is for, as it is written into the head's `base_model`."""
    return f"the rover's policy.safetensors, SHA-256 {hashlib.sha256(file.read_bytes()).hexdigest()}"
