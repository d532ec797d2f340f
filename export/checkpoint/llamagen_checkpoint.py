"""A LlamaGen pair: a folder with the autoregressive model and the image tokenizer (a file whose name begins with ``vq``).

Released ``.pt`` files or safetensors, opened weights-only. Sizes follow from shapes; ``config.json`` ({"heads": n, "grid": g}) says
what shapes do not, and without it heads are 64 wide and the grid is that of a released file name (``_256``: 16, ``_384``: 24).
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import CheckpointError, found_wanted
from ...models.llamagen import LlamaGen, LlamaGenConfig
from ...models.vq import GROUPS, Vq, VqConfig
from ...runtime.bundle.read import sha256_of

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
WRAPPERS = ("model", "module", "state_dict")
"""Keys under which DDP, DeepSpeed and Lightning put the state_dict; FSDP's files are bare."""

IGNORED = {"freqs_cis", "quantize.codebook_used"}
"""Buffers that some files have and no graph needs."""

RELEASED_GRIDS = {"256": 16, "384": 24, "512": 32}


class LlamaGenCheckpoint:
    """Both models as torch modules, float32, every name and shape checked. Raises CheckpointError."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.model_file, self.vq_file = _pair(self.path)
        self.name = self.path.resolve().name
        self.kind = "safetensors" if self.model_file.suffix == ".safetensors" else "pytorch"
        tensors, vq = _read(self.model_file), _read(self.vq_file)
        self.vq_config = self._vq_config(vq)
        self.config = self._config(tensors)
        if self.config.codes != self.vq_config.codes:
            raise CheckpointError(
                found_wanted(
                    f"codebook of {self.vq_file}",
                    f"{self.vq_config.codes} codes",
                    f"{self.config.codes}, as the head of {self.model_file.name} has",
                    "take both files from one release",
                )
            )
        self.model = _filled(LlamaGen(self.config), tensors, self.model_file)
        self.vq = _filled(Vq(self.vq_config), vq, self.vq_file)
        self.parameters = sum(p.numel() for m in (self.model, self.vq) for p in m.parameters())

    def sha256(self) -> str:
        """Hex SHA-256 over the sorted lines ``<file name> <sha256>``."""
        lines = sorted(f"{p.name} {sha256_of(p)}\n" for p in (self.model_file, self.vq_file))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def _config(self, tensors: dict[str, Any]) -> LlamaGenConfig:
        if any(name.startswith("cls_embedding.cap_proj") for name in tensors):
            raise _bad(
                self.model_file, "conditioning", "text", "classes: text-conditional models are not supported yet"
            )
        first = ("cls_embedding.embedding_table.weight", "tok_embeddings.weight", "output.weight",
                 "layers.0.feed_forward.w1.weight")  # fmt: skip
        _need(self.model_file, tensors, first)
        codes, width = tensors["tok_embeddings.weight"].shape
        if tensors["output.weight"].shape[0] != codes:
            raise _bad(self.model_file, "rows of output.weight", tensors["output.weight"].shape[0], f"{codes} codes")
        given = self._given()
        heads, grid = given.get("heads", width // 64), given.get("grid")
        if grid is None and (named := re.search(r"_(256|384|512)$", self.model_file.stem)):
            grid = RELEASED_GRIDS[named[1]]
        if not isinstance(grid, int) or grid < 1:
            raise _bad(self.model_file, "grid", grid, 'codes along a side; write {"grid": 16} to config.json beside it')
        if not isinstance(heads, int) or heads < 1 or width % heads or width // heads % 4:
            raise _bad(self.model_file, "heads", heads, f"a divisor of {width} whose heads are a multiple of 4 wide")
        return LlamaGenConfig(
            codes=codes,
            classes=tensors["cls_embedding.embedding_table.weight"].shape[0] - 1,
            hidden_size=width,
            intermediate_size=tensors["layers.0.feed_forward.w1.weight"].shape[0],
            layers=len({name.split(".")[1] for name in tensors if name.startswith("layers.")}),
            heads=heads,
            grid=grid,
        )

    def _given(self) -> dict[str, Any]:
        file = self.path / "config.json"
        if not file.is_file():
            return {}
        try:
            given = json.loads(file.read_bytes())
        except ValueError as error:
            raise _bad(file, "content", f"not JSON ({error})", '{"heads": n, "grid": g}') from error
        if not isinstance(given, dict):
            raise _bad(file, "content", "no object", '{"heads": n, "grid": g}')
        return given

    def _vq_config(self, tensors: dict[str, Any]) -> VqConfig:
        _need(self.vq_file, tensors, ("quantize.embedding.weight", "encoder.conv_in.weight", "encoder.conv_out.weight"))
        codes, dim = tensors["quantize.embedding.weight"].shape
        channels = tensors["encoder.conv_in.weight"].shape[0]
        levels = {int(m[1]) for n in tensors if (m := re.match(r"encoder\.conv_blocks\.(\d+)\.", n))}
        firsts = [f"encoder.conv_blocks.{i}.res.0.conv1.weight" for i in range(len(levels))]
        _need(self.vq_file, tensors, firsts)
        widths = [tensors[name].shape[0] for name in firsts]
        if not widths or any(w % channels for w in widths) or channels % GROUPS:
            raise _bad(
                self.vq_file,
                "channels of its levels",
                [channels, *widths],
                f"multiples of the first, itself of {GROUPS}",
            )
        blocks = {m[1] for n in tensors if (m := re.match(r"encoder\.conv_blocks\.0\.res\.(\d+)\.", n))}
        return VqConfig(
            codes=codes,
            code_dim=dim,
            channels=channels,
            multipliers=tuple(w // channels for w in widths),
            latent=tensors["encoder.conv_out.weight"].shape[0],
            blocks=len(blocks),
        )


def _pair(path: Path) -> tuple[Path, Path]:
    if not path.is_dir():
        raise CheckpointError(
            found_wanted(
                f"checkpoint {path}", "no folder", "a folder with model and tokenizer", "put both files in one"
            )
        )
    files = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES)
    vq = [p for p in files if p.name.startswith("vq")]
    models = [p for p in files if p not in vq]
    if len(vq) != 1 or len(models) != 1:
        raise CheckpointError(
            found_wanted(
                f"weights in {path}",
                f"{len(models)} model(s) and {len(vq)} tokenizer(s)",
                "one of each; the tokenizer's file name begins with vq",
                "put the two files of one release there, alone",
            )
        )
    return models[0], vq[0]


def _read(file: Path) -> dict[str, Any]:
    import torch

    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            loaded: Any = load_file(file)
        else:
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise many classes here
        raise _bad(file, "content", f"not loadable as weights only ({str(error)[:160]})", "a state_dict") from error
    for key in WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
            break
    if not isinstance(loaded, dict) or not all(isinstance(t, torch.Tensor) for t in loaded.values()):
        raise _bad(file, "content", "no state_dict", "names and tensors")
    for name, tensor in loaded.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise _bad(file, f"tensor {name}", "not finite", "finite weights")
    return {name: tensor for name, tensor in loaded.items() if name not in IGNORED}


def _filled(model: Any, tensors: dict[str, Any], file: Path) -> Any:
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for what, names in (("missing", wanted.keys() - tensors.keys()), ("unexpected", tensors.keys() - wanted.keys())):
        if names:
            raise _bad(file, "list of tensors", f"{what} {', '.join(sorted(names)[:6])}", "those of the released class")
    for name, shape in wanted.items():
        if tuple(tensors[name].shape) != shape:
            raise _bad(file, f"shape of tensor {name}", list(tensors[name].shape), list(shape))
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return model.eval()


def _need(file: Path, tensors: dict[str, Any], names: Any) -> None:
    if missing := [n for n in names if n not in tensors]:
        raise _bad(file, "list of tensors", f"missing {', '.join(missing[:6])}", "those of the released class")


def _bad(file: Path, what: str, found: object, wanted: object) -> CheckpointError:
    return CheckpointError(found_wanted(f"{what} of {file}", found, wanted, "check that it is a LlamaGen checkpoint"))


def half_split(wqkv: np.ndarray, heads: int) -> np.ndarray:
    """The fused projection with the features of each q and k head reordered from pairs (0,1), (2,3) to halves (0,2,.. | 1,3,..).

    `CachedAttention` rotates halves; scores are sums over features and do not see the order.
    """
    q, k, v = np.split(wqkv, 3)

    def reorder(part: np.ndarray) -> np.ndarray:
        byhead = part.reshape(heads, -1, part.shape[1])
        return np.concatenate([byhead[:, 0::2], byhead[:, 1::2]], axis=1).reshape(part.shape)

    return np.concatenate([reorder(q), reorder(k), v])
