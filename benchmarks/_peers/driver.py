"""Worker processes and the order in which they run.

All workers of a pass stay open; each round asks every one of them once, so that a slow minute of the machine falls on
everybody. Those that wait are stopped with SIGSTOP: a runtime whose idle threads spin would otherwise take a core from
the one that is measured.
"""

import json
import os
import queue
import signal
import statistics
import subprocess
import threading
from pathlib import Path

from .prepare import HERE

NEW = 128
ANSWER_SECONDS = 900


class WorkerError(Exception):
    """The worker refused, died or stayed silent; the text is the reason that the table shows."""


class Worker:
    """One peer process with one model open."""

    def __init__(
        self, python: Path, peer: str, bundle: Path, precision: str, threads: int, context: int, draft: str = ""
    ):
        env = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            env[name] = str(threads)
        self.log = bundle.with_name(f"{bundle.name}.run{threads}{draft}.log")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [
                    python,
                    HERE / f"{peer}_worker.py",
                    "serve",
                    "--bundle",
                    bundle,
                    "--precision",
                    precision,
                    "--threads",
                    str(threads),
                    "--context",
                    str(context),
                    *(["--draft", draft] if draft else []),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=env,
            )
        self.lines: queue.Queue = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        try:
            self.opened = self._answer()
        except WorkerError:
            self.close()
            raise
        self._signal(signal.SIGSTOP)

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put("")

    def _signal(self, number: int) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)

    def _answer(self) -> dict:
        try:
            line = self.lines.get(timeout=ANSWER_SECONDS)
        except queue.Empty:
            raise WorkerError(f"answer took more than {ANSWER_SECONDS} s (log: {self.log.name})") from None
        if not line:
            tail = [text for text in self.log.read_text(errors="replace").splitlines() if text.strip()]
            raise WorkerError(f"process ended: {tail[-1][:200] if tail else 'no output'} (log: {self.log.name})")
        answer = json.loads(line)
        if not answer["ok"]:
            raise WorkerError(answer["reason"][:300])
        return answer

    def ask(self, prompt: list[int]) -> dict:
        """One request of NEW tokens, with the load average of the machine at its end."""
        self._signal(signal.SIGCONT)
        try:
            self.process.stdin.write(json.dumps({"prompt": prompt, "new": NEW}) + "\n")
            self.process.stdin.flush()
            return {**self._answer(), "load": os.getloadavg()[0]}
        except BrokenPipeError:
            raise WorkerError(f"process ended between requests (log: {self.log.name})") from None
        finally:
            self._signal(signal.SIGSTOP)

    def close(self) -> None:
        self._signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()


def measure_pass(jobs: dict, prompt: list[int], threads: int, runs: int, context: int) -> dict:
    """Open every job, warm up, then `runs` interleaved rounds.

    jobs: key -> (python, peer name, bundle, precision). Returns key -> {"reason": ...} or
    {"open", "bytes", "versions", "ids", "rss", "runs": [...]}.
    """
    workers, results = {}, {}
    try:
        for key, (python, peer, bundle, precision) in jobs.items():
            try:
                workers[key] = worker = Worker(python, peer, bundle, precision, threads, context)
                first = worker.ask(prompt)  # warm-up; its ids are the ones compared
                results[key] = {**worker.opened, "ids": first["ids"], "runs": []}
            except WorkerError as error:
                results[key] = {"reason": str(error)}
        for number in range(runs):
            order = list(workers)
            order = order[number % max(1, len(order)) :] + order[: number % max(1, len(order))]
            for key in order:
                if "reason" in results[key]:
                    continue
                try:
                    answer = workers[key].ask(prompt)
                except WorkerError as error:
                    results[key] = {"reason": str(error)}
                    continue
                results[key]["same_ids"] = (
                    results[key].get("same_ids", True) and answer.pop("ids") == results[key]["ids"]
                )
                results[key]["rss"] = answer.pop("rss")
                results[key]["runs"].append(answer)
            print(
                f"  {threads} thread(s): round {number + 1} of {runs} done, load {os.getloadavg()[0]:.1f}", flush=True
            )
    finally:
        for worker in workers.values():
            worker.close()
    return results


def rates(result: dict, prompt_length: int, clock: str) -> dict:
    """Tokens per second of `clock` ("cpu" or "wall"): median and best run, and (max - min) / median of decode.

    Waiting for memory counts as CPU time, so neighbours on the same memory bus slow a run but never speed it up: where
    the spread is wide, the best runs compare the programs and the medians compare the minutes.
    """
    decode = [run["decode"][clock] for run in result["runs"]]
    prefill = [run["prefill"][clock] for run in result["runs"]]
    middle = statistics.median(decode)
    return {
        "decode": (NEW - 1) / middle,
        "prefill": prompt_length / statistics.median(prefill),
        "decode_best": (NEW - 1) / min(decode),
        "prefill_best": prompt_length / min(prefill),
        "spread": (max(decode) - min(decode)) / middle,
        "load": statistics.median(run["load"] for run in result["runs"]),
    }
