"""transformers, eager PyTorch: the reference for ids."""

import wire


def convert(model, out, precision):
    out.symlink_to(model.resolve())  # it runs the Hugging Face folder itself


class Engine:
    streams = True

    def __init__(self, bundle, precision, threads, context):
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(threads)
        self.torch = torch
        self.model = AutoModelForCausalLM.from_pretrained(bundle, dtype=torch.float32, attn_implementation="eager")

    def generate(self, prompt, new, first):
        # Our own loop instead of model.generate: the same work, none of its bookkeeping per token.
        torch = self.torch
        ids, past, step = [], None, torch.tensor([prompt])
        with torch.inference_mode():
            for i in range(new):
                out = self.model(input_ids=step, past_key_values=past, use_cache=True, logits_to_keep=1)
                past, step = out.past_key_values, out.logits[:, -1].argmax(-1, keepdim=True)
                ids.append(step.item())
                if i == 0:
                    first()
        return ids


if __name__ == "__main__":
    wire.main(convert, Engine, ["transformers", "torch"])
