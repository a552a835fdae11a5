"""Rows in which the two responses of a pair share their prompt (stage *train*): prompt, chosen response, rejected response.

The rejected response does not attend to the chosen one, and its positions continue those of the prompt. So each token sees what
it sees in a row of its own, and a prompt is computed once. The last token of the prompt is there twice, because it predicts the
first token of either response; the last token of a response predicts nothing and is left out. This holds for models that mix
positions in full causal attention only: `may_share` reads the config, and the check of the log-probs before the first update
(checks.py) finds where that is not so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel

from selfplay.backends.transformers.attention import has_full_causal_attention
from selfplay.backends.trl.rows import IGNORED_LABEL


@dataclass(frozen=True, slots=True)
class PairRows:
    """B pairs in rows of L tokens. `attention_mask` (B, 1, L, L) is added to attention scores. `targets_BL` holds the token that
    each position predicts, IGNORED_LABEL where that is none of a response. `source_BL` is the row of the padded batch that a
    position is of, and `position_ids` its column there."""

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    attention_mask: torch.Tensor
    targets_BL: torch.Tensor
    source_BL: torch.Tensor


def may_share(model: Any) -> bool:
    """Whether a model (with or without adapters) has full causal attention, in an implementation that takes any mask."""
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    return inner.config._attn_implementation in ("sdpa", "eager") and has_full_causal_attention(inner)


def share_prompts(input_ids: torch.Tensor, labels: torch.Tensor, dtype: torch.dtype) -> PairRows:
    """From a padded batch to B rows. The batch has 2 B rows of T tokens, chosen sequences and then rejected ones; labels are
    IGNORED_LABEL outside responses. `dtype` is that of the mask."""
    num_pairs, device = len(input_ids) // 2, input_ids.device
    is_response = labels != IGNORED_LABEL
    num_prompt_B1 = is_response[:num_pairs].int().argmax(dim=1)[:, None]
    num_chosen_B1, num_rejected_B1 = is_response.sum(dim=1)[:, None].chunk(2)
    # where the second part of a row begins: the last token of the prompt again, and the rejected response
    second_B1 = num_prompt_B1 + num_chosen_B1 - 1
    end_B1 = second_B1 + num_rejected_B1
    column_L = torch.arange(int(end_B1.max()), device=device)
    in_second_BL = column_L >= second_B1
    position_BL = torch.where(in_second_BL, column_L - second_B1 + num_prompt_B1 - 1, column_L)
    # columns behind the end hold any token
    position_BL = position_BL.clamp(max=input_ids.shape[1] - 2)
    source_BL = torch.arange(num_pairs, device=device)[:, None] + num_pairs * in_second_BL
    only_chosen_BL = ~in_second_BL & (column_L >= num_prompt_B1 - 1)
    hidden_BLL = (column_L > column_L[:, None]) | (in_second_BL[:, :, None] & only_chosen_BL[:, None, :])
    return PairRows(
        input_ids=input_ids[source_BL, position_BL],
        position_ids=position_BL,
        attention_mask=torch.zeros(1, device=device, dtype=dtype).masked_fill(
            hidden_BLL[:, None], torch.finfo(dtype).min
        ),
        targets_BL=labels[source_BL, position_BL + 1].masked_fill(column_L >= end_B1, IGNORED_LABEL),
        source_BL=source_BL,
    )
