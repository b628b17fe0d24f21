#!/usr/bin/env python3
"""Turns a checkpoint of train.py into a Hugging Face folder in BF16, and measures it.

    export.py --data DIR --checkpoint DIR/checkpoint.pt --out configs/demo-model [--check] [--samples] [--readme]

--check     loads the folder in transformers' LlamaForCausalLM and compares the logits (needs transformers)
--samples   prints greedy continuations and the score on questions of another seed
--readme    writes README.md with the measured numbers and samples
"""
import argparse
import json
import math
import os
import shutil

import sentencepiece as spm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from train import BOS, EOS, Llama, rotate

PROMPTS = ["Once upon a time", "One day, a little fox", "There was once a girl named Lily", "It was a rainy morning",
           "In a small village", "Tom and Anna were friends.", "The farmer", "Early one morning,", "Long ago, a brave mouse",
           "[INST] Tell me a story about a bear. [/INST]"]
QUESTIONS = ["What is two plus three?", "What colour is the sky?", "What is the opposite of hot?", "What day comes after Monday?",
             "How many legs does a spider have?", "Tom has five apples. He gives two to Anna. How many apples are left?"]
CHAT_TEMPLATE = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% set loop_messages = messages[1:] %}{% else %}{% set system = '' %}{% set loop_messages = messages %}{% endif %}"
    "{% for message in loop_messages %}{% if message['role'] == 'user' %}{% if loop.index0 > 0 %}{{ bos_token }}{% endif %}"
    "{{ '[INST] ' + (system if loop.index0 == 0 else '') + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}")


def write_json(path, value):
    with open(path, "w") as out:
        json.dump(value, out, indent=2)
        out.write("\n")


def export(args):
    state = torch.load(args.checkpoint, weights_only=True, map_location="cpu")
    os.makedirs(args.out, exist_ok=True)
    weights = {k: v.bfloat16().contiguous() for k, v in state["model"].items()}
    save_file(weights, os.path.join(args.out, "model.safetensors"), metadata={"format": "pt"})
    os.chmod(os.path.join(args.out, "model.safetensors"), 0o644)
    config = state["config"]
    write_json(os.path.join(args.out, "config.json"), config)
    write_json(os.path.join(args.out, "generation_config.json"), dict(bos_token_id=BOS, eos_token_id=EOS, do_sample=False, max_length=1024))
    write_json(os.path.join(args.out, "tokenizer_config.json"), dict(
        tokenizer_class="LlamaTokenizer", add_bos_token=True, add_eos_token=False, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        pad_token=None, model_max_length=config["max_position_embeddings"], legacy=False, clean_up_tokenization_spaces=False,
        sp_model_kwargs={}, chat_template=CHAT_TEMPLATE))
    shutil.copy(os.path.join(args.data, "tokenizer.model"), args.out)
    shutil.copy(os.path.join(args.data, "heldout.txt"), args.out)
    return state


def open_folder(folder):
    model = Llama(json.load(open(os.path.join(folder, "config.json"))))
    model.load_state_dict({k: v.float() for k, v in load_file(os.path.join(folder, "model.safetensors")).items()})
    return model.eval(), spm.SentencePieceProcessor(model_file=os.path.join(folder, "tokenizer.model"))


@torch.no_grad()
def perplexity(model, tokenizer, text, chunk=255):
    """Encoded once without BOS, cut into chunks; each runs alone as [BOS] + chunk from position 0."""
    ids, total = tokenizer.encode(text), 0.0
    for at in range(0, len(ids), chunk):
        part = torch.tensor([[BOS] + ids[at:at + chunk]])
        logits = model(part[:, :-1])
        total += F.cross_entropy(logits[0].double(), part[0, 1:], reduction="sum").item()
    size = len(text.encode())
    return dict(ids=len(ids), bytes=size, nll=total / len(ids), token=math.exp(total / len(ids)), byte=math.exp(total / size),
                bits_per_byte=total / size / math.log(2))


