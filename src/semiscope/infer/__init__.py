"""Inference on ONNX Runtime: one .onnx file is one model. No torch."""
