"""GuidedSample: classifier-free guidance, temperature, top-k, top-p and a draw, in one pass over the logits."""
