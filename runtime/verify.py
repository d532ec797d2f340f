"""Replaying the recorded vectors of a bundle: does it compute here what it computed where it was exported?

Needs numpy and onnxruntime only, so it runs on the device. The graph is run by its **bodies** (standard operators, what
any ONNX Runtime does) and by our **kernels**, where the native operator library is installed; with integer weights once more with
activations rounded to 8 bits, which is what the runtime does there.

Recorded ids are fed back whatever the graph chooses, so every step is compared and one different choice does not hide the rest.
A choice that differs where the two best logits were closer than the tolerance is a tie, not a failure: the order of floating-point
sums differs between machines.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..errors import BundleError, RequestError, found_wanted
from ..plugins import library_path
from .bundle import Bundle
from .code_walk import MadeText
from .stepper import Stepper
from .tensors import MTP_DRAFT_CHAIN
from .verify_calls import calls_failure
from .verify_codes import replay_codes
from .verify_drafts import draft_failure
from .verify_images import image_failure
from .verify_judge import judge_failure
from .weight_formats import check_onnxruntime_computes

TOLERANCE = 2e-4
"""Largest allowed difference of a logit, times the largest logit where that exceeds 1: machines differ in the order of sums only.
Measured on SmolLM2: 2e-6, for float32 and for int4 weights."""

ROUNDED_TOLERANCE = 0.1
"""The same where activations are rounded to 8 bits, as the runtime does before integer weights. Measured: 0.036."""

CODED_TOLERANCE = 0.05
"""The same over a cache of int8, by any engine: a number next to a tie between two codes may become either, which is a whole step. Measured on SmolLM2: 0.01."""

ROUNDED = "kernels-int8"
"""Name of the engine that rounds: our kernels with integer weights."""

PARTS = ("weights", "embedding", "head")
"""What the manifest gives a weight type of its own."""


@dataclass(frozen=True)
class Case:
    """A recorded prompt: ``logit_ids`` and ``logit_values`` [n] are of its last row, ``margins`` [steps] the gaps of the two best.

    ``drawn``: of an image, whose prompt is its condition; the ids are those of all draws, and the logits those of the last.
    """

    prompt_ids: list[int]
    greedy_ids: list[int]
    margins: list[float]
    logit_ids: np.ndarray
    logit_values: np.ndarray
    l2: float
    drawn: bool = False
    text: MadeText | None = None


@dataclass(frozen=True)
class CaseResult:
    """``error`` is the largest difference of a recorded logit, ``worst_id`` its token; ``different`` lists steps that chose another id."""

    error: float
    allowed: float
    worst_id: int
    l2_error: float
    l2_allowed: float
    ties: list[int]
    different: list[int]

    @property
    def ok(self) -> bool:
        """Whether all of it is within tolerance; a NaN never is."""
        return self.error <= self.allowed and self.l2_error <= self.l2_allowed and not self.different


@dataclass(frozen=True)
class EngineResult:
    """All cases on one engine, ``bodies``, ``kernels`` or ``kernels-int8``. ``steps`` counts compared choices.

    ``drafts`` says what is wrong with the drafts of an mtp bundle, the judge of a judge bundle, the images of a vision-language bundle, or
    the graphs beside the step of a bundle that draws; None where they hold or there are none.
    """

    engine: str
    cases: list[CaseResult]
    steps: int
    seconds: float
    drafts: str | None = None

    @property
    def ok(self) -> bool:
        """Whether every case holds, and every draft."""
        return self.drafts is None and all(case.ok for case in self.cases)

    def failure(self) -> str | None:
        """The house sentence about the first case that does not hold, or None."""
        for number, case in enumerate(self.cases):
            what, fix = f"by {self.engine}, case {number}", "see docs/verify.md for what may cause it"
            if not case.error <= case.allowed:
                return found_wanted(
                    f"difference of logit {case.worst_id} from the recorded one ({what})",
                    f"{case.error:.3g}",
                    f"at most {case.allowed:.3g}",
                    fix,
                )
            if not case.l2_error <= case.l2_allowed:
                return found_wanted(
                    f"difference of the logits' norm from the recorded one ({what})",
                    f"{case.l2_error:.3g}",
                    f"at most {case.l2_allowed:.3g}",
                    fix,
                )
            if case.different:
                return found_wanted(
                    f"greedy id of step {case.different[0]} ({what})",
                    "another one",
                    "the recorded one, which won clearly",
                    fix,
                )
        return None if self.drafts is None else f"by {self.engine}: {self.drafts}"

    def as_json(self) -> dict[str, Any]:
        """Plain data for ``farthing verify --json``."""
        worst = max(self.cases, key=lambda c: np.nan_to_num(c.error / c.allowed, nan=np.inf))
        different, ties = (sum(len(getattr(c, f)) for c in self.cases) for f in ("different", "ties"))
        return {
            "engine": self.engine,
            "ok": self.ok,
            "cases": len(self.cases),
            "max_error": worst.error if np.isfinite(worst.error) else None,
            "allowed": worst.allowed,
            "ids": {"equal": self.steps - different - ties, "ties": ties, "different": different},
            "failure": self.failure(),
            "seconds": round(self.seconds, 3),
        }


def read_cases(bundle: Bundle) -> list[Case]:
    """The recorded cases. Raises BundleError where the file is not what an exporter writes."""
    name = bundle.manifest["vectors"]
    try:
        recorded = _read_vectors(bundle)
        drawn = recorded.get("logits_of") == "last"
        return [_case(c, bundle.manifest["model"]["vocab_size"], drawn) for c in recorded["cases"]]
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise BundleError(
            found_wanted(
                f"{bundle.path / name}", f"unusable ({error!r})", "recorded vectors", "export the bundle again"
            )
        ) from error


def _read_vectors(bundle: Bundle) -> dict[str, Any]:
    return json.loads(bundle.text(bundle.manifest["vectors"]))  # type: ignore[no-any-return]


def _case(raw: dict[str, Any], vocab: int, drawn: bool) -> Case:
    logits = raw["logits"]
    case = Case(
        prompt_ids=[int(i) for i in raw["prompt_ids"]],
        greedy_ids=[int(i) for i in raw["greedy_ids"]],
        margins=[float(m) for m in raw["margins"]],
        logit_ids=np.array(logits["ids"], np.int64),
        logit_values=np.array(logits["values"], np.float32),
        l2=float(logits["l2"]),
        drawn=drawn,
        text=MadeText(**raw["text"]) if "text" in raw else None,
    )
    if not case.prompt_ids or not case.greedy_ids or len(case.margins) != len(case.greedy_ids):
        raise ValueError("a case without ids, or without a margin for each")
    if case.logit_ids.shape != case.logit_values.shape or not case.logit_ids.size:
        raise ValueError("logits without a value for each id")
    ids = [*case.prompt_ids, *case.greedy_ids, *case.logit_ids]
    if min(ids) < 0 or max(ids) >= vocab:
        raise ValueError(f"an id outside 0 to {vocab - 1}")
    return case


def session_options(bundle: Bundle, engine: str, threads: int = 1) -> Any:
    """Options for an engine: ``bodies``, ``kernels`` or ROUNDED.

    Float weights are neither folded nor packed, so that the data file stays mapped and nothing is copied. Integer weights are
    packed: they are small, and unpacked they would be widened at every step.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 3  # TensorScatter warns about every cache that is not bound in place
    if is_integer(bundle):
        # Level 1 computes in float32, 4 (which is also what nothing means) rounds activations to 8 bits.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "4" if engine == ROUNDED else "1")
    else:
        options.add_session_config_entry("session.disable_prepacking", "1")
    if engine != "bodies":
        options.register_custom_ops_library(str(library_path()))
    return options


