# Which caption an image gets: of what the beams wrote and the ten captions of the memory nearest to the image, the one that
# does best with four scores together. Chosen on held-out captions (research/logs/ranking.md); nothing is trained.
ranker = dict(
    type="CaptionRanker",
    retrieved=10,
    scores=dict(
        consensus=dict(type="ConsensusScore", k=60, temperature=0.01),  # the encoder's temperature: CLIP's
        beams=dict(type="ConsensusScore", voters="beams", temperature=0.3, weight=0.5),
        image=dict(type="ImageScore", weight=0.5),
        likelihood=dict(type="LikelihoodScore", weight=0.5),
    ),
)
