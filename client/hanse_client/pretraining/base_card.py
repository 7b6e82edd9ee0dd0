"""The model card of a base that was pre-trained on made-up shoppers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hanse_common.durable import write_durably
from hanse_common.wording import counted

if TYPE_CHECKING:
    from hanse_client.pretraining.category_base import PretrainedBase


def write_base_card(path: Path, base: PretrainedBase) -> None:
    """Write a Hugging Face model card atomically."""
    from huggingface_hub import ModelCard, ModelCardData

    data = ModelCardData(
        license="apache-2.0",
        library_name="transformers",
        tags=["recommendation", "pre-training", "synthetic-data"],
        ignore_metadata_errors=False,
    )
    write_durably(path, str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{_text(base)}")))


def _text(base: PretrainedBase) -> str:
    learnt = base.rules_loss - base.loss
    return f"""# A transformer over category tokens, pre-trained on made-up shoppers

{base.parameters:,} parameters. It amends the Poisson forecast of whether a customer's interest \
in a category rises, stays or falls over the next four weeks, and of the number of visits. Made \
with Hanse.

## Make it again

```sh
{base.command}
```

The same seed gives the same bytes, with the same versions of torch and numpy on the same kind \
of processor.

## Data

None. {counted(base.sets, "set")} of {base.shoppers:,} made-up shoppers ({base.tokens:,} tokens), \
drawn from a random process whose own settings were drawn for each set \
(`hanse_client/pretraining/shoppers.py`). No person's data went into it, and no model that was \
trained on such data.

## Privacy

No ε has to cover it, because it depends on nobody. A federation that starts from it spends ε \
on its own customers alone.

## Figures

On held-out made-up shoppers, after {counted(base.best_epoch, "epoch")}, in nats a token:

| | rules | model | model without class priors |
|---|---|---|---|
| rise, stay or fall | {base.rules_loss:.4f} | {base.loss:.4f} | {base.loss_without_priors:.4f} |
| visits in four weeks | {base.rules_visits_loss:.4f} | {base.visits_loss:.4f} | |

{"It has learnt something." if learnt > 0.001 else "It has learnt next to nothing."} Made-up \
shoppers are not real ones: only a shop's own metrics tell what it is worth there.
"""
