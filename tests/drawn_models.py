"""Image models of every order, small enough to be recomputed for every code, with bundles that guess. Weights are random; heads are
scaled up, so that choices are clear. (`drawing_models` are those of the exporter's tests.)"""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from farthing.export import export
from farthing.export.graph.drawing import Acceptance, write_accept
from farthing.export.graph.writer import GraphWriter
from farthing.models.bae import Bae, BaeConfig
from farthing.models.eagle import Drafter
from farthing.models.elm import Elm, ElmConfig, split_codes
from farthing.models.llamagen import LlamaGen, LlamaGenConfig
from farthing.models.nar import Nar
from farthing.models.token_shuffle import TokenShuffle, TokenShuffleConfig, to_windows
from farthing.models.vq import Vq, VqConfig
from farthing.runtime.bundle import BundleWriter, open_bundle
from farthing.runtime.drawing import Drawer

CODES, CLASSES, GRID = 12, 3, 4
SIZES: dict[str, int] = {"classes": CLASSES, "hidden_size": 32, "intermediate_size": 40, "layers": 2, "heads": 2}
PLAIN = LlamaGenConfig(codes=CODES, grid=GRID, **SIZES)
SMALL = LlamaGenConfig(codes=CODES, grid=2, **SIZES)
"""Four codes an image, so that their distribution can be computed."""
ELM = ElmConfig(codes=16, grid=GRID, parts=2, **SIZES)
SHUFFLE = TokenShuffleConfig(codes=CODES, grid=GRID, window=2, **SIZES)
VQ = VqConfig(codes=CODES, code_dim=4, channels=32, multipliers=(1, 2), latent=32)
BAE = BaeConfig(bits=8, channels=32, multipliers=(1, 2), latent=32)

KINDS = ("llamagen", "nar", "elm", "token-shuffle")


@functools.cache
def folder() -> Path:
    folder.keep = tempfile.TemporaryDirectory(prefix="farthing-drawn-")  # type: ignore[attr-defined]
    return Path(folder.keep.name)  # type: ignore[attr-defined]


