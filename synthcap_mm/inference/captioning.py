"""Images to a file of captions, as ``tools/caption.py`` does it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.logging import MMLogger, print_log

from synthcap_mm.files import file_sha256
from synthcap_mm.inference.caption_lines import CaptionLines
from synthcap_mm.inference.export_folder import MANIFEST, is_export
from synthcap_mm.inference.inferencer import CaptionInferencer
from synthcap_mm.inference.inputs import PhotoInput, iter_inputs
from synthcap_mm.pairs.progress import Progress


def caption_files(
    model: str,
    checkpoint: str | None,
    inputs: Sequence[str],
    out: str | os.PathLike[str],
    batch_size: int = 32,
    device: str | None = None,
    dtype: str = "float32",
    workers: int = 2,
    **options: Any,
) -> dict[str, int]:
    """Caption images, a line each, going on where an earlier call was stopped.

    Args:
        model: a config, or an exported folder.
        checkpoint: of the config; ``None`` with an export.
        inputs: files, folders, patterns, URLs. One that is named twice is captioned once.
        out: file to write, see :class:`~synthcap_mm.inference.caption_lines.CaptionLines`.
        batch_size: images at once. Default 32.
        device: see :class:`~synthcap_mm.inference.inferencer.CaptionInferencer`. Default ``None``.
        dtype: see there. Default ``'float32'``.
        workers: see there. Default 2.
        **options: of :meth:`CaptionInferencer.forward`.

    Returns:
        Counts: ``captioned``, ``unreadable``, ``found`` (done before), ``repeated`` (named again).

    Raises:
        CaptionFileError: if ``out`` was written with other settings.
        ValueError: see :class:`CaptionInferencer`, and for inputs that are none.
    """
    if not MMLogger.check_instance_created("synthcap_mm"):
        MMLogger.get_instance("synthcap_mm", logger_name="synthcap_mm", log_level="INFO")
    everything = list(iter_inputs(list(inputs)))
    by_key: dict[str, PhotoInput] = {item.key: item for item in everything}
    if checkpoint is None and not is_export(model):
        raise FileNotFoundError(f"the folder {model} is no export of tools/export.py")
    if checkpoint is not None and not Path(checkpoint).is_file():
        raise FileNotFoundError(f"no checkpoint {checkpoint}")
    weights = Path(model, MANIFEST) if checkpoint is None else Path(checkpoint)
    settings = {"model": Path(model).name, "weights": file_sha256(weights), "dtype": dtype, **options}
    counts: Counter[str] = Counter(captioned=0, unreadable=0, found=0, repeated=len(everything) - len(by_key))
    with CaptionLines(out, settings) as lines:
        todo = [item for key, item in by_key.items() if key not in lines.done]
        counts["found"] = len(by_key) - len(todo)
        if todo:  # a model is loaded only if there is something to do
            inferencer = CaptionInferencer(model, checkpoint, device=device, dtype=dtype, workers=workers)
            with Progress("captions", len(by_key), counts["found"], "images") as bar:
                for prediction in inferencer.stream(todo, batch_size, errors="report", **options):
                    lines.write(prediction)
                    bar.update(1)
                    if "error" in prediction:
                        counts["unreadable"] += 1
                        print_log(prediction["error"], logger="current", level=30)
                    else:
                        counts["captioned"] += 1
    print_log(
        f"captions: {counts['captioned']} written, {counts['found']} found from before, {counts['unreadable']} images "
        f"could not be read, {counts['repeated']} were named twice; {out}",
        logger="current",
    )
    return dict(counts)
