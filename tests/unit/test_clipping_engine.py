"""The book-keeping clipper equals backward passes one customer at a time, layer by layer."""

import pytest
import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.pytorch_utils import Conv1D

from hanse_client.clipping import BookKeeping, PerCustomerParameter
from hanse_client.clipping.uses import Product
from kits.clipping import assert_same, clipped, functorch_norms

CUSTOMERS, STEPS, WIDTH, ITEMS = 5, 7, 6, 11


def losses_of(output):
    """One loss per customer that depends on every entry in its own way."""
    weights = torch.linspace(0.5, 1.5, output.shape[1:].numel())
    return (output.flatten(1).sin() * weights).sum(1)


def states(customers=CUSTOMERS, width=WIDTH):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(customers, STEPS, width, generator=generator)


def items(customers=CUSTOMERS, low=0):
    generator = torch.Generator().manual_seed(2)
    return torch.randint(low, ITEMS, (customers, STEPS), generator=generator)


class Low(nn.Module):
    """A frozen linear layer with trained factors of low rank beside it (Hu et al. 2021)."""

    def __init__(self):
        super().__init__()
        self.base = nn.Linear(WIDTH, 4).requires_grad_(False)
        self.lora_A = nn.Linear(WIDTH, 2, bias=False)
        self.lora_B = nn.Linear(2, 4, bias=False)

    def forward(self, x):
        return self.base(x) + 2.0 * self.lora_B(self.lora_A(x))


class Twice(nn.Module):
    """Runs one layer twice."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return self.inner(torch.tanh(self.inner(x))[:, :3])


class Shared(nn.Module):
    """Two layers with one weight between them."""

    def __init__(self, width):
        super().__init__()
        self.one, self.two = nn.Linear(width, width), nn.Linear(width, width)
        self.two.weight = self.one.weight

    def forward(self, x):
        return self.two(torch.tanh(self.one(x)))


class Positions(nn.Module):
    """Items with positions, as sequence models begin."""

    def __init__(self):
        super().__init__()
        self.items, self.places = nn.Embedding(ITEMS, WIDTH), nn.Embedding(STEPS, WIDTH)

    def forward(self, ids):
        return self.items(ids) * (1 + self.places(torch.arange(STEPS).expand(len(ids), -1)))


class Scaled(nn.Module):
    """A bare parameter handed out customer by customer."""

    def __init__(self):
        super().__init__()
        self.shift = PerCustomerParameter(torch.ones(WIDTH))
        self.scale = PerCustomerParameter(torch.ones(()))

    def forward(self, x):
        shift, scale = self.shift(customers=len(x)), self.scale(customers=len(x))
        return x * scale[:, None, None] + shift.unsqueeze(1)


def stack(*layers):
    return nn.Sequential(*layers)


LAYERS = {
    "linear": (lambda: nn.Linear(WIDTH, 4), states),
    "linear without positions": (lambda: nn.Linear(WIDTH, 4), lambda: states()[:, 0]),
    "large linear, Gram norms": (lambda: nn.Linear(300, 320), lambda: states(width=300)),
    "linear in four dimensions": (lambda: nn.Linear(3, 4), lambda: states().unflatten(2, (2, 3))),
    "bias frozen": (lambda: _frozen(nn.Linear(WIDTH, 4), "bias"), states),
    "weight frozen": (lambda: _frozen(nn.Linear(WIDTH, 4), "weight"), states),
    "conv1d": (lambda: Conv1D(9, WIDTH), states),
    "large conv1d": (lambda: Conv1D(320, 300), lambda: states(width=300)),
    "embedding": (lambda: nn.Embedding(ITEMS, WIDTH), items),
    "padded embedding": (lambda: nn.Embedding(ITEMS, WIDTH, padding_idx=3), items),
    "items and positions": (Positions, items),
    "layer norm": (lambda: nn.LayerNorm(WIDTH), states),
    "layer norm over two": (lambda: nn.LayerNorm((STEPS, WIDTH)), states),
    "layer norm without bias": (lambda: nn.LayerNorm(WIDTH, bias=False), states),
    "rms norm": (lambda: nn.RMSNorm(WIDTH), states),
    "llama's rms norm": (lambda: LlamaRMSNorm(WIDTH), states),
    "low rank": (Low, states),
    "run twice": (Twice, states),
    "shared, multiplied out": (lambda: Shared(WIDTH), states),
    "shared, as factors": (lambda: Shared(300), lambda: states(width=300)),
    "bare parameters": (Scaled, states),
    "stacked": (
        lambda: stack(Conv1D(8, WIDTH), nn.LayerNorm(8), nn.GELU(), nn.RMSNorm(8), nn.Linear(8, 3)),
        states,
    ),
}


def _frozen(layer, name):
    getattr(layer, name).requires_grad_(False)
    return layer


@pytest.mark.parametrize("name", LAYERS)
def test_norms_and_clipped_sums_equal_one_by_one_passes(name):
    torch.manual_seed(0)
    make, data = LAYERS[name]
    model, inputs = make(), data()
    assert_same(model, lambda rows: losses_of(model(inputs[rows])), len(inputs))


OPACUS_CANNOT = {"bare parameters", "shared, multiplied out", "shared, as factors"}


@pytest.mark.parametrize("name", sorted(set(LAYERS) - OPACUS_CANNOT))
def test_norms_equal_those_of_opacus_by_functorch(name):
    torch.manual_seed(0)
    make, data = LAYERS[name]
    model, inputs = make(), data()
    norms, _ = clipped(model, lambda: losses_of(model(inputs)), 1.0)
    torch.testing.assert_close(
        norms, functorch_norms(model, inputs, losses_of), rtol=1e-5, atol=1e-6
    )


def test_one_weight_used_upright_and_transposed_is_exact_or_refused():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(WIDTH, WIDTH), Conv1D(WIDTH, WIDTH)
            self.two.weight = self.one.weight

        def forward(self, x):
            return self.two(torch.tanh(self.one(x)))

    torch.manual_seed(0)
    model, x = Both(), states()
    assert_same(model, lambda rows: losses_of(model(x[rows])), CUSTOMERS)


def test_nobody_adds_exactly_zero():
    model = stack(nn.Embedding(ITEMS, WIDTH), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2))
    with BookKeeping(model, max_grad_norm=1.0) as clipper:
        assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in model.parameters())
        clipper.backward(model(items()[:0]).sum((1, 2)))
        assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in model.parameters())
        assert clipper.norms.shape == (0,)


def test_one_customer_alone():
    torch.manual_seed(0)
    model, x = stack(nn.Linear(WIDTH, 8), nn.LayerNorm(8), nn.Linear(8, 2)), states(1)
    assert_same(model, lambda rows: losses_of(model(x[rows])), 1)


def test_parts_add_up_to_the_whole():
    torch.manual_seed(0)
    model, x = stack(nn.Linear(WIDTH, 8), nn.LayerNorm(8), nn.Linear(8, 2)), states()
    _, whole = clipped(model, lambda: losses_of(model(x)), 0.5)
    with BookKeeping(model, max_grad_norm=0.5) as clipper:
        for part in (slice(0, 1), slice(1, 1), slice(1, 4), slice(4, 5)):
            clipper.backward(losses_of(model(x[part])))
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.grad, whole[name], rtol=1e-5, atol=1e-6)


def test_nothing_is_left_of_the_clipper_afterwards():
    model, x = stack(nn.Linear(WIDTH, 8), nn.LayerNorm(8), nn.Linear(8, 2)), states()
    losses_of(model(x)).sum().backward()
    before = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    with pytest.raises(ZeroDivisionError), BookKeeping(model, max_grad_norm=1.0):
        raise ZeroDivisionError
    assert all("forward" not in module.__dict__ for module in model.modules())
    assert all(not p._backward_hooks for p in model.parameters())
    model.zero_grad(set_to_none=True)
    losses_of(model(x)).sum().backward()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.grad, before[name])


def test_the_model_is_the_same_within_the_context_and_without_gradients():
    model, x = stack(nn.Linear(WIDTH, 8), nn.LayerNorm(8), nn.Linear(8, 2)), states()
    plain = model(x)
    with BookKeeping(model, max_grad_norm=1.0) as clipper:
        assert torch.equal(model(x), plain)
        with torch.no_grad():
            assert not model(x).requires_grad
        clipper.backward(losses_of(model(x)))
        assert clipper.norms.shape == (CUSTOMERS,)


def test_a_large_layer_never_has_per_customer_gradients(monkeypatch):
    """No tensor made on the way is as large as one gradient for each customer."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        numbers = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            for tensor in torch.utils._pytree.tree_leaves(result):
                if isinstance(tensor, torch.Tensor):
                    self.numbers = max(self.numbers, tensor.numel())
            return result

    model, x = nn.Linear(300, 320), states(width=300)
    with BookKeeping(model, max_grad_norm=1.0) as clipper, Largest() as largest:
        clipper.backward(losses_of(model(x)))
    assert largest.numbers <= model.weight.numel() < CUSTOMERS * model.weight.numel()
    assert isinstance(Product(left=x[..., :300], right=x[..., :300]).smaller_form(), Product)


