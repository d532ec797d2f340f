"""A LlamaGen pair: a folder with the autoregressive model and the image tokenizer (a file whose name begins with ``vq``).

Released ``.pt`` files or safetensors, opened weights-only. Sizes follow from shapes; ``config.json`` ({"heads": n, "grid": g}) says
what shapes do not, and without it heads are 64 wide and the grid is that of a released file name (``_256``: 16, ``_384``: 24).
"""

from __future__ import annotations

from typing import Any

from ...errors import CheckpointError, found_wanted
from ...models.llamagen import LlamaGen, LlamaGenConfig
from ...models.nar import Nar
from ...models.text_llamagen import TextLlamaGen, TextLlamaGenConfig
from ...models.vq import Vq
from .image_files import bad, filled, need
from .image_folder import ImageFolder
from .vq_tensors import vq_config

NAR_HEAD = "medusa_output.weight"
"""The head for the code below: what makes a file one of NAR."""

TEXT, UNCONDITIONAL = "cls_embedding.cap_proj.fc1.weight", "cls_embedding.uncond_embedding"
"""What makes a file one of a text-conditional model, and the rows that stand for no text."""


class VqFolder(ImageFolder):
    """A folder whose tokenizer is a VQ."""

    tokenizer: Vq

    @property
    def vq(self) -> Vq:
        """The image tokenizer."""
        return self.tokenizer

    def load(self, tensors: dict[str, Any], tokenizer: dict[str, Any]) -> None:
        """Fill the modules. Raises CheckpointError."""
        self.vq_config = vq_config(self.tokenizer_file, tokenizer)
        self.build(tensors)
        if self.config.codes != self.vq_config.codes:
            raise CheckpointError(
                found_wanted(
                    f"codebook of {self.tokenizer_file}",
                    f"{self.vq_config.codes} codes",
                    f"{self.config.codes}, as the head of {self.model_file.name} has",
                    "take both files from one release",
                )
            )
        self.tokenizer = filled(Vq(self.vq_config), tokenizer, self.tokenizer_file)

    def build(self, tensors: dict[str, Any]) -> None:
        """Fill ``config`` and ``model``. Raises CheckpointError."""
        raise NotImplementedError

    def same_rows(self, tensors: dict[str, Any], head: str, codes: int) -> None:
        """Raise CheckpointError unless the tensor ``head`` has ``codes`` rows."""
        need(self.model_file, tensors, (head,))
        if tensors[head].shape[0] != codes:
            raise bad(self.model_file, f"rows of {head}", tensors[head].shape[0], f"{codes} codes")


class LlamaGenCheckpoint(VqFolder):
    """Both models as torch modules, float32, every name and shape checked. Raises CheckpointError."""

    model: LlamaGen | TextLlamaGen
    config: LlamaGenConfig

    @property
    def text(self) -> TextLlamaGen | None:
        """The model, if a text is its condition."""
        return self.model if isinstance(self.model, TextLlamaGen) else None

    def build(self, tensors: dict[str, Any]) -> None:
        """Fill ``config`` and ``model``. Raises CheckpointError."""
        if NAR_HEAD in tensors:
            raise bad(
                self.model_file, "list of tensors", f"one with {NAR_HEAD}", "that of LlamaGen", "export it as nar"
            )
        sizes = self.sizes(tensors, "tok_embeddings.weight")
        self.same_rows(tensors, "output.weight", sizes["codes"])
        if TEXT in tensors:
            need(self.model_file, tensors, (UNCONDITIONAL,))
            rows, width = tensors[UNCONDITIONAL].shape
            self.config = TextLlamaGenConfig(classes=0, text_tokens=rows, text_width=width, **sizes)
            self.model = filled(TextLlamaGen(self.config), tensors, self.model_file)
            return
        self.config = LlamaGenConfig(classes=self.classes(tensors), **sizes)
        self.model = filled(LlamaGen(self.config), tensors, self.model_file)


class NarCheckpoint(VqFolder):
    """A NAR pair: LlamaGen's names, one block more, and the second head's. Raises CheckpointError."""

    model: Nar
    config: LlamaGenConfig

    def build(self, tensors: dict[str, Any]) -> None:
        """Fill ``config`` and ``model``. Raises CheckpointError."""
        if NAR_HEAD not in tensors:
            raise bad(
                self.model_file,
                "list of tensors",
                f"without {NAR_HEAD}, so it is not NAR",
                "one with the head for the code below",
                "a raster model is exported as llamagen",
            )
        sizes = self.sizes(tensors, "tok_embeddings.weight")
        for head in ("output.weight", NAR_HEAD):
            self.same_rows(tensors, head, sizes["codes"])
        sizes["layers"] -= 1  # the last one feeds the second head only
        if sizes["layers"] < 1:
            raise bad(self.model_file, "layers", 1, "2 or more: the last one is the second head's")
        self.config = LlamaGenConfig(classes=self.classes(tensors), **sizes)
        self.model = filled(Nar(self.config), tensors, self.model_file)
