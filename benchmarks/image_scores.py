"""What drawn images are judged by: a small classifier, Frechet distance in its features, intervals, and distance to the train set.

The Frechet distance (Heusel et al. 2017) is between normal distributions with the mean and covariance of two sets of features:
|m1-m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)). The features here are 64 of the classifier, not those of Inception: figures compare rows
of one table and nothing else.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

FEATURES = 64


class Classifier(nn.Module):
    """Pixels [B,3,32,32] in [-1,1] to 10 logits; three convolutions and a hidden layer of 64."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 24, 48, 64)
        self.stages = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2))
                for a, b in itertools.pairwise(widths)
            )
        )
        self.hidden = nn.Linear(widths[-1] * 16, FEATURES)
        self.drop = nn.Dropout(0.2)
        self.out = nn.Linear(FEATURES, 10)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """float [B,64], not negative."""
        return torch.relu(self.hidden(self.stages(x.mean(1, keepdim=True)).flatten(1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.out(self.drop(self.features(x)))
        return out


@torch.no_grad()
def batched(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, size: int = 250) -> np.ndarray:
    """float64 rows of ``function`` over ``x``, ``size`` at a time."""
    return np.concatenate([function(x[i : i + size]).double().numpy() for i in range(0, len(x), size)])


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Distance between two sets of features float64 [N,64]. The root by eigenvalues: tr((C1 C2)^(1/2)) = sum sqrt(eig(C1 C2))."""
    apart = ((a.mean(0) - b.mean(0)) ** 2).sum()
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    roots = np.sqrt(np.clip(np.linalg.eigvals(ca @ cb).real, 0, None)).sum()
    return float(apart + np.trace(ca) + np.trace(cb) - 2 * roots)


def bootstrap(a: np.ndarray, b: np.ndarray, *, times: int = 100, seed: int = 0) -> tuple[float, float]:
    """2.5 and 97.5 % of the distance of resampled ``a`` to ``b``, moved so that the mean of the resamples is the distance itself.

    A resample of N rows lies further away than N fresh ones would, by about the same for every method: the shift takes that out.
    """
    draw = np.random.default_rng(seed)
    found = np.array([frechet(a[draw.integers(0, len(a), len(a))], b) for _ in range(times)])
    found += frechet(a, b) - found.mean()
    return tuple(float(x) for x in np.quantile(found, (0.025, 0.975)))  # type: ignore[return-value]


def wilson(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927)."""
    p, n = right / count, count
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def nearest(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float32 [N]: root mean square difference, in grey levels of 255, of each image uint8 [N,32,32] to the nearest of ``b``."""
    flat = torch.from_numpy(b.reshape(len(b), -1).astype(np.float32))
    norms, found = (flat**2).sum(1), []
    for i in range(0, len(a), 100):
        rows = torch.from_numpy(a[i : i + 100].reshape(-1, flat.shape[1]).astype(np.float32))
        square = ((rows**2).sum(1, keepdim=True) + norms - 2 * rows @ flat.T).min(1).values
        found.append((square.clamp(min=0) / flat.shape[1]).sqrt().numpy())
    return np.concatenate(found)
