"""The model, the data and the loss: nothing here knows of Flower or Hanse."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

STORES = 6


class Net(nn.Module):
    """A small network on images of 8 x 8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))

    def forward(self, images: Tensor) -> Tensor:
        """Scores [B, 10] of images [B, 64]."""
        return self.layers(images)


def load_data(store: int | None = None) -> tuple[Tensor, Tensor]:
    """A store's digits, or those of nobody (the test set) if `store` is left out."""
    images, labels = load_digits(return_X_y=True)
    owner = np.random.default_rng(0).integers(0, STORES + 1, len(labels))
    mine = owner == (STORES if store is None else store)
    return (
        torch.tensor(images[mine] / 16.0, dtype=torch.float32),
        torch.tensor(labels[mine], dtype=torch.int64),
    )


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The losses [B] of a batch."""
    images, labels = batch
    return functional.cross_entropy(model(images), labels, reduction="none")


def accuracy(model: nn.Module) -> float:
    """The accuracy on the test set."""
    images, labels = load_data()
    with torch.no_grad():
        return float((model(images).argmax(1) == labels).float().mean())
