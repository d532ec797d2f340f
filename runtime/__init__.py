"""The runtime: opens a bundle and decodes. Needs neither torch nor onnx."""
