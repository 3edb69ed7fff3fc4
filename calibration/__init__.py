"""From model.onnx and good images to what the line needs.

`decision/` makes the decision threshold from scores of good parts; `fp16/` and `int8/` make graphs
of other precisions. The two jobs share only `graph/`: reading, running and naming an ONNX graph.
"""
