#!/usr/bin/env python3
"""Trains the demo model: a small Llama in plain PyTorch on the CPU.

    train.py --data DIR --out DIR [--steps N] [--hidden 256 --layers 4 ...] [--resume]

DIR (--data) holds train.jsonl of make_text.py; the tokenizer is trained there too (tokenizer.model) unless it exists.
--out receives checkpoint.pt every --save-every steps; export.py turns it into a model folder.

Half-way rotary convention and weight names are Hugging Face's, so that the export loads in LlamaForCausalLM.
"""
import argparse
import json
import math
import os
import random
import time

# Threads that spin at a barrier cost a shared machine far more than their work: training beside builds ran several times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import sentencepiece as spm
import torch
import torch.nn as nn
import torch.nn.functional as F

BOS, EOS = 1, 2
TURN = "\x1e"                      # between the turns of a chat document: EOS BOS


# ------------------------------------------------------------------------------------------------------- model

class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        q, kv = c["num_attention_heads"] * c["head_dim"], c["num_key_value_heads"] * c["head_dim"]
        self.q_proj = nn.Linear(c["hidden_size"], q, bias=False)
        self.k_proj = nn.Linear(c["hidden_size"], kv, bias=False)
        self.v_proj = nn.Linear(c["hidden_size"], kv, bias=False)
        self.o_proj = nn.Linear(q, c["hidden_size"], bias=False)

    def forward(self, x, cos, sin):
        b, t, _ = x.shape
        c, d = self.c, self.c["head_dim"]
        q = rotate(self.q_proj(x).view(b, t, c["num_attention_heads"], d).transpose(1, 2), cos, sin)
        k = rotate(self.k_proj(x).view(b, t, c["num_key_value_heads"], d).transpose(1, 2), cos, sin)
        v = self.v_proj(x).view(b, t, c["num_key_value_heads"], d).transpose(1, 2)
        repeat = c["num_attention_heads"] // c["num_key_value_heads"]
        k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(b, t, -1))


class MLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_proj = nn.Linear(c["hidden_size"], c["intermediate_size"], bias=False)
        self.up_proj = nn.Linear(c["hidden_size"], c["intermediate_size"], bias=False)
        self.down_proj = nn.Linear(c["intermediate_size"], c["hidden_size"], bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Norm(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(c["hidden_size"])), c["rms_norm_eps"]

    def forward(self, x):
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.input_layernorm, self.self_attn = Norm(c), Attention(c)
        self.post_attention_layernorm, self.mlp = Norm(c), MLP(c)

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Body(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = nn.ModuleList(Layer(c) for _ in range(c["num_hidden_layers"]))
        self.norm = Norm(c)


class Llama(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.model = Body(c)
        self.lm_head = nn.Linear(c["hidden_size"], c["vocab_size"], bias=False)
        half = torch.arange(0, c["head_dim"], 2).float() / c["head_dim"]
        angle = torch.arange(c["max_position_embeddings"]).float()[:, None] * c["rope_theta"] ** -half
        self.cos, self.sin = angle.cos().repeat(1, 2), angle.sin().repeat(1, 2)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                scale = (2 * c["num_hidden_layers"]) ** -0.5 if name.endswith(("o_proj.weight", "down_proj.weight")) else 1
                nn.init.normal_(p, std=0.02 if "embed" in name else scale * p.shape[1] ** -0.5)
        nn.init.normal_(self.lm_head.weight, std=0.02)

    def forward(self, ids):
        t = ids.shape[1]
        x = self.model.embed_tokens(ids)
        cos, sin = self.cos[:t], self.sin[:t]
        if torch.is_autocast_enabled("cpu"):
            cos, sin = cos.bfloat16(), sin.bfloat16()
        for layer in self.model.layers:
            x = layer(x, cos, sin)
        return self.lm_head(self.model.norm(x))


def rotate(x, cos, sin):
    """Rotary embedding, pairs (i, i + head_dim / 2)."""
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


def config_of(args):
    return dict(
        architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=args.hidden, intermediate_size=args.intermediate,
        num_hidden_layers=args.layers, num_attention_heads=args.heads, num_key_value_heads=args.kv_heads,
        head_dim=args.head_dim or args.hidden // args.heads, vocab_size=args.vocab, max_position_embeddings=1024,
        rms_norm_eps=1e-5, rope_theta=10000.0, rope_scaling=None, hidden_act="silu", attention_bias=False, mlp_bias=False,
        attention_dropout=0.0, initializer_range=0.02, tie_word_embeddings=False, torch_dtype="bfloat16", use_cache=True,
        bos_token_id=BOS, eos_token_id=EOS)


# -------------------------------------------------------------------------------------------------------- data

def train_tokenizer(data, vocab, seed):
    """Llama 2's conventions: BPE, byte fallback, identity normalization, a dummy prefix, single digits."""
    docs = [json.loads(line) for line in open(os.path.join(data, "train.jsonl"))]
    docs = random.Random(seed).sample(docs, min(len(docs), 20000))
    lines = [line for doc in docs for line in doc.replace(TURN, "\n").split("\n") if line]
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_prefix=os.path.join(data, "tokenizer"), vocab_size=vocab, model_type="bpe",
        byte_fallback=True, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, add_dummy_prefix=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True,
        allow_whitespace_only_pieces=True, character_coverage=1.0, max_sentence_length=16384, num_threads=2,
        required_chars="".join(chr(i) for i in range(33, 127)), minloglevel=2)


def encode(data, tokenizer, seed, plain_every, shuffle_rows):
    """Rows of token ids (n, length), padded with -1, cached in data: {512: array, 1024: array}.

    Most documents stand alone as BOS document EOS; whole ones are packed into rows. One in plain_every is plain running
    text, documents joined by a blank line and cut anywhere, BOS before each cut: the form of heldout.txt.
    A sixth of each kind, and all that is longer than 512, makes the rows of 1024.
    """
    cache = os.path.join(data, "rows.npz")
    if os.path.exists(cache):
        rows = np.load(cache)
        return {512: rows["short"], 1024: rows["long"]}
    rng = random.Random(seed)
    docs = [json.loads(line) for line in open(os.path.join(data, "train.jsonl"))]
    rng.shuffle(docs)
    plain = [d for i, d in enumerate(docs) if i % plain_every == 0 and TURN not in d]
    alone = [d for i, d in enumerate(docs) if i % plain_every or TURN in d]
    rows = {512: [], 1024: []}

    ids = []
    parts = [d.split(TURN) for d in alone]
    flat = tokenizer.encode([p for d in parts for p in d], num_threads=2)
    at = 0
    for d in parts:
        ids.append([i for turn in flat[at:at + len(d)] for i in [BOS] + turn + [EOS]])
        at += len(d)
    bins = {512: [], 1024: []}
    for i, doc in enumerate(ids):
        length = 1024 if len(doc) > 512 or i % 6 == 0 else 512
        if len(doc) > 1024:
            continue
        for row in bins[length]:
            if sum(map(len, row)) + len(doc) <= length:
                row.append(doc)
                break
        else:
            bins[length].append([doc])
            if len(bins[length]) > 24:      # close the fullest of the open rows
                full = max(range(25), key=lambda k: sum(map(len, bins[length][k])))
                rows[length].append(bins[length].pop(full))
    for length in bins:
        rows[length].extend(bins[length])
        if shuffle_rows:                    # else rows begin with the long documents that opened them
            for row in rows[length]:
                rng.shuffle(row)
        rows[length] = [[i for doc in row for i in doc] for row in rows[length]]

    groups = ["\n\n".join(plain[i:i + 40]) for i in range(0, len(plain), 40)]
    for i, group in enumerate(tokenizer.encode(groups, num_threads=2)):
        length = 1024 if i % 6 == 0 else 512
        for start in range(0, len(group) - 64, length - 1):
            rows[length].append([BOS] + group[start:start + length - 1])

    out = {}
    for length in rows:
        rng.shuffle(rows[length])
        out[length] = np.full((len(rows[length]), length), -1, np.int16)
        for i, row in enumerate(rows[length]):
            out[length][i, :len(row)] = row
    np.savez(cache, short=out[512], long=out[1024])
    return out


def batches(rows, args):
    """(ids, targets) for every step: rows of 512 first, rows of 1024 in the last part."""
    at = {512: 0, 1024: 0}
    for step in range(args.steps):
        length = 1024 if step >= args.steps * (1 - args.long_part) else 512
        take = args.batch_tokens // length
        if at[length] + take > len(rows[length]):
            at[length] = 0
        batch = torch.from_numpy(rows[length][at[length]:at[length] + take].astype(np.int64))
        at[length] += take
        yield step, batch[:, :-1].clamp(min=0), batch[:, 1:]


# ---------------------------------------------------------------------------------------------------- training

def optimizers(model, args):
    """Muon (Jordan et al., 2024) for the matrices of the layers, AdamW for embedding, head and norms."""
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and ".layers." in n]
    others = [p for n, p in model.named_parameters() if not (p.dim() == 2 and ".layers." in n)]
    if args.optimizer == "adamw":
        return [torch.optim.AdamW([dict(params=matrices, weight_decay=0.1), dict(params=others, weight_decay=0.0)],
                                  lr=args.lr, betas=(0.9, 0.95), eps=1e-8, fused=True)]
    return [torch.optim.Muon(matrices, lr=args.muon_lr, momentum=0.95, weight_decay=0.1, ns_steps=5, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=args.lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0, fused=True)]


def schedule(step, args):
    """Warm-up, constant, then a cosine to a hundredth over the last part."""
    if step < args.warmup:
        return (step + 1) / args.warmup
    begin = args.steps * (1 - args.decay_part)
    if step < begin:
        return 1.0
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - begin) / (args.steps - begin)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--stop", type=int, default=0, help="stop after this step (the schedule stays that of --steps)")
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--intermediate", type=int, default=512)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--kv-heads", type=int, default=4)
    parser.add_argument("--head-dim", type=int, default=0, help="0: hidden / heads")
    parser.add_argument("--vocab", type=int, default=1024)
    parser.add_argument("--optimizer", choices=["muon", "adamw"], default="muon")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--muon-lr", type=float, default=3e-3)
    parser.add_argument("--warmup", type=int, default=60)
    parser.add_argument("--decay-part", type=float, default=0.6)
    parser.add_argument("--long-part", type=float, default=0.15, help="the last part of the steps, on rows of 1024")
    parser.add_argument("--plain-every", type=int, default=3, help="one document in so many is plain running text")
    parser.add_argument("--shuffle-rows", action="store_true", help="documents of a row in any order, so that short ones begin rows too")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save-every", type=int, default=100)
    parser.add_argument("--no-bf16", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    os.makedirs(args.out, exist_ok=True)

    if not os.path.exists(os.path.join(args.data, "tokenizer.model")):
        train_tokenizer(args.data, args.vocab, args.seed)
    tokenizer = spm.SentencePieceProcessor(model_file=os.path.join(args.data, "tokenizer.model"))
    rows = encode(args.data, tokenizer, args.seed, args.plain_every, args.shuffle_rows)
    for length in rows:
        print(f"rows of {length}: {len(rows[length])}, {int((rows[length] >= 0).sum())} tokens", flush=True)

    config = config_of(args)
    model = Llama(config)
    print(f"parameters: {sum(p.numel() for p in model.parameters())}", flush=True)
    optims = optimizers(model, args)
    peaks = [[group["lr"] for group in optim.param_groups] for optim in optims]
    first, spent, path = 0, 0.0, os.path.join(args.out, "checkpoint.pt")
    if args.resume and os.path.exists(path):
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        for optim, saved in zip(optims, state["optim"]):
            optim.load_state_dict(saved)
        first, spent = state["step"], state["seconds"]
    run = torch.compile(model) if args.compile else model

    def save(step):
        torch.save(dict(model=model.state_dict(), optim=[o.state_dict() for o in optims], step=step, config=config,
                        seconds=spent + time.time() - begin), path + ".new")
        os.replace(path + ".new", path)

    begin, total, tokens = time.time(), 0.0, 0
    for step, ids, targets in batches(rows, args):
        if step < first:
            continue
        for optim, peak in zip(optims, peaks):
            for group, lr in zip(optim.param_groups, peak):
                group["lr"] = lr * schedule(step, args)
        with torch.autocast("cpu", torch.bfloat16, enabled=not args.no_bf16):
            logits = run(ids)
        loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=-1)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optim in optims:
            optim.step()
            optim.zero_grad(set_to_none=True)
        total, tokens = total + loss.item(), tokens + ids.numel()
        if (step + 1) % 20 == 0:
            print(f"step {step + 1}/{args.steps} loss {total / 20:.4f} {tokens / (time.time() - begin):.0f} tokens/s "
                  f"{spent + time.time() - begin:.0f} s", flush=True)
            total = 0.0
        if (step + 1) % args.save_every == 0 or step + 1 in (args.steps, args.stop):
            save(step + 1)
        if step + 1 == args.stop:
            break


if __name__ == "__main__":
    main()
