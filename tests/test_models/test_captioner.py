import pytest
import torch
from mmengine.runner.checkpoint import get_state_dict, load_state_dict
from small_training import train_a_little
from tiny_store import SEARCH, tiny_settings

from synthcap_mm.datasets import CaptionEvalDataset, SynthPairDataset
from synthcap_mm.errors import UserError
from synthcap_mm.models.memory import CaptionMemory
from synthcap_mm.registry import MODELS
from synthcap_mm.store import Store
from synthcap_mm.structures import CaptionSample
from synthcap_mm.synthesis.photos import PhotoStore
from synthcap_mm.synthesis.synthesis import Synthesis


@pytest.fixture()
def train_batch(tiny_stores):
    dataset = SynthPairDataset(tiny_stores[0], refined=True)
    return [dataset[i] for i in range(16)]


def test_it_learns_its_captions(tiny_model, tiny_stores, tiny):
    """Captions are functions of their images here, so a captioner that works must tell them apart."""
    torch.manual_seed(0)
    tiny_model["necks"]["memory"] = None  # the images' own features: a tiny encoder has no common space
    model = MODELS.build(tiny_model)
    dataset = SynthPairDataset(tiny_stores[0])
    rows = train_a_little(model, dataset, steps=120, lr=3e-3)
    written = [s.pred_caption for s in model.val_step([dataset[i] for i in range(len(dataset))])]
    right = [w.split()[1:3] == r.caption.split()[1:3] for w, r in zip(written, rows)]
    assert sum(right) > 0.8 * len(rows), list(zip(written, [r.caption for r in rows]))


def test_modes(tiny_model, train_batch, tiny_stores):
    model = MODELS.build(tiny_model).eval()
    losses = model(**model.data_preprocessor(train_batch, True), mode="loss")
    assert set(losses) == {"loss_caption"} and losses["loss_caption"].requires_grad
    photos = CaptionEvalDataset(tiny_stores[1])
    inputs = model.data_preprocessor([photos[i] for i in range(4)])
    samples = model(**inputs, mode="predict")
    assert all(isinstance(s.pred_caption, str) and len(s.pred_logprobs) == 1 for s in samples)
    logits = model(**inputs, mode="tensor")
    assert logits.shape == (*inputs["input_ids"].shape, model.data_preprocessor.tokenizer.vocab_size)
    with pytest.raises(ValueError, match="'loss', 'predict' or 'tensor'"):
        model(**inputs, mode="train")


def test_batched_equals_single(tiny_model, tiny_stores):
    model = MODELS.build(tiny_model).eval()
    photos = CaptionEvalDataset(tiny_stores[1])
    together = model.val_step([photos[i] for i in range(len(photos))])
    for i, sample in enumerate(together):
        alone = model.val_step([photos[i]])[0]
        assert alone.pred_caption == sample.pred_caption
        assert alone.pred_scores == pytest.approx(sample.pred_scores, abs=1e-4)


def test_a_state_dict_holds_neither_memory_nor_encoder_nor_identities(tiny_model, tiny_stores):
    tiny_model["backbone"] = {"type": "TinyEncoder"}
    model = MODELS.build(tiny_model)
    model.backbone  # noqa: B018 - builds it
    assert len(model.memory) == 30  # 40 captions, 5 groups of 2 held out
    for state in (model.state_dict(), get_state_dict(model)):
        assert set(state) == {name for name, _ in model.named_parameters()} | {"head.decoder.lm_head.weight"}
        other = MODELS.build(tiny_model)
        load_state_dict(other, dict(state), strict=True)
        for a, b in zip(model.parameters(), other.parameters()):
            assert torch.equal(a, b)


def test_another_tokenizer_or_encoder_is_refused(tiny_model, tiny_stores, tmp_path):
    from synthcap_mm.tokenization import make_tokenizer

    identity = MODELS.build(tiny_model).identity
    assert identity["memory_sha256"] == Store.open(tiny_stores[0]).captions_sha256("train")
    make_tokenizer("train", ["quite other words"] * 3, vocab_size=300).save(str(tmp_path / "t.json"))
    other = MODELS.build(
        {**tiny_model, "data_preprocessor": {"type": "CaptionPreprocessor", "tokenizer": str(tmp_path / "t.json")}}
    )
    with pytest.raises(UserError, match="tokenizer"):
        other.check_identity(identity)
    model = MODELS.build(tiny_model)
    model.check_identity(identity)
    model.check_identity(None)
    encoder = {**model.encoder, "name": "somebody else's", "image": model.encoder["image"][::-1]}
    with pytest.raises(UserError, match=r"somebody else's.*'tiny'"):
        model.check_identity({**identity, "encoder": encoder})


