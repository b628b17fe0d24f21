"""Writes a Hugging Face folder of a real model's shape with random BF16 weights, for measuring loading, memory and speed where
no weights can be had. Standard library only; the same arguments give the same bytes. No tokenizer: use --prompt-ids.

    python3 tools/make_synthetic.py OUT --shape tinyllama-1.1b
    python3 tools/make_synthetic.py OUT --dim 2048 --ffn-dim 5632 --layers 22 --heads 32 --kv-heads 4 --vocab 32000
"""
import argparse
import json
import os
import random
import struct

SHAPES = {
    "tinyllama-1.1b": dict(dim=2048, ffn_dim=5632, layers=22, heads=32, kv_heads=4, vocab=32000),
    "llama-3.2-1b": dict(dim=2048, ffn_dim=8192, layers=16, heads=32, kv_heads=8, vocab=128256),
    "llama-2-7b": dict(dim=4096, ffn_dim=11008, layers=32, heads=32, kv_heads=32, vocab=32000),
    "small": dict(dim=512, ffn_dim=1536, layers=8, heads=8, kv_heads=4, vocab=4096),
}
POOL = 1 << 19  # values drawn; every tensor is a run of them from its own start


def bf16(value):
    bits = struct.unpack("<I", struct.pack("<f", value))[0]
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) & 0xFFFF


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--shape", choices=SHAPES)
    for name in ("dim", "ffn-dim", "layers", "heads", "kv-heads", "vocab"):
        parser.add_argument("--" + name, type=int)
    parser.add_argument("--experts", type=int, default=0, help="Mixtral with this many experts, 2 used")
    parser.add_argument("--max-positions", type=int, default=2048)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    shape = dict(SHAPES[args.shape]) if args.shape else {}
    for name in ("dim", "ffn_dim", "layers", "heads", "kv_heads", "vocab"):
        if getattr(args, name) is not None:
            shape[name] = getattr(args, name)
        if name not in shape:
            parser.error("--shape, or --" + name.replace("_", "-"))
    dim, ffn, head_dim = shape["dim"], shape["ffn_dim"], shape["dim"] // shape["heads"]
    kv_dim = shape["kv_heads"] * head_dim

    rng = random.Random(args.seed)
    pool = struct.pack("<%dH" % POOL, *(bf16(rng.gauss(0, 0.02)) for _ in range(POOL)))
    ones = struct.pack("<H", bf16(1.0))

    tensors = [("model.embed_tokens.weight", (shape["vocab"], dim)), ("lm_head.weight", (shape["vocab"], dim)),
               ("model.norm.weight", (dim,))]
    for layer in range(shape["layers"]):
        p = "model.layers.%d." % layer
        tensors += [(p + "input_layernorm.weight", (dim,)), (p + "post_attention_layernorm.weight", (dim,)),
                    (p + "self_attn.q_proj.weight", (dim, dim)), (p + "self_attn.k_proj.weight", (kv_dim, dim)),
                    (p + "self_attn.v_proj.weight", (kv_dim, dim)), (p + "self_attn.o_proj.weight", (dim, dim))]
        if args.experts:
            b = p + "block_sparse_moe."
            tensors.append((b + "gate.weight", (args.experts, dim)))
            for e in range(args.experts):
                tensors += [(b + "experts.%d.w%d.weight" % (e, i), (dim, ffn) if i == 2 else (ffn, dim)) for i in (1, 2, 3)]
        else:
            tensors += [(p + "mlp.gate_proj.weight", (ffn, dim)), (p + "mlp.up_proj.weight", (ffn, dim)),
                        (p + "mlp.down_proj.weight", (dim, ffn))]

    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, dims in tensors:
        n_bytes = 2 * dims[0] * (dims[1] if len(dims) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": list(dims), "data_offsets": [offset, offset + n_bytes]}
        offset += n_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)

    os.makedirs(args.out, exist_ok=True)
    with open(os.path.join(args.out, "model.safetensors"), "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, dims in tensors:
            left = header[name]["data_offsets"][1] - header[name]["data_offsets"][0]
            if len(dims) == 1:
                file.write(ones * (left // 2))
                continue
            start = 2 * rng.randrange(POOL)
            while left:
                piece = pool[start:start + left]
                file.write(piece)
                left -= len(piece)
                start = 2 * rng.randrange(POOL // 2)
    config = {
        "architectures": ["MixtralForCausalLM" if args.experts else "LlamaForCausalLM"],
        "model_type": "mixtral" if args.experts else "llama", "hidden_size": dim, "intermediate_size": ffn,
        "num_hidden_layers": shape["layers"], "num_attention_heads": shape["heads"],
        "num_key_value_heads": shape["kv_heads"], "vocab_size": shape["vocab"],
        "max_position_embeddings": args.max_positions, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": False, "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2,
        "torch_dtype": "bfloat16",
    }
    if args.experts:
        config.update(num_local_experts=args.experts, num_experts_per_tok=2)
    with open(os.path.join(args.out, "config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file, indent=1)
    print("%s: %.3f GB, %d tensors" % (args.out, offset / 1e9, len(tensors)))


if __name__ == "__main__":
    main()
