"""From two checkpoints and a file of prompts to a judge's file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...errors import RequestError, found_wanted
from ...export.checkpoint import Checkpoint, TokenizerFiles, open_checkpoint
from ...export.checkpoint.judge_file import save_judge
from ...models.judge import StatesDecoder
from .answers import Same, answer_rule
from .mine import mine
from .train import Fitted, fit


@dataclass(frozen=True)
class JudgeResult:
    """What `train_judge` wrote, and what it measured on prompts the judge was not trained on."""

    path: Path
    prompts: int
    mismatches: int
    important: float
    """Share of the mismatches that changed the answer."""
    auc: float
    delta: float
    false_accepts: float
    accepts: float
    strength: float
    cpu_seconds: float

    def as_json(self) -> dict[str, Any]:
        """The fields as plain data."""
        return {**asdict(self), "path": str(self.path)}


def train_judge(
    target: str | Path,
    draft: str | Path,
    prompts: str | Path | Sequence[Sequence[int]],
    out: str | Path,
    *,
    answer: str | None = None,
    same: Same | None = None,
    stop_ids: Collection[int] = (),
    new_tokens: int = 256,
    false_accept_rate: float = 0.05,
    batch: int = 16,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> JudgeResult:
    """Mine, fit, calibrate, and write the judge of ``target`` for drafts by ``draft`` to ``out``.

    ``prompts`` are lists of ids or a .jsonl file (`read_prompts`). ``answer`` is the pattern of `answer_rule`; or ``same`` is a checker of
    one's own. ``stop_ids`` end a text beside the tokenizer's own. Raises RequestError (different tokenizers, too few mismatches), CheckpointError.
    """
    began = time.process_time()
    if (answer is None) == (same is None):
        raise RequestError(
            found_wanted(
                "answer checker",
                "missing" if same is None else "given twice",
                "a pattern or a function",
                "give --answer",
            )
        )
    sources = [open_checkpoint(target), open_checkpoint(draft)]
    check_same_tokens(*sources)
    tokenizer = sources[0].tokenizer()
    texts = read_prompts(Path(prompts), tokenizer) if isinstance(prompts, (str, Path)) else [list(p) for p in prompts]
    for i, text in enumerate(texts):
        bad = [t for t in text if not 0 <= t < sources[0].config.vocab_size]
        if bad or not text:
            raise RequestError(
                found_wanted(
                    f"prompt {i}", f"id {bad[0]}" if bad else "empty", "ids of the vocabulary", "correct the prompts"
                )
            )
    rule = same or answer_rule(answer or "", _text_of(tokenizer))
    stop = {*stop_ids, *(tokenizer.eos_ids if tokenizer else ())}
    found = mine(
        StatesDecoder(sources[0]),
        StatesDecoder(sources[1]),
        texts,
        same=rule,
        new_tokens=new_tokens,
        stop_ids=stop,
        batch=batch,
        progress=progress,
    )
    fitted: Fitted = fit(found, false_accept_rate=false_accept_rate, seed=seed)
    path = Path(out)
    save_judge(path, fitted.judge, sources[0])
    return JudgeResult(
        path,
        len(texts),
        len(found),
        round(fitted.important, 4),
        round(fitted.auc, 4),
        fitted.judge.delta,
        round(fitted.false_accepts, 4),
        round(fitted.accepts, 4),
        fitted.strength,
        round(time.process_time() - began, 1),
    )


def check_same_tokens(target: Checkpoint, draft: Checkpoint) -> None:
    """Raise RequestError unless an id is the same word for both."""
    tables: list[tuple[Any, Any]] = []
    for source in (target, draft):
        files = source.tokenizer()
        if files is None:
            tables.append((source.config.vocab_size, None))
        else:
            content = json.loads(files.json)
            added = sorted((t["id"], t["content"]) for t in content.get("added_tokens") or [])
            tables.append((content["model"].get("vocab"), added))
    if tables[0] != tables[1]:
        raise RequestError(
            found_wanted(
                f"vocabulary of the draft {draft.name}",
                f"another than that of {target.name}",
                "the same words with the same ids",
                "use two models of one family",
            )
        )


def read_prompts(path: Path, tokenizer: TokenizerFiles | None) -> list[list[int]]:
    """Ids of a .jsonl file: {"ids": [...]} or {"prompt": "..."} a line. Raises RequestError naming the line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(
            found_wanted(f"prompts {path}", f"unreadable ({error})", "a .jsonl file", "check the path")
        ) from error
    encode = None
    if tokenizer is not None:
        from tokenizers import Tokenizer

        encode = Tokenizer.from_str(tokenizer.json)
    found: list[list[int]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            if "ids" in value:
                ids = [int(i) for i in value["ids"]]
            else:
                if encode is None or tokenizer is None:
                    raise KeyError("ids, since the checkpoint has no tokenizer")
                bos = [tokenizer.bos_id] if tokenizer.add_bos and tokenizer.bos_id is not None else []
                ids = [*bos, *encode.encode(value["prompt"], add_special_tokens=False).ids]
        except (ValueError, TypeError, KeyError) as error:
            raise RequestError(
                found_wanted(
                    f"line {number} of {path}",
                    f"unfit ({error})",
                    '{"prompt": "..."} or {"ids": [...]}',
                    "correct the line",
                )
            ) from error
        found.append(ids)
    return found


def _text_of(tokenizer: TokenizerFiles | None) -> Callable[[list[int]], str]:
    if tokenizer is None:
        return lambda ids: " ".join(map(str, ids))
    from tokenizers import Tokenizer

    model = Tokenizer.from_str(tokenizer.json)
    return lambda ids: str(model.decode(ids))
