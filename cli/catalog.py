"""Every method farthing is meant to compile, with its guarantee. What *works* is not written here: see `entries`.

``guarantee`` says how the output relates to what the checkpoint alone would give:
exact    the same output (for sampling: the same distribution); models of their own computed as they are defined
bounded  another output, within a bound that is stated and checked
lossy    another output, without a bound; quality is measured
none     nothing to compare with: a training recipe, an analysis, a heuristic
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

GUARANTEES = ("exact", "bounded", "lossy", "none")


@dataclass(frozen=True)
class Method:
    """One method. ``number`` is None for plain decoding, which every other text method is measured against."""

    id: str
    number: int | None
    title: str
    guarantee: str
    status: str = "planned"

    def as_json(self) -> dict[str, Any]:
        """The fields as plain data."""
        return asdict(self)


_TABLE: tuple[tuple[int | None, str, str, str], ...] = (
    (None, "decoder", "exact", "Plain decoder language model (Llama, SmolLM2, Mistral, Qwen2/2.5, Qwen3)"),
    (None, "encoder", "exact", "BERT encoder (MiniLM, sentence-transformers)"),
    (None, "vision", "exact", "EfficientNet-Lite0 (other vision models: farthing import)"),
    (None, "llamagen", "exact", "LlamaGen, images of a class or a text, code by code"),
    (1, "lexinvariant", "exact", "Lexinvariant language models: no token embeddings"),
    (2, "byte-probabilities", "exact", "Exact byte-level probabilities from tokenized language models"),
    (3, "mtp", "exact", "Your LLM knows the future: gated-LoRA multi-token prediction"),
    (4, "judge", "lossy", "Judge decoding: a learned head accepts drafts"),
    (5, "xar", "lossy", "Next-X prediction for autoregressive image generation (xAR)"),
    (6, "cdpo", "none", "Critical tokens matter: token-level contrastive estimation (cDPO)"),
    (7, "parrot", "exact", "Parrot: multilingual visual tokens by a mixture of experts"),
    (8, "gam", "exact", "Gated associative memory: sequence modelling in linear time"),
    (9, "grbf", "bounded", "Gaussian RBF networks with active subspaces"),
    (10, "zett", "lossy", "Zero-shot tokenizer transfer (ZeTT)"),
    (11, "reagent", "none", "ReAGent: feature attribution for generative models by forward passes"),
    (12, "elm", "exact", "ELM: language models for image generation"),
    (13, "text2token", "exact", "Text2Token: text embeddings by token target prediction"),
    (14, "electra", "exact", "ELECTRA: encoders trained as discriminators"),
    (15, "ernie-gram", "exact", "ERNIE-Gram: explicitly n-gram masked language modelling"),
    (16, "tool-tokens", "exact", "Token re-initialisation for tool-augmented models (TokenLearning)"),
    (17, "gpstoken", "exact", "GPSToken: images as spatially adaptive Gaussians"),
    (18, "lemo", "lossy", "LeMo: less token involvement for more context"),
    (19, "gfun", "exact", "Generalized funnelling: cross-lingual classifier ensembles"),
    (20, "core-ensemble", "none", "CoRE: consistency for robust test-time model ensembles"),
    (21, "zoo-prune", "lossy", "ZOO-Prune: visual token pruning by zeroth-order gradient estimation"),
    (22, "idpruner", "lossy", "IDPruner: importance and diversity in visual token pruning"),
    (23, "token-shuffle", "exact", "Token-Shuffle: high-resolution image generation"),
    (24, "chatglm", "exact", "ChatGLM: GLM-4 with tools"),
    (25, "align-ti", "none", "Align-TI: distillation by token interactions"),
    (26, "byte2word", "exact", "Byte2Word: word representations from bytes"),
    (27, "seed-tokenizer", "exact", "SEED: an image tokenizer with causal codes"),
    (28, "ftp", "exact", "Future token prediction (FTP)"),
    (29, "lantern", "lossy", "LANTERN: relaxed speculative decoding for image models"),
    (30, "ga-dms", "exact", "GA-DMS: text-based person retrieval"),
    (31, "bialign", "none", "Bidirectional alignment for in-context learning"),
    (32, "tokenunify", "exact", "TokenUnify: visual pre-training by mixture token prediction"),
    (33, "optiprune", "lossy", "OptiPrune: noise optimisation and dynamic token selection for diffusion"),
    (34, "prior", "none", "PRIOR: image-related tokens first in vision-language pre-training"),
    (35, "meap", "none", "Mask-enhanced autoregressive prediction (MEAP)"),
    (36, "cg-vlm", "none", "CG-VLM: contrastive vision-language alignment"),
    (37, "nar", "exact", "Neighboring autoregressive modelling (NAR)"),
    (38, "vlora", "exact", "VLoRA: images as weights of the language model"),
    (39, "ima-skip", "lossy", "Implicit multimodal alignment: skipping work for visual tokens"),
    (40, "seg-moe", "exact", "Seg-MoE: segment-wise experts for time series"),
    (41, "illume", "exact", "ILLUME: one model that sees and draws"),
    (42, "globalcom2", "lossy", "Global compression commander (GlobalCom2)"),
    (43, "awrs", "exact", "Adaptive weighted rejection sampling for constrained generation (AWRS)"),
    (44, "dynamic-tokenization", "lossy", "Retrofitting models with dynamic tokenization"),
    (45, "mmrl", "exact", "Multi-modal representation learning (MMRL)"),
    (46, "markov-diagnostics", "none", "Markov categorical diagnostics of language models"),
    (47, "sparkui", "exact", "SparkUI-Parser: grounding and parsing of user interfaces"),
    (48, "visual-statistics", "none", "The language of visual tokens: statistics of a token stream"),
    (49, "gsd", "lossy", "Grouped speculative decoding for image generation (GSD)"),
    (50, "aded", "exact", "Adaptive draft-verification with a trigram table (ADED)"),
    (51, "matryoshka", "lossy", "Matryoshka multimodal models (M3)"),
)


def entries() -> list[Method]:
    """All methods; ``working`` are those with a recipe in the exporter, so the list cannot promise what is not there."""
    from ..export import methods

    recipes = set(methods())
    known = [
        Method(name, number, title, guarantee, "working" if name in recipes else "planned")
        for number, name, guarantee, title in _TABLE
    ]
    # A recipe without a row works all the same: it is shown with what is known about it.
    unlisted = sorted(recipes - {m.id for m in known})
    return known + [Method(name, None, name, "none", "working") for name in unlisted]
