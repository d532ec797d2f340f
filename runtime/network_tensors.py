"""Names of a bundle that is run once per input; only Python runs those, so the C++ list (core/tensors.h) has none of them."""

from __future__ import annotations

NETWORK = "network"
"""Name of the graph of a network that is run once per input (an encoder, a vision model), and stem of its file. Its tensors keep the
names they came with."""

TOKEN_STATES = "token_states"
"""float32 [B,S,D]: what `farthing export encoder` gives per token."""

SENTENCE_EMBEDDING = "sentence_embedding"
"""float32 [B,D]: mean of the states of the tokens that attention_mask shows, of length 1."""

ATTENTION_MASK = "attention_mask"
"""int64 [B,S]: 1 for tokens, 0 for padding."""
