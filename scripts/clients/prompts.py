"""Writes prompts of an exact number of tokens, template included, one JSON object in a line.

usage: prompts.py BASE MODEL PROMPTS TOKENS OUTPUT_TOKENS FILE
"""

import json
import random
import sys
import urllib.request

base, model, prompts, tokens, output_tokens, path = sys.argv[1:]
# Each is one token of the reference models.
CHARACTERS = "的一是不了人我在有他这中大来上国个到说们为子和你地出道也时年得就那要下以生会自着去之过家学"
draw = random.Random(1)


def count(text):
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": text}]})
    request = urllib.request.Request(base.removesuffix("/v1") + "/tokenize", body.encode())
    return json.load(urllib.request.urlopen(request))["count"]


length = int(tokens) - count("的") + 1
with open(path, "w", encoding="utf-8") as file:
    for _ in range(int(prompts)):
        text = "".join(draw.choices(CHARACTERS, k=length))
        if count(text) != int(tokens):
            sys.exit(f"{count(text)} tokens instead of {tokens}: {text}")
        # One name for each tool that reads this.
        row = {"text": text, "prompt": text, "output_tokens_count": int(output_tokens)}
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
