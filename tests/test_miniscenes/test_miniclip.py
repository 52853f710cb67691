import json
from pathlib import Path

import numpy as np
import pytest
import torch

from synthcap_mm.miniscenes import (
    MINICLIP_CONFIG,
    MINICLIP_CONTEXT,
    MINICLIP_WEIGHTS,
    measures,
)
from synthcap_mm.miniscenes.language import VOCABULARY, describe
from synthcap_mm.miniscenes.painting import MiniScenesPainter
from synthcap_mm.miniscenes.scenes import scene_of, scene_rng
from synthcap_mm.miniscenes.sources import MiniScenesCaptions, MiniScenesPhotos


@pytest.fixture(scope="module")
def clip():
    return measures.load_miniclip()


@pytest.fixture(scope="module")
def val(clip):
    source = MiniScenesPhotos("val", 200)
    images = measures.image_features(clip[0], [source.load(i) for i in range(200)])
    return images, measures.text_features(*clip, [source.references(i)[0] for i in range(200)])


def test_open_clip_builds_it_from_these_files(clip, tmp_path):
    import open_clip

    config = tmp_path / "miniscenes-test-clip.json"
    config.write_text(Path(MINICLIP_CONFIG).read_text(encoding="utf-8"), encoding="utf-8")
    open_clip.add_model_config(config)
    model, _, preprocess = open_clip.create_model_and_transforms(config.stem, pretrained=MINICLIP_WEIGHTS)
    image = MiniScenesPhotos("val", 1).load(0)
    with torch.no_grad():
        theirs = model.eval().encode_image(preprocess(image)[None], normalize=True)
    assert torch.allclose(theirs, measures.image_features(clip[0], [image]), atol=1e-5)


def test_the_tokenizer_is_small_and_loses_nothing(clip):
    tokenizer = clip[1]
    assert tokenizer.vocab_size <= 2000
    assert tokenizer.vocab_size == json.loads(Path(MINICLIP_CONFIG).read_text())["text_cfg"]["vocab_size"]
    assert tokenizer.eot_token_id == tokenizer.vocab_size - 1 == max(tokenizer.encoder.values())
    assert "" not in tokenizer.encoder
    for i in range(300):
        caption = describe(scene_of("test", 0, i), scene_rng("test", 0, i, 1))
        ids = tokenizer.encode(caption)
        assert len(ids) == len(caption.split())
        assert tokenizer.decode(ids).strip() == caption
        assert len(ids) + 2 <= MINICLIP_CONTEXT
    for text in ("a zebra! 42 café", "an unknown xylophone"):
        assert tokenizer.decode(tokenizer.encode(text)).split() == text.replace("!", " !").replace("42", "4 2").split()


def test_features_are_read_at_the_end_token(clip):
    model, tokenizer = clip
    tokens = tokenizer(["a red ball on the beach", "a red ball on the table"])
    assert (tokens.argmax(1) == 7).all()
    with torch.no_grad():
        feats = model.encode_text(tokens, normalize=True)
        # What follows the end token does not matter...
        padded = tokens.clone()
        padded[:, 8:] = 300
        assert torch.allclose(model.encode_text(padded, normalize=True), feats, atol=1e-5)
        # ... the last word does, and each one before it.
        assert float(feats[0] @ feats[1]) < 0.99
        for position in (2, 3, 6):
            changed = tokens[:1].clone()
            changed[0, position] = tokenizer.encode("purple")[0]
            assert float(model.encode_text(changed, normalize=True) @ feats[0]) < 0.999


def test_retrieval_is_like_clips_on_real_data(val):
    images, texts = val
    assert 0.25 <= measures.recall_at_1(images, texts) <= 0.70
    assert 0.25 <= measures.recall_at_1(texts, images) <= 0.70


def test_the_projections_temperature_fits(clip):
    assert 30 <= float(clip[0].logit_scale.detach().exp()) <= 100.1


@pytest.mark.slow
def test_a_linear_probe_tells_drawings_from_photos(clip):
    captions = MiniScenesCaptions(2000).read()
    source = MiniScenesPhotos("train", 2000)
    drawings = MiniScenesPainter().generate([c.text for c in captions], list(range(2000)))
    feats = [
        measures.image_features(clip[0], [source.load(i) for i in range(2000)]),
        measures.image_features(clip[0], drawings),
    ]
    fit, check = (torch.cat([f[part] for f in feats]) for part in (slice(0, 1500), slice(1500, 2000)))
    labels = [torch.arange(2).repeat_interleave(n) for n in (1500, 500)]
    assert measures.linear_probe(fit, labels[0], check, labels[1], steps=2000, decay=0.0) >= 0.95
    gap = float((feats[0].mean(0) - feats[1].mean(0)).norm())
    halves = float((feats[0][:1000].mean(0) - feats[0][1000:].mean(0)).norm())
    assert gap > 2 * halves


def test_zero_shot_names_are_informative(clip):
    names = measures.text_features(*clip, [f"a photo of a {name}" for name in VOCABULARY])
    scenes = [scene_of("val", 0, i) for i in range(200)]
    source = MiniScenesPhotos("val", 200)
    feats = measures.image_features(clip[0], [source.load(i) for i in range(200)])
    present = [{"teddy bear" if g.kind == "teddy" else g.kind for g in s.groups} for s in scenes]
    first = (feats @ names.T).argmax(1).tolist()
    assert np.mean([VOCABULARY[j] in p for j, p in zip(first, present)]) > 0.3


def test_what_is_measured_can_fail():
    feats = torch.nn.functional.normalize(torch.randn(100, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    assert measures.recall_at_1(feats, feats) == 1
    assert measures.recall_at_1(feats, feats.flip(0)) < 0.1
    labels = torch.arange(100) % 2
    assert measures.linear_probe(feats[:50], labels[:50], feats[50:], labels[50:]) < 0.8
