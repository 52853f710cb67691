"""Figures outside of research are those of its logs; configs of its studies name components that are there."""

import re
from pathlib import Path

import pytest
import yaml
from mmengine.config import Config

from research.ledger import Ledger
from research.run import PUBLISHED
from research.tables import read_table
from synthcap_mm.registry import DATASETS, MODELS, filled_in

ROOT = Path(__file__).resolve().parents[2]


def test_the_metafiles_figures_are_the_tables():
    table = read_table("mini")
    rows = Ledger(PUBLISHED / "results" / "mini.csv").rows
    configs = {name: Path(run.config).relative_to(ROOT) for name, run in table.runs.items() if not run.options}
    finished = {row["run"] for row in rows}
    runs = {str(config): name for name, config in configs.items() if config.parts[0] == "configs" and name in finished}
    told = {}
    for file in sorted((ROOT / "configs").glob("*/metafile.yml")):
        for model in yaml.safe_load(file.read_text(encoding="utf-8"))["Models"]:
            for result in model.get("Results", []):
                assert (result["Task"], result["Dataset"]) == ("Image Captioning", "mini-world")
                told[model["Config"]] = result["Metrics"]
    assert set(told) == set(runs)  # every config that a finished row is of, and no other
    for config, metrics in told.items():
        for metric, value in metrics.items():
            own = [float(row[metric]) for row in rows if row["run"] == runs[config]]
            assert value == pytest.approx(sum(own) / len(own), abs=0.0501), (config, metric)


def test_published_scores_are_those_of_the_results_page():
    results = (PUBLISHED / "results.md").read_text()
    page = (ROOT / "docs" / "reproduce.md").read_text()
    rows = {
        r[0]: r[2:]
        for r in ([c.strip() for c in line.split("|")[1:-1]] for line in results.splitlines())
        if len(r) == 7
    }
    of = {"capdec": "CapDec", "decap": "DeCap", "viecap": "ViECap", "ifcap": "IFCap", "pcmnet_loss": "PCM-Net",
          "sync": "PCM-Net + SynC", "tomcap": "TOMCap", "diffusion_bridge": "Diffusion Bridge"}  # fmt: skip
    for config, method in of.items():
        (line,) = re.findall(rf"^\| `{config}_coco.py` .*$", page, re.M)
        assert " / ".join(rows[method]) in line, method
    ours = rows["SynTIC"]
    for metric, value in zip(("BLEU-4", "METEOR", "ROUGE-L", "CIDEr", "SPICE"), ours):
        assert f"{metric} {value}" in page
    for value in re.findall(r"Published CIDEr: COCO(.*)\n", page)[0].split(" Of ")[0].split("; "):
        for number in re.findall(r"\d+\.\d", value):
            assert number in results


CONFIGS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "research").glob("*/configs/*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_configs_of_studies_name_components_that_are_there(name, monkeypatch):
    for variable in ("SYNTHCAP_REAL_DATA", "SYNTHCAP_REAL_WORK"):
        monkeypatch.setenv(variable, f"/{variable}")
    cfg = Config.fromfile(ROOT / name)  # with its custom_imports
    for neck in filter(None, cfg.get("model", {}).get("necks", {}).values()):
        MODELS.build(filled_in(neck, in_dim=256, embed_dim=256, width=128))
    parts = [cfg.synthesis[part] for part in ("encoder", "generator", "tag_provider")]
    found = [MODELS.get(part.type) for part in parts if part is not None]
    found += [
        DATASETS.get(source.type)
        for source in (cfg.synthesis.captions, *(e.photos for e in cfg.get("photo_stores", [])))
    ]
    assert None not in found
