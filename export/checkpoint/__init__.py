"""Checkpoints: one interface over Hugging Face folders and GGUF files.

    checkpoint = open_checkpoint("path/to/folder")        # or "model.gguf"
    checkpoint.config                                     # DecoderConfig
    checkpoint.tensor("layers.0.q.weight")                # numpy, read when asked for

A new format is a new `Checkpoint` subclass and a line in `open_checkpoint`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import CheckpointError, found_wanted
from ...models.config import DecoderConfig, Rope
from .base import Checkpoint
from .tokenizer import TokenizerFiles

if TYPE_CHECKING:
    from .vlm_folder import VlmFolder

__all__ = ["Checkpoint", "DecoderConfig", "Rope", "TokenizerFiles", "open_checkpoint", "open_vlm"]

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
"""Suffixes of weight files that are pickles: loading one runs code from the file, so they are never opened."""


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a Hugging Face folder (config.json + safetensors) or a GGUF file; check config and tensor shapes, read no weights.

    Raises CheckpointError naming the file and the field for anything damaged, incomplete, contradictory or unknown.
    """
    path = Path(path)
    if path.is_dir():
        from .huggingface import HuggingFaceCheckpoint

        return _checked(HuggingFaceCheckpoint, _with_config(path))
    if not path.exists():
        raise CheckpointError(
            found_wanted(f"checkpoint {path}", "missing", "a Hugging Face folder or a .gguf file", "check the path")
        )
    if path.suffix == ".gguf":
        from .gguf_checkpoint import GgufCheckpoint

        return _checked(GgufCheckpoint, path)
    if path.suffix in PICKLES:
        raise CheckpointError(pickle_refusal(path))
    raise CheckpointError(
        found_wanted(
            f"checkpoint {path}",
            f"a {path.suffix or 'suffixless'} file",
            "a Hugging Face folder or a .gguf file",
            "give the folder that holds config.json and the weights"
            if path.suffix == ".safetensors"
            else "check the path",
        )
    )


def open_vlm(path: str | Path) -> VlmFolder:
    """Open the Hugging Face folder of a vision-language model; checks as in `open_checkpoint`. Raises CheckpointError."""
    from .vlm_folder import VlmFolder

    path = Path(path)
    if not path.is_dir():
        raise CheckpointError(
            found_wanted(
                f"checkpoint {path}",
                "a file" if path.exists() else "missing",
                "the Hugging Face folder of a vision-language model",
                "give the folder that holds config.json",
            )
        )
    opened = _checked(VlmFolder, _with_config(path))
    assert isinstance(opened, VlmFolder)
    return opened


def pickle_refusal(path: Path) -> str:
    """Why a pickle is not opened, and what to do."""
    return found_wanted(
        f"checkpoint {path}",
        "a pickle, which can run code when loaded",
        "safetensors or GGUF",
        "convert it where you trust it: AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder)",
    )


def _checked(kind: type[Checkpoint], path: Path) -> Checkpoint:
    try:
        checkpoint = kind(path)
        checkpoint.check()
    except OSError as error:
        raise CheckpointError(
            found_wanted(
                f"checkpoint {path}", f"unreadable ({error})", "readable files", "check the path and its rights"
            )
        ) from error
    return checkpoint


def _with_config(folder: Path) -> Path:
    if (folder / "config.json").is_file():
        return folder
    ggufs = sorted(p.name for p in folder.glob("*.gguf"))
    fix = f"give the file itself, e.g. {folder / ggufs[0]}" if ggufs else "give the folder that holds config.json"
    raise CheckpointError(found_wanted(f"{folder / 'config.json'}", "missing", "the model's configuration", fix))