def test_images_take_the_same_road_as_features(tiny_model, tiny_stores, tiny):
    from synthcap_mm.structures import CaptionSample

    model = MODELS.build({**tiny_model, "backbone": {"type": "TinyEncoder"}}).eval()
    photos, stored = tiny.TinyPhotos(), CaptionEvalDataset(tiny_stores[1])
    tags = tiny.TinyTagger().detect([photos.load(i) for i in range(4)])
    raw = [CaptionSample(i, str(i), "real", image=photos.load(i), tags=tags[i]) for i in range(4)]
    assert [s.pred_caption for s in model.val_step(raw)] == [
        s.pred_caption for s in model.val_step([stored[i] for i in range(4)])
    ]
    without = MODELS.build(tiny_model).eval()
    with pytest.raises(UserError, match=r"model\.backbone"):
        without.val_step([CaptionSample(0, "0", "real", image=photos.load(0))])
    wrong = MODELS.build({**tiny_model, "backbone": {"type": "TinyEncoder", "seed": 1, "name": "wrong"}})
    with pytest.raises(UserError, match=r"'wrong'.*'tiny'"):
        wrong.encode([photos.load(0)])


def test_too_few_positions_are_refused_when_the_captioner_is_built(tiny_model):
    tiny_model["head"]["positions"] = 2 + 32 + 1 + 16
    MODELS.build(tiny_model)
    tiny_model["head"]["positions"] -= 1
    with pytest.raises(UserError, match=r"head\.positions is 50.* 51"):
        MODELS.build(tiny_model)


# ---- how captions are chosen
def test_generation_options_of_a_call_come_before_the_configs(tiny_model, tiny_stores):
    torch.manual_seed(0)
    model = MODELS.build(tiny_model).eval()
    photos = CaptionEvalDataset(tiny_stores[1])
    inputs = model.data_preprocessor([photos[i] for i in range(4)])
    plain = [list(s.pred_captions) for s in model(**inputs, mode="predict")]
    best = model(**inputs, mode="predict", generation={"num_return_sequences": 4, "max_new_tokens": 1})
    assert [len(s.pred_captions) for s in best] == [4] * 4 != [len(p) for p in plain]
    assert all(s.pred_scores == sorted(s.pred_scores, reverse=True) for s in best)
    assert max(len(caption.split()) for s in best for caption in s.pred_captions) <= 1


RERANK = {"type": "CaptionRanker", "scores": {"image": {"type": "ImageScore"}}}


def test_rerank_orders_the_beams_by_clip_score(tiny_model, tiny_stores, tiny):
    torch.manual_seed(0)
    model = MODELS.build({**tiny_model, "backbone": {"type": "TinyEncoder"}, "rerank": RERANK}).eval()
    photos = CaptionEvalDataset(tiny_stores[1])
    rows = [photos[i] for i in range(6)]
    inputs = model.data_preprocessor(rows)
    beams = model(**inputs, mode="predict", generation={"rerank": False, "num_return_sequences": 5})
    beams = [dict(zip(s.pred_captions, s.pred_logprobs)) for s in beams]
    chosen = model(**inputs, mode="predict")
    for sample, found in zip(chosen, beams):
        texts = list(found)
        scores = dict(zip(texts, (tiny.TinyEncoder().encode_text(texts) @ sample.feat).tolist()))
        assert sample.pred_caption == max(texts, key=scores.get)
        assert sample.pred_logprobs == [pytest.approx(found[sample.pred_caption], abs=1e-4)]
    assert [s.pred_caption for s in chosen] != [next(iter(b)) for b in beams]
    without = MODELS.build({**tiny_model, "rerank": RERANK}).eval()
    with pytest.raises(UserError, match=r"model\.backbone"):
        without(**without.data_preprocessor(rows), mode="predict")


