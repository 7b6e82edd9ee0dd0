"""The model card of a base that was pre-trained on made-up shoppers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanse_common.durable import write_durably
from hanse_common.wording import counted

if TYPE_CHECKING:
    from hanse_client.pretraining.category_base import PretrainedBase


def write_base_card(path: Path, base: PretrainedBase) -> None:
    """Write a Hugging Face model card atomically."""
    write_durably(path, base_card(base))


def base_card(base: PretrainedBase) -> str:
    """The model card of a base: how to make it again, its data, privacy and figures."""
    from huggingface_hub import ModelCard, ModelCardData

    # The terms of orders are free text of their owner; only "other" allows a name of one's own.
    terms: dict[str, Any] = (
        {"license": "apache-2.0"}
        if base.terms is None
        else {"license": "other", "license_name": "terms-of-the-training-data"}
    )
    data = ModelCardData(
        **terms,
        library_name="transformers",
        tags=["recommendation", "pre-training", "synthetic-data"],
        ignore_metadata_errors=False,
    )
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{_text(base)}"))


def _text(base: PretrainedBase) -> str:
    learnt = base.rules_loss - base.loss
    with_orders = (
        ""
        if base.orders is None
        else "\nwith `--catalogue` and `--licence` as these orders need them.\n"
    )
    made_up = f"""{counted(base.sets, "set")} of {base.shoppers:,} made-up shoppers, drawn from a \
random process whose own settings were drawn for each set \
(`hanse_client/pretraining/shoppers.py`)"""
    return f"""# A transformer over category tokens, pre-trained on made-up shoppers

{base.parameters:,} parameters. It amends the Poisson forecast of whether a customer's interest \
in a category rises, stays or falls over the next four weeks, and of the number of visits. Made \
with Hanse.

## Make it again

```sh
{base.command}
```
{with_orders}
The same seed gives the same bytes, with the same versions of torch and numpy on the same kind \
of processor. SHA-256 of `model.safetensors`:

    {base.sha256}

{_data(base, made_up)}

## Figures

On held-out shoppers, after {counted(base.best_epoch, "epoch")}; losses in nats a token:

| | rules | model | model without class priors |
|---|---|---|---|
| loss of rise, stay or fall | {base.rules_loss:.4f} | {base.loss:.4f} | \
{base.loss_without_priors:.4f} |
| AUC of rises | {base.rules_rise_auc:.4f} | {base.rise_auc:.4f} | \
{base.rise_auc_without_priors:.4f} |
| AUC of falls | {base.rules_fall_auc:.4f} | {base.fall_auc:.4f} | \
{base.fall_auc_without_priors:.4f} |
| loss of visits in four weeks | {base.rules_visits_loss:.4f} | {base.visits_loss:.4f} | |

{"It has learnt something." if learnt > 0.001 else "It has learnt next to nothing."} Made-up \
shoppers are not real ones: only a shop's own metrics tell what it is worth there.
"""


def _data(base: PretrainedBase, made_up: str) -> str:
    if base.orders is None:
        return f"""## Data

None. {made_up}: {base.tokens:,} tokens. No person's data went into it, and no model that was \
trained on such data.

## Privacy

No ε has to cover it, because it depends on nobody. A federation that starts from it spends ε \
on its own customers alone."""
    return f"""## Data

The orders {base.orders}, and {made_up}: {base.tokens:,} tokens.

## Privacy

**None** for the people in these orders: it was trained on them without clipping and without \
noise. The ε of a federation that starts from it covers the federation's customers alone.

## Terms

{base.terms}. They hold for this base and for models made of it."""