@torch.no_grad()
def forward_cached(model, ids, cache):
    """Logits of the last of ids, which follow the positions already in cache (a dict of layer -> (k, v))."""
    c, start = model.c, cache.get("length", 0)
    n = len(ids)
    x = model.model.embed_tokens(torch.tensor([ids]))
    cos, sin = model.cos[start:start + n], model.sin[start:start + n]
    for i, layer in enumerate(model.model.layers):
        a, h = layer.self_attn, layer.input_layernorm(x)
        split = lambda y, heads: y.view(1, n, heads, c["head_dim"]).transpose(1, 2)
        q = rotate(split(a.q_proj(h), c["num_attention_heads"]), cos, sin)
        k = rotate(split(a.k_proj(h), c["num_key_value_heads"]), cos, sin)
        v = split(a.v_proj(h), c["num_key_value_heads"])
        if i in cache:
            k, v = torch.cat((cache[i][0], k), 2), torch.cat((cache[i][1], v), 2)
        cache[i] = k, v
        repeat = c["num_attention_heads"] // c["num_key_value_heads"]
        y = F.scaled_dot_product_attention(q, k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1), is_causal=n > 1)
        x = x + a.o_proj(y.transpose(1, 2).reshape(1, n, -1))
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    cache["length"] = start + n
    return model.lm_head(model.model.norm(x[:, -1]))[0]


def greedy(model, tokenizer, prompt, limit=600):
    ids, cache = [BOS] + tokenizer.encode(prompt), {}
    start, fresh = len(ids), ids
    while len(ids) < min(start + limit, 1024):
        token = int(forward_cached(model, fresh, cache).argmax())
        if token == EOS:
            return tokenizer.decode(ids[1:]), len(ids) - start, True
        fresh = [token]
        ids = ids + fresh
    return tokenizer.decode(ids[1:]), len(ids) - start, False


@torch.no_grad()
def question_score(model, tokenizer, count, seed):
    """The share of questions answered word for word, for each kind of question."""
    from grammar import Grammar
    import questions
    g, result = Grammar(seed), {}
    for kind, _ in questions.KINDS + [(lambda g: scene_question(g), 0)]:
        right = 0
        for _ in range(count):
            q, a = kind(g)
            prompt = f"Question: {q}\nAnswer:" if "\n" not in q else q
            text = greedy(model, tokenizer, prompt, limit=48)[0]
            right += (text[len(prompt):] + "\n").split("\n")[0].strip() == a
        result[getattr(kind, "__name__", "?").replace("<lambda>", "scene")] = right / count
    return result


def scene_question(g):
    import questions
    text, facts = questions.scene(g)
    q, a = g.c(facts)
    return f"{text}\nQuestion: {q}\nAnswer:", a


def check(folder):
    from transformers import LlamaForCausalLM
    from transformers import __version__ as version
    ours, tokenizer = open_folder(folder)
    theirs = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    text = open(os.path.join(folder, "heldout.txt")).read()
    ids = torch.tensor([[BOS] + tokenizer.encode(text)[:1023]])
    with torch.no_grad():
        a, b = ours(ids), theirs(ids).logits
    print(f"transformers {version}: largest difference of the logits {float((a - b).abs().max()):.2e}, "
          f"largest logit {float(b.abs().max()):.2f}, 1024 positions, same argmax {float((a.argmax(-1) == b.argmax(-1)).double().mean()):.4f}")
    assert torch.allclose(a, b, atol=2e-3)
    try:
        from transformers import AutoTokenizer
        hf = AutoTokenizer.from_pretrained(folder)
        same = hf(text[:20000])["input_ids"] == [BOS] + tokenizer.encode(text[:20000])
        print("transformers' tokenizer gives the same ids:", same)
        print("chat template:", repr(hf.apply_chat_template([dict(role="system", content="Be kind."), dict(role="user", content="Hello!"),
              dict(role="assistant", content="Hello."), dict(role="user", content="Who are you?")], tokenize=False)))
    except Exception as error:                                  # the tokenizer is a convenience of the check
        print("transformers' tokenizer:", type(error).__name__, str(error)[:200])
    for odd in ["", " ", "a", "  two  spaces ", "tab\tand\nnew\r\nline\n\n", "na\u00efve caf\u00e9 \u2014 \u4f60\u597d \U0001f600", "\x00\x7f", "1234567890", "<s></s>"]:
        assert tokenizer.decode(tokenizer.encode(odd)) == odd, repr(odd)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    print("tokenizer: round trip of every test text")


