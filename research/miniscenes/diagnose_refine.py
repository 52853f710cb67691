"""What optimising pseudo features does to them: python -m research.miniscenes.diagnose_refine [--scenes 1000].

The mini-world has what users do not: the very scene of a caption as a drawing and as a photo. So "toward the real
ones" can be measured. For each setting, over the training captions' drawings, printed as Markdown:

- cosine with the caption, and with the photo of the same scene;
- distance between the mean of the features and the mean of the photos';
- recall@1 of the caption, and of the photo, among 500;
- cosine of the training prefix (the optimised feature projected onto the memory) with its own caption, beside that of the
  inference prefix (the photo projected); and of the two prefixes with each other.

No captioner is trained. Nothing of it chooses a setting: users have no such photos. The stores are made if they are not
there (as configs/synthcap_mini.py and configs/upper_bound.py make them).
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from research.miniscenes.same_scenes import Scenes, make_stores
from synthcap_mm.miniscenes.measures import recall_at_1
from synthcap_mm.models.memory import CaptionMemory
from synthcap_mm.models.necks import MomentMatching, PseudoFeatureOptimizer, TextMemoryProjection
from synthcap_mm.store import Store
from synthcap_mm.structures import PrefixBatch

#: Recall is among so many.
AMONG = 500


def adapter(scenes: Scenes, steps: int = 1500, batch: int = 64, **settings: Any) -> Tensor:
    """Drawings through an adapter that learnt from the other scenes."""
    torch.manual_seed(0)
    neck = PseudoFeatureOptimizer("amortised", embed_dim=scenes.text.shape[1], **settings)
    optimizer = torch.optim.AdamW(neck.parameters(), lr=1e-3)
    others = torch.arange(scenes.count, len(scenes.text))
    for _ in range(steps):
        rows = others[torch.randint(len(others), (batch,))]
        prefix = PrefixBatch(scenes.drawing[rows], "pseudo", scenes.text[rows], group_ids=scenes.groups[rows])
        loss = neck(prefix, "train")[1]["loss_refine"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return F.normalize(neck.adapt(scenes.drawing[scenes.here]), dim=1)


def measures(scenes: Scenes, project: Callable[[Tensor], Tensor], feats: Tensor) -> list[float]:
    """The columns of the table for features of the first scenes."""
    here = scenes.here
    text, photo = scenes.text[here], scenes.photo[here]
    training, inference = project(feats), project(photo)
    among = slice(0, min(AMONG, scenes.count))
    return [
        float((feats * text).sum(1).mean()),
        float((feats * photo).sum(1).mean()),
        float((feats.mean(0) - photo.mean(0)).norm()),
        100 * recall_at_1(feats[among], text[among]),
        100 * recall_at_1(feats[among], photo[among]),
        float((training * text).sum(1).mean()),
        float((inference * text).sum(1).mean()),
        float((training * inference).sum(1).mean()),
    ]


def settings_to_try(
    scenes: Scenes, project: Callable[[Tensor], Tensor], config: dict, photos: str
) -> dict[str, Callable]:
    """What is compared, by name; nothing is computed before it is its turn."""
    base = {k: v for k, v in config.items() if k != "bank_size"}
    far = {**base, "steps": 60}

    def with_moments(spread: bool) -> Tensor:
        return MomentMatching("images", photos, spread=spread, store=scenes.store).match(scenes.drawing)

    tried: dict[str, Callable[[], Tensor]] = {
        "drawings as they are": lambda: scenes.drawing[scenes.here],
        "the config's (to 0.50, temperature 0.01, pull 1)": lambda: scenes.refined(**base),
    }
    for level in (0.54, 0.6, 0.65, 0.7, 0.85):
        tried[f"to {level:.2f}"] = lambda level=level: scenes.refined(**{**far, "target_cosine": level})
    for steps in (5, 20, 60):
        tried[f"no level, {steps} steps"] = lambda steps=steps: scenes.refined(
            **{**far, "target_cosine": None, "steps": steps}
        )
    for temperature in (0.05, 0.2):
        tried[f"to 0.54, temperature {temperature}"] = lambda t=temperature: scenes.refined(
            **{**far, "target_cosine": 0.54, "temperature": t, "steps": 400}
        )
    for pull in (0.0, 10.0, 30.0):
        tried[f"to 0.54, pull {pull:.0f}"] = lambda pull=pull: scenes.refined(
            **{**far, "target_cosine": 0.54, "pull": pull}
        )
    # At a tenth of the width the pull has something to hold on to, and more steps go further.
    small = {**far, "lr": base["lr"] / 10, "target_cosine": None}
    for steps in (5, 20, 60):
        tried[f"no level, {steps} steps of a tenth"] = lambda steps=steps: scenes.refined(**{**small, "steps": steps})
    for pull in (0.0, 10.0, 100.0):
        tried[f"no level, 20 steps of a tenth, pull {pull:.0f}"] = lambda pull=pull: scenes.refined(
            **{**small, "steps": 20, "pull": pull}
        )
    tried["to 0.60 with the caption's projection as anchor"] = lambda: scenes.refined(
        project(scenes.text), **{**far, "target_cosine": 0.6}
    )
    tried["adapter, no level"] = lambda: adapter(scenes)
    tried["adapter, to 0.54"] = lambda: adapter(scenes, target_cosine=0.54)
    tried["mean of 300 unpaired photos"] = lambda: with_moments(False)[scenes.here]
    tried["mean and spread of 300 unpaired photos"] = lambda: with_moments(True)[scenes.here]
    for level in (0.54, 0.6):
        tried[f"mean of photos, then to {level:.2f}"] = lambda level=level: scenes.moved(
            with_moments(False), scenes.text, **{**far, "target_cosine": level}
        )
    tried["*the photos themselves*"] = lambda: scenes.photo[scenes.here]
    return tried


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=1000, help="training scenes looked at (default: %(default)s)")
    parser.add_argument("--captions", type=int, default=4000, help="captions of the stores (default: %(default)s)")
    args = parser.parse_args()
    mini, upper = make_stores(args.captions)
    scenes = Scenes(mini.store, upper.store, args.scenes)
    projection = TextMemoryProjection(temperature=mini.model.necks.memory.temperature)
    projection.bind(CaptionMemory.from_store(Store.open(mini.store)))
    print(
        "| pseudo features | cosine with the caption | with the same scene's photo | distance of the means from photos' | "
        "recall@1 of the caption, % | of the photo, % | training prefix and caption | inference prefix and caption | "
        "both prefixes |\n|---|---|---|---|---|---|---|---|---|"
    )
    for name, make in settings_to_try(scenes, projection.project, mini.synthesis.refine, mini.val_photos).items():
        row = measures(scenes, projection.project, make())
        cells = [f"{v:.1f}" if i in (3, 4) else f"{v:.3f}" for i, v in enumerate(row)]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
