"""What there is to see in a store's pairs."""

import numpy as np
import pytest
from PIL import Image
from random_store import make_store, unit
from store_files import make

from synthcap_mm.store import Store, StoreError
from synthcap_mm.store.tables import ShardedTable
from synthcap_mm.synthesis.curation import Curation
from synthcap_mm.synthesis.inspection import inspect_store, modality_gap, principal_plane, real_photo_features
from synthcap_mm.synthesis.redrawing import Pictures

FLAGGED, HELDOUT = (5, 17), (3, 40)


@pytest.fixture()
def store(tmp_path):
    return Store.open(make_store(tmp_path / "store", flagged=FLAGGED, heldout=HELDOUT))


def test_counts_samples_and_scores(store):
    found = inspect_store(store, sample=10, extremes=3)
    assert found.counts["pairs"] == 120 and found.counts["usable pairs"] == 118 and found.counts["flagged images"] == 2
    assert found.counts["held out"] == 2 and found.counts["distinct images used"] == 118
    random, lowest, highest = found.groups.values()
    score = store.pairs().numbers("score")
    usable = np.delete(np.arange(120), FLAGGED)
    assert len(random) == 10 and not {p.image for p in random} & set(FLAGGED)
    assert [p.score for p in lowest] == np.sort(score[usable])[:3].tolist()
    assert [p.score for p in highest] == np.sort(score[usable])[::-1][:3].tolist()
    pair = random[0]
    assert pair.caption == f"caption number {pair.image}" and pair.tags == [("dog", pytest.approx(0.9))]
    histogram = found.scores["default"]
    assert sum(histogram["counts"]) == 118 and histogram["mean"] == pytest.approx(score[usable].mean())
    assert histogram["percentiles"]["50"] == pytest.approx(np.median(score[usable]))
    assert found.flags == {"black": 2}
    assert found.flagged[0] == ("c5/0", ["black"], ["caption number 5"])


def test_retrieved_photos_are_called_so(tiny_synthesis):
    make(tiny_synthesis, generator={"type": "RetrievalGenerator", "pool": {"type": "TinyPhotos", "num": 35}})
    found = inspect_store(Store.open(tiny_synthesis["store"]), sample=3)
    assert list(found.gap) == ["captions", "retrieved photos", "optimised retrieved photos"] == list(found.points)
    assert found.images == "retrieved photos"


def test_the_same_seed_the_same_sample(store):
    first, second, third = (inspect_store(store, sample=10, seed=s) for s in (0, 0, 1))
    rows = [[p.row for p in f.groups["A random sample"]] for f in (first, second, third)]
    assert rows[0] == rows[1] != rows[2]


def test_extremes_show_a_caption_once(tmp_path):
    store = Store.open(make_store(tmp_path / "store", captions=30, k=4))
    for title, pairs in inspect_store(store, extremes=6).groups.items():
        if "scores" in title:
            assert len({p.caption for p in pairs}) == 6


def test_a_curated_table_beside_the_default(store):
    Curation(str(store.path), [{"type": "reassign", "keep": 0.5}], device="cpu").run()
    found = inspect_store(Store.open(store.path), "curated")
    assert list(found.scores) == ["curated", "default"]
    assert found.scores["curated"]["edges"] == found.scores["default"]["edges"]
    assert found.scores["curated"]["pairs"] < found.scores["default"]["pairs"]


def test_modality_gap():
    rng = np.random.default_rng(0)
    captions = unit(rng.standard_normal((50, 8)))
    drawings = unit(captions + np.eye(8)[0])
    photos = unit(rng.standard_normal((20, 8)))
    gap = modality_gap({"captions": captions, "drawings": drawings, "real photos": photos})
    assert gap["drawings"]["own"] == pytest.approx(np.mean([a @ b for a, b in zip(captions, drawings)]))
    others = [captions[i] @ drawings[j] for i in range(50) for j in range(50) if i != j]
    assert gap["drawings"]["others"] == pytest.approx(np.mean(others))
    within = [drawings[i] @ drawings[j] for i in range(50) for j in range(50) if i != j]
    assert gap["drawings"]["spread"] == pytest.approx(np.mean(within))
    assert gap["drawings"]["centres"] == pytest.approx(np.linalg.norm(captions.mean(0) - drawings.mean(0)))
    assert gap["real photos"]["own"] is None and gap["real photos"]["others"] == pytest.approx(
        (photos @ captions.T).mean()
    )


def test_principal_plane_is_that_of_the_singular_vectors():
    rng = np.random.default_rng(0)
    sets = {"a": rng.standard_normal((40, 6)) * [5, 3, 1, 1, 1, 1], "b": rng.standard_normal((30, 6)) + 2}
    places, explained = principal_plane(sets)
    x = np.concatenate(list(sets.values()))
    u, s, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    found = np.concatenate([places["a"], places["b"]])
    np.testing.assert_allclose(np.abs(found), np.abs(u[:, :2] * s[:2]), atol=1e-8)
    np.testing.assert_allclose(explained, (s**2 / (s**2).sum())[:2])


