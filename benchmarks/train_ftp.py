"""Train a small FTP model and a plain one of the same encoder on text with topics, and compare what the method claims.

    python benchmarks/train_ftp.py --out build/ftp           # about 12 CPU minutes; run it again to measure only

Both see the same text: paragraphs that each keep to one of eight topics, with shared syntax. The plain model has a head on its top vector;
FTP's goes through memory and small decoder. Compared: next-token loss, cosine of neighbouring top vectors, a linear probe for the topic on
them, loss by distance, tokens per encoder pass when drafts are verified. Numbers are printed as they come out.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from pathlib import Path
from typing import Any

import torch
from small_llama import Llama
from torch import nn
from torch.nn import functional as F
from train_mtp_fixture import CONFIG, byte_tokenizer

from farthing.export.checkpoint import open_checkpoint
from farthing.export.checkpoint.ftp_head import save_head
from farthing.models.ftp import FtpConfig, FtpHead

TOPICS: dict[str, tuple[list[str], list[str]]] = {
    "sea": (["ship", "wave", "harbour", "sailor", "anchor", "storm"], ["sails", "drifts", "docks", "sinks"]),
    "kitchen": (["soup", "oven", "baker", "spoon", "onion", "bread"], ["boils", "bakes", "stirs", "tastes"]),
    "music": (["violin", "chord", "singer", "drum", "melody", "choir"], ["plays", "sings", "tunes", "echoes"]),
    "garden": (["rose", "hedge", "gardener", "seed", "bee", "lawn"], ["grows", "blooms", "waters", "plants"]),
    "rail": (["train", "signal", "driver", "platform", "ticket", "track"], ["departs", "arrives", "brakes", "waits"]),
    "court": (["judge", "witness", "lawyer", "verdict", "jury", "appeal"], ["rules", "swears", "objects", "signs"]),
    "space": (["comet", "orbit", "pilot", "rocket", "moon", "probe"], ["launches", "lands", "spins", "glows"]),
    "school": (["teacher", "pupil", "chalk", "lesson", "book", "exam"], ["reads", "writes", "learns", "asks"]),
}
FORMS = (
    "The {0} {2} and the {1} {3}. ",
    "When the {0} {2}, every {1} {3} too. ",
    "Nobody saw how the {0} {2} near the {1}. ",
)
LENGTH, BATCH, RATE, WARM_UP, GAMMA, SHARE = 128, 16, 3e-3, 30, 0.8, 4


def text_of(count: int, seed: int) -> tuple[list[int], list[int]]:
    """At least ``count`` bytes of paragraphs, and the number of the topic of each byte."""
    draw, ids, topics = random.Random(seed), [], []
    while len(ids) < count:
        topic = draw.randrange(len(TOPICS))
        nouns, verbs = list(TOPICS.values())[topic]
        for _ in range(draw.randint(4, 7)):
            line = draw.choice(FORMS).format(*draw.sample(nouns, 2), *draw.sample(verbs, 2)).encode()
            ids += line
            topics += [topic] * len(line)
        ids += b"\n"
        topics.append(topic)
    return ids, topics


def horizon_losses(model: Llama, head: FtpHead, block: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy [N] of the tokens 1..N behind the rows ``starts`` [s] of block [B,T]."""
    n = head.config.horizon
    h = model.states(block[:, : int(starts.max()) + 1])[:, starts]  # [B,s,D]
    window = block[:, starts[:, None] + torch.arange(n + 1)].flatten(0, 1)  # [B*s, N+1]
    rows = head(model.embed_tokens(window[:, :-1]), head.memory(h).flatten(0, 1))
    logits = rows @ model.embed_tokens.weight.T
    return F.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten(), reduction="none").view(-1, n).mean(0)


