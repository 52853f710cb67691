"""What the inferencer writes for one input."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from synthcap_mm.structures import CaptionSample


@dataclass(slots=True)
class CaptionResult:
    """What is written for one input.

    Attributes:
        key: the input, see :class:`~synthcap_mm.inference.inputs.PhotoInput`.
        sample: with its ``pred_*`` fields filled; ``None`` if the input cannot be read.
        error: why it cannot be read, a sentence; else ``None``.
        memory: with ``explain``: captions of the memory with their weights, largest first; ``None`` where the
            captioner has no memory.
        clip_score: with ``explain``: CLIPScore of the best caption.
    """

    key: str
    sample: CaptionSample | None = None
    error: str | None = None
    memory: list[tuple[str, float]] | None = None
    clip_score: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, for json; with tags, ``memory`` and ``clip_score`` where the result was explained.

        A result with a number that is not finite, which json cannot hold, is an error.
        """
        if self.sample is None:
            return {"image": self.key, "error": self.error}
        plain = self._plain()
        try:
            json.dumps(plain, allow_nan=False)
        except ValueError:
            return {"image": self.key, "error": f"the caption of {self.key} has a score that is not finite"}
        return plain

    def _plain(self) -> dict[str, Any]:
        sample = self.sample
        rows = zip(sample.pred_captions, sample.pred_logprobs, sample.pred_scores)
        plain: dict[str, Any] = {
            "image": self.key,
            "caption": sample.pred_caption,
            "captions": [{"caption": c, "logprob": float(p), "score": float(s)} for c, p, s in rows],
            "prompt_tags": list(sample.pred_tags or []),
        }
        if self.memory is not None or self.clip_score is not None:
            memory = None if self.memory is None else [{"caption": c, "weight": w} for c, w in self.memory]
            plain |= {
                "tags": [asdict(tag) for tag in sample.tags],
                "memory": memory,
                "clip_score": self.clip_score,
            }
        return plain
