"""Archives of TorchScript give their weights; what their pickles may not hold is in test_weights_files.py."""

import torch

from synthcap_mm.torchscript import weights_of_torchscript


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_an_archive_gives_its_weights(tmp_path):
    quiet = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Conv1d(2, 2, 1).double())
    torch.jit.save(torch.jit.script(quiet), str(tmp_path / "quiet.safetensors"))
    assert same(weights_of_torchscript(tmp_path / "quiet.safetensors"), quiet.state_dict())


def test_modules_that_are_shared_keep_both_names(tmp_path):
    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a = torch.nn.Linear(2, 2)
            self.b = self.a

        def forward(self, x):
            return self.b(self.a(x))

    module = Twice()
    torch.jit.save(torch.jit.script(module), str(tmp_path / "c.pt"))
    assert same(weights_of_torchscript(tmp_path / "c.pt"), module.state_dict())
