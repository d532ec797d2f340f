"""GAM checkpoints: a state_dict with the official names, as safetensors or as a torch file, alone or in a folder with a tokenizer.

There is no configuration file: all sizes follow from the shapes. A torch file is opened with ``weights_only``, which runs no code.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import CheckpointError, found_wanted
from ...models.gam import GamConfig
from ...runtime.bundle.read import sha256_of
from .safetensors_file import SafetensorsFile
from .tokenizer import TokenizerFiles, finish, parse

NAMES = ("model.safetensors", "gam.safetensors", "pytorch_model.bin", "model.pt", "gam.pt")
"""Weight files looked for in a folder, in this order."""

TORCH_SUFFIXES = (".pt", ".bin", ".pth")
BYTES = 256
"""Ids of a model that reads bytes: it gets a tokenizer of our own when it has none."""

_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")


class GamCheckpoint:
    """A GAM on disk, its shapes checked. ``config`` is read off the shapes; ``kind`` is ``pytorch`` or ``safetensors``."""

    def __init__(self, path: str | Path) -> None:
        """Read the names and shapes of ``path``, a file or a folder. Raises CheckpointError."""
        self.path = Path(path)
        self.file = _weight_file(self.path)
        self.name = (self.path if self.path.is_dir() else self.file).resolve().stem or "gam"
        try:
            self._tensors = _open(self.file)
        except OSError as error:
            raise CheckpointError(
                found_wanted(
                    f"{self.file}", f"unreadable ({error})", "a readable file", "check the path and its rights"
                )
            ) from error
        self.kind = "pytorch" if self.file.suffix in TORCH_SUFFIXES else "safetensors"
        self.config = self._config()
        self._check()

    def tensor(self, name: str) -> np.ndarray:
        """The tensor ``name`` as float32 or float16, every value finite. Raises CheckpointError."""
        array = self._tensors.read(name)
        with np.errstate(invalid="ignore"):
            bad = np.flatnonzero(~np.isfinite(array.reshape(-1)))
        if bad.size:
            raise CheckpointError(
                found_wanted(
                    f"tensor {self.file}: {name}",
                    f"not finite in {bad.size} of {array.size} values (first at index {bad[0]})",
                    "finite weights",
                    "fetch or train the checkpoint again",
                )
            )
        return array

    def tensors(self) -> dict[str, Any]:
        """All tensors of the model as torch float32, for the reference."""
        import torch

        return {
            name: torch.from_numpy(np.array(self.tensor(name), np.float32)) for name in expected_tensors(self.config)
        }

    def sha256(self) -> str:
        """Hex SHA-256 over the line ``<file name> <sha256>`` of the weight file."""
        return hashlib.sha256(f"{self.file.name} {sha256_of(self.file)}\n".encode()).hexdigest()

    def tokenizer(self) -> TokenizerFiles | None:
        """tokenizer.json beside the weights; for a vocabulary of 256 and no file, bytes; else None. Raises CheckpointError."""
        given = self.file.parent / "tokenizer.json"
        if given.is_file():
            text = given.read_text(encoding="utf-8")
            tokenizer = parse(text, str(given))
            ends = [tokenizer.token_to_id(token) for token in ("[EOS]", "</s>", "<|endoftext|>")]
            eos = tuple(token for token in ends if token is not None)
            return finish(text, tokenizer, source=str(given), model_vocab=self.config.vocab_size, bos_id=None,
                          eos_ids=eos, chat_template=None)  # fmt: skip
        if self.config.vocab_size == BYTES:
            return TokenizerFiles(byte_tokenizer(), BYTES, None, (), False)
        return None

    def _config(self) -> GamConfig:
        found = set(self._tensors.names())
        blocks = {int(m[1]) for name in found if (m := _BLOCK.fullmatch(name))}
        first = ("token_embedding.weight", "pos_embedding.weight", "blocks.0.memory_bank", "blocks.0.causal_conv.weight",
                 "blocks.0.ffn.0.weight")  # fmt: skip
        if missing := [name for name in first if name not in found]:
            raise self._bad("list of tensors", f"without {', '.join(missing)}", "the names of the official class")
        if blocks != set(range(len(blocks))):
            raise self._bad("list of tensors", f"blocks {sorted(blocks)[:8]}", "blocks 0, 1, ... without a gap")
        ranks = {"blocks.0.causal_conv.weight": 3}
        for name in first:
            shape = self._tensors.shape(name)
            if len(shape) != ranks.get(name, 2) or 0 in shape:
                raise self._bad(f"shape of tensor {name}", list(shape), f"{ranks.get(name, 2)} dimensions above 0")
        conv = self._tensors.shape("blocks.0.causal_conv.weight")
        if conv[1] != 1:
            raise self._bad(
                "shape of tensor blocks.0.causal_conv.weight", list(conv), "[C,1,k]: a depthwise convolution"
            )
        if conv[2] < 2:
            raise self._bad("kernel size", conv[2], "2 or more: a convolution of one tap has no state to decode with")
        vocab, width = self._tensors.shape("token_embedding.weight")
        return GamConfig(
            vocab_size=vocab,
            hidden_size=width,
            intermediate_size=self._tensors.shape("blocks.0.ffn.0.weight")[0],
            layers=len(blocks),
            slots=self._tensors.shape("blocks.0.memory_bank")[0],
            kernel_size=conv[2],
            max_positions=self._tensors.shape("pos_embedding.weight")[0],
        )

    def _check(self) -> None:
        wanted, found = expected_tensors(self.config), set(self._tensors.names())
        if missing := [n for n in wanted if n not in found]:
            raise self._bad(
                "list of tensors", f"missing {', '.join(missing[:6])}", "every tensor of the official class"
            )
        if unexpected := sorted(found - set(wanted) - {"head.weight"}):
            raise self._bad(
                "list of tensors", f"unexpected {', '.join(unexpected[:6])}", "only tensors of the official class"
            )
        for name, shape in wanted.items():
            if self._tensors.shape(name) != shape:
                raise self._bad(
                    f"shape of tensor {name}", list(self._tensors.shape(name)), f"{list(shape)}, as in block 0"
                )
        # The head is the embedding; a copy that differs was trained by another class.
        if "head.weight" in found and not np.array_equal(
            self._tensors.read("head.weight"), self._tensors.read("token_embedding.weight")
        ):
            raise self._bad(
                "tensor head.weight", "another matrix", "equal to token_embedding.weight, to which it is tied"
            )

    def _bad(self, what: str, found: object, wanted: object) -> CheckpointError:
        return CheckpointError(
            found_wanted(
                f"{what} of {self.file}", found, wanted, "give a checkpoint of the official GAM class, or of ours"
            )
        )


def expected_tensors(config: GamConfig) -> dict[str, tuple[int, ...]]:
    """Official names and shapes of a model's tensors, the tied head left out."""
    c, f = config.hidden_size, config.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {
        "token_embedding.weight": (config.vocab_size, c),
        "pos_embedding.weight": (config.max_positions, c),
    }
    for i in range(config.layers):
        block: dict[str, tuple[int, ...]] = {
            "memory_bank": (config.slots, c),
            "causal_conv.weight": (c, 1, config.kernel_size),
            "causal_conv.bias": (c,),
            "gate.weight": (2 * c, c),
            "gate.bias": (2 * c,),
            "ffn.0.weight": (f, c),
            "ffn.0.bias": (f,),
            "ffn.2.weight": (c, f),
            "ffn.2.bias": (c,),
            **{f"{norm}.{kind}": (c,) for norm in ("ln1", "ln2") for kind in ("weight", "bias")},
        }
        shapes |= {f"blocks.{i}.{name}": shape for name, shape in block.items()}
    return shapes | {"ln_f.weight": (c,), "ln_f.bias": (c,)}


