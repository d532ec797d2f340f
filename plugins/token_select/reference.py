"""The PyTorch reference of ``farthing::TokenSelect``: one pick at a time, as the rules in `operator` are written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .rules import ALWAYS, check_attributes, refuse

if TYPE_CHECKING:
    import torch


def _check(
    scores: torch.Tensor, feats: torch.Tensor, group: torch.Tensor | None, quota: torch.Tensor | None, k: int
) -> None:
    import torch

    if scores.ndim != 2:
        refuse("scores", list(scores.shape), "[B,N]", "give one score a token")
    if scores.dtype not in (torch.float32, torch.float64):
        refuse("dtype of scores", scores.dtype, "float32", "cast the scores")
    batch, tokens = scores.shape
    if feats.ndim != 3 or feats.shape[:2] != scores.shape:
        refuse("feats", list(feats.shape), f"[{batch},{tokens},D]", "give one row of features a score")
    if feats.dtype not in (torch.float16, torch.float32, torch.float64):
        refuse("dtype of feats", feats.dtype, "float32 or float16", "cast the features")
    if group is not None and (group.shape != scores.shape or group.dtype != torch.int64):
        refuse("group", f"{group.dtype} {list(group.shape)}", f"int64 [{batch},{tokens}]", "give one group a token")
    if quota is not None and (
        quota.ndim != 2 or quota.shape[0] != batch or quota.shape[1] < 1 or quota.dtype != torch.int64
    ):
        refuse("quota", f"{quota.dtype} {list(quota.shape)}", f"int64 [{batch},G]", "give one quota a group")
    if k > tokens:
        refuse("k", k, f"1 to {tokens}, the number of tokens", "keep fewer tokens, or drop the node")


def importance(scores: torch.Tensor, *, epsilon: float, constant: float) -> torch.Tensor:
    """Min-max normalisation of one pool's scores [n]; NaN and -Inf become 0, +Inf the maximum; ``constant`` if all are equal.

    Always in float32: the best of every pool comes out a rounding error below 1, and which of them is first must not depend on
    who computes it.
    """
    import torch

    scores = scores.float()
    finite = scores[torch.isfinite(scores)]
    if len(finite) == 0 or finite.max() <= finite.min():
        return torch.full_like(scores, constant)
    low, high = finite.min(), finite.max()
    clean = torch.where(torch.isnan(scores), low, scores).clamp(low, high)
    # Halves, so that high - low cannot overflow; powers of two change no rounding.
    return (clean * 0.5 - low * 0.5) / (high * 0.5 - low * 0.5 + epsilon * 0.5)


def unit_rows(feats: torch.Tensor) -> torch.Tensor:
    """feats [N,D] over (their norms + 1e-8); a row that is zero, or not finite, or whose norm overflows, becomes zero."""
    import torch

    wide = feats if feats.dtype == torch.float64 else feats.float()
    norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    good = norm <= torch.finfo(torch.float32).max
    return torch.where(good, wide, 0.0) / (torch.where(good, norm, 0.0) + 1e-8)


def reference(
    scores: torch.Tensor,
    feats: torch.Tensor,
    group: torch.Tensor | None = None,
    quota: torch.Tensor | None = None,
    *,
    k: int,
    mode: str,
    order: str = "position",
    lam: float = 0.5,
    epsilon: float = 1e-6,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(index, picks), both int64 [B,k]: the kept tokens in the wanted order, and in the order they were picked.

    Shapes and rules as in ``OPERATOR``. float32 arithmetic, float64 if the features are (for tests). Raises ValueError.
    """
    import torch

    check_attributes({"k": k, "mode": mode, "order": order, "lam": lam, "epsilon": epsilon}, group, quota)
    _check(scores, feats, group, quota, k)
    rows = []
    for b in range(scores.shape[0]):
        rows.append(
            _pick_row(
                scores[b],
                feats[b],
                None if group is None else group[b],
                None if quota is None else quota[b],
                k=k,
                mode=mode,
                lam=lam,
                epsilon=epsilon,
            )
        )
    picks = torch.tensor(rows, dtype=torch.int64).reshape(len(rows), k)
    return (picks.sort(dim=1).values if order == "position" else picks.clone()), picks


def _pick_row(
    scores: torch.Tensor,
    feats: torch.Tensor,
    group: torch.Tensor | None,
    quota: torch.Tensor | None,
    *,
    k: int,
    mode: str,
    lam: float,
    epsilon: float,
) -> list[int]:
    """Greedy choice for one sequence. A pool is what competes in diversity: a group if there are quotas, else everybody."""
    import torch

    tokens = scores.shape[0]
    own = torch.zeros(tokens, dtype=torch.int64) if group is None else group
    pools = 1 if quota is None else quota.shape[0]
    pool = torch.where(own >= 0, 0, -1) if quota is None else torch.where((own >= 0) & (own < pools), own, -1)
    room = [tokens] if quota is None else [int(q) for q in quota]
    value = torch.where(torch.isnan(scores), -torch.inf, scores)
    if mode != "topk":
        value = torch.zeros_like(scores)
        for p in range(pools):
            if bool((pool == p).any()):
                constant = 1.0 if mode == "sads" else 0.0
                value[pool == p] = importance(scores[pool == p], epsilon=epsilon, constant=constant).to(value.dtype)
        unit = unit_rows(feats)
    nearest = torch.full_like(scores, -2.0)
    alive = torch.ones(tokens, dtype=torch.bool)
    picks: list[int] = []
    for _ in range(k):
        objective = value
        if mode == "mmr":
            objective = torch.where(nearest < -1.5, value, lam * value - (1.0 - lam) * nearest)
        elif mode == "sads":
            objective = torch.where(nearest < -1.5, value, value * (1.0 - nearest))
        within = torch.tensor([room[p] > 0 if p >= 0 else False for p in pool.tolist()])
        for tier in (own == ALWAYS, within, pool >= 0, torch.ones_like(alive)):
            eligible = alive & tier
            if bool(eligible.any()):
                break
        compared = objective if bool((pool[eligible] >= 0).all()) else torch.zeros_like(objective)
        # argmax of torch does not promise the lowest index among equals.
        best = compared[eligible].max()
        pick = int(torch.nonzero(eligible & (compared == best))[0])
        alive[pick] = False
        picks.append(pick)
        if pool[pick] >= 0:
            room[int(pool[pick])] -= 1
            if mode != "topk":
                mates = pool == pool[pick]
                nearest = torch.where(mates, torch.maximum(nearest, (unit @ unit[pick]).to(nearest.dtype)), nearest)
    return picks
