"""A head as an ONNX file."""
