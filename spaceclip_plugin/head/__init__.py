"""Depth heads: one class, a file per architecture, and a head's two files.

Public beside `DepthHead` and `DepthHeadConfig`: what a model card says (`CardDetails`), and what a new architecture
provides: options, a decoder and, if it has one, a fused form, as one line in `ARCHITECTURES`.
"""

from spaceclip_plugin.head.architectures import ARCHITECTURES, Architecture
from spaceclip_plugin.head.config import DepthHeadConfig
from spaceclip_plugin.head.decoder import Calibratable, Decoder, DecoderOptions, HeadOutput
from spaceclip_plugin.head.depth_head import DepthHead
from spaceclip_plugin.head.model_card import CardDetails

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "Calibratable",
    "CardDetails",
    "Decoder",
    "DecoderOptions",
    "DepthHead",
    "DepthHeadConfig",
    "HeadOutput",
]
