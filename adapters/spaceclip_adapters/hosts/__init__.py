"""Hosts by name, for `load_host` and the command line: the entry points, one loader a library.

Weights are the pretrained ones that the name means, from the Hub or its cache; or a safetensors file's, fitting
exactly; or, only where that is asked for, random from a fixed seed. Nothing reads pickle or runs code that came with
weights.
"""

from __future__ import annotations

from spaceclip_adapters.hosts.lerobot import load_lerobot
from spaceclip_adapters.hosts.open_clip import load_open_clip
from spaceclip_adapters.hosts.timm import load_timm
from spaceclip_adapters.hosts.transformers import load_hf

__all__ = ["load_hf", "load_lerobot", "load_open_clip", "load_timm"]