def test_terms_that_cancel_do_not_hide_a_gradient_from_the_clip():
    """Two positions whose gradients are 10,000 times their sum: squares of the terms drown it."""
    left, right = torch.zeros(1, 2, 320), torch.zeros(1, 2, 300)
    left[0, 0, 0], left[0, 1, 0] = 1e4, -1e4
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        one = torch.randn(300, generator=generator)
        step = torch.randn(300, generator=generator)
        right[0, 0], right[0, 1] = one / one.norm(), one / one.norm() + 1e-4 * step / step.norm()
        use = Product(left=left, right=right)
        true = float((left[0].double().T @ right[0].double()).norm())
        assert float(use.squared_norms().sqrt()) >= 0.99 * true > 0.5


def test_opacus_adds_noise_accounts_and_steps_on_top():
    from opacus.accountants import RDPAccountant
    from opacus.optimizers import DPOptimizerFastGradientClipping

    torch.manual_seed(0)
    model, x = nn.Linear(WIDTH, 2), states()
    start = model.weight.detach().clone()
    accountant = RDPAccountant()
    optimizer = DPOptimizerFastGradientClipping(
        torch.optim.SGD(model.parameters(), lr=1.0),
        noise_multiplier=0.0,
        max_grad_norm=0.5,
        expected_batch_size=8,
    )
    optimizer.attach_step_hook(accountant.get_optimizer_hook_fn(sample_rate=0.1))
    _, total = clipped(model, lambda: losses_of(model(x)), 0.5)
    with BookKeeping(model, max_grad_norm=0.5) as clipper:
        for _ in range(2):
            for part in (slice(0, 2), slice(2, 5)):
                clipper.backward(losses_of(model(x[part])))
            optimizer.step()
            optimizer.zero_grad()
            if _ == 0:
                torch.testing.assert_close(model.weight, start - total["weight"] / 8)
        optimizer.step()  # Nobody was drawn.
    assert len(accountant) == 3 or accountant.history[0][2] == 3
