"""The 20 prompts of the golden test: languages, scripts, code, numbers, chat turns, whitespace, one of about 2000 tokens."""

from __future__ import annotations

PROSE = """\
The lock keeper's cottage stood where the canal bent toward the hills, and in forty years Edwin Marsh had not once been away \
from it for more than two nights. He knew the water the way other men know the weather. When the upper pound was low the gates \
groaned a half tone deeper; when the weed was thick the paddles took eleven turns instead of nine. Boats came through with coal \
in his father's time, then with gravel, then with families on holiday who asked him whether he was lonely. He told them that a \
lock is a kind of conversation: one side waits while the other rises, and then they are level and the gate swings open without \
being pushed. In the evenings he wrote the day's passages into a ledger with a steel pen, the name of the boat, the hour, the \
depth in inches over the sill. Nobody had asked for the ledger since the company was sold. He kept it because the ledger before \
it had been kept, and because on the first page, in a hand he did not recognise, someone had written: the water remembers what \
we forget to measure.

In the spring of the dry year a surveyor came with an instrument on three legs and a boy to hold the staff. She measured the \
lock from sill to coping, asked to see the ledgers, and sat with them at his kitchen table until the lamp was lit. There were \
thirty-one volumes. By the third evening she had drawn a curve that rose and fell across a roll of paper like the back of some \
patient animal, and at the end of it there was a gap, and after the gap the line began again lower than before. "Something \
happened here," she said, and put her finger on the gap. Edwin looked at it for a long time. "That was the year my brother kept \
the lock," he said. "He could not write."
"""

CHAT = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"


def chat(*turns: str) -> str:
    """SmolLM2's chat format: user and assistant take turns, the assistant is next."""
    text = CHAT
    for i, turn in enumerate(turns):
        text += f"<|im_start|>{'user' if i % 2 == 0 else 'assistant'}\n{turn}<|im_end|>\n"
    return text + "<|im_start|>assistant\n"


PROMPTS: dict[str, str] = {
    "english": "The capital of France is",
    "story": "Once upon a time there was a little robot who",
    "science": "Photosynthesis is the process by which",
    "german": "Der Leuchtturmwärter schrieb jeden Abend in sein Buch, dass",
    "french": "Il était une fois, dans un petit village au bord de la mer,",
    "spanish": "La receta de mi abuela para el gazpacho lleva tomates,",
    "russian": "Зимой в деревне рано темнело, и дети",
    "chinese": "今天天气很好，我们一起去公园",
    "japanese": "東京は日本の首都であり、",
    "arabic": "كان يا ما كان في قديم الزمان",
    "python": "def fibonacci(n):\n",
    "c": "#include <stdio.h>\n\nint main(int argc, char **argv) {\n    for (int i = 0; i < argc; i++) {\n",
    "json": '{"name": "farthing", "version": "0.1.0", "dependencies": {',
    "numbers": "1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144,",
    "table": "| coin | pence |\n|---|---|\n| farthing | 0.25 |\n| halfpenny |",
    "emoji": "Good morning! ☕🙂 Today's plan: 🏃‍♀️ first, then",
    "chat": chat("What is gravity?"),
    "chat-turns": chat("Name three primary colours.", "Red, yellow and blue.", "Which two of them make green?"),
    "one-token": "The",
    "long": "\n\n".join(f"Part {i}.\n{PROSE}" for i in range(1, 6))
    + "\n\nPart 6.\nThe morning after the surveyor left,",
}