def _made(module: torch.nn.Module, louder: tuple[str, ...] = ()) -> Any:
    """``module`` with gains and biases that are not 1 and 0, and the weights ``louder`` three times as large."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim == 1:
                parameter += 0.3 * torch.randn_like(parameter)
            if name in louder:
                parameter *= 3
    return module.eval()


@functools.cache
def model(kind: str) -> Any:
    torch.manual_seed(4)
    heads = ("output.weight", "medusa_output.weight", "output.0.weight", "output.1.weight", "visual_head.weight")
    made: torch.nn.Module = {
        "llamagen": lambda: LlamaGen(PLAIN),
        "small": lambda: LlamaGen(SMALL),
        "nar": lambda: Nar(PLAIN),
        "elm": lambda: Elm(ELM),
        "token-shuffle": lambda: TokenShuffle(SHUFFLE),
    }[kind]()
    return _made(made, heads)


@functools.cache
def tokenizer(kind: str) -> Any:
    torch.manual_seed(6)
    return _made(Bae(BAE) if kind == "elm" else Vq(VQ))


@functools.cache
def drafter(kind: str) -> Any:
    torch.manual_seed(8)
    made = _made(Drafter(dataclasses.replace(model(kind).config, layers=1, intermediate_size=24)))
    with torch.no_grad():
        made.embed_tokens.weight.copy_(model(kind).tok_embeddings.weight)
    return made


@functools.cache
def checkpoint(kind: str) -> Path:
    path = folder() / f"{kind}-checkpoint"
    path.mkdir()
    save_file(model(kind).state_dict(), path / "ar.safetensors")
    save_file(tokenizer(kind).state_dict(), path / ("bae.safetensors" if kind == "elm" else "vq.safetensors"))
    (path / "config.json").write_text(json.dumps({"heads": 2, "grid": model(kind).config.grid}))
    return path


@functools.cache
def bundle(kind: str) -> Path:
    """The bundle of a model without drafts."""
    return export("llamagen" if kind == "small" else kind, checkpoint(kind), folder() / kind).path


def jacobi(kind: str, name: str, *hows: Acceptance) -> Path:
    """A copy of a bundle with Jacobi drafts that are judged by ``hows``, the first by default; made once for each ``name``."""
    if (folder() / name).exists():
        return folder() / name
    manifest = json.loads(json.dumps(open_bundle(bundle(kind)).manifest))
    for key in ("format", "format_version", "files"):
        del manifest[key]
    with BundleWriter(folder() / name) as writer:
        shutil.copytree(bundle(kind), writer.path, dirs_exist_ok=True)
        (writer.path / "manifest.json").unlink()
        for how in hows:
            graph = f"accept_{how.mode}"
            with GraphWriter(writer.path / "graphs", graph) as w:
                write_accept(w, CODES, how)
            manifest["graphs"][graph] = {
                "file": f"graphs/{graph}.onnx",
                "data": [f"graphs/{name}" for name in w.data_files],
                "inputs": [i.manifest() for i in w.inputs],
                "outputs": [o.manifest() for o in w.outputs],
            }
        modes = [how.mode for how in hows]
        manifest["image_codes"] |= {"drafts": "jacobi", "accept": modes, "default_accept": modes[0], "draft_window": 5}
        return writer.commit(manifest)


def neighbours(count: int = 3) -> np.ndarray:
    """int64 [V,count]: some order of the other codes."""
    random = np.random.default_rng(1)
    return np.stack([random.permutation([c for c in range(CODES) if c != x])[:count] for x in range(CODES)])


@functools.cache
def all_modes(kind: str = "llamagen") -> Path:
    """Jacobi drafts with every mode."""
    return jacobi(
        kind,
        f"{kind}-jacobi",
        Acceptance("exact"),
        Acceptance("grouped", group_size=5),
        Acceptance("partition", table=np.arange(CODES)[:, None] // 3),
        Acceptance("neighbourhood", delta=0.3, table=neighbours()),
    )


@functools.cache
def eagle(kind: str) -> Path:
    """A model with a drafter, and the modes exact and neighbourhood."""
    path = folder() / f"{kind}-eagle-checkpoint"
    shutil.copytree(checkpoint(kind), path)
    save_file(drafter(kind).state_dict(), folder() / f"{kind}-drafter.safetensors")
    return export("lantern", path, folder() / f"{kind}-eagle", drafter=folder() / f"{kind}-drafter.safetensors").path


def opened(path: Path, **how: Any) -> Drawer:
    """The loops in Python, which these tests are of; test_drawing_native.py compares those in C++ with them."""
    return Drawer(path, core=False, **how)


def logits(kind: str, condition: int, codes: np.ndarray, turn: int) -> torch.Tensor:
    """float32 [1,draws,V] of turn number ``turn``: the whole sequence through the reference, which has no cache.

    ``codes`` int64 [g*g] in raster order; those that are not decided yet are not looked at.
    """
    made, grid = model(kind), model(kind).config.grid
    ids = torch.from_numpy(codes)[None]
    with torch.no_grad():
        if kind == "nar":
            places = [h * grid + turn - h for h in range(grid) if 0 <= turn - h < grid]
            known = torch.tensor([[c if i // grid + i % grid < turn else 0 for i, c in enumerate(codes.tolist())]])
            return made(torch.cat([torch.tensor([[CODES + condition]]), known], dim=1))[:, places]
        if kind in ("llamagen", "small"):
            return made(torch.cat([torch.tensor([[CODES + condition]]), ids[:, :turn]], dim=1))[:, -1:]
        if kind == "elm":
            rows = split_codes(ids[:, :turn], ELM.parts, ELM.bits)
        else:
            rows = to_windows(ids, grid, SHUFFLE.window)[:, :turn]
        first = torch.zeros(1, 1, rows.shape[-1], dtype=torch.int64)
        first[..., 0] = made.config.codes + condition
        return made(torch.cat([first, rows], dim=1))[:, -1]
