"""GatedAssocMemory: the token mixer of GAM, a causal depthwise convolution and a memory read under two gates."""
