import numpy as np
import pytest
import torch

from synthcap_mm.errors import UserError
from synthcap_mm.models.generators import RetrievalGenerator
from synthcap_mm.registry import MODELS

POOL = {"type": "PhotoFolder", "root": "photos/"}


def unit(count, seed, dim=16):
    feats = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(feats, dim=1)


def test_most_similar_images_first():
    generator = RetrievalGenerator(POOL, k=3, block=7)
    pool, texts = unit(50, 0).half().numpy(), unit(6, 1)
    generator.set_pool(pool)
    rows, scores = generator.retrieve(texts, ["c"] * 6, list(range(6)))
    similarity = texts.double() @ torch.from_numpy(pool).double().T
    expected = similarity.sort(dim=1, descending=True)
    assert torch.equal(rows, expected.indices[:, :3]) and rows.dtype == torch.int64
    torch.testing.assert_close(scores, expected.values[:, :3].float())
    # neither seeds nor the company matter
    again = [generator.retrieve(texts[i : i + 1], ["c"], [99])[0] for i in range(6)]
    assert torch.equal(torch.cat(again), rows)
    assert torch.equal(generator.retrieve(texts, ["c"] * 6, [0] * 6, k=1)[0], rows[:, :1])


def test_memory_mapped_pool(tmp_path):
    np.save(tmp_path / "pool.npy", unit(30, 0).half().numpy())
    generator = RetrievalGenerator(POOL)
    generator.set_pool(np.load(tmp_path / "pool.npy", mmap_mode="r"))
    rows, scores = generator.retrieve(unit(30, 0)[[4, 17]], ["a", "b"], [0, 1])
    assert rows.tolist() == [[4], [17]] and scores.min() > 0.999


def test_is_a_retriever_from_a_config():
    generator = MODELS.build({"type": "RetrievalGenerator", "pool": POOL, "k": 2})
    assert generator.retrieves and generator.pool == POOL and generator.to("cpu") is generator
    with pytest.raises(TypeError, match="retrieve"):
        generator.generate(["a dog"], [0])


def test_bad_input():
    for wrong in ({"pool": "photos/"}, {"pool": POOL, "k": 0}, {"pool": POOL, "block": 0}):
        with pytest.raises(UserError, match="RetrievalGenerator"):
            RetrievalGenerator(**wrong)
    generator = RetrievalGenerator(POOL, k=4)
    with pytest.raises(RuntimeError, match="set_pool"):
        generator.retrieve(unit(1, 0), ["a"], [0])
    with pytest.raises(ValueError, match="k=4"):  # fewer images than k
        generator.set_pool(unit(3, 0))
    pool = unit(9, 0)
    generator.set_pool(pool)
    for feats, captions, seeds in ((unit(2, 0), "ab", [0]), (unit(3, 0), "ab", [0, 1]), (unit(1, 0, dim=8), "a", [0])):
        with pytest.raises(ValueError):
            generator.retrieve(feats, list(captions), seeds)
    pool[5] = float("nan")
    with pytest.raises(ValueError, match="row 5 of the database"):
        generator.retrieve(unit(1, 0), ["a"], [0])
