"""The shipped base on Complete Journey, before any private data: better than the rules."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hanse_client.features.histories import Histories, days, run_split
from hanse_client.features.ragged import Ints
from hanse_client.model.config import CategoryConfig
from hanse_client.pretraining.base_folder import shipped_base
from hanse_client.tasks.interest.category_model import CategoryModel, collate_tokens
from hanse_client.tasks.interest.category_tokens import (
    CategoryTokens,
    category_tokens,
    token_targets,
)
from hanse_client.tasks.scoring import auc
from hanse_common.recipes import grocery
from hanse_simulations.experiment.prepare import prepare_run

pytestmark = pytest.mark.slow


@torch.inference_mode()
def aucs(model: CategoryModel, tokens: CategoryTokens, outlook: Ints) -> tuple[float, float]:
    """(rise, fall) AUC of all interests, without class priors."""
    chances = np.zeros((len(tokens.classes), 3))
    for first in range(0, len(tokens), 256):
        rows = np.arange(first, min(first + 256, len(tokens)))
        batch = collate_tokens(tokens, rows)
        log_p = torch.log_softmax(model(batch).outlook_logits, dim=-1)
        # A row's tokens are its batch's first cells, so both are in the same order.
        chances[tokens.offsets[rows[0]] : tokens.offsets[rows[-1] + 1]] = log_p[batch.present]
    return auc(chances[:, 2], outlook == 2), auc(chances[:, 0], outlook == 0)


def test_it_knows_shoppers_before_it_has_seen_any(tmp_path, store_cache, monkeypatch):
    monkeypatch.setenv("HANSE_CACHE", str(store_cache))
    _, settings, prepared = prepare_run(tmp_path, grocery())
    histories = Histories.pooled(prepared.load())
    split = run_split(settings)
    rules, base = CategoryModel(CategoryConfig()).eval(), shipped_base()
    for moment in (days(split.train_until), days(split.validate_until)):
        customers = np.arange(len(histories))
        tokens = category_tokens(histories, customers, np.full(len(customers), moment))
        outlook = token_targets(histories, tokens).outlook
        before, after = aucs(rules, tokens, outlook), aucs(base, tokens, outlook)
        print(f"rules {before[0]:.4f} {before[1]:.4f}, base {after[0]:.4f} {after[1]:.4f}")
        assert after[0] > before[0] + 0.01  # 0.003 is what seeds of the base differ by
        assert after[1] > before[1] + 0.003
