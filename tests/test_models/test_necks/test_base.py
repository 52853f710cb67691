import pytest
import torch

from synthcap_mm.errors import UserError
from synthcap_mm.models.necks.base import BaseNeck
from synthcap_mm.structures import PrefixBatch


class Doubling(BaseNeck):
    def transform(self, batch, phase):
        return batch.replace(feats=batch.feats * 2), {}


@pytest.mark.parametrize("training", [True, False])
def test_config_alone_decides_where_a_neck_acts(training):
    neck = Doubling(phases=["train"], sources=["pseudo", "text"]).train(training)
    for phase in ("train", "predict"):
        for source in ("pseudo", "text", "real"):
            batch = PrefixBatch(torch.ones(2, 3), source)
            out, losses = neck(batch, phase)
            assert losses == {}
            if phase == "train" and source != "real":
                assert neck.acts(phase, source) and out.feats.eq(2).all() and batch.feats.eq(1).all()
            else:
                assert not neck.acts(phase, source) and out is batch


def test_wrong_names_are_refused():
    for wrong in ({"phases": ["train", "test"]}, {"sources": ["photo"]}, {"phases": "train"}):
        with pytest.raises(UserError, match=f"Doubling.{next(iter(wrong))}"):
            Doubling(**wrong)
    for source, phase in (("real", "val"), ("photo", "train")):
        with pytest.raises(ValueError):
            Doubling()(PrefixBatch(torch.ones(1, 2), source), phase)
