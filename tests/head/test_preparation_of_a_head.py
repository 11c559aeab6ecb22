"""A head's config tells how its images were prepared from format 5 on, and is written as before where it does not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.head import ARCHITECTURES, DepthHeadConfig

SINCE_3 = ("focal_length", "focal_length_assumed", "familiarity")


def test_a_config_that_tells_it_is_of_format_5() -> None:
    config = DepthHeadConfig(preparation="letterbox:bottom-right")
    written = json.loads(json.dumps(config.to_dict()))
    assert (written["format_version"], written["preparation"]) == (5, "letterbox:bottom-right")
    assert DepthHeadConfig.from_dict(written) == config


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_one_that_does_not_is_written_as_before(name: str) -> None:
    written = json.loads(json.dumps(DepthHeadConfig(name).to_dict()))
    assert written["format_version"] < 5
    assert "preparation" not in written
    assert DepthHeadConfig.from_dict(written).preparation is None


@pytest.mark.parametrize("version", [1, 3, 4])
def test_no_older_format_has_it(version: int) -> None:
    values = {**DepthHeadConfig(preparation="stretch").to_dict(), "format_version": version}
    for name in ("tower_fingerprint", *SINCE_3) if version == 1 else ():
        del values[name]
    with pytest.raises(ConfigError, match=f"preparation belongs to format 5 and later, this is {version}"):
        DepthHeadConfig.from_dict(values)


def test_format_5_always_has_it() -> None:
    values = DepthHeadConfig(preparation="stretch").to_dict()
    del values["preparation"]
    with pytest.raises(ConfigError, match="missing key 'preparation'"):
        DepthHeadConfig.from_dict(values)


@pytest.mark.parametrize("value", ["", " ", "a\nb", "x" * 501, 3, ["stretch"], True])
def test_what_is_no_line_of_text_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="preparation must be"):
        DepthHeadConfig(preparation=value)