def byte_tokenizer() -> str:
    """A tokenizer.json in which the id of a byte is its value: byte-level BPE (Radford et al. 2019) without a merge."""
    visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters, following = {b: chr(b) for b in visible}, 0
    for byte in range(BYTES):
        if byte not in letters:
            letters[byte] = chr(BYTES + following)
            following += 1
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    document: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": None,
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {letters[byte]: byte for byte in range(BYTES)},
            "merges": [],
        },
    }
    return json.dumps(document, ensure_ascii=False)


class _TorchFile:
    """The tensors of a torch file, with the face of SafetensorsFile."""

    def __init__(self, path: Path) -> None:
        import torch

        try:
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # torch raises many classes here
            raise CheckpointError(
                found_wanted(
                    f"{path}",
                    f"not loadable as weights only ({str(error).splitlines()[0][:200]})",
                    "a state_dict saved by torch.save",
                    "save model.state_dict(), not the model; or use safetensors",
                )
            ) from error
        if not isinstance(loaded, dict) or not all(
            isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in loaded.items()
        ):
            raise CheckpointError(
                found_wanted(f"{path}", "no state_dict", "names and tensors only", "save model.state_dict() alone")
            )
        self._tensors = loaded

    def names(self) -> list[str]:
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)

    def read(self, name: str) -> np.ndarray:
        import torch

        tensor = self._tensors[name].detach()
        if not tensor.is_floating_point():
            raise CheckpointError(
                found_wanted(f"dtype of tensor {name}", tensor.dtype, "a float type", "convert the weights")
            )
        return (tensor if tensor.dtype == torch.float16 else tensor.float()).numpy()


def _open(path: Path) -> SafetensorsFile | _TorchFile:
    return _TorchFile(path) if path.suffix in TORCH_SUFFIXES else SafetensorsFile(path)


def _weight_file(path: Path) -> Path:
    if path.is_dir():
        for name in NAMES:
            if (path / name).is_file():
                return path / name
        raise CheckpointError(
            found_wanted(f"weights in {path}", "missing", f"one of {', '.join(NAMES)}", "give the file itself")
        )
    if not path.is_file():
        raise CheckpointError(
            found_wanted(f"checkpoint {path}", "missing", "a GAM state_dict or a folder with one", "check the path")
        )
    if path.suffix not in (".safetensors", *TORCH_SUFFIXES):
        raise CheckpointError(
            found_wanted(
                f"checkpoint {path}",
                f"a {path.suffix or 'suffixless'} file",
                f".safetensors or {', '.join(TORCH_SUFFIXES)}",
                "convert the state_dict to one of these",
            )
        )
    return path
