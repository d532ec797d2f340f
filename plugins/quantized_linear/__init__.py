"""QuantizedLinear: y = x @ W with W as small integers in blocks that share a scale."""
