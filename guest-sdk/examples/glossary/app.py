"""An example guest in Python: explains words of the house.

The words are in its configuration, `terms`: a JSON object of words and what they mean. A chat that mentions some begins with a system message that
says what they mean; anything else passes.
"""

import json
import re

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.on_request import Verdict_Pass, Verdict_Replace
from wit_world.imports import host
from wit_world.imports.types import Message, Prompt_Chat, Rejection


class OnRequest(exports.OnRequest):
    def handle(self, req):
        if not isinstance(req.prompt, Prompt_Chat):
            return Verdict_Pass()
        said = " ".join(message.content for message in req.prompt.value)
        known = [(term, meaning) for term, meaning in terms().items() if mentions(said, term)]
        if not known:
            return Verdict_Pass()
        words = "\n".join(f"{term}: {meaning}" for term, meaning in known)
        req.prompt = Prompt_Chat([Message("system", f"Words of the house:\n{words}"), *req.prompt.value])
        return Verdict_Replace(req)


def terms():
    try:
        return dict(json.loads(host.config("terms") or "{}"))
    except ValueError as error:
        raise Err(Rejection(500, "glossary", f"the configuration's terms are no JSON object: {error}"))


def mentions(text, term):
    return re.search(rf"\b{re.escape(term)}\b", text, re.IGNORECASE) is not None
