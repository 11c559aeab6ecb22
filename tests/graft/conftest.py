"""A tiny policy with a head attached to its tower: what every test of grafts begins with."""

from __future__ import annotations

import pytest
from tiny_vla import TinyVla, attached, tiny_vla

from spaceclip_plugin.attach import DepthAttachment


@pytest.fixture
def policy() -> TinyVla:
    return tiny_vla()


@pytest.fixture
def depth(policy: TinyVla) -> DepthAttachment:
    return attached(policy)
