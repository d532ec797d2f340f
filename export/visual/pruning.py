"""Reductions that drop rows: IDPruner, ZOO-Prune and GlobalCom2. What each is, and when not to use it: docs/visual-tokens.md."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import RequestError, found_wanted
from ...runtime import tensors as names
from ...runtime.bundle.read import sha256_of
from ..checkpoint.selector_file import Selector, open_selector
from ..checkpoint.vlm_folder import VlmFolder
from ..graph import GraphWriter, TensorInfo
from ..graph.clip import BeforeLast
from ..graph.project import ProjectGraph
from ..graph.token_reduction.globalcom import KINDS, LastLayer, add_cls_scores, add_globalcom_scores
from ..graph.token_reduction.parts import add_row_scores
from ..graph.token_reduction.quota import add_equal_quotas
from ..graph.token_reduction.scorer import add_linear_scorer, add_norm_scores
from ..graph.token_reduction.select import Selection, add_selection
from ..graph.token_reduction.sensitivity import ESTIMATORS, Projector, add_sensitivity
from ..graph.visual_step import Select
from .reduction import Level, Reduction, check_ratios, level_id, ratio_levels

POSITIONS = ("keep", "compact")
DEFAULT_RATIOS = (0.5, 0.75, 0.9)


class Pruning(Reduction):
    """What the three have in common: levels by ratio, a policy for positions, scores, and a selection by them."""

    guarantee = "lossy"

    def __init__(self, ratios: Sequence[float] | None, positions: str, prune_layer: int | None = None) -> None:
        self.ratios = check_ratios(DEFAULT_RATIOS if ratios is None else ratios)
        if positions not in POSITIONS:
            raise RequestError(found_wanted("positions", repr(positions), " or ".join(POSITIONS), "choose one"))
        self.positions = positions
        self.prune_layer = prune_layer
        self._first: GraphWriter | None = None

    def levels(self, model: VlmFolder, rows: Sequence[tuple[int, int]]) -> tuple[Level, ...]:
        """One for each ratio."""
        return ratio_levels(self.ratios, rows)

    def default_level(self) -> str:
        """The least that is dropped: whoever wants more says so."""
        return level_id(self.ratios[0])

    def check(self, model: VlmFolder) -> None:
        """The layer against the model, and positions against the layer. Raises RequestError."""
        self._first = None
        if self.prune_layer is None:
            return
        if not 1 <= self.prune_layer < model.config.layers:
            raise RequestError(
                found_wanted(
                    "prune_layer",
                    self.prune_layer,
                    f"1 to {model.config.layers - 1}",
                    "leave it out to prune before the first layer",
                )
            )
        if self.positions == "compact":
            raise RequestError(
                found_wanted(
                    "positions",
                    "compact with prune_layer",
                    "keep",
                    "rows that the first layers have seen at a position cannot be renumbered",
                )
            )
        if model.vlm.newline:
            raise RequestError(
                found_wanted(
                    "prune_layer",
                    f"{self.prune_layer} with images of several views",
                    "none",
                    "line breaks are told from the rest before the first layer only",
                )
            )

    def lender(self, graph: GraphWriter) -> GraphWriter | None:
        """The graph that has the method's weights; the first that asks."""
        if self._first is None:
            self._first = graph
            return None
        return self._first


