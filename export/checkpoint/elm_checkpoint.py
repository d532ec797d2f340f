"""An ELM pair: the language model with m tables and heads, and the binary autoencoder (a file whose name begins with ``bae``).

m and c follow from the shapes, and m * c must be the autoencoder's bits. ``config.json``: {"heads": n, "grid": g}.
"""

from __future__ import annotations

from typing import Any

from ...models.bae import Bae
from ...models.elm import Elm, ElmConfig
from .image_files import bad, count, filled, need
from .image_folder import ImageFolder
from .vq_tensors import bae_config, bae_tensors


class ElmCheckpoint(ImageFolder):
    """Both models as torch modules, float32, every name and shape checked. Raises CheckpointError."""

    prefixes = ("bae", "binaryae")
    model: Elm
    tokenizer: Bae
    config: ElmConfig

    def load(self, tensors: dict[str, Any], tokenizer: dict[str, Any]) -> None:
        """Fill the modules. Raises CheckpointError."""
        if self.given.get("use_tanh", False) is not False:
            found = self.given["use_tanh"]
            raise bad(
                self.tokenizer_file, "use_tanh", found, "false: bits of -1 and 1 are not supported", "take another"
            )
        tokenizer = bae_tensors(tokenizer)
        self.bae_config = bae_config(self.tokenizer_file, tokenizer)
        single = "tok_embedder.weight" in tensors
        parts = 1 if single else count(tensors, "tok_embedder.")
        table, head = (
            ("tok_embedder.weight", "output.weight") if single else ("tok_embedder.0.weight", "output.0.weight")
        )
        sizes = self.sizes(tensors, table)
        need(self.model_file, tensors, (head,))
        codes = sizes["codes"]
        if codes < 2 or codes & codes - 1:
            raise bad(self.model_file, f"rows of {table}", codes, "a power of 2, the values of some bits")
        if tensors[head].shape[0] != codes:
            raise bad(self.model_file, f"rows of {head}", tensors[head].shape[0], f"{codes}, as its table has")
        self.config = ElmConfig(classes=self.classes(tensors), parts=parts, **sizes)
        if parts * self.config.bits != self.bae_config.bits:
            raise bad(
                self.tokenizer_file,
                "bits",
                self.bae_config.bits,
                f"{parts} x {self.config.bits}, as {self.model_file.name} predicts",
                "take both files from one release",
            )
        if self.bae_config.bits > 62:
            raise bad(self.tokenizer_file, "bits", self.bae_config.bits, "at most 62, which an int64 holds")
        self.model = filled(Elm(self.config), tensors, self.model_file)
        self.tokenizer = filled(Bae(self.bae_config), tokenizer, self.tokenizer_file)
