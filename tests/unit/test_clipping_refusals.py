"""What cannot be clipped exactly is refused by name, and nothing has been added by then."""

import pytest
import torch
from torch import nn

from hanse_client.clipping import BookKeeping, CatalogueSoftmax, sampled_softmax
from kits.errors import raises

CUSTOMERS, STEPS, WIDTH, ITEMS = 5, 7, 6, 11


def states():
    return torch.randn(CUSTOMERS, STEPS, WIDTH, generator=torch.Generator().manual_seed(1))


def losses_of(output):
    return output.flatten(1).sin().sum(1)


def stack(*layers):
    return nn.Sequential(*layers)


def test_a_trained_parameter_in_no_known_layer_is_refused_by_name():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.temperature = nn.Linear(WIDTH, 2), nn.Parameter(torch.ones(()))

    model = Bare()
    with raises("inexact-clipping", match="'temperature' .* Bare"):
        BookKeeping(model, max_grad_norm=1.0).__enter__()
    assert "forward" not in model.linear.__dict__ and model.linear.weight.grad is None
    model.temperature.requires_grad_(False)
    with BookKeeping(model, max_grad_norm=1.0):
        pass


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (nn.Conv1d(WIDTH, 3, 1), r"'0\.weight' is in a Conv1d"),
        (nn.BatchNorm1d(STEPS), r"'0\.weight' is in a BatchNorm1d"),
        (nn.LSTM(WIDTH, 3), r"'0\.weight_ih_l0' is in a LSTM"),
        (nn.MultiheadAttention(WIDTH, 2), r"'0\.in_proj_weight' is in a MultiheadAttention"),
        (nn.Embedding(ITEMS, 2, max_norm=1.0), "max_norm"),
        (nn.Embedding(ITEMS, 2, scale_grad_by_freq=True), "scale_grad_by_freq"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)), "Parametriz"),
    ],
)
def test_layers_that_cannot_be_clipped_are_refused(layer, says):
    with raises("inexact-clipping", match=says):
        BookKeeping(nn.Sequential(layer), max_grad_norm=1.0).__enter__()


class Altered(nn.Linear):
    def forward(self, x):
        return super().forward(x) * self.weight.sum()


def test_a_subclass_that_runs_other_code_is_not_its_base():
    with raises("inexact-clipping", match="Altered"):
        BookKeeping(Altered(2, 2), max_grad_norm=1.0).__enter__()


def refused_in_backward(model, run, says):
    with BookKeeping(model, max_grad_norm=1.0) as clipper:
        with raises("inexact-clipping", match=says):
            clipper.backward(run())
        assert all(not p.grad.any() for p in model.parameters() if p.requires_grad)


def test_a_parameter_used_outside_its_layer_is_refused_by_name():
    model = stack(nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2))
    x = states()
    refused_in_backward(
        model, lambda: losses_of(model(x) * model[0].bias.sum()), r"'0\.bias' is used outside"
    )


def test_positions_that_all_customers_share_are_refused():
    model = nn.Embedding(STEPS, WIDTH)
    x = states()
    refused_in_backward(
        model, lambda: losses_of(x + model(torch.arange(STEPS).unsqueeze(0))), "saw 1 rows for 5"
    )


def test_inputs_overwritten_after_the_layer_ran_are_refused():
    model, x = nn.Linear(WIDTH, 2), states()

    def run():
        output = model(x)
        x.mul_(2)
        return losses_of(output)

    refused_in_backward(model, run, "was overwritten")


def test_checkpointed_activations_are_refused():
    model, x = stack(nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2)), states()

    def run():
        inner = torch.utils.checkpoint.checkpoint(model[1], model[0](x), use_reentrant=True)
        return losses_of(inner)

    refused_in_backward(model, run, "runs again")


def test_losses_that_no_layer_led_to_are_refused():
    model, x = nn.Linear(WIDTH, 2), states()
    outside = model(x)
    with BookKeeping(model, max_grad_norm=1.0) as clipper:
        with raises("inexact-clipping", match="no trained layer"):
            clipper.backward(torch.zeros(CUSTOMERS))
        with raises("inexact-clipping", match="outside its own layer"):
            clipper.backward(losses_of(outside))
        with pytest.raises(ValueError, match="one per customer"):
            clipper.backward(losses_of(model(x)).sum())
        with raises("inexact-clipping", match="bypassed the clipper"):
            losses_of(model(x)).sum().backward()


def test_a_second_clipper_within_the_first_is_refused():
    model = nn.Linear(2, 2)
    says = raises("inexact-clipping", match="forward")
    with BookKeeping(model, max_grad_norm=1.0), says:
        BookKeeping(model, max_grad_norm=1.0).__enter__()


@pytest.mark.parametrize("clip", [0.0, -1.0, float("nan"), float("inf")])
def test_a_clip_that_is_none_is_refused(clip):
    with pytest.raises(ValueError, match="max_grad_norm"):
        BookKeeping(nn.Linear(2, 2), max_grad_norm=clip)


class Shifted(nn.Module):
    """Promised to answer customer by customer."""

    def __init__(self, inner):
        super().__init__()
        self.shift, self.inner = nn.Parameter(torch.zeros(WIDTH)), inner

    def forward(self, x):
        return self.inner(x) + self.shift


def test_only_a_layer_whose_parameters_are_all_its_own_is_replayed():
    with BookKeeping(Shifted(nn.Identity()), max_grad_norm=1.0, replay=(Shifted,)):
        pass
    model = Shifted(nn.Linear(WIDTH, WIDTH))
    with raises("inexact-clipping", match="trained parameters of their own"):
        BookKeeping(model, max_grad_norm=1.0, replay=(Shifted,)).__enter__()


def test_an_input_of_a_replayed_layer_that_customers_share_is_refused():
    model, x = Shifted(nn.Identity()), states()
    with BookKeeping(model, max_grad_norm=1.0, replay=(Shifted,)) as clipper:
        clipper.backward(losses_of(model(x)))
        with raises("inexact-clipping", match="1 rows"):
            clipper.backward(losses_of(x + model(x[:1])))


def test_a_parameter_that_is_unfrozen_within_the_context_is_refused():
    model, x = stack(nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2)), states()
    model[0].requires_grad_(False)
    with BookKeeping(model, max_grad_norm=1.0) as clipper:
        model[0].bias.requires_grad_(True)
        with raises("inexact-clipping", match=r"'0\.bias'"):
            clipper.backward(losses_of(model(x)))


@pytest.mark.parametrize("target", [-1, ITEMS])
def test_a_target_that_is_no_item_is_refused(target):
    table, x = nn.Embedding(ITEMS, WIDTH), states()
    targets = torch.full((CUSTOMERS, STEPS), target)
    head = CatalogueSoftmax(table)
    with pytest.raises(ValueError, match="is not one of the"):
        head(x, targets)
    with pytest.raises(ValueError, match="is not one of the"):
        sampled_softmax(x, table, targets, torch.arange(3))
    with BookKeeping(head, max_grad_norm=1.0), pytest.raises(ValueError, match="is not one of the"):
        head(x, targets)
