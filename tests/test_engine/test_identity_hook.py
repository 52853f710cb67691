"""Features of one encoder only, words of one tokenizer."""

from types import SimpleNamespace

import pytest
from small_runner import make_runner
from torch.utils.data import ConcatDataset, Subset

from synthcap_mm.datasets import CaptionEvalDataset, SynthPairDataset
from synthcap_mm.engine.identity_hook import META, CaptionerIdentityHook
from synthcap_mm.errors import UserError
from synthcap_mm.files import file_sha256
from synthcap_mm.models.memory import CaptionMemory
from synthcap_mm.registry import MODELS
from synthcap_mm.store import Store
from synthcap_mm.synthesis.photos import PhotoStore
from synthcap_mm.synthesis.synthesis import Synthesis
from synthcap_mm.weights_files import read_checkpoint

OTHER = {"type": "TinyEncoder", "seed": 1, "name": "other"}


@pytest.fixture()
def others(tmp_path, tiny_synthesis):
    """Stores of another encoder: ``(pairs, photos)``."""
    Synthesis(**{**tiny_synthesis, "encoder": OTHER, "refine": None}).run()
    PhotoStore(str(tmp_path / "photos"), {"type": "TinyPhotos"}, OTHER).run()
    return tiny_synthesis["store"], str(tmp_path / "photos")


def refused(action):
    with pytest.raises(UserError) as caught:
        action()
    assert "'tiny'" in str(caught.value) and "'other'" in str(caught.value)


def test_a_test_set_of_another_encoder_is_refused(tiny_model, tiny_stores, others, tmp_path):
    runner, _ = make_runner(tiny_model, (tiny_stores[0], others[1]), tmp_path / "work")
    refused(runner.test)


def test_a_test_set_of_the_same_encoder_is_not(tiny_model, tiny_stores, tmp_path):
    tiny_model["head"]["generation"] = {"num_beams": 1}
    runner, _ = make_runner(tiny_model, tiny_stores, tmp_path / "work")
    assert "score" in runner.test()


def test_training_pairs_of_another_encoder_are_refused_before_the_first_step(tiny_model, tiny_stores, others, tmp_path):
    runner, diary = make_runner(tiny_model, tiny_stores, tmp_path / "work")
    runner._train_dataloader["dataset"].update(store=others[0], refined=False)
    refused(runner.train)
    assert diary.losses == {}


def test_a_validation_set_of_another_encoder_is_refused_before_the_first_step(
    tiny_model, tiny_stores, others, tmp_path
):
    runner, diary = make_runner(tiny_model, tiny_stores, tmp_path / "work")
    runner._val_dataloader["dataset"] = {"type": "CaptionEvalDataset", "store": others[1]}
    refused(runner.train)
    assert diary.losses == {}


def test_stores_within_other_datasets_are_looked_at(tiny_model, tiny_stores, others):
    good, bad = SynthPairDataset(tiny_stores[0]), CaptionEvalDataset(others[1])
    hook = CaptionerIdentityHook()

    def check(dataset, model):
        loader = SimpleNamespace(dataset=dataset)
        hook.before_test(SimpleNamespace(model=model, test_dataloader=loader))

    model = MODELS.build(tiny_model)
    check(ConcatDataset([good, Subset(good, [0])]), model)
    refused(lambda: check(ConcatDataset([good, Subset(bad, [0])]), model))
    # a model of the user's own, a captioner that knows no encoder, and a dataset without a store: nothing to compare
    check(bad, SimpleNamespace())
    check([1, 2, 3], model)
    model.encoder = None
    check(bad, model)


def test_photos_without_the_second_encoder_are_refused_before_the_first_step(
    tiny_model, tiny_stores, two_encoders, tmp_path
):
    fusion = {"type": "RetrievalFusion", "k": 3, "encoder": "search"}
    tiny_model.update(store=two_encoders[0], necks={"fusion": fusion, **tiny_model["necks"]})
    runner, diary = make_runner(tiny_model, two_encoders, tmp_path / "work")
    runner._val_dataloader["dataset"] = {"type": "CaptionEvalDataset", "store": tiny_stores[1]}
    with pytest.raises(UserError, match="no features of an encoder 'search'"):
        runner.train()
    assert diary.losses == {}


@pytest.mark.parametrize("where", ["config", "bound"])
def test_exclude_self_needs_the_memory_of_the_store_trained_on(
    tiny_model, tiny_stores, tiny_synthesis, tmp_path, where
):
    Synthesis(**{**tiny_synthesis, "captions": {"type": "TinyCaptions", "num": 40, "seed": 9}}).run()
    tiny_model["necks"]["memory"]["exclude_self"] = True
    if where == "config":
        tiny_model["necks"]["memory"]["memory"] = tiny_synthesis["store"]
    runner, diary = make_runner(tiny_model, tiny_stores, tmp_path / "work")
    if where == "bound":
        runner.model.bind_memory(CaptionMemory.from_store(Store.open(tiny_synthesis["store"])))
    with pytest.raises(UserError, match="exclude_self"):
        runner.train()
    assert diary.losses == {}


def test_a_checkpoint_says_what_it_was_trained_with_and_is_compared(tiny_model, tiny_stores, others, tmp_path):
    tiny_model["head"]["generation"] = {"num_beams": 1}
    runner, _ = make_runner(tiny_model, tiny_stores, tmp_path / "work")
    runner.save_checkpoint(str(tmp_path), "it.pth", save_optimizer=False, save_param_scheduler=False)
    checkpoint = read_checkpoint(tmp_path / "it.pth")
    store = Store.open(tiny_stores[0])
    assert checkpoint["meta"][META] == {
        "encoder": store.encoder,
        "tokenizer_sha256": file_sha256(store.tokenizer_path),
        "memory_sha256": store.captions_sha256("train"),
    }
    runner.load_checkpoint(str(tmp_path / "it.pth"))
    tiny_model.update(store=others[0], data_preprocessor={**tiny_model["data_preprocessor"],
                                                          "tokenizer": str(store.tokenizer_path)})  # fmt: skip
    other, _ = make_runner(tiny_model, (others[0], others[1]), tmp_path / "other")
    refused(lambda: other.load_checkpoint(str(tmp_path / "it.pth")))


def test_a_training_is_not_resumed_on_other_data(tiny_model, tiny_synthesis, tiny_stores, tmp_path):
    Synthesis(**tiny_synthesis).run()
    stores = (tiny_synthesis["store"], tiny_stores[1])
    tiny_model["store"] = stores[0]
    runner, _ = make_runner(tiny_model, stores, tmp_path / "work", epochs=1)
    runner.train()
    tokenizer = tmp_path / "work" / "tokenizer.json"
    assert file_sha256(tokenizer) == file_sha256(Store.open(stores[0]).tokenizer_path)
    Synthesis(**{**tiny_synthesis, "refine": {"steps": 1, "lr": 0.01, "bank_size": 16}}).run()
    runner, _ = make_runner(tiny_model, stores, tmp_path / "work", epochs=2, resume=True)
    with pytest.raises(UserError, match="resumed"):
        runner.train()
