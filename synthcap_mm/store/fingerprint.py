"""What tells two encoders apart: the features of one fixed picture and one fixed sentence.

A table of features keeps the fingerprint of the encoder that made it (``encoder.json``). The name
alone proves nothing (weights get renamed, other weights get the same name), so
it is there for the message; the features decide. A cosine is forgiving by
design, of precision and devices: do not count on it to find a wrong activation
function, which a shallow tower hardly shows. OpenCLIPBackbone checks that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from synthcap_mm.errors import UserError

#: Cosine from which two features are the same encoder's. Source: the project's design (assumed there); room for
#: low precision, other devices and other versions of Pillow's resizing.
SAME_COSINE = 0.999

PARTS = ("image", "text")


def checked_fingerprint(value: Any, where: str) -> dict[str, Any] | None:
    """A fingerprint that was read from a file.

    Args:
        value: what stands there; ``None``: the encoder is not known.
        where: for the message.

    Raises:
        UserError: if it is none.
    """
    if value is None:
        return None
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise UserError(f"{where}: the encoder's fingerprint has no name")
    for part in PARTS:
        numbers = value.get(part)
        fits = isinstance(numbers, list) and numbers and all(type(number) in (int, float) for number in numbers)
        if not fits or not np.isfinite(np.asarray(numbers, dtype=np.float64)).all():
            raise UserError(f"{where}: the encoder's fingerprint has no field {part!r} of numbers")
    if len(value["image"]) != len(value["text"]):
        raise UserError(f"{where}: the encoder's fingerprint has vectors of two widths")
    return dict(value)


def checked_fingerprints(value: Any, where: str) -> dict[str, dict[str, Any]]:
    """Fingerprints of several encoders, by name, that were read from a file.

    Args:
        value: what stands there.
        where: for the message.

    Raises:
        UserError: if one is none.
    """
    if not isinstance(value, Mapping) or None in value.values():
        raise UserError(f"{where}: the fingerprints of other encoders are no object of fingerprints")
    return {str(name): checked_fingerprint(one, f"{where}, {str(name)!r}") for name, one in value.items()}


def cosines(fp_a: Mapping[str, Any], fp_b: Mapping[str, Any]) -> dict[str, float]:
    """Cosine of the two fingerprints' image features and of their text features.

    Args:
        fp_a: a fingerprint, ``{'name': str, 'image': list[float], 'text': list[float]}``.
        fp_b: another one.

    Returns:
        dict: ``{'image': cosine, 'text': cosine}``; NaN where the widths differ,
        where a feature has no length, or where it is not finite.

    Raises:
        ValueError: if a fingerprint lacks a field.
    """
    found = {}
    for part in PARTS:
        vectors = []
        for fingerprint in (fp_a, fp_b):
            if part not in fingerprint:
                raise ValueError(
                    f"the fingerprint of {fingerprint.get('name', 'an unnamed encoder')!r} has no field {part!r}; "
                    f"it needs 'name', 'image' and 'text', as BaseBackbone.fingerprint() makes them"
                )
            vectors.append(np.asarray(fingerprint[part], dtype=np.float64).ravel())
        a, b = vectors
        norm = float(np.linalg.norm(a) * np.linalg.norm(b))
        comparable = a.shape == b.shape and np.isfinite(norm) and norm > 0
        found[part] = float(a @ b) / norm if comparable else float("nan")
    return found


def same_encoder(fp_a: Mapping[str, Any], fp_b: Mapping[str, Any]) -> bool:
    """Whether two fingerprints are the same encoder's: cosine of at least 0.999 for image and text.

    Args:
        fp_a: a fingerprint, ``{'name': str, 'image': list[float], 'text': list[float]}``.
        fp_b: another one.

    Raises:
        ValueError: if a fingerprint lacks a field.
    """
    return all(cosine >= SAME_COSINE for cosine in cosines(fp_a, fp_b).values())


def describe_mismatch(fp_a: Mapping[str, Any], fp_b: Mapping[str, Any]) -> str:
    """One sentence that names both encoders and says in what they differ.

    Args:
        fp_a: a fingerprint, ``{'name': str, 'image': list[float], 'text': list[float]}``.
        fp_b: another one.

    Raises:
        ValueError: if a fingerprint lacks a field.
    """
    told = []
    for part, cosine in cosines(fp_a, fp_b).items():
        widths = [len(np.ravel(fingerprint[part])) for fingerprint in (fp_a, fp_b)]
        if widths[0] != widths[1]:
            told.append(f"{part} features of {widths[0]} and {widths[1]} numbers")
        elif np.isnan(cosine):
            told.append(f"{part} features that are zero or not finite")
        elif cosine < SAME_COSINE:
            told.append(f"{part} features with cosine {cosine:.4f} instead of {SAME_COSINE} or more")
    names = [str(fingerprint.get("name", "an unnamed encoder")) for fingerprint in (fp_a, fp_b)]
    if not told:
        return f"{names[0]!r} and {names[1]!r} are the same encoder"
    return f"{names[0]!r} and {names[1]!r} are different encoders: for the same probe they give {' and '.join(told)}"
