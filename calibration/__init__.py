"""Passes that change or measure a model: layer-by-layer drift, quantisation, scores.

Importing this package costs nothing; its modules import torch and onnx when they are used.
"""
