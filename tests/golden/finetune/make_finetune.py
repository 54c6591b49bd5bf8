"""Makes the model folder, the chats and losses.json beside it, for configs/finetune.yaml: what transformers and PyTorch's
AdamW make of the same chats, in float64. Needs transformers and torch (no GPU); takes seconds.

    python tests/golden/finetune/make_finetune.py

Every step takes all chats. Chats do not see each other in a packed sample, so each is run alone here, and the loss is the mean
over the labels of all: what packing, splitting over ranks and ZeRO make of it must be the same numbers. Nothing here knows of
samples.
"""
import json
import pathlib
import random

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HERE = pathlib.Path(__file__).parent
TOKENIZER = HERE.parent / "tokenizers" / "qwen2" / "tokenizer.json"
# The folder's own says nothing of what is learned; the one with marks renders the same text.
TEMPLATE = ("{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{{ m.content + '<|im_end|>' }}{{ '\\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")
MARKED = ("{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% if m.role == 'assistant' %}{% generation %}"
          "{{ m.content + '<|im_end|>' }}{% endgeneration %}{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{{ '\\n' }}"
          "{% endfor %}")
STEPS, RATE, DECAY, MAX_NORM = 6, 1e-3, 0.1, 1.0


def chats():
    rng = random.Random(5)
    words = "the of and to in a is that for it was on are as with his they at be this from or had by hot but".split()
    for number in range(60):
        messages = [{"role": "system", "content": "You repeat words."}] if number % 4 == 0 else []
        for _ in range(rng.randint(1, 3)):
            said = " ".join(rng.choices(words, k=rng.randint(1, 18)))
            messages.append({"role": "user", "content": f"Say again: {said}"})
            messages.append({"role": "assistant", "content": f"{said}, it was. ü {number}"})
        yield messages


def main():
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(TOKENIZER), eos_token="<|im_end|>", pad_token="<|endoftext|>")
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, rms_norm_eps=1e-5,
                         rope_theta=10000.0, tie_word_embeddings=True, attn_implementation="eager")
    torch.manual_seed(3)
    model = LlamaForCausalLM(config).float()
    folder = HERE / "model"
    folder.mkdir(exist_ok=True)
    # Saved by hand: a library's version in config.json would change with it.
    with open(folder / "config.json", "w") as stream:
        json.dump({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": config.vocab_size,
                   "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                   "num_key_value_heads": 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
                   "hidden_act": "silu", "tie_word_embeddings": True}, stream, indent=1)
        stream.write("\n")
    with open(folder / "tokenizer_config.json", "w") as stream:
        json.dump({"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "chat_template": TEMPLATE}, stream, indent=1)
        stream.write("\n")
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items() if name != "lm_head.weight"},
              str(folder / "model.safetensors"), metadata={"format": "pt"})
    documents = []
    with open(HERE / "chats.jsonl", "w") as stream:
        for messages in chats():
            stream.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
            plain = tokenizer.apply_chat_template(messages, chat_template=TEMPLATE, return_dict=True)
            marked = tokenizer.apply_chat_template(messages, chat_template=MARKED, return_dict=True,
                                                   return_assistant_tokens_mask=True)
            assert plain["input_ids"] == marked["input_ids"]
            documents.append((marked["input_ids"], marked["assistant_masks"]))
    model = model.double()
    decayed = [p for name, p in model.named_parameters() if not name.endswith("norm.weight")]
    others = [p for name, p in model.named_parameters() if name.endswith("norm.weight")]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}],
                                  lr=RATE, betas=(0.9, 0.95), eps=1e-8)
    # The first token of a document is nobody's label.
    labels = sum(sum(mask[1:]) for _, mask in documents)
    steps = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = 0.0
        for ids, mask in documents:
            logits = model(torch.tensor([ids])).logits[0]
            target = torch.tensor([token if learned else -100 for token, learned in zip(ids, mask)])
            part = torch.nn.functional.cross_entropy(logits[:-1], target[1:], ignore_index=-100, reduction="sum") / labels
            part.backward()
            loss += part.item()
        norm = torch.sqrt(sum((p.grad ** 2).sum() for p in model.parameters())).item()
        for p in model.parameters():
            p.grad *= min(1.0, MAX_NORM / norm)
        optimizer.step()
        steps.append({"loss": loss, "grad_norm": norm})
    with open(HERE / "losses.json", "w") as stream:
        json.dump({"documents": len(documents), "longest": max(len(ids) for ids, _ in documents),
                   "tokens": sum(len(ids) for ids, _ in documents), "labels": labels, "steps": steps}, stream, indent=1)
        stream.write("\n")


main()
