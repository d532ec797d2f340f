"""config.json -> DecoderConfig, one function for the families that share the decoder.

Defaults for absent fields are those of the family's configuration class in transformers; everything else must be stated.
Source: transformers 5, models/{llama,mistral,qwen2,qwen3}/configuration_*.py and modeling_rope_utils.py.
"""

from __future__ import annotations

import difflib
from typing import Any

from ...errors import CheckpointError, found_wanted
from ...models.config import DecoderConfig, Rope
from .json_file import Fields

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Values of ``model_type`` we know. SmolLM2 is a llama, Qwen2.5 a qwen2."""

_MIXTURE_FIELDS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_intermediate_size")


def unknown_architecture(found: str, known: tuple[str, ...], source: str, field: str) -> CheckpointError:
    """The refusal of an architecture, with the known ones and the nearest of them."""
    nearest = difflib.get_close_matches(found.lower(), known, n=1, cutoff=0.0)[0]
    return CheckpointError(
        found_wanted(
            f"field {field!r} of {source}",
            repr(found),
            f"one of {', '.join(known)}",
            f"the nearest is {nearest!r}; other architectures are not supported",
        )
    )


def read_config(fields: Fields) -> DecoderConfig:
    """Build the configuration. Raises CheckpointError for an unknown architecture, rope type or activation."""
    family = fields.text("model_type")
    if family not in FAMILIES:
        raise unknown_architecture(family, FAMILIES, fields.source, "model_type")
    _refuse_unsupported(fields)
    hidden, heads = fields.count("hidden_size"), fields.count("num_attention_heads")
    kv_heads = fields.count("num_key_value_heads", heads if family == "llama" else None)
    if heads % kv_heads:
        raise fields.bad("num_key_value_heads", kv_heads, f"a divisor of num_attention_heads {heads}")
    layers, max_positions = fields.count("num_hidden_layers"), fields.count("max_position_embeddings")
    return DecoderConfig(
        family=family,
        vocab_size=fields.count("vocab_size"),
        hidden_size=hidden,
        intermediate_size=fields.count("intermediate_size"),
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=_head_dim(fields, family, hidden, heads),
        max_positions=max_positions,
        norm_epsilon=fields.number("rms_norm_eps"),
        rope=_rope(fields, max_positions),
        tied_head=fields.flag("tie_word_embeddings", False),
        sliding_window=_window(fields, family, layers),
        qkv_bias=family == "qwen2" or (family != "mistral" and fields.flag("attention_bias", False)),
        o_bias=family in ("llama", "qwen3") and fields.flag("attention_bias", False),
        mlp_bias=family == "llama" and fields.flag("mlp_bias", False),
        qk_norm=family == "qwen3",
    )


def _refuse_unsupported(fields: Fields) -> None:
    if (activation := fields.text("hidden_act", "silu")) not in ("silu", "swish"):
        raise fields.bad("hidden_act", activation, "'silu'", "other activations are not supported")
    for key in _MIXTURE_FIELDS:
        if fields.has(key):
            raise fields.bad(key, fields.values[key], "no experts", "mixtures of experts are not supported")
    if fields.has("quantization_config"):
        method = fields.values["quantization_config"]
        name = method.get("quant_method", "unnamed") if isinstance(method, dict) else method
        raise fields.bad(
            "quantization_config",
            name,
            "none",
            "export the unquantised checkpoint and use `farthing quantize` on the bundle",
        )


def _head_dim(fields: Fields, family: str, hidden: int, heads: int) -> int:
    if fields.has("head_dim"):
        dim = fields.count("head_dim")
    elif family == "qwen3":
        dim = 128
    elif hidden % heads:
        raise fields.bad("num_attention_heads", heads, f"a divisor of hidden_size {hidden}, as there is no head_dim")
    else:
        dim = hidden // heads
    if dim % 2:
        raise fields.bad("head_dim", dim, "an even number", "rotary embedding turns pairs of features")
    return dim


def _window(fields: Fields, family: str, layers: int) -> int:
    """Sliding window in slots, 0 for none; it must be the same in every layer."""
    if family == "llama":
        return 0
    if family == "mistral":
        if "sliding_window" in fields.values and fields.values["sliding_window"] is None:
            return 0
        return fields.count("sliding_window", 4096)
    if not fields.flag("use_sliding_window", False) or (
        "sliding_window" in fields.values and fields.values["sliding_window"] is None
    ):
        return 0
    window = fields.count("sliding_window", 4096)
    kinds = fields.values.get("layer_types")
    if kinds is None:
        first = fields.count("max_window_layers", 28, least=0)
        kinds = ["full_attention" if i < first else "sliding_attention" for i in range(layers)]
    if not isinstance(kinds, list) or len(kinds) != layers or set(kinds) - {"full_attention", "sliding_attention"}:
        raise fields.bad("layer_types", kinds, f"{layers} times 'full_attention' or 'sliding_attention'")
    if len(set(kinds)) > 1:
        raise fields.bad(
            "layer_types" if fields.has("layer_types") else "max_window_layers",
            "a mixture of full and sliding attention",
            "one kind of attention in all layers",
            "export with use_sliding_window false if contexts stay within the window",
        )
    return window if kinds[0] == "sliding_attention" else 0


def _rope(fields: Fields, max_positions: int) -> Rope:
    """Rope from ``rope_parameters`` (transformers 5) or ``rope_theta`` and ``rope_scaling`` (before)."""
    new, old = fields.values.get("rope_parameters"), fields.values.get("rope_scaling")
    for key, value in (("rope_parameters", new), ("rope_scaling", old)):
        if value is not None and not isinstance(value, dict):
            raise fields.bad(key, value, "an object or null")
    values: dict[str, Any] = dict(new or old or {})
    values.setdefault("rope_theta", fields.values.get("rope_theta"))
    rope = Fields(values, fields.source)
    if fields.has("rope_theta") and fields.number("rope_theta") != rope.number("rope_theta"):
        raise fields.bad("rope_theta", fields.values["rope_theta"], f"{values['rope_theta']} as in rope_parameters")
    for place in (fields, rope):
        if place.has("partial_rotary_factor") and place.number("partial_rotary_factor") != 1.0:
            raise place.bad(
                "partial_rotary_factor", place.values["partial_rotary_factor"], 1.0, "partial rotation is not supported"
            )
    kind = rope.text("rope_type", rope.text("type", "default"))
    theta = rope.number("rope_theta", 10000.0)
    if kind == "default":
        return Rope(theta)
    if kind == "linear":
        return Rope(theta, "linear", rope.number("factor"))
    if kind == "llama3":
        low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
        if low >= high:
            raise rope.bad("high_freq_factor", high, f"a number above low_freq_factor {low}")
        original = rope.count("original_max_position_embeddings", max_positions)
        return Rope(theta, "llama3", rope.number("factor"), low, high, original)
    known = ("default", "linear", "llama3")
    nearest = difflib.get_close_matches(kind, known, n=1, cutoff=0.0)[0]
    raise rope.bad(
        "rope_type", kind, f"one of {', '.join(known)}", f"the nearest is {nearest!r}; others are not supported"
    )
