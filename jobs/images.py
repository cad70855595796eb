"""What may be written as an image: the grammar of image references, with what is wrong said in words.

The rules are Docker's own (distribution's reference grammar): `[registry[:port]/]path[:tag][@digest]`. Pure.
"""

import re

MAX_REFERENCE = 512
MAX_NAME = 255

_HOST_PART = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_REGISTRY = re.compile(rf"(?:{_HOST_PART}(?:\.{_HOST_PART})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?")
_PATH_PART = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}")
_HEX_LENGTH = {"sha256": 64, "sha384": 96, "sha512": 128}


def image_problem(reference: str) -> str:
    """What Docker would refuse in an image reference, as a sentence with a remedy; '' where it would take it."""
    if not reference:
        return "Must not be empty: name an image, such as alpine:3.20."
    if any(character.isspace() for character in reference):
        return "Must not contain white space: an image is one word, such as alpine:3.20."
    if "://" in reference:
        return "Must not begin with a scheme such as https://: write registry.example.com/team/app:1.0."
    if len(reference) > MAX_REFERENCE:
        return f"Must be at most {MAX_REFERENCE} characters long."
    name, at, digest = reference.partition("@")
    name, tag = _split_tag(name)
    return _name_problem(name) or _tag_problem(tag) or (_digest_problem(digest) if at else "")


def _split_tag(name: str) -> tuple[str, str | None]:
    """A colon after the last slash begins a tag; one before it belongs to the registry's port."""
    slash, colon = name.rfind("/"), name.rfind(":")
    return (name[:colon], name[colon + 1 :]) if colon > slash else (name, None)


def _name_problem(name: str) -> str:
    if not name:
        return "The name before the tag or digest is missing: write it as in alpine:3.20."
    if len(name) > MAX_NAME:
        return f"The name before the tag must be at most {MAX_NAME} characters long."
    if re.fullmatch(r"[0-9a-f]{64}", name):
        return "A bare image id is not a name: write sha256: before it, or use name:tag or name@digest."
    first, slash, rest = name.partition("/")
    has_registry = bool(slash) and (first == "localhost" or any(mark in first for mark in ".:[") or first == "")
    if has_registry and not _REGISTRY.fullmatch(first):
        return f"The registry {first!r} is not a host name with an optional port, such as registry.example.com:5000."
    for part in (rest if has_registry else name).split("/"):
        if problem := _path_problem(part):
            return problem
    return ""


def _path_problem(part: str) -> str:
    if not part:
        return "Must not have an empty part between slashes, or end in one."
    if part != part.lower():
        return f"Must not have upper-case letters in the name: {part!r}; write {part.lower()!r}."
    if not _PATH_PART.fullmatch(part):
        return (
            f"The part {part!r} must be of lower-case letters and digits, which '.', '_', '__' or dashes may separate: "
            "none at its beginning or end."
        )
    return ""


def _tag_problem(tag: str | None) -> str:
    if tag is None or _TAG.fullmatch(tag):
        return ""
    if not tag:
        return "The tag after ':' is missing: leave out the colon, or write one such as ':latest'."
    return f"The tag {tag!r} must be of letters, digits, '_', '.' and '-', 128 at most, and not begin with '.' or '-'."


def _digest_problem(digest: str) -> str:
    algorithm, _, hexadecimal = digest.partition(":")
    length = _HEX_LENGTH.get(algorithm)
    if (
        not _DIGEST.fullmatch(digest)
        or length is None
        or len(hexadecimal) != length
        or hexadecimal.lower() != hexadecimal
    ):
        return f"The digest {digest!r} must be 'sha256:' and 64 lower-case hexadecimal digits."
    return ""
