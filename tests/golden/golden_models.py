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

TINY = dict(
    hidden_size=16,
    intermediate_size=20,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=None,
)
TINY_GEMMA = dict(TINY, head_dim=6, vocab_size=43)

# Families that came later; smaller still.
MODELS |= {
    "granite": (
        "Granite: multipliers of embeddings, branches, scores and logits; biases; tied head",
        transformers.GraniteConfig,
        dict(
            TINY,
            vocab_size=41,
            attention_bias=True,
            mlp_bias=True,
            tie_word_embeddings=True,
            embedding_multiplier=3.0,
            logits_scaling=0.6,
            residual_multiplier=0.22,
            attention_multiplier=0.4,
        ),
        23,
    ),
    "smollm3": (
        "SmolLM3: no position encoding in the second of three layers; that one has a window of 5",
        transformers.SmolLM3Config,
        dict(
            TINY,
            num_hidden_layers=3,
            vocab_size=45,
            no_rope_layer_interval=2,
            use_sliding_window=True,
            sliding_window=5,
            rope_parameters=dict(rope_type="default", rope_theta=50000.0),
        ),
        21,
    ),
    "starcoder2": (
        "Starcoder2: LayerNorm, plain MLP, biases everywhere, window of 6, tied head",
        transformers.Starcoder2Config,
        dict(TINY, vocab_size=47, sliding_window=6),
        23,
    ),
    "phi3": (
        "Phi-3: fused q, k, v and gate, up; longrope beyond its original length of 16; 3/4 turn",
        transformers.Phi3Config,
        dict(
            TINY,
            hidden_size=32,
            vocab_size=39,
            max_position_embeddings=64,
            original_max_position_embeddings=16,
            rope_parameters=dict(
                rope_type="longrope",
                rope_theta=10000.0,
                partial_rotary_factor=0.75,
                short_factor=[1.0, 1.1, 1.3],
                long_factor=[1.2, 2.5, 4.0],
            ),
        ),
        25,
    ),
    "phi3_short": (
        "Phi-3: longrope within its original length of 32, a window of 9; tied head",
        transformers.Phi3Config,
        dict(
            TINY,
            vocab_size=39,
            sliding_window=9,
            tie_word_embeddings=True,
            max_position_embeddings=64,
            original_max_position_embeddings=32,
            rope_parameters=dict(
                rope_type="longrope",
                rope_theta=10000.0,
                short_factor=[1.0, 1.4],
                long_factor=[1.2, 4.0],
            ),
        ),
        21,
    ),
    "olmo2": (
        "OLMo 2: norms behind the branches, QK-norm over whole projections",
        transformers.Olmo2Config,
        dict(TINY, vocab_size=44),
        23,
    ),
    "phi": (
        "Phi: parallel branches with one LayerNorm, half of each head turns, biases, also of the head",
        transformers.PhiConfig,
        dict(TINY, vocab_size=42),
        21,
    ),
    "stablelm": (
        "StableLM: LayerNorm, half of each head turns, q, k, v biases",
        transformers.StableLmConfig,
        dict(
            TINY,
            vocab_size=40,
            use_qkv_bias=True,
            rope_parameters=dict(
                rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.5
            ),
        ),
        23,
    ),
    "stablelm_parallel": (
        "StableLM with parallel branches and no biases",
        transformers.StableLmConfig,
        dict(
            TINY,
            vocab_size=38,
            use_parallel_residual=True,
            rope_parameters=dict(
                rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.5
            ),
        ),
        19,
    ),
    "cohere": (
        "Cohere: parallel branches with one LayerNorm without bias, paired RoPE, scaled logits",
        transformers.CohereConfig,
        dict(TINY, vocab_size=46, attention_bias=True, logit_scale=0.4),
        21,
    ),
    "glm": (
        "GLM-4 (9B): paired RoPE in half of each head, q, k, v biases, fused gate and up",
        transformers.GlmConfig,
        dict(TINY, vocab_size=37, head_dim=8),
        21,
    ),
    "glm4": (
        "GLM-4 (0414): norms before and behind the branches, paired RoPE in half of each head",
        transformers.Glm4Config,
        dict(TINY, vocab_size=48, head_dim=8),
        23,
    ),
    "gpt_neox": (
        "GPT-NeoX: parallel branches with a LayerNorm each, half of each head turns, fused q, k, v",
        transformers.GPTNeoXConfig,
        dict(
            {key: value for key, value in TINY.items() if key != "num_key_value_heads"},
            vocab_size=49,
            rope_parameters=dict(
                rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.5
            ),
        ),
        21,
    ),
    "gpt_neox_sequential": (
        "GPT-NeoX with sequential branches, as RedPajama has them, and no attention biases",
        transformers.GPTNeoXConfig,
        dict(
            {key: value for key, value in TINY.items() if key != "num_key_value_heads"},
            vocab_size=36,
            use_parallel_residual=False,
            attention_bias=False,
            rope_parameters=dict(
                rope_type="default", rope_theta=10000.0, partial_rotary_factor=1.0
            ),
        ),
        19,
    ),
    "ministral3": (
        "Ministral 3: yarn, queries that grow every 8 positions, head_dim 6",
        transformers.Ministral3Config,
        dict(
            TINY,
            vocab_size=35,
            head_dim=6,
            rope_parameters=dict(
                rope_type="yarn",
                rope_theta=10000.0,
                factor=8.0,
                original_max_position_embeddings=8,
                beta_fast=4.0,
                beta_slow=1.0,
                mscale=1.0,
                mscale_all_dim=1.0,
                llama_4_scaling_beta=0.3,
            ),
        ),
        23,
    ),
    "gemma": (
        "Gemma: norms by 1 + weight, scaled embeddings, GELU by tanh, one KV head",
        transformers.GemmaConfig,
        dict(TINY_GEMMA, num_key_value_heads=1),
        21,
    ),
    "gemma2": (
        "Gemma 2: norms around the branches, soft caps of scores and logits, window of 6 in layer 0",
        transformers.Gemma2Config,
        dict(
            TINY_GEMMA,
            sliding_window=6,
            query_pre_attn_scalar=9,
            attn_logit_softcapping=1.5,
            final_logit_softcapping=2.0,
        ),
        23,
    ),
    "gemma3_text": (
        "Gemma 3: QK-norm, windows of 5 with a RoPE of their own, the third layer full and linear",
        transformers.Gemma3TextConfig,
        dict(
            TINY_GEMMA,
            num_hidden_layers=3,
            sliding_window=5,
            query_pre_attn_scalar=5,
            layer_types=["sliding_attention", "sliding_attention", "full_attention"],
            rope_parameters=dict(
                sliding_attention=dict(rope_type="default", rope_theta=100.0),
                full_attention=dict(rope_type="linear", rope_theta=50000.0, factor=2.0),
            ),
        ),
        23,
    ),
    # Published with code of their own: transformers computes the same by another of its classes.
    "internlm2": (
        "InternLM2: q, k, v in one tensor by KV head; dynamic RoPE beyond 16 positions",
        transformers.LlamaConfig,
        dict(
            TINY,
            vocab_size=34,
            max_position_embeddings=16,
            rope_parameters=dict(rope_type="dynamic", rope_theta=10000.0, factor=2.0),
        ),
        23,
    ),
    "minicpm": (
        "MiniCPM: embeddings, branches and logits scaled by width and depth",
        transformers.GraniteConfig,
        dict(
            TINY,
            vocab_size=33,
            tie_word_embeddings=True,
            embedding_multiplier=3.0,
            residual_multiplier=1.4 / 2**0.5,
            logits_scaling=16 / 12,
            attention_multiplier=0.5,
        ),
        21,
    ),
}


