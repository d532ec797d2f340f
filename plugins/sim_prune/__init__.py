"""SimPrune: which tokens of a feature map to leave out of a block, and whose result they copy."""
