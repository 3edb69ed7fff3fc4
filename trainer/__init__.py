"""Trains the model and exports it: reads good images, writes runs/NAME/ and model.onnx."""

import os

# OpenMP's threads wait for each other by spinning. On cores that other programs use too, that made
# an epoch eight times slower (58 s instead of 7 s, two cores, load 7). Must be set before torch is
# imported; what the user has set stays.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
