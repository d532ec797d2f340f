"""AssocMemoryRead: a softmax look-up in a constant bank of vectors that are keys and values at once."""
