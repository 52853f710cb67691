"""One checkpoint on many test sets, with small parts."""

import csv
import json
from pathlib import Path

import pytest
import torch
from caption_samples import write
from mmengine.config import Config
from tiny_store import SEARCH

import synthcap_mm.engine.test_sets as module  # not its test_many, which pytest would take for a test
from synthcap_mm.engine.testing import prepare_evaluators
from synthcap_mm.errors import UserError
from synthcap_mm.registry import DATASETS, MODELS
from synthcap_mm.store import Store
from synthcap_mm.synthesis.photos import PhotoStore

_NUMBER = iter(range(1000))


@pytest.fixture(scope="module")
def domain_store(tmp_path_factory, tiny):
    """A store of photos of two domains, as NoCaps' are."""

    @DATASETS.register_module(force=True)
    class PhotosOfDomains(tiny.TinyPhotos):
        def domain(self, i):
            return "near-domain" if i % 2 else "in-domain"

    path = str(tmp_path_factory.mktemp("domains") / "photos")
    PhotoStore(path, {"type": "PhotosOfDomains", "num": 8, "seed": 3}, {"type": "TinyEncoder"}, shard_size=5).run()
    return path


@pytest.fixture()
def cfg(tiny_model, tiny_stores, tmp_path):
    photos = tiny_stores[1]
    tiny_model["data_preprocessor"]["prompt"] = None
    return Config(
        {
            "config_name": "many",
            "default_scope": "synthcap_mm",
            "experiment_name": f"many{next(_NUMBER)}",
            "work_dir": str(tmp_path / "work"),
            "model": tiny_model,
            "synthesis": {"encoder": {"type": "TinyEncoder"}},
            "test_dataloader": {
                "batch_size": 5,
                "num_workers": 0,
                "sampler": {"type": "DefaultSampler", "shuffle": False},
                "dataset": {"type": "CaptionEvalDataset", "store": photos},
            },
            "test_cfg": {"type": "TestLoop"},
            "test_evaluator": {"type": "CaptionMetric", "metrics": ["CIDEr", "length", "CLIPScore"]},
            "custom_hooks": [{"type": "CaptionerIdentityHook"}],
            "test_sets": [{"name": "own", "store": photos}],
            "log_level": "ERROR",
        }
    )


@pytest.fixture()
def checkpoint(cfg, tmp_path):
    """Of a captioner with opinions: an untrained one writes the same whatever it sees."""
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    torch.save({"state_dict": model.state_dict(), "meta": {"epoch": 3}}, tmp_path / "model.pth")
    return str(tmp_path / "model.pth")


def written(cfg, name):
    images = json.loads(Path(f"{cfg.work_dir}/{name}/test_captions.json").read_text())["images"]
    return {key: image["hypothesis"] for key, image in images.items()}


def test_a_line_for_each_set_and_each_domain(cfg, checkpoint, domain_store):
    cfg.test_sets.append({"name": "nocaps", "store": domain_store})
    found = module.test_many(cfg, checkpoint)
    lines = ["own", "nocaps entire", "nocaps in-domain", "nocaps near-domain"]
    assert list(found) == [title for line in lines for title in (line, f"{line}, nearest training caption")]
    assert all(set(line) == {"CIDEr", "length", "CLIPScore"} for line in found.values())
    halves = [found[f"nocaps {domain}"]["length"] for domain in ("in-domain", "near-domain")]
    assert found["nocaps entire"]["length"] == pytest.approx(sum(halves) / 2)
    kept = json.loads(Path(f"{cfg.work_dir}/test_many.json").read_text())
    assert kept["metrics"] == found and kept["sets"][1] == {"name": "nocaps", "store": domain_store, "memory": None}
    rows = list(csv.DictReader(Path(f"{cfg.work_dir}/test_many.csv").read_text().splitlines()))
    assert [row["set"] for row in rows] == list(found) and float(rows[0]["CIDEr"]) == found["own"]["CIDEr"]
    table = module.many_table(found).splitlines()
    assert table[0].split() == ["CIDEr", "length", "CLIPScore"] and len(table) == 9
    floor = {f"nearest/{name}": value for name, value in found["own, nearest training caption"].items()}
    metrics = json.loads(Path(f"{cfg.work_dir}/own/test_metrics.json").read_text())["metrics"]
    assert metrics == found["own"] | floor


def test_another_memory_writes_other_captions_and_does_not_stay(cfg, checkpoint, tiny_stores, tmp_path):
    pairs, photos = tiny_stores
    target = write(tmp_path / "target.txt", "a white boat on the street\na green tree on the beach\n")
    cfg.test_sets += [
        {"name": "TT file", "store": photos, "memory": str(target)},
        {"name": "TT own store", "store": photos, "memory": pairs},
        {"name": "TT source", "store": photos, "memory": {"type": "TinyCaptions", "num": 6, "seed": 9}},
        {"name": "again", "store": photos},
    ]
    module.test_many(cfg, checkpoint)
    own = written(cfg, "own")
    assert written(cfg, "TT_own_store") == own == written(cfg, "again")
    assert written(cfg, "TT_file") != own and written(cfg, "TT_source") != own
    store = Store.open(f"{cfg.work_dir}/memories/TT_file")
    assert store.captions.strings("text") == ["a white boat on the street", "a green tree on the beach"]
    assert len(store.caption_rows("train")) == 2  # all of them are the memory
    write(target, "a white boat on the street\nsomething else\n")  # the file has changed: so does the memory
    module.test_many(cfg, checkpoint, ["TT file"])
    store = Store.open(f"{cfg.work_dir}/memories/TT_file")
    assert store.captions.strings("text") == ["a white boat on the street", "something else"]


