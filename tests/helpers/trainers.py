"""transformers' own Trainer on a tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import GPT2LMHeadModel, Trainer, TrainingArguments

from tests.helpers.gpt2 import token_batches


class Rows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Token rows with labels."""

    def __init__(self) -> None:
        self.rows = torch.cat(token_batches(40, seed=11))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.rows[index], "labels": self.rows[index]}


def trainer(directory: Path, model: GPT2LMHeadModel, max_steps: int, **more: Any) -> Trainer:
    arguments = TrainingArguments(
        output_dir=str(directory),
        max_steps=max_steps,
        per_device_train_batch_size=4,
        learning_rate=2e-3,
        weight_decay=0.1,
        warmup_steps=3,
        lr_scheduler_type="linear",
        logging_steps=1,
        save_steps=6,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        seed=0,
        max_grad_norm=0.0,
        dataloader_pin_memory=False,
    )
    return Trainer(model=model, args=arguments, train_dataset=Rows(), **more)
