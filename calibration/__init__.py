"""Reads model.onnx and good images; finds what the model needs on the line."""