def test_features_are_read_of_a_sample_only(store, monkeypatch):
    features, asked = ShardedTable.features, []

    def watched(self, rows=None):
        asked.append(len(self) if rows is None else len(rows))
        return features(self, rows)

    monkeypatch.setattr(ShardedTable, "features", watched)
    inspect_store(store, points=20)
    assert asked == [20, 20]


def test_optimised_drawings_and_real_photos(tiny_stores, tiny):
    store = Store.open(tiny_stores[0])
    photos = real_photo_features(tiny_stores[1], store, None, 5)
    assert photos.shape == (5, 32)
    found = inspect_store(store, photos=photos)
    assert list(found.gap) == list(found.points) == ["captions", "drawings", "optimised drawings", "real photos"]
    assert found.gap["real photos"]["rows"] == 5


def test_a_folder_of_photos_is_encoded(tiny_stores, tmp_path):
    store = Store.open(tiny_stores[0])
    for i in range(3):
        Image.new("RGB", (20, 10), (80 * i, 10, 200)).save(tmp_path / f"{i}.png")
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    assert real_photo_features(str(tmp_path), store, {"type": "TinyEncoder"}, 10).shape == (3, 32)
    with pytest.raises(StoreError, match="another encoder"):
        real_photo_features(str(tmp_path), store, {"type": "TinyEncoder", "seed": 1}, 10)
    with pytest.raises(ValueError, match=r"needs the config's synthesis.encoder"):
        real_photo_features(str(tmp_path), store, None, 10)
    with pytest.raises(FileNotFoundError, match="no store of photos and no folder"):
        real_photo_features(str(tmp_path / "nowhere"), store, None, 10)
    with pytest.raises(StoreError, match="another encoder"):  # a store of photos by another encoder
        real_photo_features(str(tiny_stores[1]), Store.open(make_store(tmp_path / "other", dim=32)), None, 10)


# ---- pictures
def test_pictures_are_drawn_again_from_their_own_caption(tiny_synthesis, tiny):
    make(tiny_synthesis)
    store = Store.open(tiny_synthesis["store"])
    plain = Pictures(store, {"type": "TinyPainter"})
    assert plain.load([0, 1]) == [None, None] and "--redraw" in plain.problem
    rows = [7, 2, 7]
    drawn = Pictures(store, {"type": "TinyPainter"}, redraw=True).load(rows)
    encoder = tiny.TinyEncoder()
    np.testing.assert_allclose(encoder.encode_pil(drawn).numpy(), store.images.features(rows), atol=2e-3)
    assert Pictures(store).load([0]) == [None]


def test_kept_pictures_are_not_drawn_again(tiny_synthesis, tiny):
    make(tiny_synthesis, keep_images=True)
    store = Store.open(tiny_synthesis["store"])
    pictures = Pictures(store, {"type": "TinyPainter"})
    assert store.keeps_images and pictures.problem is None
    loaded = pictures.load([7, 2])
    np.testing.assert_allclose(tiny.TinyEncoder().encode_pil(loaded).numpy(), store.images.features([7, 2]), atol=2e-3)


def test_pictures_of_a_pool(tiny_synthesis, tiny):
    generator = {"type": "RetrievalGenerator", "pool": {"type": "TinyPhotos"}}
    make(tiny_synthesis, generator=generator, refine=None)
    store = Store.open(tiny_synthesis["store"])
    loaded = Pictures(store, generator).load([4, 1])
    np.testing.assert_allclose(tiny.TinyEncoder().encode_pil(loaded).numpy(), store.images.features([4, 1]), atol=2e-3)
    broken = {"type": "RetrievalGenerator", "pool": {"type": "TinyPhotos", "broken": [4], "num": 8}}
    assert [p is None for p in Pictures(store, broken).load([4, 1, 10])] == [True, False, True]
    gone = Pictures(store, {"type": "RetrievalGenerator", "pool": {"type": "PhotoFolder", "root": "nowhere"}})
    assert gone.load([0]) == [None] and "nowhere" in gone.problem


def test_bad_input(store, tmp_path, tiny_stores):
    with pytest.raises(StoreError, match="no table 'pairs/none'; it has"):
        inspect_store(store, "none")
    with pytest.raises(StoreError, match="holds photos"):
        inspect_store(Store.open(tiny_stores[1]))
    with pytest.raises(ValueError, match="all images are flagged"):
        inspect_store(Store.open(make_store(tmp_path / "flagged", captions=4, flagged=range(4))))
    with pytest.raises(ValueError):  # of another width
        inspect_store(store, photos=np.zeros((3, 5)))
