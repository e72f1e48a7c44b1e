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

TextModel.get_vocab_base_pre = lambda self, tokenizer: "llama-bpe"
TextModel._set_vocab_sentencepiece = lambda self, *_, **__: self._set_vocab_gpt2()


def take_as_it_is(self):
    self._set_vocab_gpt2()


def subclasses(kind):
    for each in kind.__subclasses__():
        yield each
        yield from subclasses(each)


def main():
    wrapped = convert_hf_to_gguf.get_model_class if hasattr(convert_hf_to_gguf, "get_model_class") else None
    del wrapped
    from conversion import base
    found = base.ModelBase.from_model_architecture

    def from_model_architecture(*arguments, **named):
        kind = found(*arguments, **named)
        kind.set_vocab = take_as_it_is
        return kind

    base.ModelBase.from_model_architecture = staticmethod(from_model_architecture)
    convert_hf_to_gguf.main()


main()
