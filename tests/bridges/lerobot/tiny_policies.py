"""The LeRobot policies whose tower is tested, as far as the installed version has them."""

from __future__ import annotations

import lerobot
from older_policies import GROOT_N15
from packaging.version import Version
from packed_policies import GROOT, MOLMOACT2, XVLA
from row_policies import MULTI_TASK_DIT, PI0, PI0_FAST, PI05, SMOLVLA

# Up to 0.4, pi0 refuses every transformers but a fork of LeRobot's own.
_OLD = Version(lerobot.__version__) < Version("0.5")

POLICIES = (
    (SMOLVLA, XVLA, GROOT_N15) if _OLD else (PI0, PI05, PI0_FAST, SMOLVLA, XVLA, MOLMOACT2, GROOT, MULTI_TASK_DIT)
)