def train(kind: str, steps: int, out: Path) -> tuple[Llama, FtpHead | None]:
    """The model in ``out``, trained if it is not there; resumes nothing: it takes minutes."""
    torch.manual_seed(1)
    model = Llama(CONFIG)
    head = FtpHead(FtpConfig(CONFIG["hidden_size"])) if kind == "ftp" else None
    parameters = [*model.parameters(), *(head.parameters() if head else [])]
    done = out / f"{kind}.safetensors.pt"
    if done.exists():
        state = torch.load(done, weights_only=True)
        model.load_state_dict(state["model"])
        if head:
            head.load_state_dict(state["head"])
        return model, head
    data = torch.tensor(text_of(600_000, 1)[0])
    optimiser = torch.optim.AdamW(parameters, lr=RATE, betas=(0.9, 0.95), weight_decay=0.1)
    began, draw = time.process_time(), torch.Generator().manual_seed(1)
    weights = GAMMA ** torch.arange(8.0)
    for step in range(steps):
        rate = RATE * min(1.0, (step + 1) / WARM_UP) * (0.05 + 0.475 * (1 + math.cos(math.pi * step / steps)))
        for group in optimiser.param_groups:
            group["lr"] = rate
        at = torch.randint(len(data) - LENGTH - 9, (BATCH, 1), generator=draw)
        block = data[at + torch.arange(LENGTH + 8)]
        if head:
            starts = torch.randperm(LENGTH, generator=draw)[: LENGTH // SHARE].sort().values
            losses = horizon_losses(model, head, block, starts)
            loss = (losses * weights / weights.sum()).sum()
        else:
            loss = F.cross_entropy(model(block[:, :LENGTH]).flatten(0, 1), block[:, 1 : LENGTH + 1].flatten())
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        if step % 50 == 0 or step == steps - 1:
            print(f"{kind} {step}: loss {loss.item():.3f}, {time.process_time() - began:.0f} CPU s", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    torch.save({"model": model.state_dict(), "head": head.state_dict() if head else {}}, done)
    return model, head


def probe(states: torch.Tensor, topics: torch.Tensor) -> float:
    """Share of rows whose topic a linear classifier on ``states`` [n,D] names, trained on the first half."""
    half = len(states) // 2
    states = (states - states[:half].mean(0)) / states[:half].std(0)
    layer = nn.Linear(states.shape[1], len(TOPICS))
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.02)
    for _ in range(300):
        loss = F.cross_entropy(layer(states[:half]), topics[:half]) + 1e-3 * layer.weight.pow(2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return float((layer(states[half:]).argmax(-1) == topics[half:]).float().mean())


def compare(plain: Llama, model: Llama, head: FtpHead) -> dict[str, Any]:
    """What the method claims, measured on fresh text."""
    ids, topics = (torch.tensor(x) for x in text_of(60_000, 99))
    count = len(ids) // (LENGTH + 8)
    block, labels = (x[: count * (LENGTH + 8)].view(count, -1) for x in (ids, topics))
    found: dict[str, Any] = {}
    with torch.no_grad():
        target = block[:, 1 : LENGTH + 1]
        found["plain loss"] = float(F.cross_entropy(plain(block[:, :LENGTH]).flatten(0, 1), target.flatten()))
        losses = torch.stack(
            [horizon_losses(model, head, block[i : i + 8], torch.arange(LENGTH)) for i in range(0, 64, 8)]
        )
        found["ftp loss by distance"] = [round(float(x), 4) for x in losses.mean(0)]
        share = torch.bincount(ids, minlength=256) / len(ids)
        found["unigram loss"] = float(-(share * share.clamp(min=1e-9).log()).sum())
        for name, which in (("plain", plain), ("ftp", model)):
            states = torch.cat([which.states(block[i : i + 16, :LENGTH]) for i in range(0, count, 16)])
            found[f"{name} cosine of neighbours"] = float(
                F.cosine_similarity(states[:, 1:], states[:, :-1], dim=-1).mean()
            )
            # Rows early in a sentence, before a word gives the topic of the next one away: the vector must remember.
            rows = torch.arange(24, LENGTH, 8)
            with torch.enable_grad():
                found[f"{name} topic probe"] = probe(states[:, rows].flatten(0, 1), labels[:, rows].flatten())
    return found


def decode(folder: Path, adapter: Path, count: int, new: int) -> dict[str, Any]:
    """Tokens per encoder pass in the C++ loop, and whether texts are those of plain decoding."""
    import tempfile

    import farthing
    from farthing.export import export

    data = text_of(count * 300 + 100, 7)[0]
    with tempfile.TemporaryDirectory() as place:
        path = export("ftp", folder, Path(place) / "bundle", adapter=adapter).path
        with farthing.load(path, threads=1, context=256, draft="none") as runtime:
            how: dict[str, Any] = {"greedy": True, "ignore_eos": True, "max_new_tokens": new}
            asked = [data[i * 300 : i * 300 + 40] for i in range(count)]
            plain = [runtime.generate(prompt_ids=ids, **how) for ids in asked]
            runtime.speculate("ftp", rows=7, always=True)
            made = [runtime.generate(prompt_ids=ids, **how) for ids in asked]
    return {
        "same texts": sum(a.ids == b.ids for a, b in zip(plain, made, strict=True)),
        "tokens per pass": count * (new - 1) / sum(m.stats["passes"] - 1 for m in made),
        "CPU seconds": [round(sum(r.stats["decode_cpu_seconds"] for r in runs), 3) for runs in (plain, made)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/ftp"))
    parser.add_argument("--steps", type=int, default=500)
    args = parser.parse_args()
    torch.set_num_threads(1)
    plain, _ = train("plain", args.steps, args.out)
    model, head = train("ftp", args.steps, args.out)
    assert head is not None
    folder, adapter = args.out / "model", args.out / "ftp.safetensors"
    if not adapter.exists():
        model.save(folder)
        (folder / "tokenizer.json").write_text(byte_tokenizer() + "\n")
        save_head(adapter, head, open_checkpoint(folder))
    found = {**compare(plain, model, head), **decode(folder, adapter, 50, 80)}
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