def internlm2_tensors(tensors):
    """Llama's tensors under InternLM2's names; q, k, v of each KV head one after the other."""
    import torch

    parts = dict(
        input_layernorm="attention_norm",
        post_attention_layernorm="ffn_norm",
    )
    parts |= {
        "self_attn.o_proj": "attention.wo",
        "mlp.gate_proj": "feed_forward.w1",
        "mlp.up_proj": "feed_forward.w3",
        "mlp.down_proj": "feed_forward.w2",
    }
    result = {}
    for name, tensor in tensors.items():
        if "k_proj" in name or "v_proj" in name:
            continue
        if "q_proj" in name:
            q, k, v = (tensors[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj"))
            groups, width = TINY["num_key_value_heads"], q.shape[1]
            by_group = [one.reshape(groups, -1, width) for one in (q, k, v)]
            tensor = torch.cat(by_group, dim=1).reshape(-1, width)
            name = name.replace("self_attn.q_proj", "attention.wqkv")
        name = name.replace("embed_tokens", "tok_embeddings").replace("lm_head", "output")
        for theirs, ours in parts.items():
            name = name.replace(theirs, ours)
        result[name] = tensor if tensor is None else tensor.contiguous()
    return result


# name -> (config.json as published files spell it, tensors of the twin -> tensors of the model)
TWINS = {
    "internlm2": (
        dict(
            TINY,
            architectures=["InternLM2ForCausalLM"],
            model_type="internlm2",
            vocab_size=34,
            max_position_embeddings=16,
            hidden_act="silu",
            bias=False,
            rms_norm_eps=1e-6,
            rope_theta=10000.0,
            rope_scaling=dict(type="dynamic", factor=2.0),
            tie_word_embeddings=False,
            torch_dtype="float64",
        ),
        internlm2_tensors,
    ),
    "minicpm": (
        dict(
            TINY,
            architectures=["MiniCPMForCausalLM"],
            model_type="minicpm",
            vocab_size=33,
            hidden_act="silu",
            rms_norm_eps=1e-6,
            scale_emb=3.0,
            scale_depth=1.4,
            dim_model_base=12,
            tie_word_embeddings=True,
            torch_dtype="float64",
        ),
        dict,
    ),
}

LONGROPE = dict(
    rope_type="longrope",
    rope_theta=10000.0,
    short_factor=[1.0, 1.1, 1.3, 1.5],
    long_factor=[1.2, 2.5, 4.0, 6.5],
    original_max_position_embeddings=1024,
)

# RoPE configurations for rope_cases.json: name -> (head_dim, max_position_embeddings, parameters), and the length of
# sequences where it matters.
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
    "dynamic, within": (
        32,
        2048,
        dict(rope_type="dynamic", rope_theta=10000.0, factor=2.0),
        2048,
    ),
    "dynamic, beyond": (
        32,
        2048,
        dict(rope_type="dynamic", rope_theta=10000.0, factor=2.0),
        5000,
    ),
    "longrope, within": (8, 4096, LONGROPE, 1024),
    "longrope, beyond": (8, 4096, LONGROPE, 1025),
    "longrope, attention_factor": (8, 4096, dict(LONGROPE, attention_factor=1.3), 4096),
    "longrope, factor": (8, 4096, dict(LONGROPE, factor=32.0), 1024),
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
