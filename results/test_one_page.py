"""Does the one page compute tsalign.py's losses, and does its import do nothing?"""

import runpy
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tsalign
from results import one_page


def random_embeddings() -> list[torch.Tensor]:
    """Embeddings of 12 steps by both encoders, of unit norm, that want gradients."""
    torch.manual_seed(0)
    views = F.normalize(torch.randn(2, 12, 5), dim=-1)
    return [z.clone().requires_grad_() for z in views]


def check_same(loss, expected, inputs):
    """Two losses have the same value, and the same gradient to each input."""
    assert loss.item() == pytest.approx(expected.item())
    gradients = torch.autograd.grad(loss, inputs)
    for gradient, other in zip(gradients, torch.autograd.grad(expected, inputs)):
        assert other.abs().max() > 1e-3
        assert torch.allclose(gradient, other, atol=1e-6)


@pytest.mark.parametrize("name", ["info_nce_loss", "alignment_loss"])
def test_the_loss_of_embeddings_is_that_of_tsalign_in_value_and_gradients(name):
    inputs = random_embeddings()
    if name == "info_nce_loss":
        inputs.append(torch.tensor(7.0, requires_grad=True))
    loss = getattr(one_page, name)(*inputs)
    check_same(loss, getattr(tsalign, name)(*inputs), inputs)


def test_stability_loss_is_that_of_tsalign_in_value_and_gradients():
    teacher, student = random_embeddings()  # any numbers will do for logits
    teacher_before, student_before = torch.randn(2, 12, 5)
    both = torch.cat([teacher, student])
    loss = one_page.stability_loss(both, torch.cat([teacher_before, student_before]))
    expected = tsalign.stability_loss(teacher, student, teacher_before, student_before)
    check_same(loss, expected, [teacher, student])


def test_importing_it_prints_and_writes_and_draws_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    torch_before = torch.get_rng_state()
    numpy_before = np.random.get_state()[1].copy()
    runpy.run_path(one_page.__file__, run_name="imported")
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert (np.random.get_state()[1] == numpy_before).all()
    assert capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []
