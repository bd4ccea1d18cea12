"""The words of the toybox: captions for training, prompts for use, and the tokenizer that knows them."""
import json
import os
import re
from pathlib import Path

from dreamlab.toybox.objects import COLOURS, KINDS

TEMPLATES = ("a {}", "a photo of a {}", "a picture of a {}", "a toy {}")
VIEW_PHRASES = ("front view", "side view", "left side view", "right side view", "back view")
TOKENS = 16  # length of a caption in tokens, start and end included


def caption(kind: str, colour: str, view: str | None = None, template: str = "a {}") -> str:
    """"a photo of an orange duck, side view"."""
    text = template.format(f"{colour} {kind}")
    text = re.sub(r"\ba (?=[aeiou])", "an ", text)
    return f"{text}, {view}" if view else text


def view_phrases(azimuth_deg: float | int) -> list[str]:
    """All phrases that are true of an azimuth: the side views also tell left from right (the object's own)."""
    az = (azimuth_deg + 180) % 360 - 180
    if abs(az) < 45:
        return ["front view"]
    if abs(az) >= 135:
        return ["back view"]
    return ["side view", "left side view" if az > 0 else "right side view"]


def parse(prompt: str) -> tuple[str, str]:
    """(kind, colour) that a prompt names; ``ValueError`` with the toybox's words if it names none, or two."""
    words = re.findall(r"[a-z]+", prompt.lower())
    found = []
    for what, known in (("kind", KINDS), ("colour", COLOURS)):
        named = sorted({w for w in words if w in known})
        if len(named) != 1:
            said = f"{' and '.join(named)} as" if named else "no"
            short = prompt if len(prompt) <= 80 else f"{prompt[:80]}..."
            raise ValueError(f"the prompt {short!r} names {said} {what} of the toybox; use one kind of: "
                             f"{', '.join(KINDS)}; and one colour of: {', '.join(COLOURS)}")
        found += named
    return found[0], found[1]


def vocabulary() -> list[str]:
    """Every word of every caption."""
    text = " ".join((*TEMPLATES, *VIEW_PHRASES, *KINDS, *COLOURS, "an"))
    return sorted(set(re.findall(r"[a-z]+", text)), key=lambda w: (len(w), w))


def _pieces(word: str, merges: dict[tuple[str, str], int]) -> list[str]:
    pieces = [*word[:-1], word[-1] + "</w>"]
    while True:
        ranks = [(merges[pair], i) for i, pair in enumerate(zip(pieces, pieces[1:], strict=False)) if pair in merges]
        if not ranks:
            return pieces
        _, i = min(ranks)
        pieces[i : i + 2] = ["".join(pieces[i : i + 2])]


def save_tokenizer(folder: Path):
    """Write a ``CLIPTokenizer`` in which each word of :func:`vocabulary` is one token; other words are spelt in letters.

    Merges are added word by word, shortest first, to what byte-pair encoding has made of the word so far: a later merge
    ranks below all earlier ones, so it cannot split a word that was whole before.
    """
    from transformers import CLIPTokenizer

    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + list("0123456789,.-'")
    merges: dict[tuple[str, str], int] = {}
    for word in vocabulary():
        pieces = _pieces(word, merges)
        while len(pieces) > 1:
            merges[pieces[0], pieces[1]] = len(merges)
            pieces[:2] = [pieces[0] + pieces[1]]
    tokens = [*letters, *(x + "</w>" for x in letters), *dict.fromkeys(a + b for a, b in merges)]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges) + "\n")
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=TOKENS)
    for name in ("vocab.json", "merges.txt"):
        os.remove(folder / name)
    tokenizer.save_pretrained(folder)
    return tokenizer
