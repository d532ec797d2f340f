"""What checkpoints of image models have in common: two files, sizes from shapes, heads and grid from ``config.json``."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from ...runtime.bundle.read import sha256_of
from .image_files import bad, count, find_pair, need, read_config, read_state

EXAMPLE = '{"heads": 4, "grid": 16}'

RELEASED_GRIDS = {"256": 16, "384": 24, "512": 32}
"""Codes along a side by the number that a released file name ends in."""


class ImageFolder:
    """Files and names. A method's class fills ``config``, ``model``, ``tokenizer`` (torch modules, float32) and ``parameters``."""

    prefixes: tuple[str, ...] = ("vq",)
    """How the tokenizer's file name may begin."""

    config: Any
    model: Any
    tokenizer: Any

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.model_file, self.tokenizer_file = find_pair(self.path, self.prefixes)
        self.files = [self.model_file, self.tokenizer_file]
        self._more: list[Any] = []
        self.name = self.path.resolve().name
        self.kind = "safetensors" if self.model_file.suffix == ".safetensors" else "pytorch"
        self.given = read_config(self.path, EXAMPLE)
        self.load(read_state(self.model_file), read_state(self.tokenizer_file))

    def load(self, tensors: dict[str, Any], tokenizer: dict[str, Any]) -> None:
        """Fill the modules. Raises CheckpointError."""
        raise NotImplementedError

    @property
    def parameters(self) -> int:
        """Weights of all models."""
        return sum(p.numel() for m in (self.model, self.tokenizer, *self._more) for p in m.parameters())

    def add(self, file: Path, module: Any) -> None:
        """Count a model of another file, a drafter, as part of the checkpoint."""
        self.files.append(file)
        self._more.append(module)

    def sha256(self) -> str:
        """Hex SHA-256 over the sorted lines ``<file name> <sha256>``."""
        lines = sorted(f"{p.name} {sha256_of(p)}\n" for p in self.files)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def sizes(self, tensors: dict[str, Any], table: str) -> dict[str, int]:
        """What every configuration has: codes, hidden_size, intermediate_size, layers, heads, grid. Codes are the rows of tensor ``table``."""
        need(self.model_file, tensors, (table, "layers.0.feed_forward.w1.weight"))
        codes, width = tensors[table].shape
        heads, grid = self.given.get("heads", width // 64), self.given.get("grid")
        if grid is None and (named := re.search(r"_(256|384|512)$", self.model_file.stem)):
            grid = RELEASED_GRIDS[named[1]]
        if not isinstance(grid, int) or isinstance(grid, bool) or grid < 1:
            wanted = 'codes along a side; write {"grid": 16} to config.json beside it'
            raise bad(self.model_file, "grid", grid, wanted)
        if not isinstance(heads, int) or isinstance(heads, bool) or heads < 1 or width % heads or width // heads % 4:
            wanted = f"a divisor of {width} whose heads are a multiple of 4 wide"
            raise bad(self.model_file, "heads", heads, wanted, "correct config.json")
        return {
            "codes": codes,
            "hidden_size": width,
            "intermediate_size": tensors["layers.0.feed_forward.w1.weight"].shape[0],
            "layers": count(tensors, "layers."),
            "heads": heads,
            "grid": grid,
        }

    def classes(self, tensors: dict[str, Any]) -> int:
        """Classes of a class-conditional model: the table's rows but the last, which is that of no class."""
        if any(name.startswith("cls_embedding.cap_proj.") for name in tensors):
            fix = "of text-conditional models, LlamaGen's are exported (llamagen, gsd)"
            raise bad(self.model_file, "conditioning", "text", "classes", fix)
        need(self.model_file, tensors, ("cls_embedding.embedding_table.weight",))
        rows = int(tensors["cls_embedding.embedding_table.weight"].shape[0])
        if rows < 2:
            raise bad(self.model_file, "rows of the class table", rows, "a class and the row of no class, at least")
        return rows - 1
