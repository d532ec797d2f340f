"""A network with some weights replaced, in memory: rounded weights as the float32 numbers they stand for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from ...runtime.network_tensors import ATTENTION_MASK, SENTENCE_EMBEDDING


def open_in_memory(model: onnx.ModelProto, folder: Path) -> onnxruntime.InferenceSession:
    """A session on one thread; tensors outside ``model`` lie in ``folder``."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder.resolve()))
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def replaced(model: onnx.ModelProto, arrays: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """A copy of ``model`` with the initializers named in ``arrays`` holding those."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.name in arrays:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(arrays[tensor.name], np.float32), tensor.name))
    return copy


def results(session: onnxruntime.InferenceSession, feeds: Iterable[dict[str, np.ndarray]]) -> list[np.ndarray]:
    """What counts of each item: the sentence's vector, or the mean of its tokens' where there is none; else the first output."""
    names = [o.name for o in session.get_outputs()]
    name = SENTENCE_EMBEDDING if SENTENCE_EMBEDDING in names else names[0]
    found = []
    for feed in feeds:
        array = session.run([name], feed)[0]
        if name != SENTENCE_EMBEDDING and array.ndim == 3 and ATTENTION_MASK in feed:
            array = array.mean(1)
        found.append(np.asarray(array[0]))
    return found
