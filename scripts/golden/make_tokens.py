"""Records token ids of a CLIP tokenizer for prompts that are easy to get wrong.

    python make_tokens.py DIR_WITH_vocab.json_AND_merges.txt [PROMPT_FILE ...] > cases/tokens.json
"""

import json
import sys
from pathlib import Path

from transformers import CLIPTokenizer

TRICKY = [
    "", " ", "a dog", "A DOG", "  two   spaces\tand\nlines ", "don't won't it's I'm they'll we've he'd", "1234 3.14 1,000",
    "café naïve Zürich Ångström", "Georgia O'Keeffe style # desert painting", "Cubist-style portrait of a # dog by Picasso",
    "dream-like (surreal) [artwork], 4k; 8K: best/quality!!!", "emoji 🐕‍🦺 and 日本語 and العربية", "tabs\u00a0nbsp\u2009thin",
    "“curly quotes” – dashes — and … ellipsis", "C++ #1 @home 50% off & more * stars", "<|endoftext|> inside", "a" * 300,
    "supercalifragilisticexpialidocious antidisestablishmentarianism", "word " * 120, "x²+y³=½", "naïve coöperation",
    "S* dog in van gogh style", "a S*dog", "S* ", "photo of a S* dog, S* again",
]


def main():
    tokenizer = CLIPTokenizer.from_pretrained(sys.argv[1])
    prompts = list(TRICKY)
    for path in map(Path, sys.argv[2:]):
        prompts += [line.strip().replace("{}", "# dog") for line in path.read_text().splitlines() if line.strip()]
    ids = tokenizer(prompts, padding="max_length", truncation=True, max_length=77).input_ids
    json.dump([{"prompt": p, "ids": i} for p, i in zip(prompts, ids)], sys.stdout, ensure_ascii=False)


if __name__ == "__main__":
    main()