def write_readme(folder, c, params, p, samples, score):
    lines = f"""# demo-model

A small language model of the project's own, so that the server has something real to serve. It tells short stories in
simple English and answers simple questions. It knows nothing else: it is a demonstration and a test subject, not an
assistant.

| | |
| --- | --- |
| architecture | Llama (`LlamaForCausalLM`), {c["num_hidden_layers"]} layers, hidden {c["hidden_size"]}, feed-forward {c["intermediate_size"]}, {c["num_attention_heads"]} heads of {c["head_dim"]}, {c["num_key_value_heads"]} KV heads, untied head |
| parameters | {params:,} in BF16 (`model.safetensors`) |
| context | {c["max_position_embeddings"]} positions, all of them trained |
| tokenizer | sentencepiece BPE, {c["vocab_size"]} pieces, byte fallback, Llama 2's conventions (`tokenizer.model`) |
| training text | generated by the project's own grammar, `tools/demo_model/make_text.py`; nothing was copied from any corpus |
| how it was made | `tools/demo_model/README.md`: commands, seeds, versions, time |
| licence | Apache-2.0, like the project |

## What to ask

- plain text: `Once upon a time`, or any first words of a story
- `Question: What is two plus three?\\nAnswer:`, alone, several in a row, or after a story
- chat: the Llama 2 form `[INST] Tell me a story about a fox. [/INST]` (`chat_template` in `tokenizer_config.json`)

A document ends with EOS.

## Held-out perplexity

`heldout.txt` ({p["bytes"]} bytes, {p["ids"]} tokens) comes from the same grammar with another seed; none of its documents
occurs in the training text. It is one text, documents separated by a blank line. Rule: encode the whole file once
without BOS; cut the ids into consecutive chunks of 255 (the last is shorter); run each chunk alone as `[BOS] + chunk`
from position 0; average the natural-log NLL over all ids. The BF16 weights, computed in FP32:

| NLL per token | perplexity per token | perplexity per byte | bits per byte |
| --- | --- | --- | --- |
| {p["nll"]:.5f} | {p["token"]:.4f} | {p["byte"]:.5f} | {p["bits_per_byte"]:.5f} |
""".split("\n")
    if score:
        lines += ["## Questions", "", 'Questions drawn with another seed, greedy, counted right only when the answer agrees word for word. The tables of facts and',
                  'sums are finite, so most of these questions occur in the training text, unlike the numbers and names of `problem`, `logic` and',
                  '`scene`. A quarter of the `category` questions, such as "Can you name three birds?", have other right answers too.', "",
                  ", ".join(f"{k} {100 * v:.0f} %" for k, v in score.items()) + ".", ""]
    lines += ["## Greedy samples", "", "The prompt is the first words; the number is the count of generated tokens before EOS.", ""]
    for prompt, text, count, ended in samples:
        lines += [f"`{prompt}` ({count}{'' if ended else ', not ended'})".replace("\n", "\\n"), ""] + ["    " + line for line in text.split("\n")] + [""]
    with open(os.path.join(folder, "README.md"), "w") as out:
        out.write("\n".join(lines).rstrip() + "\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", help="with --checkpoint: holds tokenizer.model and heldout.txt")
    parser.add_argument("--checkpoint", help="without it the folder --out is only measured")
    parser.add_argument("--out", required=True)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--samples", action="store_true")
    parser.add_argument("--questions", type=int, default=0, help="questions per kind")
    parser.add_argument("--readme", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.checkpoint:
        state = export(args)
        print(f"exported step {state['step']}, {state['seconds']:.0f} s of training")
    model, tokenizer = open_folder(args.out)
    params = sum(p.numel() for p in model.parameters())
    text = open(os.path.join(args.out, "heldout.txt")).read()
    p = perplexity(model, tokenizer, text)
    print(f"parameters {params}; heldout.txt: {p['ids']} ids, {p['bytes']} bytes, nll {p['nll']:.5f}, perplexity {p['token']:.4f} per token, "
          f"{p['byte']:.5f} per byte, {p['bits_per_byte']:.5f} bits per byte")
    if args.check:
        check(args.out)
    samples = []
    if args.samples or args.readme:
        for prompt in PROMPTS + [f"Question: {q}\nAnswer:" for q in QUESTIONS]:
            text, count, ended = greedy(model, tokenizer, prompt)
            samples.append((prompt, text, count, ended))
            print(f"--- {count} tokens, {'EOS' if ended else 'NO EOS'}\n{text}", flush=True)
    score = question_score(model, tokenizer, args.questions, 99) if args.questions else None
    if score:
        print("questions answered word for word:", {k: round(v, 2) for k, v in score.items()}, "mean", round(sum(score.values()) / len(score), 3))
    if args.readme:
        write_readme(args.out, model.c, params, p, samples, score)


if __name__ == "__main__":
    main()
