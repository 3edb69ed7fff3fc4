"""ONNX graphs: read with their manifest, run on a CPU, told apart by a digest."""
