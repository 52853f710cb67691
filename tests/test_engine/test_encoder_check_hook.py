"""Features of one encoder only."""

from types import SimpleNamespace

import pytest
from small_runner import make_runner
from torch.utils.data import ConcatDataset, Subset

from synthcap_mm.datasets import CaptionEvalDataset, SynthPairDataset
from synthcap_mm.engine import EncoderCheckHook
from synthcap_mm.store import Store, StoreError
from synthcap_mm.synthesis.photos import PhotoStore
from synthcap_mm.synthesis.synthesis import Synthesis

OTHER = {"type": "TinyEncoder", "seed": 1, "name": "other"}


@pytest.fixture()
def others(tmp_path, tiny_synthesis):
    """Stores of another encoder: ``(pairs, photos)``."""
    Synthesis(**{**tiny_synthesis, "encoder": OTHER, "refine": None}).run()
    PhotoStore(str(tmp_path / "photos"), {"type": "TinyPhotos"}, OTHER).run()
    return tiny_synthesis["store"], str(tmp_path / "photos")


def refused(action):
    with pytest.raises(StoreError) as caught:
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


def test_stores_within_other_datasets_are_looked_at(tiny_stores, others):
    encoder = Store.open(tiny_stores[0]).encoder
    good, bad = SynthPairDataset(tiny_stores[0]), CaptionEvalDataset(others[1])
    hook = EncoderCheckHook()

    def check(dataset, encoder=encoder):
        loader = SimpleNamespace(dataset=dataset)
        hook.before_test(SimpleNamespace(model=SimpleNamespace(encoder=encoder), test_dataloader=loader))

    check(ConcatDataset([good, Subset(good, [0])]))
    refused(lambda: check(ConcatDataset([good, Subset(bad, [0])])))
    # a captioner that knows no encoder, and a dataset without a store, have nothing to compare
    check(bad, None)
    check([1, 2, 3])


def test_a_memory_of_another_encoder_is_refused_before_a_run(tiny_model, tiny_stores, others, tmp_path):
    runner, diary = make_runner(tiny_model, tiny_stores, tmp_path / "work")
    runner.model.necks[0].memory_path = others[0]  # swapped after the captioner was built
    refused(runner.test)
    refused(runner.train)
    assert diary.losses == {}


def test_exclude_self_needs_the_memory_of_the_store_trained_on(tiny_model, tiny_stores, tiny_synthesis, tmp_path):
    Synthesis(**{**tiny_synthesis, "captions": {"type": "TinyCaptions", "num": 40, "seed": 9}}).run()
    tiny_model["necks"][0].update(exclude_self=True, memory=tiny_synthesis["store"])
    runner, diary = make_runner(tiny_model, tiny_stores, tmp_path / "work")
    with pytest.raises(ValueError, match="exclude_self") as caught:
        runner.train()
    assert tiny_stores[0] in str(caught.value) and tiny_synthesis["store"] in str(caught.value)
    assert diary.losses == {}
