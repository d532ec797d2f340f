"""Names of a bundle that draws images: graphs, and the tensors beyond those of a decoder (tensors.py)."""

from __future__ import annotations

CODES = "codes"
"""int64 [B,g*g]: codes of an image, row by row."""

PIXELS = "pixels"
"""float32 [B,3,H,W]: red, green, blue, about -1 to 1, or what ``pixel_range`` of the manifest says."""

AR_STEP = "ar_step"
"""Name of the step graph of an image model, and stem of its file."""

VQ_DECODE = "vq_decode"
"""Name of the graph that turns codes into pixels, and stem of its file."""

VQ_ENCODE = "vq_encode"
"""Name of the graph that turns pixels into codes."""

SAMPLE = "sample"
"""Name of the graph that draws codes from logits: one node of GuidedSample."""

ACCEPT = "accept_{}"
"""Name of a graph that judges drafts, by the mode: one node of GroupedAccept."""

DRAFT_STEP = "draft_step"
"""Name of the step graph of a drafter."""

CONDITION = "condition"
"""Name of the graph that makes condition rows of the features of a text."""

AR_PREFILL = "ar_prefill"
"""Name of the step graph with rows instead of ids: the pass of a text condition."""

BELOW_LOGITS = "below_logits"
"""float32 [B,R,V]: of the code below, where ``logits`` are of the code to the right (NAR)."""

FEATURES = "features"
"""float32 [B,S,D]: rows after the final norm; out of ar_step, into draft_step."""

FEATURES_OUT = "features_out"
"""float32 [B,S,D]: what the drafter expects the features one position on to be."""

TEXT_EMBEDS = "text_embeds"
"""float32 [B,T,dc]: features of a text, as its encoder gave them, without padding."""

EMBEDS = "embeds"
"""float32 [B,T,D]: rows of a condition."""

UNCOND_EMBEDS = "uncond_embeds"
"""float32 [B,T,D]: as many rows that stand for no condition; second output of ``condition``."""

COND, UNCOND = "cond", "uncond"
"""float32 [B,M,V]: logits with the condition, and without."""

SCALE = "scale"
"""float32 [B]: of the guidance."""

UNIFORMS = "uniforms"
"""float32 [B,M] or [L+1]: numbers in [0, 1)."""

TEMPERATURE, TOP_K, TOP_P = "temperature", "top_k", "top_p"
"""float32 [1], int64 [1], float32 [1]."""

IDS, PROBS = "ids", "probs"
"""int64 [B,M] drawn from float32 [B,M,V]."""

P, Q = "p", "q"
"""float32 [L+1,V] of the model, float32 [L,V] that the drafts were drawn from."""

DRAFT = "draft"
"""int64 [L]."""

ACCEPTED, NEXT, CHANCE = "accepted", "next", "chance"
"""int64 [1] drafts that hold, int64 [1] the code behind them, float32 [L] each draft's chance."""
