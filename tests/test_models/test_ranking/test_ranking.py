import pytest
import torch

from synthcap_mm.models.memory import CaptionMemory
from synthcap_mm.models.ranking import Candidates, CaptionRanker, ConsensusScore, ImageScore, LikelihoodScore, TagScore
from synthcap_mm.models.ranking.ngrams import NgramSimilarity

FEATS = {"a dog": [1.0, 0.0], "a cat": [0.0, 1.0], "a dog runs": [0.6, 0.8], "": [1.0, 0.0]}


def candidates(captions, **fields):
    words: dict[str, int] = {}
    given = {
        "captions": captions,
        "logprobs": torch.zeros(len(captions), len(captions[0])),
        "image_feats": {
            None: torch.tensor([[1.0, 0.0]]).expand(len(captions), -1),
            "other": torch.tensor([[0.0, 1.0]]).expand(len(captions), -1),
        },
        "tags": [[] for _ in captions],
        "encode_text": lambda name, texts: torch.tensor([FEATS[text] for text in texts]),
        "tokenize": lambda texts: [[words.setdefault(word, len(words)) for word in text.split()] for text in texts],
    }
    return Candidates(**{**given, **fields})


def test_image_score_is_the_cosine_and_nothing_for_an_empty_caption():
    found = ImageScore().score(candidates([["a dog", "a cat", "a dog runs", ""]]), None)
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.0, 0.6, 0.0]]))
    found = ImageScore(encoder="other").score(candidates([["a dog", "a cat", "a dog runs", ""]]), None)
    torch.testing.assert_close(found, torch.tensor([[0.0, 1.0, 0.8, 0.0]]))


def test_likelihood_is_divided_by_the_length_to_a_power():
    given = candidates([["a dog", "a dog runs"]], logprobs=torch.tensor([[-6.0, -6.0]]))
    assert LikelihoodScore().score(given, None).tolist() == [[-2.0, -1.5]]  # the end token counts
    assert LikelihoodScore(length_penalty=0.0).score(given, None).tolist() == [[-6.0, -6.0]]


def test_a_caption_that_names_all_tags_is_better_than_one_that_names_one_twice():
    given = candidates(
        [["a red chair next to a red chair", "a red chair next to a gray dog"]], tags=[["gray dog", "red chair"]]
    )
    assert TagScore().score(given, None).tolist() == [[0.5, 1.0]]


def test_scores_are_standardised_and_weighted():
    ranker = CaptionRanker(
        {
            "image": {"type": "ImageScore"},
            "likelihood": {"type": "LikelihoodScore", "weight": 3.0, "length_penalty": 0.0},
        }
    )
    # The encoder prefers the first by any measure, the decoder the second, and counts three times.
    found = ranker.rank(candidates([["a dog", "a cat"]], logprobs=torch.tensor([[-2.0, -1.9]])))
    torch.testing.assert_close(found, torch.tensor([[-2.0, 2.0]]), atol=1e-3, rtol=0)
    equal = CaptionRanker({"likelihood": {"type": "LikelihoodScore"}}).rank(candidates([["a dog", "a cat"]]))
    assert equal.tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("temperature, best", [(100.0, "a dog runs"), (0.001, "a cat")])
def test_consensus_is_what_the_nearest_captions_say(temperature, best):
    retrieved = [["a cat sits", "a dog runs", "the dog runs", "a dog runs fast"]]
    similarities = torch.tensor([[0.9, 0.5, 0.5, 0.5]])
    memory = CaptionMemory(torch.eye(4), [*retrieved[0]])
    score = ConsensusScore(k=4, temperature=temperature)
    assert score.retrieves == 4
    captions = ["a cat", "a dog runs", "zebras"]
    found = score.score(candidates([captions], retrieved=retrieved, similarities=similarities), memory)[0].tolist()
    assert captions[max(range(3), key=found.__getitem__)] == best and found[2] == 0


def test_beams_vote_by_their_likelihood():
    memory = CaptionMemory(torch.eye(4), ["a dog runs fast", "the cat sat", "one zebra", "two birds"])
    captions = ["a dog", "a dog runs", "the cat sat", "a dog runs fast"]
    given = candidates([captions[:3]], logprobs=torch.tensor([[-1.5, -4.0, -4.0]]))
    given.add(captions[3:], torch.tensor([0.0]))  # of the memory: it may be chosen, and has no vote
    score = ConsensusScore(voters="beams", temperature=1e3)
    assert score.retrieves == 1
    found = score.score(given, memory)[0].tolist()
    ngrams = NgramSimilarity(given.tokenize([memory.text(i) for i in range(4)]))
    vectors = [ngrams.vectors(ids) for ids in given.tokenize(captions)]
    for i in range(4):
        wanted = sum(ngrams.similarity(vectors[i], vectors[j]) for j in range(3) if j != i) / 3
        assert found[i] == pytest.approx(wanted, abs=1e-3)
    sure = ConsensusScore(voters="beams", temperature=1e-3).score(given, memory)[0].tolist()
    assert sure[1] == pytest.approx(ngrams.similarity(vectors[1], vectors[0]), abs=1e-4)  # the likeliest votes alone


def test_a_retrieved_caption_has_no_vote_for_itself():
    memory = CaptionMemory(torch.eye(3), ["a dog runs", "the cat sat", "one zebra"])
    fields = {"retrieved": [["a dog runs", "the cat sat"]], "similarities": torch.tensor([[0.5, 0.5]])}
    alone = ConsensusScore(k=2).score(candidates([["a dog runs"]], **fields), memory)
    assert alone.item() == 0
    fields["retrieved"] = [["a dog runs", "a dog runs"]]  # said twice: the other one votes
    assert ConsensusScore(k=2).score(candidates([["a dog runs"]], **fields), memory).item() > 0


def test_ngram_similarity_is_cider_d():
    """Against pycocoevalcap: one reference, so its mean over references is that one's similarity (times ten)."""
    cider = pytest.importorskip("pycocoevalcap.cider.cider").Cider()
    texts = [
        "a dog runs on the grass",
        "a dog runs",
        "two cats sleep on a red sofa",
        "a man rides a wave",
        "the dog ran",
    ]
    ours = NgramSimilarity([text.split() for text in texts])
    hypotheses = ["a dog on the grass runs", "a dog runs", "a cat on a sofa", "a man on a wave", "dog dog dog"]
    _, theirs = cider.compute_score(
        {i: [text] for i, text in enumerate(texts)}, {i: [text] for i, text in enumerate(hypotheses)}
    )
    for reference, hypothesis, wanted in zip(texts, hypotheses, theirs):
        found = ours.similarity(ours.vectors(hypothesis.split()), ours.vectors(reference.split()))
        assert 10 * found == pytest.approx(wanted, rel=1e-6)
