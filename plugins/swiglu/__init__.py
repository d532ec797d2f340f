"""SwiGLU: the gated activation between the two linears of a feed-forward block."""
