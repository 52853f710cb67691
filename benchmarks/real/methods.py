"""What run.py can train: SynTIC, its peers, and SynTIC with one thing changed."""

from __future__ import annotations

from typing import Any, NamedTuple


class Method(NamedTuple):
    """A config and what is changed in it.

    Attributes:
        config: name of a file in ``configs``.
        title: for tables.
        options: settings that override the config's, as ``--cfg-options``.
    """

    config: str
    title: str
    options: dict[str, Any] = {}


#: The main comparison.
METHODS = {
    "synthcap": Method("synthcap", "SynTIC"),
    "decap": Method("decap", "DeCap"),
    "capdec": Method("capdec", "CapDec"),
}
#: One thing changed at a time.
VARIANTS = {
    "synthcap-no_refine": Method("synthcap", "SynTIC, not refined", {"model.necks.0.phases": []}),
    "synthcap-refine_far": Method(
        "synthcap",
        "SynTIC, refined far (15 steps toward 0.85)",
        {
            "model.necks.0.target_cosine": 0.85,
            "model.necks.0.steps": 15,
            "model.necks.0.lr": 0.1,
            "model.necks.0.pull": 0.0,
        },
    ),
    "synthcap-one_of_20": Method(
        "synthcap",
        "SynTIC, one of the 20 nearest images at random",
        {"train_dataloader.dataset.image_choice": "random"},
    ),
    "synthcap-project_predict": Method(
        "synthcap", "SynTIC, projected at inference only", {"model.necks.1.phases": ["predict"]}
    ),
    "synthcap-no_projection": Method("synthcap", "SynTIC, never projected", {"model.necks.1.phases": []}),
    "synthcap-no_tags": Method("synthcap", "SynTIC, no tags", {"model.data_preprocessor.prompt": None}),
    "synthcap-input_scale16": Method("synthcap", "SynTIC, input_scale 16", {"model.necks.2.input_scale": 16.0}),
    "decap-input_scale16": Method("decap", "DeCap, input_scale 16", {"model.necks.2.input_scale": 16.0}),
    "capdec-input_scale16": Method("capdec", "CapDec, input_scale 16", {"model.necks.2.input_scale": 16.0}),
    "synthcap-text_mix": Method("synthcap_text_mix", "SynTIC with captions' features mixed in, projected"),
    "synthcap-text_mix_after": Method(
        "synthcap_text_mix",
        "SynTIC with captions' features mixed in, not projected",
        {"model.necks.1.phases": [], "model.necks.3.phases": ["train"]},
    ),
    "synthcap-exclude_self": Method("synthcap", "SynTIC, exclude_self", {"model.necks.1.exclude_self": True}),
    "synthcap-tau0.04": Method("synthcap", "SynTIC, tau 0.04", {"model.necks.1.temperature": 0.04}),
    "synthcap-tau0.02": Method("synthcap", "SynTIC, tau 0.02", {"model.necks.1.temperature": 0.02}),
}
