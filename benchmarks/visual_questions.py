"""Made scenes as a folder of pictures with questions, for `farthing tune-visual` and `farthing prune-view`.

    python benchmarks/visual_questions.py --out build/scenes              # 96x96
    python benchmarks/visual_questions.py --out build/large --large       # 192x192, for bundles of several views

Writes 000.png, ..., questions.jsonl, and of the same questions coarse.jsonl (shapes, colours, sides) and fine.jsonl (digits and dots of one patch).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image
from vlm_scenes import FINE, make_scene, questions


def write(out: Path, pictures: int, *, large: bool = False, seed: int = 2026) -> int:
    """Pictures and the three files; returns the number of questions."""
    out.mkdir(parents=True, exist_ok=True)
    lines: dict[str, list[str]] = {"questions": [], "coarse": [], "fine": []}
    for n in range(pictures):
        scene = make_scene(np.random.default_rng([seed, 5, int(large), n]), large=large)
        name = f"{n:03}.png"
        Image.fromarray(scene.image).save(out / name, optimize=True)
        for question in questions(scene, np.random.default_rng([seed, 6, n])):
            line = json.dumps({"image": name, "question": question.text, "answer": question.answer})
            for file in ("questions", "fine" if question.kind in FINE else "coarse"):
                lines[file].append(line)
    for file, told in lines.items():
        (out / f"{file}.jsonl").write_text("\n".join(told) + "\n", encoding="utf-8")
    return len(lines["questions"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=60)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--seed", type=int, default=2026)
    args = parser.parse_args()
    print(
        f"{write(args.out, args.pictures, large=args.large, seed=args.seed)} questions about {args.pictures} pictures"
    )


if __name__ == "__main__":
    main()
