"""AddRMSNorm: residual addition and RMS normalisation in one pass."""