def test_a_score_by_an_encoder_that_photos_have_no_features_of_is_refused(tiny_model, tiny_stores):
    ranker = {"type": "CaptionRanker", "scores": {"other": {"type": "ImageScore", "encoder": "search"}}}
    model = MODELS.build({**tiny_model, "backbone": {"type": "TinyEncoder"}, "rerank": ranker}).eval()
    assert model.encoders_needed == {"search"}
    inputs = model.data_preprocessor([CaptionEvalDataset(tiny_stores[1])[0]])
    with pytest.raises(UserError, match="search"):
        model(**inputs, mode="predict")
    assert model(**inputs, mode="predict", generation={"rerank": False})[0].pred_caption is not None


def test_captions_of_the_memory_may_be_chosen(tiny_model, tiny_stores):
    scores = {"likelihood": {"type": "LikelihoodScore"}, "consensus": {"type": "ConsensusScore", "k": 8}}
    ranker = {"type": "CaptionRanker", "scores": scores, "retrieved": 4}
    tiny_model["data_preprocessor"]["prompt"].update(
        drop=0.0, drop_all=0.0
    )  # the same prompt where captions are learnt
    torch.manual_seed(0)
    model = MODELS.build({**tiny_model, "rerank": ranker}).eval()
    photos = CaptionEvalDataset(tiny_stores[1])
    rows = [photos[i] for i in range(6)]
    inputs = model.data_preprocessor(rows)
    ranked = model(**inputs, mode="predict", generation={"num_return_sequences": 5})
    together = [(list(s.pred_captions), list(s.pred_logprobs)) for s in ranked]
    nearest = (torch.stack([row.feat for row in rows]) @ model.memory.features.T).topk(4).indices
    known = [{model.memory.text(int(place)) for place in row} for row in nearest]
    assert all(
        near & set(captions) for near, (captions, _) in zip(known, together)
    )  # an untrained decoder writes noise
    assert all(len(set(captions)) == len(captions) for captions, _ in together)
    for row, (captions, logprobs), near in zip(rows, together, known):  # batched equals single, and logits equal
        single = model(**model.data_preprocessor([row]), mode="predict", generation={"num_return_sequences": 5})[0]
        assert single.pred_captions == captions
        for caption, logprob in zip(captions, logprobs):
            if caption in near:
                row.caption = caption
                data = model.data_preprocessor([row], True)
                logits = model(**{**data, "prefix": model.data_preprocessor([row])["prefix"]})[0]
                kept = data["labels"][0] >= 0
                each = logits.log_softmax(-1)[kept].gather(1, data["labels"][0][kept][:, None])
                assert each.sum().item() == pytest.approx(logprob, abs=1e-3)


def test_memory_weights_are_those_of_the_projection(tiny_model, tiny_stores):
    model = MODELS.build(tiny_model).eval()
    photos = CaptionEvalDataset(tiny_stores[1])
    prefix = model.data_preprocessor([photos[i] for i in range(3)])["prefix"]
    weights, rows = model.memory_weights(prefix, 1000)
    memory = model.memory.features
    assert weights.shape == (3, len(memory))  # no more than there are
    torch.testing.assert_close(weights.sum(1), torch.ones(3))
    mixed = torch.nn.functional.normalize((weights[..., None] * memory[rows]).sum(1), dim=-1)
    torch.testing.assert_close(mixed, model.necks[0](prefix, "predict")[0].feats, atol=1e-5, rtol=1e-4)
    tiny_model["necks"]["memory"]["phases"] = ["train"]
    assert MODELS.build(tiny_model).memory_weights(prefix, 3) is None


def test_widths_are_those_of_the_store_and_the_head(tiny_model, tiny_stores):
    fusion = {"type": "RetrievalFusion", "heads": 4}
    adapter = {"type": "PseudoFeatureOptimizer", "mode": "amortised"}
    tiny_model["necks"] = {"adapter": adapter, "fusion": fusion, **tiny_model["necks"]}
    tiny_model["head"]["width"] = 48
    model = MODELS.build(tiny_model)
    dim = Store.open(tiny_stores[0]).embed_dim
    adapter, fusion, _, projector = model.necks
    assert (projector.in_dim, projector.width) == (dim, 48)
    assert fusion.attention.embed_dim == adapter.adapter[0].in_features == dim
    assert model.neck_settings["projector"] == {**tiny_model["necks"]["projector"], "in_dim": dim, "width": 48}
    assert model.neck_settings["memory"] == tiny_model["necks"]["memory"]
    # What is given counts.
    tiny_model["necks"]["projector"]["in_dim"] = 7
    assert MODELS.build(tiny_model).necks[-1].in_dim == 7


