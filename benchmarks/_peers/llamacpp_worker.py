"""llama.cpp through xllamacpp: writes the GGUF file itself, talks to the in-process server object."""

import json

import wire

KINDS = {"fp32": "F32", "int8": "Q8_0", "int4": "Q4_0"}
# Layer tensors of a Llama: Hugging Face name -> GGUF name.
NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
TOP = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def gguf_name(name):
    if name in TOP:
        return TOP[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"


def interleave(weight, heads):
    """Rows of q and k from half-split RoPE order (Hugging Face) to neighbouring pairs (GGUF)."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def write_tokenizer(writer, model):
    """The byte-level BPE. Prompts are ids here, but llama.cpp refuses a file without a tokenizer."""
    import gguf

    bpe = json.loads((model / "tokenizer.json").read_text())
    words = {i: word for word, i in bpe["model"]["vocab"].items()}
    special = {entry["id"] for entry in bpe["added_tokens"] if entry["special"]}
    words |= {entry["id"]: entry["content"] for entry in bpe["added_tokens"]}
    merges = [m if isinstance(m, str) else " ".join(m) for m in bpe["model"]["merges"]]
    kind = gguf.TokenType
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([words[i] for i in range(len(words))])
    writer.add_token_types([kind.CONTROL if i in special else kind.NORMAL for i in range(len(words))])
    writer.add_token_merges(merges)


def convert(model, out, precision):
    import gguf
    from safetensors import safe_open

    config = json.loads((model / "config.json").read_text())
    writer = gguf.GGUFWriter(out, "llama")
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    write_tokenizer(writer, model)
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    # Every matrix gets the same type, embedding and head included: like for like with int4 heads of other peers.
    kind = gguf.GGMLQuantizationType[KINDS[precision]]
    with safe_open(model / "model.safetensors", framework="numpy") as tensors:
        for name in tensors.keys():
            weight = tensors.get_tensor(name)
            if "q_proj" in name or "k_proj" in name:
                weight = interleave(weight, heads if "q_proj" in name else kv_heads)
            if weight.ndim == 1 or precision == "fp32":
                writer.add_tensor(gguf_name(name), weight)
            else:
                writer.add_tensor(gguf_name(name), gguf.quants.quantize(weight, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Engine:
    # Its streaming holds back tokens that end inside a UTF-8 character, so the first event is not the first token.
    streams = False

    def __init__(self, bundle, precision, threads, context):
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(bundle)
        params.n_ctx, params.n_parallel, params.n_gpu_layers, params.verbosity = context, 1, 0, 0
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        self.server = xllamacpp.Server(params)

    def generate(self, prompt, new, first):
        answer = self.server.handle_completions(
            {
                "prompt": prompt,
                "max_tokens": new,
                "temperature": 0,
                "samplers": ["top_k"],
                "top_k": 1,
                "ignore_eos": True,
                "cache_prompt": False,
                "return_tokens": True,
                "verbose": True,
                "stream": False,
            }
        )
        if "__verbose" not in answer:
            raise RuntimeError(f"answer of the server is {answer}, expected token ids")
        return answer["__verbose"]["tokens"]


if __name__ == "__main__":
    wire.main(convert, Engine, ["xllamacpp"])
