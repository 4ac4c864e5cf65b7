"""What the tokens of a tokenizer spell: by which tokens of two tokenizers are the same, and others are taken apart.

    byte-level (GPT-2)            "Ġof" is the bytes of " of", each byte a letter of an alphabet of 256
    SentencePiece                 "▁of" is " of"; "<0x0A>" is a byte
    WordPiece                     "##of" goes on a word, "of" begins one and is " of"
    bytes                         every token is a byte

Special tokens are their own names, and their roles (begin, end, padding …) are known.

Source of the alphabet: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019, section 2.2.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from ckptgrow.data.pretrained_tokenizer import pretrained_tokenizer
from ckptgrow.data.tokenizers import BYTES
from ckptgrow.errors import DataError

ROLES = ("bos", "eos", "pad", "unk", "sep", "cls", "mask")
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
    *("merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
    *("chat_template.jinja", "chat_template.json"),
)
TELLING = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")  # any shows a tokenizer
SPACE = "▁"
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
Encode = Callable[[str], Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class TokenTexts:
    """A tokenizer as a table: `plain` tokens by id as bytes, `special` ones as their names; `roles` of special ones.

    `encode`: the ids of a text, with nothing added; `unknown`: the id of what it cannot spell.
    """

    plain: Mapping[int, bytes]
    special: Mapping[int, str]
    roles: Mapping[str, int]
    encode: Encode
    unknown: int | None = None

    @property
    def num_ids(self) -> int:
        """One more than the largest id."""
        return 1 + max((*self.plain, *self.special), default=-1)

    @cached_property
    def ids(self) -> Mapping[bytes | str, int]:
        """The smallest id of every text, and of every special token's name."""
        ordered = sorted([*self.plain.items(), *self.special.items()], reverse=True)
        return {text: number for number, text in ordered}

    def pieces(self, text: bytes) -> list[int]:
        """The tokens of a text, of bytes that are no text one by one; empty where there are none."""
        try:
            found = list(self.encode(text.decode("utf-8")))
        except UnicodeDecodeError:
            found = [self.ids[bytes([one])] for one in text if bytes([one]) in self.ids]
        return [one for one in found if one != self.unknown]


def token_texts(name: str) -> TokenTexts:
    """A tokenizer's table: of `bytes`, a directory, or a name on the hub or in its cache.

    Raises DataError where there is none.
    """
    if name == BYTES:
        return TokenTexts(
            plain={one: bytes([one]) for one in range(256)},
            special={},
            roles={"eos": 0},
            encode=lambda text: list(text.encode("utf-8")),
        )
    try:
        return _of_transformers(pretrained_tokenizer(name))
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        reason = (str(error).strip() or type(error).__name__).split("\n")[0][:120]
        raise DataError(f"⟦tokenizer {name}⟧: cannot be loaded ({reason}); give a directory, or bytes") from error


def tokenizer_in(directory: Path) -> str | None:
    """The name of the tokenizer whose files lie in a directory; None where there is none."""
    return str(directory) if any((directory / name).is_file() for name in TELLING) else None


def _of_transformers(tokenizer: Any) -> TokenTexts:
    names: dict[str, int] = tokenizer.get_vocab()
    added = {number: str(one) for number, one in tokenizer.added_tokens_decoder.items()}
    special = {number: text for number, text in added.items() if text in tokenizer.all_special_tokens}
    to_bytes = _reader(tokenizer)
    others = {number: text for number, text in added.items() if number not in special}
    plain = {number: to_bytes(name) for name, number in names.items() if number not in added}
    roles = {role: getattr(tokenizer, f"{role}_token_id") for role in ROLES}
    return TokenTexts(
        plain={**plain, **{number: text.encode() for number, text in others.items()}},
        special=special,
        roles={role: number for role, number in roles.items() if isinstance(number, int)},
        encode=_encoder(tokenizer),
        unknown=tokenizer.unk_token_id,
    )


def _reader(tokenizer: Any) -> Callable[[str], bytes]:
    """What a token's name spells, by the kind of the tokenizer."""
    described = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else {}
    parts = {one.get("type") for key in ("decoder", "pre_tokenizer") for one in _parts(described.get(key))}
    if "ByteLevel" in parts:
        return _from_alphabet
    if "WordPiece" in parts:
        prefix = str(described["model"].get("continuing_subword_prefix", "##"))
        return lambda name: name.removeprefix(prefix).encode() if name.startswith(prefix) else f" {name}".encode()
    return _from_sentencepiece


def _parts(node: Any) -> list[dict[str, Any]]:
    """A part of a tokenizer, and those of which it is a sequence."""
    if not isinstance(node, dict):
        return []
    inner = [part for key in ("decoders", "pretokenizers") for one in node.get(key, ()) for part in _parts(one)]
    return [node, *inner]


def _from_alphabet(name: str) -> bytes:
    letters = _alphabet()
    return bytes(letters[one] for one in name) if all(one in letters for one in name) else name.encode()


@cache
def _alphabet() -> dict[str, int]:
    """The bytes by their letters: printable ones are themselves, the others follow 255 in order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [one for one in range(256) if one not in printable]
    return {**{chr(one): one for one in printable}, **{chr(256 + place): one for place, one in enumerate(others)}}


def _from_sentencepiece(name: str) -> bytes:
    byte = _BYTE.fullmatch(name)
    return bytes([int(byte[1], 16)]) if byte else name.replace(SPACE, " ").encode()


def _encoder(tokenizer: Any) -> Encode:
    def ids(text: str) -> Sequence[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    first = tokenizer.convert_ids_to_tokens(list(ids("a"))[:1])
    if first and str(first[0]).startswith(SPACE):  # it puts a space before every text
        return lambda text: ids(text.removeprefix(" "))
    return ids