@pytest.fixture()
def retrieving(tiny_model):
    """A captioner that reads retrieved captions and attends to their features."""
    retrieved = {"type": "RetrievedCaptions", "k": 2, "prompt": "like {captions} so", "prompt_length": 20}
    tiny_model["necks"] = {"retrieved": retrieved, **tiny_model["necks"]}
    tiny_model["head"].update(cross_attention=True, dropout=0.0)
    return tiny_model


def test_retrieved_captions_are_read_before_the_tags_and_are_not_learnt(retrieving, train_batch):
    torch.manual_seed(0)
    model = MODELS.build(retrieving).eval()
    tokenizer, seen = model.data_preprocessor.tokenizer, {}
    loss_of = model.head.loss
    model.head.loss = lambda *args, **context: seen.update(args=args, **context) or loss_of(*args, **context)
    batch = model.data_preprocessor(train_batch, True)
    torch.manual_seed(1)
    wanted, _ = model.run_necks(batch["prefix"], "train")
    texts = tokenizer.encode(wanted.prompts)
    most = sorted(map(len, texts))[8]
    assert most < max(map(len, texts))  # some are cut
    model.necks[0].prompt_length = most
    torch.manual_seed(1)
    model(**batch, mode="loss")
    feats, ids, lengths, labels, _ = seen["args"]
    assert torch.equal(seen["context"], wanted.context) and torch.equal(feats, wanted.feats)
    for i, text in enumerate(texts):
        text = text[:most]
        n = int(batch["lengths"][i])
        assert ids[i, : lengths[i]].tolist() == [*text, *batch["input_ids"][i, :n].tolist()]
        assert labels[i].tolist() == [-100] * len(text) + batch["labels"][i, :n].tolist() + [-100] * (
            ids.shape[1] - len(text) - n
        )
        assert (ids[i, lengths[i] :] == tokenizer.pad_id).all()


def test_retrieved_captions_change_a_prediction_and_batched_equals_single(retrieving, tiny_stores):
    torch.manual_seed(0)
    model = MODELS.build(retrieving).eval()
    train_a_little(model, SynthPairDataset(tiny_stores[0]), steps=5, lr=3e-3)
    photos = CaptionEvalDataset(tiny_stores[1])
    together = model.val_step([photos[i] for i in range(5)])
    for i, sample in enumerate(together):
        alone = model.val_step([photos[i]])[0]
        assert alone.pred_caption == sample.pred_caption
        assert alone.pred_scores == pytest.approx(sample.pred_scores, abs=1e-4)
    before = [s.pred_scores for s in together]
    for off in ({"prompt": None}, {"context": False}):
        if "context" in off:
            model.head.cross_attention = False
        for name, value in off.items():
            setattr(model.necks[0], name, value)
        assert [s.pred_scores for s in model.val_step([photos[i] for i in range(5)])] != before


def test_ranked_captions_of_the_memory_are_scored_behind_the_prompt_and_with_the_context(retrieving, tiny_stores):
    """Their log-probabilities are those of the loss."""
    least_likely = {"type": "LikelihoodScore", "weight": -1.0}  # first, and those are the memory's
    ranker = {"type": "CaptionRanker", "scores": {"likelihood": least_likely}, "retrieved": 2}
    retrieving["data_preprocessor"]["prompt"].update(drop=0.0, drop_all=0.0)  # the same where captions are learnt
    retrieving["head"]["label_smoothing"] = 0.0
    torch.manual_seed(0)
    model = MODELS.build({**retrieving, "rerank": ranker}).eval()
    photos = CaptionEvalDataset(tiny_stores[1])
    rows = [photos[i] for i in range(6)]
    batch, options = model.data_preprocessor(rows), {"num_return_sequences": 2}
    model(**batch, mode="predict", generation=options)
    together = [dict(zip(row.pred_captions, row.pred_logprobs)) for row in rows]
    prefix, _ = model.run_necks(batch["prefix"], "predict")
    _, lengths, _ = model._with_prompts(prefix, batch["input_ids"], batch["lengths"])
    assert len({*lengths.tolist()}) > 1  # some are padded
    nearest = (torch.stack([row.feat for row in rows]) @ model.memory.features.T).topk(2).indices.tolist()
    for row, found, places in zip(rows, together, nearest):
        single = model.data_preprocessor([row])
        model(**single, mode="predict", generation=options)
        assert dict(zip(row.pred_captions, row.pred_logprobs)) == pytest.approx(found, abs=1e-3)
        assert {*found} == {*map(model.memory.text, places)}
        prefix, _ = model.run_necks(single["prefix"], "predict")
        for row.caption, logprob in found.items():
            data = model.data_preprocessor([row], True)
            tokens = model._with_prompts(prefix, data["input_ids"], data["lengths"], data["labels"])
            loss = model.head.loss(prefix.feats, *tokens, context=prefix.context)["loss_caption"]
            assert -loss.item() * (tokens[2] >= 0).sum().item() == pytest.approx(logprob, abs=1e-3)