class IdPruner(Pruning):
    """Importance and diversity by Maximal Marginal Relevance (Tan et al. 2026, arXiv 2602.13315).

    ``selector``: folder of a learned scorer. ``importance`` stands in for it: ``sensitivity`` of the projector, or ``norm`` of the rows.
    """

    method = "idpruner"
    IMPORTANCES = ("selector", "sensitivity", "norm")

    def __init__(
        self,
        *,
        ratios: Sequence[float] | None = None,
        selector: str | Path | None = None,
        importance: str | None = None,
        lam: float = 0.5,
        positions: str = "keep",
        prune_layer: int | None = None,
    ) -> None:
        super().__init__(ratios, positions, prune_layer)
        chosen = importance or (
            "selector" if selector is not None else "sensitivity" if prune_layer is None else "norm"
        )
        if chosen not in self.IMPORTANCES or (chosen == "selector") != (selector is not None):
            found = f"{chosen!r} {'with' if selector is not None else 'without'} a selector"
            raise RequestError(
                found_wanted(
                    "importance",
                    found,
                    "a selector's folder, or sensitivity or norm without one",
                    "give --selector, or --importance",
                )
            )
        if chosen == "sensitivity" and prune_layer is not None:
            raise RequestError(
                found_wanted(
                    "importance",
                    "sensitivity with prune_layer",
                    "selector or norm",
                    "inside the decoder the projector is past",
                )
            )
        if isinstance(lam, bool) or not isinstance(lam, (int, float)) or not 0 <= lam <= 1:
            raise RequestError(
                found_wanted("lam", repr(lam), "a number from 0 (diversity) to 1 (importance)", "correct it")
            )
        self.importance, self.lam, self._folder = chosen, float(lam), selector
        self._selector: Selector | None = None

    def check(self, model: VlmFolder) -> None:
        """Also that the selector fits. Raises CheckpointError."""
        super().check(model)
        if self._folder is not None:
            self._selector = open_selector(self._folder, model.config.hidden_size)

    def project(self, graph: ProjectGraph, model: VlmFolder, level: Level, tokens: int | str) -> None:
        """Scores of the rows, then mmr over all of them."""
        graph.begin()
        self._score(graph.w, graph.rows, "importance", graph)
        made = add_selection(
            graph.w,
            self._selection(int(tokens)),
            scores="importance",
            embeds=graph.rows,
            prefix="chosen",
            group=graph.group,
        )
        graph.finish(made["embeds"], made["index"], tokens)

    def select(self, model: VlmFolder, level: Level, tokens: int) -> Select:
        """Importance of the rows as they came, similarity as layer ``prune_layer`` sees them."""

        def choose(writer: GraphWriter, stream: str) -> str:
            self._score(writer, names.VISUAL_EMBEDS, "importance", None)
            selection = self._selection(tokens)
            writer.operator(
                "TokenSelect",
                ["importance", stream],
                ["chosen.index", "chosen.picks"],
                k=selection.k,
                mode=selection.mode,
                order=selection.order,
                lam=selection.lam,
                epsilon=selection.epsilon,
            )
            return "chosen.index"

        return choose

    def _selection(self, tokens: int) -> Selection:
        return Selection(k=tokens, mode="mmr", lam=self.lam, epsilon=1e-6)

    def _score(self, writer: GraphWriter, rows: str, output: str, graph: ProjectGraph | None) -> None:
        if self._selector is not None:
            add_linear_scorer(writer, rows, output, **self._selector.weights(), lender=self.lender(writer))
        elif self.importance == "norm":
            add_norm_scores(writer, rows, output)
        else:
            assert graph is not None
            add_projector_sensitivity(graph, output, "exact", self.lender(writer))

    def about(self) -> dict[str, Any]:
        """For the manifest."""
        told: dict[str, Any] = {"importance": self.importance, "lam": self.lam, "ratios": list(self.ratios)}
        if self._selector is not None:
            lines = sorted(f"{f.name} {sha256_of(f)}\n" for f in self._selector.files)
            told["selector_sha256"] = hashlib.sha256("".join(lines).encode()).hexdigest()
        return told


class ZooPrune(Pruning):
    """Sensitivity of the projector times diversity (Kim, Zhang et al. 2025, arXiv 2509.24837); no training, no attention maps.

    ``estimator``: ``zo``, the paper's finite differences over frozen directions, or ``exact``, what they estimate. ``rank`` of ``zo``: singular
    values of the second layer to keep, 0 = all; the authors use 128 for LLaVA-NeXT, without which it costs 64 times the projector.
    """

    method = "zoo-prune"

    def __init__(
        self,
        *,
        ratios: Sequence[float] | None = None,
        estimator: str = "exact",
        positions: str | None = None,
        seed: int = 0,
        rank: int = 0,
    ) -> None:
        super().__init__(ratios, "compact" if positions is None else positions)
        self._positions_asked = positions is not None
        if estimator not in ESTIMATORS:
            raise RequestError(found_wanted("estimator", repr(estimator), " or ".join(ESTIMATORS), "choose one"))
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 0 or (rank and estimator != "zo"):
            found = f"{rank!r} with estimator {estimator}"
            raise RequestError(found_wanted("rank", found, "0 (all), or more with estimator zo", "leave it out"))
        self.estimator, self.seed, self.rank = estimator, seed, rank

    def check(self, model: VlmFolder) -> None:
        """The authors' policy is compact; M-RoPE knows keep only, which then is the default. Raises RequestError."""
        if model.config.mrope_section and not self._positions_asked:
            self.positions = "keep"
        super().check(model)

    def project(self, graph: ProjectGraph, model: VlmFolder, level: Level, tokens: int | str) -> None:
        """Sensitivities, then sads; within each view where there are several, which share the budget alike."""
        graph.begin()
        add_projector_sensitivity(graph, "importance", self.estimator, self.lender(graph.w), self.seed, self.rank)
        quota = ""
        if graph.group:
            quota, _ = add_equal_quotas(graph.w, "share", group=graph.group, views=names.FEATURES, k=int(tokens))
        made = add_selection(
            graph.w,
            Selection(k=int(tokens), mode="sads", epsilon=1e-8),
            scores="importance",
            embeds=graph.rows,
            prefix="chosen",
            group=graph.group,
            quota=quota,
        )
        graph.finish(made["embeds"], made["index"], tokens)

    def about(self) -> dict[str, Any]:
        """For the manifest."""
        return {"estimator": self.estimator, "seed": self.seed, "rank": self.rank, "ratios": list(self.ratios)}


