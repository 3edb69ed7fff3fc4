"""model.onnx -> engine.plan: the graph of the precision asked, the compiler, and its caches."""
