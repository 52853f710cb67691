"""Photos in a config's test set, from their files to scored captions."""

import json

import pytest
from small_runner import make_runner

from synthcap_mm.synthesis.photos import PhotoStore


def test_photos_get_the_captions_that_their_store_gets(tiny_model, tiny_stores, tiny, tmp_path):
    source, folder = tiny.TinyPhotos(), tmp_path / "photos"
    folder.mkdir()
    data = {"images": [], "annotations": []}
    for i in range(len(source)):
        source.load(i).save(folder / f"{i}.png")
        data["images"].append({"id": i, "file_name": f"{i}.png"})
        for text in source.references(i):
            data["annotations"].append({"id": len(data["annotations"]), "image_id": i, "caption": text})
    (tmp_path / "captions.json").write_text(json.dumps(data))
    photos = {"type": "CocoPhotos", "ann_file": str(tmp_path / "captions.json"), "image_root": str(folder)}
    PhotoStore(str(tmp_path / "store"), photos, {"type": "TinyEncoder"}).run()
    tiny_model["backbone"] = {"type": "TinyEncoder"}
    del tiny_model["necks"]["memory"]  # mixtures of few captions are alike; the images' own features tell them apart

    def tested(name, **dataset):
        runner, _ = make_runner(tiny_model, tiny_stores, tmp_path / name)
        runner._test_dataloader["dataset"] = {"type": "CaptionEvalDataset", **dataset}
        runner._test_evaluator = {
            "type": "CaptionMetric",
            "outfile_prefix": str(tmp_path / name / "out"),
            "floor": tiny_stores[0],
        }
        return runner.test(), json.loads((tmp_path / name / "out.json").read_text())["images"]

    (of_store, stored), (of_photos, shown) = (
        tested("by_store", store=str(tmp_path / "store")),
        tested("by_photos", photos=photos),
    )
    assert stored == shown and len(shown) == 12
    assert of_photos == pytest.approx(of_store)
    assert "nearest/CIDEr" in of_photos and all(image["nearest"] for image in shown.values())
    assert len({image["hypothesis"] for image in shown.values()}) > 1
    assert shown["3.png"]["references"] == source.references(3)