def test_a_memory_of_one_caption_in_coco_json(cfg, checkpoint, tiny_stores, tmp_path):
    coco = {"images": [{"id": 1}], "annotations": [{"id": 1, "image_id": 1, "caption": "a white boat on the street"}]}
    one = write(tmp_path / "one.json", json.dumps(coco))
    cfg.test_sets = [{"name": "TT", "store": tiny_stores[1], "memory": str(one)}]
    prepare_evaluators(cfg)
    cfg.dump(tmp_path / "as_trained.py")  # as a training does, into its work dir
    module.test_many(Config.fromfile(tmp_path / "as_trained.py"), checkpoint)
    assert len(set(written(cfg, "TT").values())) == 1  # every photo becomes that caption
    images = json.loads(Path(f"{cfg.work_dir}/TT/test_captions.json").read_text())["images"]
    assert {image["nearest"] for image in images.values()} == {"a white boat on the street"}  # so does the floor


def test_a_memory_is_encoded_by_a_second_encoder_too(cfg, two_encoders, tmp_path):
    pairs, photos = two_encoders
    cfg.model.store = pairs
    cfg.model.necks.memory = {"type": "RetrievalFusion", "k": 2, "encoder": "search"}
    cfg.synthesis.other_encoders = SEARCH
    torch.save({"state_dict": MODELS.build(cfg.model).state_dict(), "meta": {}}, tmp_path / "two.pth")
    target = write(tmp_path / "target.txt", "a white boat on the street\na green tree on the beach\n")
    cfg.test_sets = [{"name": "TT", "store": photos, "memory": str(target)}]
    assert [*module.test_many(cfg, str(tmp_path / "two.pth"))] == ["TT", "TT, nearest training caption"]
    assert Store.open(f"{cfg.work_dir}/memories/TT").width_of("search") == 24


def test_a_memory_of_another_encoder_is_refused(cfg, checkpoint, tiny_stores, tmp_path):
    target = write(tmp_path / "target.txt", "a white boat on the street\n")
    cfg.synthesis.encoder = {"type": "TinyEncoder", "seed": 5, "name": "other"}
    cfg.test_sets = [{"name": "TT", "store": tiny_stores[1], "memory": str(target)}]
    with pytest.raises(UserError, match="'other'"):
        module.test_many(cfg, checkpoint)


def test_without_a_store_of_captions_the_floor_is_said_to_be_unknown(cfg, tiny_stores, tmp_path, monkeypatch):
    from synthcap_mm.engine import testing

    logged = []
    monkeypatch.setattr(testing, "print_log", lambda message, **options: logged.append(message))
    store = Store.open(cfg.model.pop("store"))
    cfg.model.data_preprocessor.tokenizer = str(store.tokenizer_path)
    cfg.model.necks.memory = None
    cfg.model.necks.projector.in_dim = store.embed_dim
    torch.save({"state_dict": MODELS.build(cfg.model).state_dict(), "meta": {}}, tmp_path / "model.pth")
    found = module.test_many(cfg, str(tmp_path / "model.pth"))
    assert list(found) == ["own"] and "no floor" in logged[0] and "model.store" in logged[0]


@pytest.mark.parametrize(
    ("sets", "names", "said"),
    [
        (None, None, "test_sets"),
        ([{"name": "a"}], None, "'store'"),
        ([{"name": "a", "store": "s", "memroy": "m"}], None, "'memroy'"),
        ([{"name": "a", "store": "s"}] * 2, None, "'a'"),
        ([{"name": "a", "store": "s"}], ["b"], "'b'"),
    ],
)
def test_a_bad_field_is_named(cfg, checkpoint, sets, names, said):
    cfg.test_sets = sets
    with pytest.raises(UserError, match=said):
        module.test_many(cfg, checkpoint, names)


def test_what_is_missing_is_named(cfg, checkpoint, tiny_stores, tmp_path):
    with pytest.raises(UserError, match=r"nothing\.pth"):
        module.test_many(cfg, "nothing.pth")
    cfg.test_sets = [{"name": n, "store": str(tmp_path / n)} for n in ("a", "b")]
    with pytest.raises(UserError, match=r"(?s)/a: .*/b: "):
        module.test_many(cfg, checkpoint)
    cfg.test_sets = [{"name": "TT", "store": tiny_stores[1], "memory": str(tmp_path / "gone.txt")}]
    with pytest.raises(UserError, match=r"gone\.txt"):
        module.test_many(cfg, checkpoint)


def test_a_captioner_without_a_memory_has_none_to_replace(cfg, checkpoint, tiny_stores):
    cfg.model.necks.memory = None
    cfg.test_sets = [{"name": "TT", "store": tiny_stores[1], "memory": tiny_stores[0]}]
    with pytest.raises(UserError, match="memory"):
        module.test_many(cfg, checkpoint)