def test_the_retrieved_prompt_counts_among_the_positions(retrieving):
    retrieving["head"]["positions"] = 2 + 20 + 32 + 1 + 16
    assert MODELS.build(retrieving).head.positions == 71
    retrieving["head"]["positions"] -= 1
    with pytest.raises(UserError, match=r"may have 71: .* retrieved captions 20"):
        MODELS.build(retrieving)


def test_grids_are_what_the_decoder_attends_to_from_a_store_and_from_images(tiny_model, tmp_path, tiny):
    photos, encoder = {"type": "TinyPhotos", "num": 6}, {"type": "TinyEncoder"}
    PhotoStore(str(tmp_path / "photos"), photos, encoder, grids=True).run()
    Synthesis(**{**tiny_settings(tmp_path / "pairs"), "refine": None, "grids": True}).run()
    tiny_model.update(store=str(tmp_path / "pairs"), grids=True, backbone=encoder)
    tiny_model["data_preprocessor"]["prompt"] = None
    tiny_model["head"].update(cross_attention=True, dropout=0.0)
    torch.manual_seed(0)
    model = MODELS.build(tiny_model)
    assert model.head.context_map.in_features == 48  # the places', not the features' 32
    train_a_little(model, SynthPairDataset(str(tmp_path / "pairs"), grids=True), steps=20, lr=3e-3)
    stored, images = (
        CaptionEvalDataset(str(tmp_path / "photos"), grids=True), CaptionEvalDataset(photos=photos)
    )  # fmt: skip
    (grid,) = tiny.TinyEncoder().encode_grid([images[2].image])
    torch.testing.assert_close(stored[2].grid, grid, atol=1e-3, rtol=1e-3)
    wanted = model.val_step([stored[i] for i in range(6)])
    for a, b in zip(wanted, model.val_step([images[i] for i in range(6)])):
        assert a.pred_caption == b.pred_caption and a.pred_scores == pytest.approx(b.pred_scores, abs=1e-2)
    dark = [stored[i] for i in range(6)]
    for sample in dark:
        sample.grid = torch.zeros_like(sample.grid)
    assert [s.pred_scores for s in model.val_step(dark)] != [s.pred_scores for s in wanted]
    with pytest.raises(UserError, match="grids"):
        SynthPairDataset(str(tmp_path / "pairs"), pairs=None, grids=True)
    with pytest.raises(UserError, match="no neck or dataset gives it a context"):
        model.val_step([CaptionEvalDataset(str(tmp_path / "photos"))[0]])


def test_necks_are_run_in_their_order_and_the_last_makes_the_prefix(tiny_model):
    tiny_model["necks"]["noise"] = {"type": "NoiseInjection", "variance": 0.1}
    with pytest.raises(UserError, match=r"model\.necks\.projector.*noise.*_delete_"):
        MODELS.build(tiny_model)
    tiny_model["necks"] = {"noise": tiny_model["necks"]["noise"], **tiny_model["necks"]}
    assert [type(n).__name__ for n in MODELS.build(tiny_model).necks] == [
        "NoiseInjection", "TextMemoryProjection", "PrefixProjector",
    ]  # fmt: skip
    tiny_model["necks"]["memory"] = None
    assert [type(n).__name__ for n in MODELS.build(tiny_model).necks] == ["NoiseInjection", "PrefixProjector"]
    for wrong in ([{"type": "PrefixProjector"}], {}, {"memory": None}, {"projector": {"width": 3}}):
        with pytest.raises(UserError, match="necks"):
            MODELS.build({**tiny_model, "necks": wrong})


