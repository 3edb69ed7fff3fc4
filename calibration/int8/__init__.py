"""model.onnx and good images -> a graph in INT8 that keeps a budget of accuracy."""
