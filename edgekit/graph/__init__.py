"""ONNX in, ONNX out: one file per step, each importing what it needs openly at its top. Import the step, not this."""
