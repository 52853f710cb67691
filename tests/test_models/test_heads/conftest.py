import pytest
import torch
from small_head import VOCAB, WIDTH


@pytest.fixture()
def batch():
    generator = torch.Generator().manual_seed(3)
    lengths = torch.tensor([1, 4, 2, 6])
    ids = torch.randint(3, VOCAB, (4, 6), generator=generator)
    ids[torch.arange(6)[None] >= lengths[:, None]] = 0
    return torch.randn(4, 3, WIDTH, generator=generator), ids, lengths
