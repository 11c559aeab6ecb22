"""A head as an ONNX file, for runtimes without torch."""

from spaceclip_plugin.bridges.onnx.comparison import Comparison
from spaceclip_plugin.bridges.onnx.export import OnnxFile, export_onnx

__all__ = ["Comparison", "OnnxFile", "export_onnx"]
