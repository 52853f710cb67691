"""A generator that draws nothing: images that some model drew before are read by their prompt.

Named in a config's ``custom_imports``, as a user would plug in a generator of theirs.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from PIL import Image

from synthcap_mm.datasets.captions import CaptionFile
from synthcap_mm.models.generators.base import BaseGenerator, check_seeds
from synthcap_mm.registry import MODELS
from synthcap_mm.synthesis.synthesis import seed_of


@MODELS.register_module()
class ReadyMadeImages(BaseGenerator):
    """Images of a folder by prompt; where a prompt has several, the seed says which.

    The factory makes a caption's seed from its id, and the same file that names the
    images is the caption source, so prompt and seed name one image.

    Args:
        root (str): the folder of the images.
        metadata (str): json lines within it, each with ``file_name`` and ``prompt``.
            Defaults to 'metadata.jsonl'.
        base_seed (int): the factory's ``seed``. Defaults to 0, as there.

    Raises:
        FileNotFoundError: if the metadata or an image is missing.
        ValueError: if a line names no file.
    """

    def __init__(self, root: str, metadata: str = "metadata.jsonl", base_seed: int = 0) -> None:
        self.root = Path(root)
        rows = CaptionFile(self.root / metadata).read()
        unnamed = [row.id for row in rows if row.group is None]
        if unnamed:
            raise ValueError(f"{self.root / metadata}, line {unnamed[0]}: no field 'file_name'")
        missing = [row.group for row in rows if not (self.root / row.group).is_file()]
        if missing:
            raise FileNotFoundError(f"{len(missing)} images of {self.root / metadata} are missing: {missing[0]}, …")
        self.files = {(row.text, seed_of(base_seed, row.id, 0)): row.group for row in rows}
        self.base_seed = base_seed
        self._sha256 = hashlib.sha256((self.root / metadata).read_bytes()).hexdigest()

    def generate(self, captions: list[str], seeds: list[int]) -> list[Image.Image]:
        """See :meth:`BaseGenerator.generate`.

        Raises:
            ValueError: if no image was drawn for a prompt with that seed.
        """
        check_seeds(captions, seeds)
        images = []
        for wanted in zip(captions, seeds):
            if wanted not in self.files:
                raise ValueError(
                    f"no ready-made image for the prompt {wanted[0]!r} and seed {wanted[1]}: the captions must be those "
                    f"of the metadata, with the factory's seed {self.base_seed} and images_per_caption 1"
                )
            with Image.open(self.root / self.files[wanted]) as image:
                images.append(image.convert("RGB"))
        return images
