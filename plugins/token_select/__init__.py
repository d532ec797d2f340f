"""TokenSelect: which k of N tokens to keep, by importance, diversity or both."""
