"""Recipe of method ``vision``: EfficientNet-Lite0 from its PyTorch state_dict, normalisation folded into the convolutions. Exact.

Other vision models come as ONNX files: ``farthing import``.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CheckpointError, RequestError, VerificationError, found_wanted
from ..models.efficientnet import EPSILON, MEAN, SIZE, STD, blocks, expected_tensors, forward, same_padding
from ..runtime.bundle import BundleWriter
from ..runtime.bundle.read import sha256_of
from ..runtime.network import open_session, run_session
from ..runtime.network_tensors import NETWORK
from .graph import GraphWriter, Progress, no_progress
from .graph.writer import TensorInfo
from .onnx_import.build import network_manifest, record
from .recipe_types import ExportResult, Recipe

if TYPE_CHECKING:
    import torch

ALLOWED = 1e-3
"""Largest difference of a logit from PyTorch, for made-up images. Logits reach 10."""


def export_vision(
    checkpoint: str | Path,
    out: str | Path,
    *,
    dtype: str = "float32",
    check: bool = True,
    progress: Progress = no_progress,
) -> ExportResult:
    """Export the EfficientNet-Lite0 in file ``checkpoint`` (.pth, opened with ``weights_only``, which runs no code) to the bundle ``out``.

    image float32 [N,3,224,224] -> logits [N,classes]. ``check`` compares with PyTorch, where normalisation is not folded.
    Raises CheckpointError, RequestError, VerificationError, BundleError; nothing is left at ``out``.
    """
    if dtype != "float32":
        raise RequestError(found_wanted("dtype", repr(dtype), "float32", "`farthing quantize` makes it smaller"))
    start = time.perf_counter()
    writer = BundleWriter(out)
    file = Path(checkpoint)
    tensors = _load(file)
    classes = tensors["_fc.bias"].shape[0] if "_fc.bias" in tensors and tensors["_fc.bias"].ndim == 1 else 1000
    for name, shape in expected_tensors(classes).items():
        found = list(tensors[name].shape) if name in tensors else "missing"
        if found != list(shape):
            raise CheckpointError(
                found_wanted(
                    f"shape of {name} of {file}",
                    found,
                    list(shape),
                    "choose an EfficientNet-Lite0; import others as ONNX",
                )
            )
    arrays = {name: tensors[name].float().numpy() for name in expected_tensors(classes)}
    with writer:
        (writer.path / "graphs").mkdir()
        with GraphWriter(writer.path / "graphs", NETWORK) as graph:
            graph.inputs = [TensorInfo("image", "float32", ("N", 3, SIZE, SIZE))]
            graph.outputs = [TensorInfo("logits", "float32", ("N", classes))]
            graph.constant("zero", np.array(0, np.float32))
            graph.constant("six", np.array(6, np.float32))
            x, size = "image", SIZE
            for block in blocks():
                before = x
                for c in block.convolutions:
                    factor = arrays[f"{c.norm}.weight"] / np.sqrt(arrays[f"{c.norm}.running_var"] + np.float32(EPSILON))
                    weight = arrays[f"{c.conv}.weight"] * factor[:, None, None, None]
                    bias = arrays[f"{c.norm}.bias"] - arrays[f"{c.norm}.running_mean"] * factor
                    graph.weight(f"{c.conv}.weight", c.weight_shape, "float32", [weight])
                    graph.weight(f"{c.conv}.bias", (c.outputs,), "float32", [bias])
                    low, high = same_padding(size, c.kernel, c.stride)
                    graph.node(
                        "Conv",
                        [x, f"{c.conv}.weight", f"{c.conv}.bias"],
                        [c.conv],
                        group=c.groups,
                        kernel_shape=[c.kernel] * 2,
                        pads=[low, low, high, high],
                        strides=[c.stride] * 2,
                    )
                    x, size = c.conv, -(-size // c.stride)
                    if c.relu:
                        graph.node("Clip", [x, "zero", "six"], [f"{x}.relu6"])
                        x = f"{x}.relu6"
                if block.residual:
                    graph.node("Add", [x, before], [f"{x}.sum"])
                    x = f"{x}.sum"
            graph.node("GlobalAveragePool", [x], ["pooled"])
            graph.node("Flatten", ["pooled"], ["features"])
            for part in ("weight", "bias"):
                graph.weight(f"_fc.{part}", arrays[f"_fc.{part}"].shape, "float32", [arrays[f"_fc.{part}"]])
            graph.node("Gemm", ["features", "_fc.weight", "_fc.bias"], ["logits"], transB=1)
            graph.save()
        fed = record(graph.path, graph.inputs, 1, writer.path / "vectors" / f"{NETWORK}.json")
        progress("recording", 1, 1)
        report = _check(tensors, graph.path, fed) if check else None
        parameters = sum(a.size for n, a in arrays.items() if "running" not in n)
        model = {
            "family": "efficientnet-lite0",
            "parameters": parameters,
            "image": {"height": SIZE, "width": SIZE, "mean": [MEAN] * 3, "std": [STD] * 3},
        }
        digest = hashlib.sha256(f"{file.name} {sha256_of(file)}\n".encode()).hexdigest()
        path = writer.commit(
            network_manifest(
                name=file.stem,
                method=RECIPE.method,
                model=model,
                data=graph.data_files,
                inputs=graph.inputs,
                outputs=graph.outputs,
                tokenizer=None,
                checkpoint={"kind": "pytorch", "name": file.name, "sha256": digest},
            )
        )
    return ExportResult(
        path=path,
        method=RECIPE.method,
        parameters=parameters,
        bytes=sum(p.stat().st_size for p in path.rglob("*") if p.is_file()),
        nodes=graph.node_count,
        nodes_per_layer=graph.count_nodes("_blocks.1."),
        seconds=round(time.perf_counter() - start, 3),
        check=report,
    )


def _load(file: Path) -> dict[str, torch.Tensor]:
    import torch

    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # its reader raises a dozen kinds
        raise CheckpointError(
            found_wanted(f"{file}", f"not readable ({str(error)[:120]})", "a state_dict of tensors", "fetch it again")
        ) from error
    if not isinstance(loaded, dict) or not all(isinstance(v, torch.Tensor) for v in loaded.values()):
        raise CheckpointError(
            found_wanted(
                f"content of {file}", type(loaded).__name__, "a state_dict of tensors", "save model.state_dict()"
            )
        )
    return loaded


def _check(tensors: dict[str, torch.Tensor], graph: Path, fed: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    import torch

    session, worst, rows = open_session(graph), 0.0, 0
    for feeds in fed:
        with torch.no_grad():
            wanted = forward(lambda n: tensors[n].float(), torch.from_numpy(feeds["image"])).numpy()
        error = np.abs(run_session(session, feeds)["logits"] - wanted).max()
        worst, rows = max(worst, float(np.nan_to_num(error, nan=np.inf))), rows + len(wanted)
    if not worst <= ALLOWED:
        raise VerificationError(
            found_wanted(
                "largest difference from PyTorch", f"{worst:.3g}", f"at most {ALLOWED}", "report it with the file"
            )
        )
    return {"max_abs": worst, "allowed": ALLOWED, "rows": rows}


RECIPE = Recipe(
    method="vision",
    title="EfficientNet-Lite0 (other vision models: farthing import)",
    dtypes=("float32",),
    export=export_vision,
)
