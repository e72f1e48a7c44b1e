"""Writes the seed corpora: python3 fuzz/seeds.py. Small on purpose; what fuzzing finds beside them goes to `grown/`."""

import json
import struct
from hashlib import sha256
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"


def put(target: str, name: str, content: bytes) -> None:
    path = CORPUS / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def pad(content: bytes, align: int) -> bytes:
    return content + bytes(-len(content) % align)


def snapshot(tensors: dict[str, int], sections: dict[str, tuple[int, bytes]], critical: bool = True) -> bytes:
    """Version 1 with every sum zero: the target puts the sums right."""
    at, body, table = 8192, b"", {"sections": [], "arenas": []}
    for name, (kind, content) in sections.items():
        row = {"kind": kind, "name": name, "version": 1, "critical": critical, "offset": at, "bytes": len(content)}
        table["sections"].append(row)
        body += pad(content, 4096)
        at = 8192 + len(body)
    arena, rows = b"", []
    for name, size in tensors.items():
        arena = pad(arena, 256)
        row = {"name": name, "dtype": "u8", "layout": "row-major", "shape": [size], "offset": at + len(arena), "bytes": size}
        rows.append(row)
        arena += b"w" * size
    weights = {"kind": 1, "name": "weights", "version": 1, "critical": True, "offset": at, "bytes": len(arena)}
    table["sections"].append(weights)
    extents = [{"offset": at, "bytes": len(arena)}] if arena else []
    table["arenas"].append({"target": "portable", "section": len(sections), "extents": extents, "tensors": rows})
    text = json.dumps(table, separators=(",", ":")).encode()
    assert len(text) <= 4096
    body += pad(arena, 4096)
    checksums, chunk = 8192 + len(body), 4096
    sums = bytes(8 * (checksums // chunk))
    header = bytearray(4096)
    header[:8] = b"\x89PLT\r\n\x1a\n"
    struct.pack_into("<HHIII", header, 8, 1, 0, 0, 0, chunk)
    struct.pack_into("<QQQQQQQQ", header, 24, checksums + len(sums), 4096, len(text), 0, checksums, len(sums), 0, at)
    struct.pack_into("<Q", header, 88, len(arena))
    for offset, word in [(256, b"tiny"), (512, b"portable"), (576, b"native")]:
        struct.pack_into("<H", header, offset, len(word))
        header[offset + 2 : offset + 2 + len(word)] = word
    return bytes(header) + pad(text, 4096) + body + sums


def gguf_value(value: object) -> bytes:
    """Type number and bytes of a metadata value."""
    if isinstance(value, str):
        return struct.pack("<IQ", 8, len(value.encode())) + value.encode()
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, bool):
        return struct.pack("<IB", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    items = [gguf_value(item) for item in value]
    return struct.pack("<I", 9) + items[0][:4] + struct.pack("<Q", len(items)) + b"".join(item[4:] for item in items)


def gguf(metadata: dict[str, object], tensors: dict[str, list[int]], version: int = 3) -> bytes:
    """Vectors in F32, matrices in Q4_0 (18 bytes for 32 elements)."""
    head = struct.pack("<4sIQQ", b"GGUF", version, len(tensors), len(metadata))
    for key, value in metadata.items():
        head += struct.pack("<Q", len(key)) + key.encode() + gguf_value(value)
    data = b""
    for name, shape in tensors.items():
        elements = shape[0] * (shape[1] if len(shape) > 1 else 1)
        kind, size = (0, elements * 4) if len(shape) == 1 else (2, elements // 32 * 18)
        head += struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", len(shape))
        head += struct.pack(f"<{len(shape)}Q", *reversed(shape)) + struct.pack("<IQ", kind, len(data))
        data = pad(data + bytes(size), 32)
    return pad(head, 32) + data


def llama() -> bytes:
    metadata = {
        "general.architecture": "llama",
        "llama.embedding_length": 32,
        "llama.feed_forward_length": 32,
        "llama.block_count": 1,
        "llama.context_length": 64,
        "llama.attention.head_count": 2,
        "llama.attention.head_count_kv": 1,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 10000.0,
        "llama.rope.dimension_count": 16,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": ["<|im_start|>", "<|im_end|>", "a", "b", "ab", "Ġ"],
        "tokenizer.ggml.token_type": [3, 3, 1, 1, 1, 1],
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": "{% for m in messages %}{{ m['content'] }}{% endfor %}",
    }
    layer = {
        "attn_norm": [32], "attn_q": [32, 32], "attn_k": [16, 32], "attn_v": [16, 32], "attn_output": [32, 32],
        "ffn_norm": [32], "ffn_gate": [32, 32], "ffn_up": [32, 32], "ffn_down": [32, 32],
    }  # fmt: skip
    tensors = {"token_embd.weight": [6, 32], "output_norm.weight": [32]}
    return gguf(metadata, tensors | {f"blk.0.{name}.weight": shape for name, shape in layer.items()})


def main() -> None:
    put("snapshot", "small", snapshot({"embed": 700, "head": 1}, {"config": (4, b"{}"), "tokenizer": (2, b"t" * 50)}))
    put("snapshot", "no-tensors", snapshot({}, {"config": (4, b"{}")}))
    put("snapshot", "unknown-section", snapshot({"t": 8}, {"moods": (99, b"?")}, critical=False))
    put("gguf", "llama", llama())
    put("gguf", "empty", gguf({}, {}))
    put("gguf", "version-2", gguf({"general.alignment": 32, "a": [1.5, 2.5], "b": True}, {"t": [2, 32]}, version=2))
    shards = {"model.embed_tokens.weight": "model-00001-of-00002.safetensors", "n": "model-00002-of-00002.safetensors"}
    put("safetensors_index", "two-shards", json.dumps({"metadata": {"total_size": 9}, "weight_map": shards}).encode())
    put("safetensors_index", "leaves-the-folder", b'{"weight_map": {"a": "../x.safetensors"}}')
    chat = {
        "model": "m", "stream": True, "stream_options": {"include_usage": True}, "seed": 1, "n": 2, "max_tokens": 9,
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": [{"type": "text", "text": "u"}]},
        ],
        "temperature": 0.5, "top_p": 0.9, "top_k": 4, "stop": ["a"], "logit_bias": {"5": -1.5}, "logprobs": True,
        "top_logprobs": 3, "response_format": {"type": "json_object"},
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    }  # fmt: skip
    completion = {
        "model": "m", "prompt": [1, 2, 3], "logprobs": 2, "echo": True, "ignore_eos": True,
        "return_tokens_as_token_ids": True, "cache_prompt": False, "presence_penalty": 0.1, "suffix": None,
    }  # fmt: skip
    put("openai_json", "chat", json.dumps(chat).encode())
    put("openai_json", "completion", json.dumps(completion).encode())
    put("openai_json", "texts", b'{"model":"m","prompt":["a","\\u00e9\\ud83d\\ude00"],"stop":"x","max_tokens":0}')
    put("openai_json", "tokenize", b'{"model":"m","prompt":"a","add_special_tokens":false,"tokens":[1]}')
    # How calls are written, whether several may come, two lengths of pieces, and the text.
    texts = {
        "hermes": b'I look. <tool_call>\n{"name": "f", "arguments": {"a": [1, "}"]}}\n</tool_call>\n<tool_call>{"name": "gg"}</tool_call>',
        "mistral": b'[TOOL_CALLS] [{"name": "f", "arguments": {}}, {"arguments": null, "name": "gg"}] so',
        "mistral-named": b'[TOOL_CALLS]f[ARGS]{"a": "\\""}[TOOL_CALLS]gg[CALL_ID]1[ARGS]{}',
        "phi": b'<|tool_call|>[{"name": "f", "arguments": "{}"}]<|/tool_call|>',
        "json": b'```json\n[{"type": "function", "name": "f", "parameters": {}}]\n```',
    }  # fmt: skip
    for i, (name, text) in enumerate(texts.items()):
        put("tool_calls", name, bytes([i, 1, 3, 7]) + text)
    head = {"version": "0.1.0", "build": "00ff", "architecture": "sm_90", "driver": 12080, "namespace": "cuda/x", "kernels": [[2, 3]]}
    text = json.dumps(head).encode()
    put("kernels_section", "one", pad(b"\x89PLTKRN\n" + struct.pack("<II", len(text), 0) + text, 4096) + b"kkccc")
    # A guests section, and answers of a guest: discriminant, consumed, emitted string, stop; and a refusal.
    index = json.dumps({"guests": [{"spec": {"name": "g"}, "digest": "sha256:" + sha256(b"wasm").hexdigest(), "component": [0, 4]}]}).encode()
    put("guests", "section", b"\0" + struct.pack("<Q", len(index)) + index + b"wasm")
    put("guests", "edit", b"\x01" + struct.pack("<B3xIB3xIIB3x", 0, 4, 1, 8, 3, 0))
    put("guests", "end", b"\x03" + struct.pack("<B3xIB3xIIB3x", 0, 24, 0, 0, 0, 1))
    put("guests", "refusal", b"\x01" + struct.pack("<B3xHxxIIII", 1, 451, 100, 4, 100, 4))
    # What the form is, and the form.
    schema = {
        "type": "object", "properties": {"a": {"$ref": "#/$defs/n"}, "b": {"enum": ["x", 1, None]}, "c": {"pattern": "^a+$"}},
        "$defs": {"n": {"type": "integer", "minimum": 1, "maximum": 40}}, "required": ["a"], "additionalProperties": False,
        "anyOf": [{"minProperties": 1}, {"type": "array", "items": {"type": "string", "maxLength": 9}, "maxItems": 3}],
    }  # fmt: skip
    put("guides", "schema", b"\0" + json.dumps(schema).encode())
    put("guides", "none", b"\0null")
    put("guides", "expression", b"\x01[a-c]{2,5}-(on|off)\\d*")
    put("guides", "grammar", b'\x02start: "a" other+ | NUMBER\nother: /[b-d]+/ ","?\nNUMBER: /[0-9]{1,3}/\n')
    put("guides", "tools", b'\x02start: (<[7]> call)+\ncall: "{" %json {"type": "object"} "}"\n')
    # Where it is cut, what stands before it, and the rest.
    put("answers", "whole", b"\x20\x01content-type: application/json\r\ncontent-length: 2\r\n\r\n{}HTTP/1.1 ")
    put("answers", "parts", b"\x40\x025;a=b\r\nhello\r\n1\r\n \r\n0\r\nx: y\r\n\r\n")
    put("answers", "early", b"\x09\x03helloHTTP")
    put("answers", "closed", b"\x30\x00HTTP/1.0 503 Service Unavailable\r\nconnection: close\r\n\r\nsorry")


if __name__ == "__main__":
    main()
