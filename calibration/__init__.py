"""From model.onnx and good images to what the line needs: the decision threshold."""
