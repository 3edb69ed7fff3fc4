"""Trains the model and exports it: reads good images, writes runs/NAME/ and model.onnx."""
