"""Small random image models of every method, as folders that `farthing export` takes; made once per process."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from farthing.export import export
from farthing.models.bae import Bae, BaeConfig
from farthing.models.eagle import Drafter
from farthing.models.elm import Elm, ElmConfig
from farthing.models.llamagen import LlamaGen, LlamaGenConfig
from farthing.models.nar import Nar
from farthing.models.text_llamagen import TextLlamaGen, TextLlamaGenConfig
from farthing.models.token_shuffle import TokenShuffle, TokenShuffleConfig
from farthing.models.vq import Vq, VqConfig

CODES, CLASSES, GRID = 40, 5, 4
SIZES = {"classes": CLASSES, "hidden_size": 48, "intermediate_size": 56, "layers": 2, "heads": 3, "grid": GRID}
VQ = VqConfig(codes=CODES, code_dim=4, channels=32, multipliers=(1, 2), latent=64)
BAE = BaeConfig(bits=6, channels=32, multipliers=(1, 2), latent=32, norm_first=True)
CONFIG = {"heads": 3, "grid": GRID}


@functools.cache
def folder() -> Path:
    """A folder for this process; removed at its end."""
    folder.keep = tempfile.TemporaryDirectory(prefix="farthing-drawing-")  # type: ignore[attr-defined]
    return Path(folder.keep.name)  # type: ignore[attr-defined]


def randomised(module: torch.nn.Module, clear: str | None = None) -> Any:
    """Gains and biases that are not 1 and 0, so that mixing them up shows; heads named ``clear`` are large, so that choices are clear."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim == 1:
                parameter += 0.3 * torch.randn_like(parameter)
            elif clear and name.startswith(clear):
                parameter *= 4
    return module.eval()


@functools.cache
def vq() -> Vq:
    """The tokenizer of all methods but ELM."""
    torch.manual_seed(11)
    return randomised(Vq(VQ))  # type: ignore[no-any-return]


@functools.cache
def bae() -> Bae:
    """ELM's tokenizer, of 6 bits."""
    torch.manual_seed(12)
    return randomised(Bae(BAE))  # type: ignore[no-any-return]


@functools.cache
def model(kind: str) -> Any:
    """llamagen, nar, elm-<m> with m * c = 6, shuffle-<s>, shuffle-<s>-short (head on the pieces), or drafter."""
    torch.manual_seed(13)
    name, *rest = kind.split("-")
    plain = LlamaGenConfig(codes=CODES, **SIZES)
    if name in ("llamagen", "gsd", "lantern"):
        return randomised(LlamaGen(plain), "output")
    if name in ("text", "textgsd"):
        sizes = {**SIZES, "classes": 0}
        config = TextLlamaGenConfig(codes=CODES, **sizes, text_tokens=12, text_width=20)
        return randomised(TextLlamaGen(config), "output")
    if name == "nar":
        return randomised(randomised(Nar(plain), "output"), "medusa_output")
    if name == "elm":
        parts = int(rest[0])
        return randomised(Elm(ElmConfig(codes=2 ** (BAE.bits // parts), parts=parts, **SIZES)), "output")
    if name == "shuffle":
        config = TokenShuffleConfig(codes=CODES, window=int(rest[0]), expand=len(rest) < 2, **SIZES)
        return randomised(TokenShuffle(config), "visual_head")
    return randomised(Drafter(plain))


def write(path: Path, kind: str, *, config: dict[str, Any] | None = None, **states: dict[str, Any]) -> Path:
    """The folder of ``kind``. ``states`` replace files by name (``model``, ``tokenizer``), None leaves one out."""
    path.mkdir(parents=True, exist_ok=True)
    tokenizer = bae() if kind.startswith("elm") else vq()
    files = {"model": model(kind).state_dict(), "tokenizer": tokenizer.state_dict(), **states}
    names = {"model": "model", "tokenizer": "bae" if kind.startswith("elm") else "vq"}
    for which, state in files.items():
        if state is not None:
            save_file({n: t.contiguous() for n, t in state.items()}, path / f"{names[which]}.safetensors")
    if kind.startswith("lantern"):
        save_file(model("drafter").state_dict(), path / "drafter.safetensors")
    (path / "config.json").write_text(json.dumps(CONFIG if config is None else config))
    return path


@functools.cache
def checkpoint(kind: str) -> Path:
    """The folder of ``kind``; do not change it."""
    return write(folder() / kind, kind)


METHODS = {
    "llamagen": "llamagen",
    "nar": "nar",
    "elm": "elm",
    "shuffle": "token-shuffle",
    "gsd": "gsd",
    "text": "llamagen",
    "textgsd": "gsd",
    "lantern": "lantern",
}
OPTIONS: dict[str, dict[str, Any]] = {"lantern-relative": {"delta": 4.0, "relative": True}}


@functools.cache
def bundle(kind: str, dtype: str = "float32") -> Path:
    """The exported bundle of ``kind``; do not change it."""
    method = METHODS[kind.split("-")[0]]
    return export(
        method, checkpoint(kind), folder() / f"{kind}-{dtype}.bundle", dtype=dtype, **OPTIONS.get(kind, {})
    ).path
