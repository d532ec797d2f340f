"""Pictures with questions -> rows on their way through the reference of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import CheckpointError, RequestError, found_wanted
from ...models.clip import ClipConfig
from ...runtime.chat_template import ChatTemplate
from ...runtime.visual.encoder import Rows
from ...runtime.visual.images import as_rgb
from ...runtime.visual.prepare import prepare
from ...runtime.visual.prompt import user_message
from ...runtime.visual.questions import Item, read_data
from ...runtime.visual.spec import Route
from ..checkpoint.vlm_folder import VlmFolder
from .preprocess import preprocess_entry

if TYPE_CHECKING:
    from ...models.decoder import Decoder
    from ...models.vlm_reference import Prompt

QUESTION = "Describe the image."
"""What a picture is asked where there are no questions."""

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


@dataclass(frozen=True)
class Sample:
    """A prompt with an image. ``judged``: its last rows, whose next tokens are the answer's; 1 without an answer."""

    item: Item
    ids: list[int]
    judged: int


def read_samples(
    model: VlmFolder, images: str | Path, questions: str | Path | None, count: int, seed: int = 0
) -> list[Sample]:
    """At most ``count`` samples, drawn with ``seed``. Without ``questions`` every picture in the folder is asked `QUESTION`.

    Raises RequestError, and CheckpointError for a model without a tokenizer.
    """
    if questions is not None:
        items = list(read_data(images, questions, items=count, seed=seed).items)
    else:
        folder = Path(images)
        if not folder.is_dir():
            raise RequestError(
                found_wanted(f"--images {folder}", "no folder", "a folder of pictures", "check the path")
            )
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURES)
        chosen = np.sort(np.random.default_rng(seed).permutation(len(files))[:count])
        items = [Item(n + 1, files[n], QUESTION, ()) for n in chosen.tolist()]
        if not items:
            raise RequestError(found_wanted(f"--images {folder}", "without pictures", "one or more", "check the path"))
    return [_sample(_Words(model), item) for item in items]


class _Words:
    """Text to ids, as a bundle of this model would do it."""

    def __init__(self, model: VlmFolder) -> None:
        from tokenizers import Tokenizer

        files = model.tokenizer()
        if files is None:
            raise CheckpointError(
                found_wanted(f"tokenizer of {model.path}", "missing", "one, to ask questions", "fetch it too")
            )
        self._files, self._hf = files, Tokenizer.from_str(files.json)
        self._hf.no_padding()
        self._hf.no_truncation()
        self.token = model.vlm.image_token_id
        self.marker = self._hf.id_to_token(self.token) or ""

    def prompt(self, question: str) -> str:
        if self._files.chat_template is None:
            return f"{self.marker}\n{question}"

        def name(i: int | None) -> str:
            return "" if i is None else self._hf.id_to_token(i) or ""

        eos = self._files.eos_ids[0] if self._files.eos_ids else None
        template = ChatTemplate(
            self._files.chat_template, "the chat template", bos=name(self._files.bos_id), eos=name(eos)
        )
        return template.render([user_message(question, 1, self.marker)])

    def ids(self, text: str) -> list[int]:
        return list(self._hf.encode(text, add_special_tokens=False).ids)


def _sample(words: _Words, item: Item) -> Sample:
    text = words.prompt(item.question)
    asked = words.ids(text)
    answer = ""
    if item.answers:
        answer = item.answers[0] if text[-1:].isspace() else f" {item.answers[0]}"
    ids = words.ids(text + answer)
    if ids.count(words.token) != 1 or ids[-1] == words.token:
        raise RequestError(
            found_wanted(
                f"prompt of line {item.line}",
                f"{ids.count(words.token)} images",
                "one, and text behind it",
                "correct it",
            )
        )
    # The last token of the answer says nothing more; what chose each of its tokens does.
    return Sample(item, ids[:-1] if answer else ids, max(len(ids) - len(asked), 1))


def prompts(model: VlmFolder, decoder: Decoder, samples: list[Sample]) -> Iterator[Prompt]:
    """The rows of each sample before the first layer, all of the image's rows among them."""
    import torch

    from ...models.vlm_reference import ImageRows, assemble, image_features, image_rows

    how, c = preprocess_entry(model), model.vlm

    def read(name: str) -> torch.Tensor:
        return torch.from_numpy(np.array(model.visual(name)))

    for sample in samples:
        with torch.no_grad():
            prepared = prepare(as_rgb(sample.item.image), how)
            found = image_features(c, read, prepared.views, how["mean"], how["std"])
            order = prepared.layout(c.tower.grid).order if c.newline and isinstance(c.tower, ClipConfig) else None
            embeds = image_rows(c, read, found, order)
            every = np.arange(len(embeds))
            rows = Rows(embeds.numpy()[None], every, len(embeds), Route("", "", None), prepared.grid)
            places, span = rows.positions(0, False)
            image = ImageRows(embeds, torch.from_numpy(places).squeeze(-2), span, torch.from_numpy(every))
            yield assemble(decoder, c.image_token_id, sample.ids, [image])
