"""The PyTorch reference of ``farthing::GroupedAccept``: draft after draft, as the rules in `operator` are written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .rules import check_table, refuse, rules, single

if TYPE_CHECKING:
    import torch


def reference(
    p: torch.Tensor,
    q: torch.Tensor,
    draft: torch.Tensor,
    uniforms: torch.Tensor,
    embeds: torch.Tensor | None = None,
    table: torch.Tensor | None = None,
    *,
    mode: str,
    group_size: int = 14,
    prob_tol: float = 0.15,
    dist_tol: float = 0.5,
    delta: float = 0.1,
    relative: int = 0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(accepted int64 [1], next int64 [1], chance [L] in the dtype of p). Shapes as in ``OPERATOR``; arithmetic in float64.

    Raises ValueError for shapes, attributes, drafts, entries of the table and uniforms that the contract refuses.
    """
    import torch

    rules(
        {
            "mode": mode,
            "group_size": group_size,
            "prob_tol": prob_tol,
            "dist_tol": dist_tol,
            "delta": delta,
            "relative": relative,
        }
    )
    _check(p, q, draft, uniforms, embeds, table, mode)
    target, drafted = (torch.where(t.double() > 0, t.double(), 0.0) for t in (p, q))  # NaN is not above 0 either
    x = draft.tolist()
    chances, moved = [], []
    for i, code in enumerate(x):
        if mode == "grouped":
            near = group(target[i], code, group_size, single(prob_tol), single(dist_tol), embeds)
            ratio = _ratio(target[i][near].sum(), drafted[i][near].sum())
        elif mode == "partition":
            assert table is not None
            own = table[:, 0] == table[code, 0]
            ratio = _ratio(target[i][own].sum(), drafted[i][own].sum())
        else:
            taken = _prefix(target[i], code, table, single(delta), relative) if mode == "neighbourhood" else []
            moved.append(taken)
            ratio = _ratio(target[i][code] + target[i][taken].sum(), drafted[i][code])
        chances.append(ratio)
    chance = torch.stack(chances).to(p.dtype)
    stands = uniforms[:-1] < chance
    accepted = len(x) if bool(stands.all()) else int((~stands).nonzero()[0])
    row = target[accepted]
    if accepted < len(x):
        taken = moved[accepted] if moved else []
        row = residual(row, drafted[accepted], x[accepted], mode, taken, table)
    return torch.tensor([accepted]), torch.tensor([_draw(row, uniforms[-1])]), chance


def group(
    p: torch.Tensor, x: int, size: int, prob_tol: float, dist_tol: float, embeds: torch.Tensor | None
) -> torch.Tensor:
    """Codes of C(x), ascending: ranks r - size/2 .. r - size/2 + size - 1 around x's rank r by p [V], less those too far away.

    So et al. 2025 (arXiv 2508.07747), the dynamic cluster. Their released script has no group for r < 7 and takes the plain ratio there;
    here the window is cut at the ends instead.
    """
    import torch

    order = torch.sort(p, descending=True, stable=True).indices
    rank = int((order == x).nonzero())
    first = rank - size // 2
    near = order[max(first, 0) : first + size]
    keep = (p[near] - p[x]).abs() < prob_tol
    if embeds is not None:
        keep &= (embeds[near].double() - embeds[x].double()).square().sum(dim=1) < dist_tol
    return near[keep | (near == x)].sort().values


def residual(
    p: torch.Tensor, q: torch.Tensor, x: int, mode: str, taken: torch.Tensor | list[int], table: torch.Tensor | None
) -> torch.Tensor:
    """Weights [V], not normalised, from which the code is drawn that replaces a refused x."""
    import torch

    if mode == "partition":
        assert table is not None
        cluster = table[:, 0]
        ours, theirs = (torch.zeros_like(t).index_add(0, cluster, t)[cluster] for t in (p, q))
        rest = [torch.where(ours > theirs, (ours - theirs) * (p / ours), 0.0)]
    elif mode == "neighbourhood":
        relaxed, without = p.clone(), p.clone()
        relaxed[x] += p[taken].sum()
        relaxed[taken] = 0.0
        without[taken] = 0.0
        without[x] = 0.0
        rest = [relaxed - q, without]
    else:
        rest = [p - q]
    for weights in rest:
        weights = torch.where(weights > 0, weights, 0.0)
        if bool(weights.any()):
            return weights
    return p


def _ratio(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """min(1, p/q), and 0 where q is 0: such a code cannot have been drafted."""
    import torch

    ratio = torch.where(q > 0, p / q, 0.0)
    return torch.where(ratio < 1, ratio, torch.where(ratio >= 1, 1.0, 0.0))  # infinity over infinity is 0


def _prefix(p: torch.Tensor, x: int, table: torch.Tensor | None, delta: float, relative: int) -> torch.Tensor:
    """A(x): the longest run of x's nearest codes with a sum of p within the budget. Jang, Park et al. 2025 (arXiv 2410.03355)."""
    assert table is not None
    budget = delta * p[x] if relative else delta
    return table[x][: int((p[table[x]].cumsum(0) <= budget).sum())]


def _draw(weights: torch.Tensor, u: torch.Tensor) -> int:
    """The first index, ascending, whose running sum exceeds u * total; the last one for a row without a finite positive sum."""
    running = weights.cumsum(0)
    index = int((running <= u.double() * running[-1]).sum())
    return min(index, len(weights) - 1) if bool(running[-1].isfinite()) else len(weights) - 1


def _text(tensor: torch.Tensor) -> str:
    """The shape, as every face writes it."""
    return f"[{','.join(map(str, tensor.shape))}]"


def _check(
    p: torch.Tensor,
    q: torch.Tensor,
    draft: torch.Tensor,
    uniforms: torch.Tensor,
    embeds: torch.Tensor | None,
    table: torch.Tensor | None,
    mode: str,
) -> None:
    """Shapes first, then values."""
    check_table(mode, table is not None)
    if q.ndim != 2 or q.shape[0] < 1 or q.shape[1] < 1:
        refuse("q", _text(q), "[L,V] with L >= 1 and V >= 1", "give one distribution a draft")
    length, codes = q.shape
    if p.shape != (length + 1, codes):
        refuse(
            "p",
            _text(p),
            f"[{length + 1},{codes}]",
            "one row more than q: behind the last draft comes one code more",
        )
    if draft.shape != (length,):
        refuse("draft", _text(draft), f"[{length}]", "give one code a row of q")
    if uniforms.shape != (length + 1,):
        refuse("uniforms", _text(uniforms), f"[{length + 1}]", "give one a draft, and one for the next code")
    if embeds is not None and (embeds.ndim != 2 or embeds.shape[0] != codes):
        refuse("embeds", _text(embeds), f"[{codes},E]", "give one row a code")
    if table is not None:
        most = 1 if mode == "partition" else codes - 1
        if table.ndim != 2 or table.shape[0] != codes or not 1 <= table.shape[1] <= most:
            wanted = f"[{codes},1]" if mode == "partition" else f"[{codes},K] with K from 1 to {most}"
            refuse("table", _text(table), wanted, f"see mode {mode}")
    for name, values, beyond in (("draft", draft, codes), ("uniforms", uniforms, 1), ("table", table, codes)):
        if values is None:
            continue
        wrong = ~((values >= 0) & (values < beyond))
        if bool(wrong.any()):
            found = values[wrong][0].item()
            at = ",".join(map(str, wrong.nonzero()[0].tolist()))
            wanted = "0 or more and below 1" if name == "uniforms" else f"0 to {beyond - 1}"
            refuse(f"{name}[{at}]", found, wanted, "check what is connected")
