"""Contract and reference of ``farthing::SimPrune``: prune tokens of a feature map before attention, recover them after it by copy.

The token reduction of OptiPrune (2025, arXiv 2507.00789), whose steps are those of SiTo (Zhang et al., AAAI 2025): a base token in every
patch of the map, by total similarity plus a little noise; the tokens most similar to a base are pruned; each pruned token
copies the output of the kept token it resembles most. One Gather with ``keep`` shortens the sequence, one with ``src`` restores it.
Why not a mode of TokenSelect: it returns a second map, takes the noise, and needs the shape of the grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from ..contract import Attribute, Operator, Port
from .body import body

if TYPE_CHECKING:
    import torch


def refuse(what: str, found: object, wanted: str, fix: str) -> NoReturn:
    """Raise the ValueError of the contract; the kernel says the same sentence."""
    raise ValueError(f"SimPrune: {what} is {found}, expected {wanted}; {fix}")


def check_attributes(attributes: Mapping[str, Any]) -> None:
    """Refuse what no input can make right."""
    import math

    sizes = {n: int(attributes.get(n, 2)) for n in ("height", "width", "patch_height", "patch_width")}
    for name, size in sizes.items():
        if size < 1:
            refuse(name, size, "1 or more", "give the shape of the feature map")
    for side in ("height", "width"):
        if sizes[f"patch_{side}"] > sizes[side]:
            refuse(
                f"patch_{side}", sizes[f"patch_{side}"], f"1 to {sizes[side]}", "a map needs at least one whole patch"
            )
    tokens = sizes["height"] * sizes["width"]
    bases = (sizes["height"] // sizes["patch_height"]) * (sizes["width"] // sizes["patch_width"])
    prune = int(attributes["prune"])
    if not 1 <= prune <= tokens - bases:
        refuse(
            "prune", prune, f"1 to {tokens - bases}, all but the base tokens", "prune less, or leave the node out for 0"
        )
    for name in ("beta", "alpha"):
        if not math.isfinite(attributes.get(name, 1.0)):
            refuse(name, attributes[name], "a finite number", "the paper has beta 1 and alpha 0.1")


def reference(
    x: torch.Tensor,
    noise: torch.Tensor,
    *,
    height: int,
    width: int,
    prune: int,
    patch_height: int = 2,
    patch_width: int = 2,
    beta: float = 1.0,
    alpha: float = 0.1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(keep [B,N-prune], src [B,N]), both int64; shapes and rules as in ``OPERATOR``. Raises ValueError."""
    import torch

    check_attributes(
        {
            "height": height,
            "width": width,
            "prune": prune,
            "patch_height": patch_height,
            "patch_width": patch_width,
            "beta": beta,
            "alpha": alpha,
        }
    )
    if x.ndim != 3 or x.shape[1] != height * width:
        refuse("x", list(x.shape), f"[B,{height * width},C]", "check the shape of the feature map")
    if noise.shape != x.shape[:2]:
        refuse("noise", list(noise.shape), f"[{x.shape[0]},{height * width}]", "give one number a token")
    wide = x if x.dtype == torch.float64 else x.float()
    norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    good = norm <= torch.finfo(torch.float32).max
    unit = torch.where(good, wide, 0.0) / (torch.where(good, norm, 0.0) + 1e-8)
    quiet = torch.where(noise.abs() <= torch.finfo(torch.float32).max, noise, 0.0)
    # The sum over j of m_i . m_j is m_i . (sum of m_j).
    score = beta * (unit * unit.sum(1, keepdim=True)).sum(2) + alpha * quiet
    keep, src = [], []
    for b in range(x.shape[0]):
        bases = []
        for top in range(0, height - patch_height + 1, patch_height):
            for left in range(0, width - patch_width + 1, patch_width):
                patch = [(top + i) * width + left + j for i in range(patch_height) for j in range(patch_width)]
                bases.append(max(patch, key=lambda i: (float(score[b, i]), -i)))
        nearest = (unit[b] @ unit[b, bases].T).max(1).values
        others = sorted(set(range(height * width)) - set(bases), key=lambda i: (-float(nearest[i]), i))
        pruned = set(others[:prune])
        kept = [i for i in range(height * width) if i not in pruned]
        like = unit[b] @ unit[b, kept].T
        copied = [int(torch.nonzero(row == row.max())[0]) for row in like]
        for rank, token in enumerate(kept):
            copied[token] = rank
        keep.append(kept)
        src.append(copied)
    return torch.tensor(keep).reshape(-1, height * width - prune), torch.tensor(src).reshape(-1, height * width)


OPERATOR = Operator(
    name="SimPrune",
    doc="Tokens of a feature map that a block may leave out, and for every token the kept one whose result it takes.\n\n"
    "Ties go to the lowest index. A token of norm zero, or not finite, is similar to nothing; noise that is not finite counts as 0. Rows "
    "and columns beyond the last whole patch have no base token.",
    inputs=(
        Port("x", ("B", "height*width", "C"), ("float32", "float16"), "tokens of the map, row by row"),
        Port("noise", ("B", "height*width"), ("float32",), "normal noise, an input so that the graph is deterministic"),
    ),
    outputs=(
        Port("keep", ("B", "height*width-prune"), ("int64",), "positions of the kept tokens, ascending"),
        Port("src", ("B", "height*width"), ("int64",), "row among the kept ones that each token takes its result from"),
    ),
    attributes=(
        Attribute("height", "int", "rows of the map"),
        Attribute("width", "int", "columns of the map"),
        Attribute("prune", "int", "tokens to prune; 1 to all but the base tokens"),
        Attribute("patch_height", "int", "rows of a patch, which has one base token", 2),
        Attribute("patch_width", "int", "columns of a patch", 2),
        Attribute("beta", "float", "weight of the summed similarity in the choice of base tokens", 1.0),
        Attribute("alpha", "float", "weight of the noise", 0.1),
    ),
    cost="2*B*C*((N-b)*b + prune*(N-prune-b)) FLOP with N = height*width and b base tokens; the body 2*B*C*N*(b+N-prune)",
    errors=(
        "prune is not 1 to all but the base tokens",
        "a side of the map or of a patch is below 1, or a patch is larger than the map",
        "x is not [B,height*width,C]; noise is not [B,height*width]",
    ),
    body=body,
    reference=reference,
)
