"""What can be set in a training run."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import RequestError, found_wanted

_RANGES: dict[str, tuple[float, float]] = {
    "masks": (1, 16),
    "rank": (1, 1024),
    "alpha": (1e-6, 1e6),
    "steps": (1, 10**9),
    "batch": (1, 1024),
    "length": (8, 1 << 20),
    "density": (1e-6, 1.0),
    "consistency": (0.0, 1e6),
    "decay": (0.01, 1.0),
    "rate": (1e-9, 1.0),
    "warm_up": (0, 10**9),
    "save_every": (1, 10**9),
    "held_out": (0.0, 0.5),
}


@dataclass(frozen=True)
class Options:
    """``length`` tokens of a sequence are read; behind a share ``density`` of them, chosen anew each time, stand ``masks`` masks.

    ``alpha`` None is twice the rank. ``targets``: ``text`` learns the text's next tokens (as in the paper), ``model`` the distribution
    that the frozen model has there: what a draft will be compared with, and less noisy where steps are few. ``compute`` is the
    dtype of the frozen products: bfloat16 is about twice as fast where the processor has it. The rate falls as a cosine to a tenth. ``consistency`` is the
    weight of that loss. Mask i counts decay ** i: a draft is used up to its first error, so the nearer masks matter more (ours; the paper
    has 1).
    """

    masks: int = 4
    rank: int = 16
    alpha: float | None = None
    residual: str = "latent"
    norm: str = "rms"
    steps: int = 1000
    batch: int = 2
    length: int = 256
    density: float = 0.5
    rate: float = 2e-3
    warm_up: int = 50
    clip: float = 1.0
    targets: str = "text"
    consistency: float = 1.0
    decay: float = 1.0
    compute: str = "float32"
    seed: int = 0
    save_every: int = 50
    held_out: float = 0.05

    def check(self) -> None:
        """Raise RequestError for a value outside its range."""
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise RequestError(
                    found_wanted(name, value, f"{low:g} to {high:g}", f"correct --{name.replace('_', '-')}")
                )
        choices = {
            "targets": ("text", "model"),
            "compute": ("float32", "bfloat16"),
            "residual": ("latent", "block", "none"),
            "norm": ("rms", "layer"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise RequestError(
                    found_wanted(name, repr(getattr(self, name)), f"one of {', '.join(known)}", f"correct --{name}")
                )

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return 2.0 if self.alpha is None else self.alpha / self.rank
