# The shipped ranker with this encoder's temperature.
_base_ = ["../../../../configs/_base_/models/ranker.py"]
ranker = dict(scores=dict(consensus=dict(temperature=0.07)))
