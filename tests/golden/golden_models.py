# SPDX-License-Identifier: Apache-2.0
"""The tiny models and the RoPE configurations that make_goldens.py makes goldens of."""

import transformers

LLAMA = dict(
    hidden_size=32,
    intermediate_size=44,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    rms_norm_eps=1e-5,
)
# Narrow, with one wide KV head: sixteen dimensions give eight frequencies, enough for every RoPE
# variant to show its low, middle and high bands.
ROPE_LLAMA = dict(
    LLAMA,
    hidden_size=16,
    intermediate_size=28,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
)

# name -> (what it is for, config class, config arguments, sequence length S)
MODELS = {
    "llama": (
        "Llama, grouped queries 4:2, default RoPE",
        transformers.LlamaConfig,
        dict(LLAMA, vocab_size=71),
        29,
    ),
    "llama_rope_linear": (
        "Llama, RoPE type linear",
        transformers.LlamaConfig,
        dict(
            ROPE_LLAMA,
            vocab_size=64,
            rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=2.5),
        ),
        25,
    ),
    "llama_rope_llama3": (
        "Llama, RoPE type llama3: frequencies kept, blended and divided",
        transformers.LlamaConfig,
        dict(
            ROPE_LLAMA,
            vocab_size=67,
            max_position_embeddings=256,
            rope_parameters=dict(
                rope_type="llama3",
                rope_theta=10000.0,
                factor=4.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=64,
            ),
        ),
        27,
    ),
    "llama_rope_yarn": (
        "Llama, RoPE type yarn with its default betas and attention factor",
        transformers.LlamaConfig,
        dict(
            ROPE_LLAMA,
            vocab_size=66,
            max_position_embeddings=256,
            rope_parameters=dict(
                rope_type="yarn",
                rope_theta=10000.0,
                factor=4.0,
                original_max_position_embeddings=64,
            ),
        ),
        31,
    ),
    "llama_biases_tied": (
        "Llama with biases on q, k, v, o and the MLP, head tied to the embedding",
        transformers.LlamaConfig,
        dict(LLAMA, vocab_size=97, attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
        33,
    ),
    "mistral": (
        "Mistral, every layer with a window of 7 tokens, itself counted",
        transformers.MistralConfig,
        dict(LLAMA, vocab_size=73, sliding_window=7),
        27,
    ),
    "qwen2": (
        "Qwen2: biases on q, k, v, none on o; no window",
        transformers.Qwen2Config,
        dict(LLAMA, vocab_size=79, rms_norm_eps=1e-6, bos_token_id=1, eos_token_id=2),
        25,
    ),
    "qwen2_window": (
        "Qwen2, first layer full, second with a window of 6 (max_window_layers = 1); head_dim 6",
        transformers.Qwen2Config,
        dict(
            LLAMA,
            hidden_size=24,
            vocab_size=65,
            rms_norm_eps=1e-6,
            use_sliding_window=True,
            sliding_window=6,
            max_window_layers=1,
        ),
        29,
    ),
    "qwen3": (
        "Qwen3: QK-norm, head_dim 12 independent of hidden / heads = 8",
        transformers.Qwen3Config,
        dict(LLAMA, vocab_size=83, head_dim=12, rms_norm_eps=1e-6),
        31,
    ),
    "qwen3_mixed_layers": (
        "Qwen3, three layers, layer_types sliding (5), full, sliding; tied head; rope_theta 1e6",
        transformers.Qwen3Config,
        dict(
            LLAMA,
            vocab_size=69,
            hidden_size=24,
            num_hidden_layers=3,
            intermediate_size=36,
            head_dim=8,
            rms_norm_eps=1e-6,
            tie_word_embeddings=True,
            use_sliding_window=True,
            sliding_window=5,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            rope_parameters=dict(rope_type="default", rope_theta=1000000.0),
        ),
        25,
    ),
    "gpt2": (
        "GPT-2: LayerNorm, learned positions (more than S), gelu_new, fused q, k, v, tied head",
        transformers.GPT2Config,
        dict(
            vocab_size=89,
            n_positions=40,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_inner=72,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=1,
            eos_token_id=2,
        ),
        33,
    ),
}

# RoPE configurations for rope_cases.json: name -> (head_dim, max_position_embeddings, parameters).
ROPE_CASES = {
    "default": (16, 64, dict(rope_type="default", rope_theta=10000.0)),
    "default, theta 1e6, head_dim 128": (
        128,
        4096,
        dict(rope_type="default", rope_theta=1000000.0),
    ),
    "linear": (16, 64, dict(rope_type="linear", rope_theta=10000.0, factor=2.5)),
    "llama3, as Llama-3.1-8B": (
        128,
        131072,
        dict(
            rope_type="llama3",
            rope_theta=500000.0,
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=8192,
        ),
    ),
    "yarn, defaults": (
        128,
        131072,
        dict(
            rope_type="yarn",
            rope_theta=1000000.0,
            factor=4.0,
            original_max_position_embeddings=32768,
        ),
    ),
    "yarn, beta_fast and beta_slow": (
        64,
        16384,
        dict(
            rope_type="yarn",
            rope_theta=10000.0,
            factor=8.0,
            beta_fast=16.0,
            beta_slow=2.0,
            original_max_position_embeddings=2048,
        ),
    ),
    "yarn, attention_factor": (
        64,
        16384,
        dict(
            rope_type="yarn",
            rope_theta=10000.0,
            factor=8.0,
            attention_factor=0.75,
            original_max_position_embeddings=2048,
        ),
    ),
    "yarn, mscale and mscale_all_dim": (
        64,
        16384,
        dict(
            rope_type="yarn",
            rope_theta=10000.0,
            factor=8.0,
            mscale=1.0,
            mscale_all_dim=0.7,
            original_max_position_embeddings=2048,
        ),
    ),
    "yarn, mscale equal to mscale_all_dim": (
        64,
        16384,
        dict(
            rope_type="yarn",
            rope_theta=10000.0,
            factor=8.0,
            mscale=1.0,
            mscale_all_dim=1.0,
            original_max_position_embeddings=2048,
        ),
    ),
    "yarn, mscale alone": (
        64,
        16384,
        dict(
            rope_type="yarn",
            rope_theta=10000.0,
            factor=8.0,
            mscale=2.0,
            original_max_position_embeddings=2048,
        ),
    ),
    "yarn, truncate false": (
        64,
        16384,
        dict(
            rope_type="yarn",
            rope_theta=10000.0,
            factor=8.0,
            truncate=False,
            original_max_position_embeddings=2048,
        ),
    ),
    "yarn, factor below one": (
        32,
        2048,
        dict(
            rope_type="yarn",
            rope_theta=10000.0,
            factor=0.5,
            original_max_position_embeddings=2048,
        ),
    ),
}