# ---- a second encoder
@pytest.fixture()
def two_encoder_model(tiny_model, two_encoders):
    """Captions are retrieved by the second encoder."""
    tiny_model["necks"] = {
        "fusion": {"type": "RetrievalFusion", "k": 3, "encoder": "search"},
        "projector": tiny_model["necks"]["projector"],
    }
    tiny_model.update(store=two_encoders[0], backbone={"type": "TinyEncoder"}, other_backbones=dict(SEARCH))
    return tiny_model


def test_images_are_encoded_by_the_encoders_that_are_needed(two_encoder_model, two_encoders, tiny):
    model, photos, stored = (
        MODELS.build(two_encoder_model).eval(), tiny.TinyPhotos(), CaptionEvalDataset(two_encoders[1]),
    )  # fmt: skip
    assert model.encoders_needed == {"search"} and model._backbones == {}
    tags = tiny.TinyTagger().detect([photos.load(i) for i in range(4)])
    raw = [CaptionSample(i, str(i), "real", image=photos.load(i), tags=tags[i]) for i in range(4)]
    seen = model.val_step(raw)
    for one, other in zip(seen, model.val_step([stored[i] for i in range(4)])):
        assert one.pred_caption == other.pred_caption
        torch.testing.assert_close(one.pred_logprobs, other.pred_logprobs, atol=1e-2, rtol=0)
    torch.testing.assert_close(seen[1].other_feats["search"], stored[1].other_feats["search"], atol=1e-3, rtol=0)
    assert model.backbone_of("search") is model.backbone_of("search") and model.backbone_of(None) is model.backbone
    assert not any("backbone" in name for name in model.state_dict())
    with pytest.raises(UserError, match=r"model\.other_backbones\.clip"):
        model.backbone_of("clip")


def test_a_second_encoder_is_the_one_of_the_store_and_the_checkpoint(
    two_encoder_model, two_encoders, tiny_stores, tiny
):
    model = MODELS.build(two_encoder_model).eval()
    identity = model.identity
    assert identity["other_encoders"] == {"search": tiny.TinyEncoder(dim=24, seed=7, name="other").fingerprint()}
    model.check_identity(identity)
    wrong = {**two_encoder_model, "other_backbones": {"search": {"type": "TinyEncoder", "dim": 24, "name": "wrong"}}}
    with pytest.raises(UserError, match=r"other_backbones\.search is of another encoder by the name 'search'.*'wrong'"):
        MODELS.build(wrong).backbone_of("search")
    changed = {"search": {**identity["other_encoders"]["search"], "name": "changed", "text": [1.0] + [0.0] * 23}}
    with pytest.raises(UserError, match="'changed'"):
        model.check_identity({**identity, "other_encoders": changed})
    # A store without it, where captions are remembered or photos are to be captioned.
    plain = MODELS.build({**two_encoder_model, "store": tiny_stores[0]}).eval()
    with pytest.raises(UserError, match="by an encoder 'search', and the memory has features by one encoder only"):
        plain.val_step([CaptionEvalDataset(two_encoders[1])[0]])
    with pytest.raises(UserError, match="needs features of the encoder 'search'"):
        model.val_step([CaptionEvalDataset(tiny_stores[1])[0]])
    with pytest.raises(UserError, match="'search'"):
        model.bind_memory(CaptionMemory.from_sentences(["a red dog"] * 4, tiny.TinyEncoder()))


def test_it_learns_and_swaps_its_memory_by_a_second_encoder(two_encoder_model, two_encoders, tiny):
    model = MODELS.build(two_encoder_model)
    dataset = SynthPairDataset(two_encoders[0])
    train_a_little(model, dataset, steps=3, lr=3e-3)
    photo = CaptionEvalDataset(two_encoders[1])[0]
    prefix = model.eval().data_preprocessor([photo])["prefix"]
    own = model.run_necks(prefix, "predict")[0].feats
    sentences = [f"a {colour} {thing}" for colour in ("pink", "grey") for thing in ("dog", "cat", "house", "fish")]
    other = tiny.TinyEncoder(dim=24, seed=7)
    with model.swapped_memory(CaptionMemory.from_sentences(sentences, tiny.TinyEncoder(), {"search": other})):
        rows = model.memory_weights(prefix, 2)[1]
        nearest = (photo.other_feats["search"] @ other.encode_text(sentences).T).topk(2).indices
        assert rows.tolist() == [nearest.tolist()]
        assert not torch.equal(model.run_necks(prefix, "predict")[0].feats, own)
    assert torch.equal(model.run_necks(prefix, "predict")[0].feats, own)
