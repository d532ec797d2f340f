"""The names of every tensor of every graph, with shape and dtype: the one place where they are spelled.

``runtime/core/tensors.h`` holds the same names for C++; ``tests/test_tensor_names.py`` compares the two files.
Symbols: B sequences, S rows of this pass, R rows whose logits are wanted, V vocabulary, C cache capacity,
Hkv key/value heads, dh head size.
"""

from __future__ import annotations

INPUT_IDS = "input_ids"
"""int64 [B,S]: token ids of this pass."""

POSITIONS = "positions"
"""int64 [B,S], or [3,B,S] (time, row, column) with M-RoPE: rotary position of each row. Not the cache slot: pruned or drafted rows keep their own."""

PAST_LEN = "past_len"
"""int64 [B]: filled cache slots; row i is written to slot past_len + i."""

LOGIT_ROWS = "logit_rows"
"""int64 [B,R]: which of the S rows go through the head. Prefill wants one of them, verification all."""

VISIBLE = "visible"
"""int64 [B,S,W], W = ceil(S/64): bit j of a row's words says that it sees row j of this pass. Only in graphs that take trees of drafts."""

LOGITS = "logits"
"""float32 [B,R,V]."""

PAST_K = "past_k.{}"
"""float32 or int8 [B,Hkv,C,dh]: key cache of layer {}, already rotated."""

PAST_V = "past_v.{}"
"""float32 or int8 [B,Hkv,C,dh]: value cache of layer {}."""

PRESENT_K = "present_k.{}"
"""float32 or int8 [B,Hkv,C,dh]: the same cache after the write; bind it to the buffer of past_k."""

PRESENT_V = "present_v.{}"
"""float32 or int8 [B,Hkv,C,dh]: the same cache after the write; bind it to the buffer of past_v."""

CONV_STATE = "conv_state.{}"
"""float32 [B,k-1,D]: rows of layer {} before this pass, after its first norm; zeros at the start. k taps of the convolution."""

CONV_WINDOW = "conv_window.{}"
"""float32 [B,k-1+S,D]: conv_state followed by this pass's rows. Rows a..a+k-2 are the state after its first a rows."""

HIDDEN = "hidden.{}"
"""float32 [B,S,D]: residual stream after layer {}; hidden.0 is the embedding, hidden.L the stream after the last layer.
An inner value of the graph: the drift report turns it into an output."""

JUDGE = "judge"
"""float32 [B,R]: how good the token is that each wanted row *reads*, 0 to 1; it is accepted above the judge's threshold. So the row of draft i
judges draft i, while the row before it has the logits that draft i is compared with."""

MASK_ROWS = "mask_rows"
"""int64 [M]: rows of the flattened pass [B*S] that are mask tokens, ascending; all linears add their low-rank branch there. M may be 0."""

MASK_HIDDEN = "mask_hidden"
"""float32 [B,M,D]: final-normed hidden state of the mask rows."""

FIRST_TOKEN = "first_token"
"""int64 [B]: the newest token, which the draft continues."""

MASK_LATENTS = "mask_latents"
"""float32 [B,k,D]: mask_hidden of the k masks behind the row that said first_token."""

DRAFT = "draft"
"""int64 [B,k]: drafted tokens."""

DRAFT_CHANCE = "draft_chance"
"""float32 [B,k]: the sampler head's probability of each."""

MTP_STEP = "mtp_step"
"""Name of the step graph of a model with mask tokens, and stem of its file."""

MTP_DRAFT_CHAIN = "mtp_draft_chain"
"""Name of the graph of its sampler head, and stem of its file."""

ROW_LATENTS = "row_latents"
"""float32 [B,R,L]: what a draft needs of each wanted row; in the graph of the draft [B,L], of the row that said first_token."""

FTP_STEP = "ftp_step"
"""Name of the step graph of a model with future token prediction, and stem of its file."""

FTP_DRAFT_CHAIN = "ftp_draft_chain"
"""Name of the graph of its drafts, and stem of its file."""

VISUAL_EMBEDS = "visual_embeds"
"""float32 [B,N,D]: rows of an image as the language model reads them; out of `project`, into `visual_step`."""

KEPT = "kept"
"""int64 [B,K]: which of an image's rows a pruning graph kept, ascending."""

LATE_LEN = "late_len"
"""int64 [B]: filled cache slots of the layers behind a pruning inside the decoder, which hold fewer than past_len."""

PIXELS = "pixels"
"""uint8 [T,H,W,3]: views of an image, resized and cut, not normalised: the graph does that."""

FEATURES = "features"
"""float32 [T,N,dv]: what the vision tower says of each view, before the projector."""

CLS_SCORE = "cls_score"
"""float32 [T,N]: how much the class token of a view's last layer attends to each of its tokens, before the softmax."""

ORDER = "order"
"""int64 [L]: row of the flattened [T*N] features for each row of the sequence; T*N is the line break. Only where an image has several views."""

GROUP = "group"
"""int64 [1,L]: view of each row of the sequence; -2 for line breaks, which are always kept."""

TAP_INDEX = "tap_index"
"""int64 [L,4]: the four cells of the thumbnail's grid between which each row of the sequence lies."""

TAP_WEIGHT = "tap_weight"
"""float32 [L,4]: their bilinear shares; 0 for the thumbnail's own rows and line breaks."""

REGIONS = "regions"
"""float32 [T,N]: 1 where a cell of the thumbnail's grid lies under a view's tile."""

VISION = "vision"
"""Name of the graph of the vision tower, and stem of its file."""

PROJECT = "project"
"""Name of the graph of the projector, and beginning of the names of those that also prune."""

VISUAL_STEP = "visual_step"
"""Name of the graph that puts rows of an image into the cache, and beginning of the names of those that prune on the way."""

PERCEIVE = "perceive"
"""Name of the graph that turns an image into weights, and stem of its file."""

DELTA = "delta_{}"
"""float32 [B,nL,D,r]: the image's low-rank changes of the linears of type {} (one of q, k, v, o, m) in nL layers; out of `perceive`, into the
decoder. Zeros are no image."""

DECODER = "decoder"
"""Name of the graph of a plain decoder in the manifest, and stem of its file."""

GAM = "gam_lm"
"""Name of the graph of a gated associative memory in the manifest, and stem of its file."""
