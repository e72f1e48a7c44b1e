"""Converts a tiny model's folder with llama.cpp's own converter: to_gguf.py LLAMA_CPP FOLDER OUT TYPE

The tiny models share one small byte-level tokenizer, which no file names and some families do not have; the converter is told
to take it as it is. So this checks metadata and tensors; the tokenizers that GGUF carries have a test of their own.
"""

import pathlib
import sys

llama_cpp, folder, out, kind = pathlib.Path(sys.argv[1]), *sys.argv[2:5]
sys.path[:0] = [str(llama_cpp), str(llama_cpp / "gguf-py")]
sys.argv[1:] = [folder, "--outfile", out, "--outtype", kind]

import convert_hf_to_gguf  # noqa: E402
from conversion.base import TextModel  # noqa: E402

found = convert_hf_to_gguf.get_model_class


def get_model_class(*arguments, **named):
    model = found(*arguments, **named)
    model.set_vocab = TextModel._set_vocab_gpt2
    model.get_vocab_base_pre = lambda self, tokenizer: "llama-bpe"
    return model


convert_hf_to_gguf.get_model_class = get_model_class
convert_hf_to_gguf.main()
