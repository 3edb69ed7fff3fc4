"""model.onnx -> the same graph in FP16, with what must stay FP32."""
