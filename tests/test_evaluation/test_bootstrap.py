import numpy as np
import pytest

from synthcap_mm.evaluation.bootstrap import paired_bootstrap


def test_a_clear_difference_and_none():
    generator = np.random.default_rng(1)
    difficulty = generator.normal(50, 40, 200)
    a = difficulty + 3 + generator.normal(0, 5, 200)
    b = difficulty + generator.normal(0, 5, 200)
    clear = paired_bootstrap(a, b)
    # paired: the spread of difficulty (standard error 4) does not matter, that of the differences does
    error = (a - b).std() / 200**0.5
    assert clear["low"] == pytest.approx((a - b).mean() - 1.96 * error, abs=0.2 * error)
    assert clear["high"] == pytest.approx((a - b).mean() + 1.96 * error, abs=0.2 * error)
    assert clear["low"] > 0 and clear["p"] == pytest.approx(2 / 1001)
    assert clear["mean_difference"] == pytest.approx((a - b).mean())
    assert clear["images"] == 200 and clear["samples"] == 1000
    none = paired_bootstrap(b, difficulty - difficulty.mean() + b.mean())
    assert none["low"] < 0 < none["high"] and none["p"] > 0.5


def test_interval_covers_the_truth_about_95_times_in_100():
    generator = np.random.default_rng(0)
    hits = 0
    for n in range(100):
        difference = generator.normal(1.0, 4.0, 60)
        found = paired_bootstrap(difference, np.zeros(60), samples=200, seed=n)
        hits += found["low"] <= 1.0 <= found["high"]
    assert 0.89 <= hits / 100 <= 0.985


def test_seeds_are_averaged_first():
    generator = np.random.default_rng(2)
    a, b = generator.normal(size=(3, 50)), generator.normal(size=(2, 50))
    assert paired_bootstrap(a, b, samples=50) == paired_bootstrap(a.mean(0), b.mean(0), samples=50)


def test_repeatable_and_antisymmetric():
    a, b = np.random.default_rng(3).normal(size=(2, 40))
    one, two = paired_bootstrap(a, b, seed=5), paired_bootstrap(b, a, seed=5)
    assert one == paired_bootstrap(a, b, seed=5) != paired_bootstrap(a, b, seed=6)
    assert one["low"] == pytest.approx(-two["high"]) and one["p"] == two["p"]


def test_identical_methods_give_p_one():
    found = paired_bootstrap([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    assert found["p"] == 1.0 and found["low"] == found["high"] == 0.0


@pytest.mark.parametrize(
    ("a", "b", "samples"),
    [
        ([1.0, 2.0], [1.0, 2.0, 3.0], 10),
        ([1.0], [1.0], 10),
        ([1.0, float("nan")], [1.0, 2.0], 10),
        ([1.0, 2.0], [1.0, 2.0], 0),
    ],
)
def test_bad_scores(a, b, samples):
    with pytest.raises(ValueError):
        paired_bootstrap(a, b, samples=samples)
