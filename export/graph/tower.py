"""Writing the graph of a vision tower, whichever it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ...errors import RequestError, found_wanted
from ...models.qwen_vision import QwenVisionConfig
from ...models.vlm import Tower
from .clip import BeforeLast, write_clip
from .qwen_vision import write_qwen_vision
from .writer import GraphWriter, Progress, no_progress


def write_tower(
    graph: GraphWriter,
    tower: Tower,
    read: Callable[[str], np.ndarray],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    extend: BeforeLast | None = None,
    progress: Progress = no_progress,
) -> None:
    """pixels uint8 [T,H,W,3] -> features [T,N,dv]; saves the graph. See `clip.write_clip` and `qwen_vision.write_qwen_vision`.

    Raises RequestError for ``extend`` where there is no class token that it could ask.
    """
    if not isinstance(tower, QwenVisionConfig):
        write_clip(graph, tower, read, mean=mean, std=std, extend=extend, progress=progress)
        return
    if extend is not None:
        raise RequestError(
            found_wanted("vision tower", "Qwen2.5-VL's, without a class token", "CLIP's", "choose another method")
        )
    write_qwen_vision(graph, tower, read, mean=mean, std=std, progress=progress)
