"""Linear: y = x @ W.T + b with the weight as stored in checkpoints."""
