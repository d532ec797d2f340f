"""`compile_bundle`: the one entry, for all targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ...errors import RequestError, found_wanted
from ...runtime.bundle import open_bundle
from .drawing_ranges import drawing_ranges
from .profiles import Range, Ranges, default_tree
from .result import CompileResult
from .visual_ranges import visual_ranges

TARGETS = ("cpu", "tensorrt", "tensorrt-rtx")

_DEFAULT_CONTEXT = 2048


def compile_bundle(
    bundle: str | Path,
    target: str,
    *,
    sm: Sequence[int] = (),
    trt: str | None = None,
    plan: str | Path | None = None,
    out: str | Path | None = None,
    plugins: str | Path | None = None,
    context: int | None = None,
    chunk: int = 256,
    tree: Sequence[int] | None = None,
    batch: int = 1,
    dims: Mapping[str, Range] | None = None,
) -> CompileResult:
    """Compile ``bundle`` for ``target``: ``cpu``, ``tensorrt`` (on the machine with the GPU) or ``tensorrt-rtx`` (anywhere).

    ``sm``: compute capabilities of a tensorrt-rtx engine. ``trt``: the TensorRT version to write graphs for, e.g. ``10.3``;
    default: the installed one. ``plan``: write to this folder what a build on another machine needs, instead of building.
    ``out``: where results go, default the bundle's own ``compiled`` folder. ``plugins``: our TensorRT plugin library; without it
    operators run by their bodies. ``context``, ``chunk``, ``tree``, ``batch``, ``dims``: see `Ranges`.

    Raises RequestError, BundleError, MissingDependencyError (no device, no TensorRT).
    """
    if target not in TARGETS:
        raise RequestError(found_wanted("target", repr(target), f"one of {', '.join(TARGETS)}", "correct --target"))
    source = open_bundle(bundle, networks=True)
    root = Path(out) if out is not None else source.path / "compiled" / target
    if target == "cpu":
        if source.is_network or "image_codes" in source.manifest:
            raise RequestError(
                found_wanted(
                    f"method of {source.path}",
                    repr(source.manifest["method"]["id"]),
                    "one that decodes text, for --target cpu",
                    "run the bundle as it is; ONNX Runtime optimises it when it is opened",
                )
            )
        for name, given in (
            ("sm", sm),
            ("trt", trt),
            ("plan", plan),
            ("plugins", plugins),
            ("dim", dims),
            ("tree", tree),
        ):
            if given:
                raise RequestError(found_wanted(f"--{name}", given, "absent for --target cpu", "leave it out"))
        from .cpu import compile_cpu

        return compile_cpu(source, root)
    longest = int(source.manifest["model"].get("max_positions", _DEFAULT_CONTEXT))
    capacity = min(longest, _DEFAULT_CONTEXT) if context is None else context
    if capacity > longest:
        raise RequestError(
            found_wanted("context", capacity, f"at most {longest}", "choose a length the model was trained for")
        )
    buckets = tuple(tree) if tree is not None else default_tree(source.manifest["method"]["procedure"], capacity)
    own = {**visual_ranges(source.manifest, capacity), **drawing_ranges(source.manifest, batch)}
    extra = {**own, **(dims or {})}
    ranges = Ranges(capacity, min(chunk, capacity), buckets, batch, extra, source.is_network).checked()
    if target == "tensorrt-rtx":
        if plan is not None:
            raise RequestError(
                found_wanted(
                    "--plan", plan, "absent for --target tensorrt-rtx", "it builds on any machine; leave it out"
                )
            )
        if plugins is not None:
            raise RequestError(
                found_wanted("--plugins", plugins, "absent for --target tensorrt-rtx", "TensorRT-RTX takes no plugins")
            )
        from .rtx import compile_rtx

        return compile_rtx(source, root, ranges, sm, trt)
    if sm:
        raise RequestError(
            found_wanted(
                "--sm", list(sm), "absent for --target tensorrt", "it builds for the device it runs on; leave it out"
            )
        )
    from .tensorrt import compile_tensorrt, plan_tensorrt

    if plan is not None:
        return plan_tensorrt(source, Path(plan), ranges, trt, plugins)
    return compile_tensorrt(source, root, ranges, trt, plugins)
