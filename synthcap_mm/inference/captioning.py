"""Photos to a file of captions, as ``tools/caption.py`` does it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.logging import MMLogger, print_log

from synthcap_mm.errors import UserError
from synthcap_mm.files import file_sha256
from synthcap_mm.inference.caption_lines import CaptionLines
from synthcap_mm.inference.export_folder import MANIFEST, is_export
from synthcap_mm.inference.inferencer import CaptionInferencer
from synthcap_mm.inference.inputs import PhotoInput, identity, iter_inputs
from synthcap_mm.progress import Progress

#: Version of what a line holds; files of another are not continued.
_LINES = 2


def caption_files(
    model: str,
    checkpoint: str | None,
    inputs: Sequence[str],
    out: str | os.PathLike[str],
    batch_size: int = 32,
    device: str | None = None,
    dtype: str = "float32",
    workers: int = 2,
    allow_private_redirects: bool = False,
    **options: Any,
) -> dict[str, int]:
    """Caption photos, a line each; a call that was stopped is continued by the same call.

    Args:
        model: a config, or an exported folder.
        checkpoint: of the config; ``None`` with an export.
        inputs: files, folders, patterns, URLs. What is named twice is captioned once, whatever way a file is named.
        out: file to write, see :class:`~synthcap_mm.inference.caption_lines.CaptionLines`.
        batch_size: photos at once. Default 32.
        device: see :class:`~synthcap_mm.inference.inferencer.CaptionInferencer`. Default ``None``.
        dtype: see there. Default ``'float32'``.
        workers: see there. Default 2.
        allow_private_redirects: see there. Default ``False``.
        **options: of :meth:`CaptionInferencer.forward`.

    Returns:
        Counts: ``captioned``, ``unreadable``, ``found`` (captioned before), ``repeated`` (named again).

    Raises:
        UserError: if ``out`` was written with other settings, another process writes it, there is no such model or
            input, or no image can be read; see also :class:`CaptionInferencer`.
    """
    if not MMLogger.check_instance_created("synthcap_mm"):
        MMLogger.get_instance("synthcap_mm", logger_name="synthcap_mm", log_level="INFO")
    named = list(iter_inputs(list(inputs)))
    images: dict[tuple[str, int, int] | str, PhotoInput] = {}
    for item in named:
        images.setdefault(identity(item), item)
    weights = _weights_sha256(model, checkpoint)
    settings = {"lines": _LINES, "model": Path(model).name, "weights": weights, "dtype": dtype, **options}
    counts: Counter[str] = Counter(captioned=0, unreadable=0, found=0, repeated=len(named) - len(images))
    with CaptionLines(out, settings, images) as lines:
        todo = {one: item for one, item in images.items() if one not in lines.done}
        counts["found"] = len(images) - len(todo)
        if todo:  # a model is loaded only if there is something to do
            inferencer = CaptionInferencer(
                model, checkpoint, device=device, dtype=dtype, workers=workers,
                allow_private_redirects=allow_private_redirects,
            )  # fmt: skip
            with Progress("captions", len(images), counts["found"], "images") as bar:
                predictions = inferencer.stream(list(todo.values()), batch_size, errors="report", **options)
                for prediction, one in zip(predictions, todo):
                    lines.write(prediction if isinstance(one, str) else {**prediction, "file": one})
                    bar.update(1)
                    if "error" in prediction:
                        # A name that is not UTF-8 cannot be printed as it is.
                        message = prediction["error"].encode(errors="backslashreplace").decode()
                        print_log(message, logger="current", level=30)
                    counts["unreadable" if "error" in prediction else "captioned"] += 1
    print_log(
        f"captions: {counts['captioned']} written, {counts['found']} found from before, {counts['unreadable']} images "
        f"could not be read, {counts['repeated']} duplicates; {out}",
        logger="current",
    )
    if todo and counts["unreadable"] == len(images):
        raise UserError(f"no image could be read; {out} has the reasons")
    return dict(counts)


def _weights_sha256(model: str, checkpoint: str | None) -> str:
    """Hash of the checkpoint, or of an export's list of files."""
    if checkpoint is None and not is_export(model):
        raise UserError(f"the folder {model} is no export of tools/export.py")
    weights = Path(model, MANIFEST) if checkpoint is None else Path(checkpoint)
    if not weights.is_file():
        raise UserError(f"no checkpoint {checkpoint}")
    return file_sha256(weights)