def has_coded_cache(bundle: Bundle) -> bool:
    """Whether the bundle caches codes, with scales in its graph."""
    return bool(bundle.manifest.get("kv", {}).get("dtype", "float32") != "float32")


def is_integer(bundle: Bundle) -> bool:
    """Whether any matrix of the bundle is stored as integers."""
    return any(str(bundle.manifest["quantization"].get(part, "")).startswith("int") for part in PARTS)


def open_session(graph: str | bytes, options: Any) -> Any:
    """An InferenceSession on the CPU. Raises BundleError where onnxruntime refuses the graph."""
    import onnxruntime

    try:
        return onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"], disabled_optimizers=["ConstantFolding"]
        )
    except Exception as error:  # onnxruntime's exceptions have no common base
        what = f"graph {graph}" if isinstance(graph, str) else "graph"
        raise BundleError(
            found_wanted(what, f"refused by onnxruntime {onnxruntime.__version__} ({str(error)[:300]})", "loadable",
                         "update onnxruntime, or export the bundle again")
        ) from error  # fmt: skip


def verify_vectors(
    bundle: Bundle, *, tolerance: float | None = None, threads: int = 1
) -> tuple[list[EngineResult], list[str]]:
    """Replay the vectors on every engine there is: the results, and a sentence for each engine that was skipped.

    ``tolerance`` overrides TOLERANCE. A result that differs is returned, not raised; raises BundleError where the
    bundle cannot be run at all, RequestError for a tolerance that is no positive number and for weights that ONNX Runtime cannot use.
    """
    tolerance = TOLERANCE if tolerance is None else tolerance
    check_tolerance(tolerance)
    check_onnxruntime_computes(bundle)
    cases = read_cases(bundle)
    engines, skipped = ["bodies"], []
    if library_path() is None:
        skipped.append(
            "kernels: libfarthing_ops.so is not installed (portable mode); `farthing doctor` says how to get it"
        )
    else:
        engines += [ROUNDED if is_integer(bundle) else "kernels"]
    results = []
    for engine in engines:
        start = time.perf_counter()
        session = open_session(str(bundle.graph(bundle.step_graph)), session_options(bundle, engine, threads))
        # Kernels as the runtime calls them, a sequence at a time. Where every step widens all weights first, in one batch as they were
        # recorded: that costs the same as one sequence.
        alone = engine != "bodies"
        groups = [[c] for c in cases] if alone else _same_steps(cases)
        allowed = max(tolerance, CODED_TOLERANCE) if has_coded_cache(bundle) else tolerance
        allowed = max(allowed, ROUNDED_TOLERANCE) if engine == ROUNDED else allowed
        opened = partial(_open_named, bundle, engine, threads, {bundle.step_graph: session})
        checked = [result for group in groups for result in _replay(session, opened, bundle, group, allowed)]
        steps = sum(len(c.greedy_ids) for c in cases)
        drafts = None
        if "mtp" in bundle.manifest:
            chain = open_session(str(bundle.graph(MTP_DRAFT_CHAIN)), session_options(bundle, engine, threads))
            drafts = draft_failure(bundle, session, chain, allowed)
        elif "judge" in bundle.manifest:
            drafts = judge_failure(bundle, session, allowed)
        elif "vision" in bundle.manifest:
            drafts = image_failure(bundle, opened, allowed, rounded=engine == ROUNDED)
        elif "image_codes" in bundle.manifest:
            drafts = calls_failure(bundle, _read_vectors(bundle).get("calls", []), opened, allowed)
        results.append(EngineResult(engine, checked, steps, time.perf_counter() - start, drafts))
    return results, skipped


