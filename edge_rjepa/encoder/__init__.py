"""The frozen encoder: written as ONNX, used, and probed."""
