"""CachedAttention: rotary embedding, cache write and causal attention over a fixed-capacity cache."""