class GlobalCom2(Pruning):
    """The thumbnail commands: its class attention shares the budget among the tiles and ranks their rows (Liu et al. 2025, arXiv 2501.05179)."""

    method = "globalcom2"

    def __init__(
        self, *, ratios: Sequence[float] | None = None, scores: str = "logits", positions: str = "compact"
    ) -> None:
        super().__init__(ratios, positions)
        if scores not in KINDS:
            raise RequestError(found_wanted("kind of class scores", repr(scores), " or ".join(KINDS), "choose one"))
        self.scores = scores

    def check(self, model: VlmFolder) -> None:
        """It needs views to share among, and a class token. Raises RequestError."""
        super().check(model)
        if not model.vlm.newline:
            raise RequestError(
                found_wanted(
                    "images of the model",
                    f"one view ({model.vlm.family})",
                    "a thumbnail and tiles (llava_next)",
                    "use idpruner or zoo-prune, which do not need views",
                )
            )

    def extend_tower(self, model: VlmFolder) -> BeforeLast:
        """Scores of the class token in the last layer, of which nothing else is computed."""
        tower = model.vlm.clip

        def read(name: str) -> np.ndarray:
            return model.visual(f"tower.encoder.layers.{tower.layers - 1}.{name}")

        def add(writer: GraphWriter, stream: str, layer: int) -> None:
            last = LastLayer(
                read("layer_norm1.weight"),
                read("layer_norm1.bias"),
                read("self_attn.q_proj.weight"),
                read("self_attn.q_proj.bias"),
                read("self_attn.k_proj.weight"),
                read("self_attn.k_proj.bias"),
                tower.heads,
                tower.epsilon,
            )
            add_cls_scores(writer, stream, names.CLS_SCORE, layer=last, kind=self.scores)
            writer.outputs.append(TensorInfo(names.CLS_SCORE, "float32", ("T", tower.grid**2)))

        return add

    def project(self, graph: ProjectGraph, model: VlmFolder, level: Level, tokens: int | str) -> None:
        """Quotas and scores, then the best of every view; only those are projected, since scores need no projected rows."""
        cells = model.vlm.clip.grid**2
        graph.declare()
        graph.w.inputs += [
            TensorInfo(names.CLS_SCORE, "float32", ("T", cells)),
            TensorInfo(names.TAP_INDEX, "int64", ("L", 4)),
            TensorInfo(names.TAP_WEIGHT, "float32", ("L", 4)),
            TensorInfo(names.REGIONS, "float32", ("T", cells)),
        ]
        score, quota, _ = add_globalcom_scores(
            graph.w,
            "guide",
            cls_score=names.CLS_SCORE,
            order=names.ORDER,
            group=names.GROUP,
            tap_index=names.TAP_INDEX,
            tap_weight=names.TAP_WEIGHT,
            regions=names.REGIONS,
            k=int(tokens),
            keep=1.0 - level.ratio,
        )
        graph.w.constant("score_column", np.array([-1], np.int64))
        # By score alone; of its features TokenSelect reads the shape.
        graph.w.node("Unsqueeze", [score, "score_column"], ["score_rows"])
        index = "chosen.index"
        graph.w.operator(
            "TokenSelect",
            [score, "score_rows", graph.group, quota],
            [index, "chosen.picks"],
            k=int(tokens),
            mode="topk",
            order="position",
            lam=0.5,
            epsilon=1e-6,
        )
        graph.finish(graph.project_chosen(index), index, tokens)

    def about(self) -> dict[str, Any]:
        """For the manifest."""
        return {"scores": self.scores, "ratios": list(self.ratios)}


def add_projector_sensitivity(
    graph: ProjectGraph, output: str, estimator: str, lender: GraphWriter | None, seed: int = 0, rank: int = 0
) -> None:
    """``output`` [1,L]: how strongly the projector reacts at each row; 0 at line breaks."""
    bias = graph.read("linear_1.bias") if graph.config.projector_bias else None
    projector = Projector(graph.read("linear_1.weight"), bias, graph.read("linear_2.weight"))
    of_views = f"{output}.of_views" if graph.group else output
    add_sensitivity(
        graph.w,
        names.FEATURES,
        of_views,
        projector=projector,
        estimator=estimator,
        seed=seed,
        rank=rank,
        hidden="linear_1",
        lender=lender,
    )
    if graph.group:
        add_row_scores(graph.w, of_views, names.ORDER, output)
