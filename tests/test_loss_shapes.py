"""A method that returns anything but one value a sample is refused in training; its file is named."""

from types import SimpleNamespace

import pytest
import torch

from compress.errors import UserError
from compress.methods import Method
from compress.microbatch import Batch
from compress.training.trainer import Trainer

SHAPES = {
    "[4, 1]": lambda values: values[:, None],
    "[]": lambda values: values.mean(),
    "[4, 3]": lambda values: values[:, None].expand(4, 3),
    "float": lambda values: float(values.mean()),
}


class Plain(Method):
    """Cross-entropy."""

    name = "plain"

    def loss(self, batch):
        return batch.cross_entropy()


class Odd(Plain):
    """Cross-entropy in another shape."""

    name = "odd"

    def __init__(self, shape):
        self.shape = shape

    def loss(self, batch):
        return self.shape(batch.cross_entropy())

    batch_weight = loss


def batch():
    return Batch(torch.randn(4, 3), torch.tensor([0, 1, 2, 0]))


def refused(call, *words):
    with pytest.raises(UserError) as caught:
        call()
    for word in (__file__, *words):
        assert word in str(caught.value)


def trainer(*methods):
    """As much of a trainer as adds up losses."""
    return SimpleNamespace(training=SimpleNamespace(methods=methods), _weighting=methods)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("beside", [(), (Plain(),)], ids=["alone", "beside another"])
def test_a_loss_of_another_shape(shape, beside):
    odd = Odd(SHAPES[shape])
    refused(lambda: Trainer._loss(trainer(*beside, odd), batch(), {}), "'loss' of Odd", shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_batch_weight_of_another_shape(shape):
    odd = Odd(SHAPES[shape])
    refused(lambda: Trainer._batch_means(trainer(odd), [batch()], 4), "'batch_weight' of Odd", shape)


def test_losses_of_one_value_a_sample_are_added():
    part = batch()
    found = Trainer._loss(trainer(Plain(), Plain()), part, {})
    torch.testing.assert_close(found, 2 * part.cross_entropy())
