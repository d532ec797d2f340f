"""QuantizedCachedAttention: CachedAttention over a cache of int8 codes with one scale per head and feature."""
