"""Under which heading the help shows an option: by purpose, and by name, which means the same in every command."""

from __future__ import annotations

from collections.abc import Mapping

REST = "Options"
PANELS: Mapping[str, tuple[str, ...]] = {
    "Model": (
        "size",
        "config",
        "resume",
        "init_from",
        "averaged",
        "tokenizer",
        "old_tokenizer",
        "train_tokenizer",
        "like",
    ),
    "Sizes": (
        "pad_to",
        "factor",
        "ffn",
        "heads",
        "kv_heads",
        "experts",
        "experts_per_token",
        "shards",
        "hidden",
        "layers",
        "every",
        "place",
        "new",
        "doubling_layers",
    ),
    "Copies and new entries": ("how", "separate", "noise", "spread", "router_noise", "fresh", "fresh_moments", "init"),
    "Training state": (
        *("lr_rule", "wd_rule", "step", "schedule", "rewarm", "rewarm_new", "reset", "moments", "freeze"),
    ),
    "Length and batch": (
        *("train_steps", "stop_at", "batch_size", "grad_accum", "seqlen", "warmup_bsz", "warmup_seq"),
        *("tokens_per_step", "batch", "until_slope", "until_loss"),
    ),
    "Optimizer": (
        *("optimizer", "lr", "min_lr_ratio", "warmup_steps", "warmup_share", "weight_decay", "adam_beta1"),
        *("adam_beta2", "adam_epsilon", "grad_clip", "dropout", "ema"),
    ),
    "Data": (
        *("data", "val_fraction", "field", "documents", "special_tokens", "file", "include_path", "dataset"),
        *("preprocess", "leading_newline", "ignore_fragments", "block_size", "limit", "num_fewshot", "tasks"),
    ),
    "Sampling": ("prompt", "num_tokens", "temperature", "top_k", "top_p", "num_texts"),
    "Judgement": ("level", "tokens", "batches", "steps", "tolerance", "measure", "bootstrap_iters", "samples"),
    "Machine": (
        *("devices", "nodes", "launcher", "slurm", "strategy", "tensor_parallel", "accelerator", "device"),
        *("precision", "dtype", "compile_model", "gradient_checkpointing", "num_workers", "workers", "processes"),
    ),
    "Validation, logs and checkpoints": (
        *(
            "val_every",
            "val_batches",
            "val_sequences",
            "log_every",
            "logger",
            "peak_flops",
            "save_every",
            "save_minutes",
        ),
        *("keep", "sample", "sample_every", "eval_tasks", "eval_every", "eval_limit", "eval_include"),
    ),
    "Candidates": ("candidates", "candidate", "budget", "seeds", "sequences", "train"),
    "Law and curves": (
        *("target_params", "target_loss", "stages", "operators", "operator", "max_factor", "scaling_law", "params"),
        *("form", "from_step", "loss", "step_column", "spikes", "threshold", "errors", "plot"),
        *("decay_share", "mixing", "pilot"),
    ),
    "Reading IN": ("dialect", "param_order", "drop", "allow_nonfinite"),
    "Output": ("to", "prefix", "max_shard_size", "out", "config_out", "export", "work", "force", "dry_run", "scratch"),
}


def panel_of(option: str) -> str:
    """The heading of an option, by its Python name."""
    return next((panel for panel, options in PANELS.items() if option in options), REST)