def _open_named(bundle: Bundle, engine: str, threads: int, there: dict[str, Any], name: str) -> Any:
    """The session of a graph: one that is there, or a new one, which is kept."""
    if name not in there:
        there[name] = open_session(str(bundle.graph(name)), session_options(bundle, engine, threads))
    return there[name]


def check_tolerance(tolerance: float) -> None:
    """Raises RequestError unless ``tolerance`` is a positive number."""
    if not (np.isfinite(tolerance) and tolerance > 0):
        raise RequestError(found_wanted("tolerance", tolerance, "a positive number", "correct --tolerance"))


def _same_steps(cases: Sequence[Case]) -> list[list[Case]]:
    groups: dict[int, list[Case]] = {}
    for case in cases:
        groups.setdefault(len(case.greedy_ids), []).append(case)
    return list(groups.values())


def _replay(
    session: Any, opened: Callable[[str], Any], bundle: Bundle, cases: list[Case], tolerance: float
) -> list[CaseResult]:
    """Prefill, then one row at a time. Shorter prompts are padded on the right. Images: in the order of their codes."""
    if cases[0].drawn:
        return _replay_images(opened, bundle, cases, tolerance)
    steps = len(cases[0].greedy_ids)
    lengths = np.array([len(c.prompt_ids) for c in cases], np.int64)
    ids = np.zeros((len(cases), int(lengths.max())), np.int64)
    for row, case in zip(ids, cases, strict=True):
        row[: len(case.prompt_ids)] = case.prompt_ids
    stepper = Stepper(session, bundle.manifest, len(cases), ids.shape[1] + steps)
    recorded = np.array([c.greedy_ids for c in cases], np.int64)
    first = stepper.step(ids, lengths)
    chosen = [first.argmax(-1)]
    for step in range(1, steps):
        chosen.append(stepper.step(recorded[:, step - 1 : step]).argmax(-1))
    found = np.stack(chosen, axis=1)
    return [_compare(case, first[i], found[i], tolerance) for i, case in enumerate(cases)]


def _replay_images(
    opened: Callable[[str], Any], bundle: Bundle, cases: list[Case], tolerance: float
) -> list[CaseResult]:
    """Images of classes in one batch; those of texts, which have lengths of their own, one by one."""
    batches = [[case] for case in cases] if cases[0].text else [cases]
    results = []
    for batch in batches:
        recorded = np.array([c.greedy_ids for c in batch], np.int64)
        classes = np.array([c.prompt_ids[0] for c in batch], np.int64)
        last, found = replay_codes(opened, bundle.manifest, batch[0].text or classes, recorded)
        results += [_compare(case, last[i], found[i], tolerance) for i, case in enumerate(batch)]
    return results


def _compare(case: Case, row: np.ndarray, chosen: np.ndarray, tolerance: float) -> CaseResult:
    """``row`` [V] are the logits of the last prompt row, ``chosen`` [steps] the ids that won."""
    errors = np.nan_to_num(np.abs(row[case.logit_ids] - case.logit_values), nan=np.inf)
    allowed = tolerance * max(1.0, float(np.abs(case.logit_values).max()))
    wrong = [step for step, (a, b) in enumerate(zip(chosen, case.greedy_ids, strict=True)) if a != b]
    # Both logits may move by the tolerance, towards each other.
    ties = [step for step in wrong if case.margins[step] <= 2 * allowed]
    l2 = float(np.linalg.norm(row.astype(np.float64)))
    return CaseResult(
        error=float(errors.max()),
        allowed=allowed,
        worst_id=int(case.logit_ids[errors.argmax()]),
        l2_error=float(np.nan_to_num(abs(l2 - case.l2), nan=np.inf)),
        l2_allowed=allowed * row.size**0.5,
        ties=ties,
        different=[step for step in wrong if step not in ties],
    )
