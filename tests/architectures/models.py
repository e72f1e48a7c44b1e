"""Tiny configurations, one or more for each architecture that runs, with shapes no power of two suggests.

Each entry: name -> (transformers' configuration class, its arguments, dtype on disk, options).
Options: `shard` splits the file, `edit` changes the written config.json (older ways of saying the same), `rename` gives a
tensor's published name, `gguf` says why llama.cpp's converter or our reading of its files does not take it.
"""

import transformers as t

VOCAB = 800
BASE = dict(vocab_size=VOCAB, bos_token_id=0, eos_token_id=1, pad_token_id=None, max_position_embeddings=256)


def shape(hidden, inner, layers, heads, kv, head_dim=None, **more):
    all_of = dict(BASE, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers,
                  num_attention_heads=heads, num_key_value_heads=kv, **more)
    if head_dim:
        all_of["head_dim"] = head_dim
    return all_of


def rope(theta=10000.0, kind="default", **more):
    return dict(rope_theta=theta, rope_type=kind, **more)


def old_rope(config):
    """As transformers 4 wrote it."""
    parameters = config.pop("rope_parameters")
    config["rope_theta"] = parameters.pop("rope_theta")
    config["rope_scaling"] = None if parameters["rope_type"] == "default" else parameters


LLAMA3 = rope(500000.0, "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=64)


def long_rope(pairs, original=64):
    return rope(10000.0, "longrope", short_factor=[1.0 + 0.01 * i for i in range(pairs)],
                long_factor=[1.0 + 0.7 * i for i in range(pairs)], original_max_position_embeddings=original)


def seeing(config):
    """As models that also see are published: the text part nested, and what is the 4B's left out."""
    text = dict(config)
    for key in ("architectures", "torch_dtype", "dtype", "bos_token_id", "eos_token_id", "pad_token_id", "transformers_version"):
        text.pop(key, None)
    top = {key: config[key] for key in ("bos_token_id", "eos_token_id")}
    config.clear()
    config.update(top, model_type="gemma3", architectures=["Gemma3ForConditionalGeneration"], text_config=text,
                  vision_config={"model_type": "siglip_vision_model"})


def old_bert(name):
    return "bert." + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


def yarn(**more):
    return rope(1e4, "yarn", factor=4.0, original_max_position_embeddings=64, **more)


ENCODER = dict(vocab_size=VOCAB, hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=80,
               max_position_embeddings=130, hidden_act="gelu")

# Encoders: the mean of the last rows, normalised, over /v1/embeddings.
ENCODERS = {
    "bert": (t.BertConfig, dict(ENCODER, type_vocab_size=2, pad_token_id=0), "float32", {}),
    "bert-old-names": (t.BertConfig, dict(ENCODER, num_attention_heads=6, pad_token_id=0), "float16", {"rename": old_bert}),
    "roberta": (t.RobertaConfig, dict(ENCODER, type_vocab_size=1, pad_token_id=1, layer_norm_eps=1e-5), "float32", {}),
    "xlm-roberta": (t.XLMRobertaConfig, dict(ENCODER, type_vocab_size=1, pad_token_id=1, layer_norm_eps=1e-5), "bfloat16", {}),
}

MODELS = {
    "llama": (t.LlamaConfig, shape(60, 92, 3, 5, 1, 12, rope_parameters=LLAMA3, tie_word_embeddings=False), "bfloat16", {}),
    "llama-old": (t.LlamaConfig, shape(64, 80, 2, 4, 2, rope_parameters=LLAMA3, tie_word_embeddings=True), "float16",
                  {"edit": old_rope, "shard": True}),
    "llama-biased": (t.LlamaConfig, shape(48, 96, 2, 3, 3, rope_parameters=rope(7000.0, "linear", factor=2.0),
                                          attention_bias=True, mlp_bias=True), "float32", {}),
    "mistral": (t.MistralConfig, shape(48, 72, 3, 6, 2, 20, sliding_window=17, rope_parameters=rope()), "float32",
                {"shard": True, "gguf": "its files do not say Mistral's window"}),
    "mistral-full": (t.MistralConfig, shape(48, 72, 2, 3, 1, sliding_window=None, rope_parameters=rope(1e6)), "bfloat16", {}),
    "qwen2": (t.Qwen2Config, shape(72, 88, 2, 6, 3, rope_parameters=rope(1e6), tie_word_embeddings=False), "float16", {}),
    "qwen2-window": (t.Qwen2Config, shape(64, 88, 4, 4, 1, rope_parameters=rope(1e6), tie_word_embeddings=True,
                                          use_sliding_window=True, sliding_window=21, max_window_layers=2), "bfloat16",
                     {"gguf": "its files do not say Qwen 2's window"}),
    "qwen3": (t.Qwen3Config, shape(40, 96, 3, 5, 5, 24, rope_parameters=rope(1e6), tie_word_embeddings=True), "bfloat16", {"shard": True}),
    "mixtral": (t.MixtralConfig, shape(48, 56, 2, 4, 2, num_local_experts=5, num_experts_per_tok=2, rope_parameters=rope(1e6),
                                       sliding_window=None), "bfloat16", {}),
    "qwen3-moe": (t.Qwen3MoeConfig, shape(48, 80, 4, 4, 2, 16, num_experts=6, num_experts_per_tok=3, moe_intermediate_size=24,
                                          norm_topk_prob=True, rope_parameters=rope(1e6)), "float32", {}),
    "qwen3-moe-sparse": (t.Qwen3MoeConfig, shape(48, 80, 4, 4, 2, 16, num_experts=6, num_experts_per_tok=2, moe_intermediate_size=24,
                                                 norm_topk_prob=False, decoder_sparse_step=2, mlp_only_layers=[3],
                                                 rope_parameters=rope(1e6)), "bfloat16",
                         {"gguf": "its converter takes no dense layers among those of experts"}),
    "gemma3": (t.Gemma3TextConfig, shape(48, 72, 6, 4, 2, 20, sliding_window=19, query_pre_attn_scalar=14,
                                         layer_types=["sliding_attention"] * 2 + ["full_attention"] + ["sliding_attention"] * 2 + ["full_attention"],
                                         hidden_activation="gelu_pytorch_tanh",
                                         rope_parameters={"full_attention": rope(1e6, "linear", factor=8.0), "sliding_attention": rope(1e4)}),
               "bfloat16", {"gguf": "its files have the published sizes' pattern of layers and scale of queries, not these"}),
    "gemma3-usual": (t.Gemma3TextConfig, shape(48, 72, 7, 4, 2, 20, sliding_window=19, query_pre_attn_scalar=20,
                                               layer_types=["sliding_attention"] * 5 + ["full_attention", "sliding_attention"],
                                               rope_parameters={"full_attention": rope(1e6, "linear", factor=8.0), "sliding_attention": rope(1e4)}),
                     "bfloat16", {}),
    "gemma3-capped": (t.Gemma3TextConfig, shape(48, 72, 2, 3, 1, 16, sliding_window=33, query_pre_attn_scalar=16,
                                                layer_types=["sliding_attention", "full_attention"], hidden_activation="gelu_pytorch_tanh",
                                                attn_logit_softcapping=4.0, final_logit_softcapping=6.0,
                                                rope_parameters={"full_attention": rope(1e6), "sliding_attention": rope(1e4)}),
                      "float32", {"gguf": "its converter takes no caps"}),
    "phi3": (t.Phi3Config, shape(48, 72, 2, 4, 4, rope_parameters=rope(), sliding_window=23, original_max_position_embeddings=256), "float32", {}),
    "phi3-long": (t.Phi3Config, shape(64, 72, 3, 4, 2, rope_parameters=dict(long_rope(6), partial_rotary_factor=0.75),
                                      original_max_position_embeddings=64, tie_word_embeddings=True), "bfloat16", {}),
    "qwen2-odd": (t.Qwen2Config, shape(74, 88, 2, 4, 2, rope_parameters=rope(1e6), tie_word_embeddings=False), "bfloat16", {}),
    "qwen2-yarn": (t.Qwen2Config, shape(64, 88, 2, 4, 2, rope_parameters=yarn()), "float32", {}),
    "llama-yarn": (t.LlamaConfig, shape(64, 80, 2, 4, 2, rope_parameters=yarn(beta_fast=20.0, beta_slow=2.0, attention_factor=1.2)),
                   "bfloat16", {}),
    "qwen3-moe-narrow": (t.Qwen3MoeConfig, shape(48, 80, 2, 4, 2, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24,
                                                 norm_topk_prob=True, rope_parameters=rope(1e6)), "float32", {}),
    "gemma3-seeing": (t.Gemma3TextConfig, shape(48, 72, 3, 8, 4, 20, sliding_window=19, query_pre_attn_scalar=14,
                                                layer_types=["sliding_attention"] * 2 + ["full_attention"],
                                                rope_parameters={"full_attention": rope(1e6, "linear", factor=8.0), "sliding_attention": rope(1e4)}),
                      "bfloat16", {"edit": seeing, "rename": "language_model.{}".format, "gguf": "its converter takes only whole ones"}),
    "phi3-crossing": (t.Phi3Config, shape(64, 72, 2, 4, 2, rope_parameters=long_rope(8, 96), original_max_position_embeddings=96,
                                          tie_word_embeddings=False), "bfloat16", {}),
}
