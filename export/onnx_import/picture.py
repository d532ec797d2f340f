"""What picture an imported network sees: its size and normalisation, from the graph and from the files that lie beside it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

from ...errors import CheckpointError, RequestError, found_wanted
from ..graph.writer import TensorInfo
from .read import Source

SIZE = 224
"""Height and width where neither the graph nor a file beside it says any: what ImageNet's networks are trained with."""

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, of RGB from 0 to 1."""


def settle_picture(
    found: Source, mean: tuple[float, float, float] | None, std: tuple[float, float, float] | None
) -> tuple[Source, dict[str, Any] | None]:
    """(``found`` with the sizes of its picture put into the graph's input, the manifest's entry); as it is and None for other networks.

    Exporters leave channels, height and width of a picture open even where the weights allow one size only. Channels follow from the
    convolution that reads the picture. Height and width are those of ``image_size`` in config.json, or ``crop_size`` or ``size`` in
    preprocessor_config.json; where no file says any, they stay open, and pictures are made SIZE. ``image_mean`` and ``image_std`` are taken
    from the latter file unless given. Raises CheckpointError (files that are not JSON), RequestError (pictures scaled otherwise than by 1/255).
    """
    picture = found.inputs[0]
    if len(found.inputs) != 1 or picture.dtype != "float32" or len(picture.shape) != 4:
        return found, None
    channels = picture.shape[1] if isinstance(picture.shape[1], int) else _channels(found.model, picture.name)
    if channels != 3:
        return found, None
    config, processor = (_beside(found, name) for name in ("config.json", "preprocessor_config.json"))
    said = _size(config.get("image_size")) or _size(processor.get("crop_size")) or _size(processor.get("size"))
    sides = [d if isinstance(d, int) else said[axis] if said else d for axis, d in enumerate(picture.shape[2:])]
    settled = replace(picture, shape=(picture.shape[0], channels, *sides))
    _write(found.model, settled)
    image = {
        "height": sides[0] if isinstance(sides[0], int) else SIZE,
        "width": sides[1] if isinstance(sides[1], int) else SIZE,
        "mean": list(mean or _normal(processor, "image_mean") or MEAN),
        "std": list(std or _normal(processor, "image_std") or STD),
    }
    return replace(found, inputs=[settled]), image


def _channels(model: onnx.ModelProto, picture: str) -> int | None:
    """Channels that the first convolution of ``picture`` reads."""
    shapes = {t.name: list(t.dims) for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Conv" and node.input[0] == picture and len(shapes.get(node.input[1], [])) == 4:
            groups = next((a.i for a in node.attribute if a.name == "group"), 1)
            return int(shapes[node.input[1]][1]) * groups
    return None


def _beside(found: Source, name: str) -> dict[str, Any]:
    path = Path(found.folder) / name
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(found_wanted(f"{path}", f"no JSON ({error})", "a JSON object", "remove it")) from error
    if not isinstance(content, dict):
        raise CheckpointError(found_wanted(f"{path}", type(content).__name__, "a JSON object", "remove it"))
    return content


def _size(value: Any) -> tuple[int, int] | None:
    """(height, width) of 224, [224, 224], {"height": 224, "width": 224} or {"shortest_edge": 224}."""
    if isinstance(value, dict):
        value = [value["height"], value["width"]] if {"height", "width"} <= set(value) else value.get("shortest_edge")
    sides = value if isinstance(value, list) else [value, value]
    if len(sides) == 2 and all(isinstance(s, int) and not isinstance(s, bool) and s > 0 for s in sides):
        return sides[0], sides[1]
    return None


def _normal(processor: dict[str, Any], name: str) -> list[float] | None:
    """Three numbers of the file, where it normalises pictures from 0 to 1 by them."""
    value = processor.get(name)
    if processor.get("do_normalize") is False:
        return [0.0] * 3 if name == "image_mean" else [1.0] * 3
    if value is None:
        return None
    numbers = isinstance(value, list) and len(value) == 3 and all(isinstance(v, (int, float)) for v in value)
    if not numbers or (name == "image_std" and min(value) <= 0):
        raise CheckpointError(
            found_wanted(
                f"{name} of preprocessor_config.json",
                value,
                "three numbers, of image_std above 0",
                "give --mean and --std",
            )
        )
    factor = processor.get("rescale_factor", 1 / 255) if processor.get("do_rescale", True) else 1.0
    if abs(factor * 255 - 1) > 1e-3:
        raise RequestError(
            found_wanted(
                "pictures of preprocessor_config.json", f"scaled by {factor}", "1/255", "give --mean and --std yourself"
            )
        )
    return [float(v) for v in value]


def _write(model: onnx.ModelProto, picture: TensorInfo) -> None:
    for entry in model.graph.input:
        if entry.name == picture.name:
            for dimension, size in zip(entry.type.tensor_type.shape.dim, picture.shape, strict=True):
                if isinstance(size, int):
                    dimension.dim_value = size
