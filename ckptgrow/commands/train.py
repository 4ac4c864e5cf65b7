"""`ckptgrow train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ckptgrow.choices import (
    Accelerator,
    Frozen,
    Logger,
    PackedDocuments,
    Precision,
    ResetPart,
    ScheduleKind,
    Strategy,
    TrainOptimizer,
    TrainRecipeName,
    words_of,
)
from ckptgrow.commands import _options as options
from ckptgrow.commands._paths import (
    check_no_training,
    check_place,
    config_at,
    data_at,
    directory_of,
    whole_checkpoint_at,
)
from ckptgrow.commands._screen import JsonOption, Screen
from ckptgrow.commands._values import chosen_by_commas, words_by_commas
from ckptgrow.errors import CkptgrowError, ConfigError, RequestError, at, needs
from ckptgrow.ranges import check_rise, read
from ckptgrow.storage.files.json_files import config_in_file

if TYPE_CHECKING:
    from ckptgrow.train.step_progress import Progress
    from ckptgrow.train.training_run import Trained

EXIT_WRONG = 2


def train(
    data: Annotated[
        str,
        typer.Option(
            help="A directory that `ckptgrow data` wrote, or several with weights, as A:0.7,B:0.3.",
            metavar="DIR",
            show_default=False,
            callback=data_at,
        ),
    ],
    out: Annotated[Path, typer.Option(help="The directory for checkpoints and logs.", show_default=False)],
    config: Annotated[Path | None, typer.Option(help="A transformers config.json.", callback=config_at)] = None,
    size: Annotated[
        str | None,
        typer.Option(help="One of the staged-training script's sizes, as GPT2_base or GPT2_large_div2_width."),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="A checkpoint to go on from, grown ones too: of this command, or of any trainer that growth reads, "
            "files and directories.",
            show_default=False,
            callback=whole_checkpoint_at,
        ),
    ] = None,
    init_from: Annotated[
        Path | None,
        typer.Option(
            help="A checkpoint whose weights alone a new run begins with.",
            show_default=False,
            callback=whole_checkpoint_at,
        ),
    ] = None,
    dialect: options.DialectOption = None,
    param_order: options.ParamOrderOption = None,
    reset: Annotated[
        str, typer.Option(help="Parts to begin anew with --resume, by commas: optimizer, schedule, data.")
    ] = "",
    step: Annotated[int | None, typer.Option(help="Schedule step to go on from with --resume.")] = None,
    rewarm: Annotated[
        int | None,
        typer.Option(
            help="Steps over which the learning rate rises again [default: right after a growth in width or depth 3 % "
            "of the steps, else none].",
        ),
    ] = None,
    rewarm_new: Annotated[
        str | None,
        typer.Option(
            help="Times the learning rate for what the last growth added, rising to it over so many steps, as 1.3,250.",
            metavar="PEAK,STEPS",
        ),
    ] = None,
    freeze: Annotated[
        Frozen | None,
        typer.Option(help="'old-layers' trains only the layers that the last growth added [default: none]."),
    ] = None,
    train_steps: Annotated[int | None, typer.Option(help="Optimizer steps in all [default: 3000].")] = None,
    stop_at: Annotated[
        int | None,
        typer.Option(help="End at this step, with the schedule of all --train-steps.", show_default=False),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Sequences a device and micro-batch [default: 32].")] = None,
    grad_accum: Annotated[int | None, typer.Option(help="Micro-batches a step [default: 1].")] = None,
    seqlen: Annotated[
        int | None, typer.Option(help="Tokens a sequence [default: 512, or the model's positions].")
    ] = None,
    documents: Annotated[
        PackedDocuments | None,
        typer.Option(
            help="What documents of one sequence are to each other: 'joined', all of it one text, or 'isolated': "
            "attention stays within each, positions restart, and nothing predicts the next one's beginning "
            "[default: joined].",
            show_default=False,
        ),
    ] = None,
    lr: Annotated[
        str | None,
        typer.Option(
            help="Peak learning rate, or 'auto': 0.003239 − 0.0001395 · log10(parameters without embeddings), up to "
            "1.5e9 of these."
        ),
    ] = None,
    recipe: Annotated[
        TrainRecipeName | None,
        typer.Option(
            help="A new run's defaults, marked † below: 'modern' (those told there), or 'staged-training', the paper's "
            "script's: schedule linear, warm-up a third of all steps and at most 1000, weight decay 0.01, β₂ 0.98, ε "
            "1e-6, no clipping, dropout as the model has it [default: modern]."
        ),
    ] = None,
    schedule: Annotated[
        ScheduleKind | None,
        typer.Option(
            help="After warm-up: linear, cosine, wsd (stable, then decay over the last fifth) or constant "
            "[default: wsd †]."
        ),
    ] = None,
    min_lr_ratio: Annotated[
        float | None, typer.Option(help="The last learning rate over the peak [default: 0].")
    ] = None,
    warmup_steps: Annotated[
        int | None,
        typer.Option(help="Steps of linear warm-up [default: 0.05 of all, at most 2000 †]."),
    ] = None,
    warmup_share: Annotated[
        float | None, typer.Option(help="The same as a share of all steps.", show_default=False)
    ] = None,
    optimizer: Annotated[
        TrainOptimizer | None,
        typer.Option(
            help="'adamw', or 'muon' on hidden matrices with AdamW on embeddings, head, biases and norms, all at --lr: "
            "Muon's updates are scaled to AdamW's size [default: adamw].",
            show_default=False,
        ),
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Decay of matrices [default: 0.1 †].")] = None,
    adam_beta1: Annotated[float | None, typer.Option(help="AdamW's β₁ [default: 0.9].")] = None,
    adam_beta2: Annotated[float | None, typer.Option(help="AdamW's β₂ [default: 0.95 †].")] = None,
    adam_epsilon: Annotated[float | None, typer.Option(help="AdamW's ε [default: 1e-8 †].")] = None,
    grad_clip: Annotated[
        float | None, typer.Option(help="Largest global gradient norm; 0 for none [default: 1 †].")
    ] = None,
    ema: Annotated[
        float | None,
        typer.Option(
            help="Keep an exponential moving average of the weights too, of so much decay a step, as 0.999; "
            "eval, generate and convert take it by --averaged [default: 0, none].",
            show_default=False,
        ),
    ] = None,
    dropout: Annotated[
        float | None,
        typer.Option(help="All of the model's dropout [default: 0 † where --config says none]."),
    ] = None,
    warmup_bsz: Annotated[int, typer.Option(help="Tokens over which the batch size grows; 0 for never.")] = 0,
    warmup_seq: Annotated[int, typer.Option(help="Tokens over which the sequence length grows; 0 for never.")] = 0,
    seed: Annotated[int | None, typer.Option(help="Seed of initialisation and data order [default: 3].")] = None,
    devices: Annotated[
        int | None, typer.Option(help="Processes or GPUs on each node [default: the launcher's, else 1].")
    ] = None,
    nodes: Annotated[int | None, typer.Option(help="Nodes [default: the launcher's, else 1].")] = None,
    strategy: Annotated[Strategy, typer.Option(help="How processes share the work.")] = "auto",
    tensor_parallel: Annotated[
        int, typer.Option(help="Neighbouring devices that share each matrix of a block, under fsdp.")
    ] = 1,
    accelerator: Annotated[Accelerator, typer.Option(help="What the model runs on.")] = "auto",
    precision: Annotated[Precision, typer.Option(help="What the model computes in.")] = "32",
    compile_model: Annotated[bool, typer.Option("--compile", help="Compile the model with torch.compile.")] = False,
    gradient_checkpointing: Annotated[
        bool | None,
        typer.Option(
            "--gradient-checkpointing/--no-gradient-checkpointing",
            help="Keep the activations between blocks alone: much less memory, about a third more time.",
            show_default=False,
        ),
    ] = None,
    num_workers: Annotated[int, typer.Option(help="Processes that load data.")] = 0,
    save_every: Annotated[int | None, typer.Option(help="Steps between checkpoints [default: 1000].")] = None,
    save_minutes: Annotated[
        float | None, typer.Option(help="Write one after so long without one, too; 0 for never [default: 15].")
    ] = None,
    keep: Annotated[
        int | None, typer.Option(help="Checkpoints in --out to keep, the newest; 0 for all [default: 0].")
    ] = None,
    val_every: Annotated[int | None, typer.Option(help="Steps between validations [default: 100].")] = None,
    val_batches: Annotated[
        int | None,
        typer.Option(help="Size of a validation, in 32 sequences, whatever --batch-size is [default: 50]."),
    ] = None,
    val_sequences: Annotated[int | None, typer.Option(help="The same in sequences.", show_default=False)] = None,
    until_slope: Annotated[
        float | None,
        typer.Option(
            help="End early, at the validation where the slope d log L / d log C has risen past it, as -0.0475 for a "
            "growth in width; the rule is that of plan watch.",
            show_default=False,
        ),
    ] = None,
    until_loss: Annotated[
        float | None,
        typer.Option(help="End early, at the validation whose loss is at most so many nats.", show_default=False),
    ] = None,
    export: Annotated[
        bool,
        typer.Option("--export", help="At the end write OUT/model for transformers, its tokenizer beside it."),
    ] = False,
    peak_flops: Annotated[
        float | None,
        typer.Option(
            help="FLOPs a second of a device, for the MFU in the log [default: by the GPU's name, in bfloat16]."
        ),
    ] = None,
    log_every: Annotated[int | None, typer.Option(help="Steps between logged values [default: 10].")] = None,
    sample: Annotated[
        list[str] | None,
        typer.Option(
            help="A prompt after which texts are written while the run trains, into samples.jsonl; may be repeated.",
            metavar="PROMPT",
            show_default=False,
        ),
    ] = None,
    sample_every: Annotated[
        int | None, typer.Option(help="Steps between these texts [default: --val-every's].", show_default=False)
    ] = None,
    eval_tasks: Annotated[
        str | None,
        typer.Option(
            help="Tasks of lm-eval, by commas, on which the run is scored while it trains, into evaluations.jsonl.",
            metavar="NAMES",
            show_default=False,
        ),
    ] = None,
    eval_every: Annotated[
        int | None,
        typer.Option(help="Steps between these scores [default: --save-every's].", show_default=False),
    ] = None,
    eval_limit: Annotated[
        float | None,
        typer.Option(help="Documents of each task, or a share of them below 1.", show_default=False),
    ] = None,
    eval_include: Annotated[
        Path | None,
        typer.Option(help="A directory with own definitions of tasks.", callback=directory_of("definitions of tasks")),
    ] = None,
    logger: Annotated[Logger, typer.Option(help="csv, or tensorboard or wandb beside it.")] = "csv",
    as_json: JsonOption = False,
) -> None:
    """Train a causal language model on a CPU or on one or many GPUs, or go on from a checkpoint, grown or not.

    A run that goes on takes its settings from the checkpoint, unless an option says otherwise.

    Examples:
        ckptgrow train --data prepared --out run --config config.json --train-steps 2000
        ckptgrow train --data prepared --out run-2 --resume wide.ckpt --train-steps 4000
        torchrun --nproc-per-node 4 -m ckptgrow train --data prepared --out run --size GPT2_base --precision bf16-mixed
    """
    check_place(out, "a training")
    if resume is None:
        check_no_training(out)
    if all(one is None for one in (config, size, resume, init_from)):
        raise RequestError("train: expected one of --config FILE, --size NAME, --resume CKPT and --init-from CKPT")
    if size is not None and (config is not None or resume is not None or init_from is not None):
        other = "--config" if config is not None else "--resume" if resume is not None else "--init-from"
        raise RequestError(f"--size {size} and {other} exclude each other: both say the model; choose one")
    _check_length(seqlen, config or init_from or resume)
    rate = None if lr is None else read("lr", lr, "auto")
    given: dict[str, Any] = {
        "data": data,
        "out": out,
        "resume": resume,
        "init_from": init_from,
        "dialect": dialect,
        "param_order": param_order,
        "reset": chosen_by_commas("--reset", reset, words_of(ResetPart)),
        "step": step,
        "devices": devices,
        "num_nodes": nodes,
        "strategy": strategy,
        "tensor_parallel": tensor_parallel,
        "accelerator": accelerator,
        "precision": precision,
        "compile": compile_model,
        "num_workers": num_workers,
        "until_slope": until_slope,
        "until_loss": until_loss,
        "export": export,
        "peak_flops": peak_flops,
        "stop_at": stop_at,
        "logger": logger,
    }
    optional = {
        "rewarm": rewarm,
        "rewarm_new": None if rewarm_new is None else _rise(rewarm_new),
        "freeze": freeze,
        "train_steps": train_steps,
        "batch_size": batch_size,
        "grad_accum": grad_accum,
        "seqlen": seqlen,
        "documents": documents,
        "recipe": recipe,
        "schedule": schedule,
        "min_lr_ratio": min_lr_ratio,
        "warmup_steps": warmup_steps,
        "warmup_share": warmup_share,
        "dropout": dropout,
        "ema": ema,
        "gradient_checkpointing": gradient_checkpointing,
        "optimizer": optimizer,
        "weight_decay": weight_decay,
        "eps": adam_epsilon,
        "grad_clip": grad_clip,
        "seed": seed,
        "lr": rate if isinstance(rate, float) else None,
        "save_every": save_every,
        "save_minutes": save_minutes,
        "keep": keep,
        "val_every": val_every,
        "val_batches": val_batches,
        "val_sequences": val_sequences,
        "log_every": log_every,
        "sample": tuple(sample) if sample else None,
        "sample_every": sample_every,
        "eval_tasks": None if eval_tasks is None else words_by_commas(eval_tasks),
        "eval_every": eval_every,
        "eval_limit": eval_limit,
        "eval_include": eval_include,
    }
    given |= {name: value for name, value in optional.items() if value is not None}
    if adam_beta1 is not None or adam_beta2 is not None:
        from ckptgrow.train.train_recipes import RECIPES

        usual = RECIPES[recipe or "modern"].betas
        given["betas"] = tuple(
            own if own is not None else one for own, one in zip((adam_beta1, adam_beta2), usual, strict=True)
        )
    if warmup_steps is not None and warmup_share is not None:
        raise RequestError("--warmup-steps and --warmup-share exclude each other; choose one")
    if config is not None or size is not None:
        given["config"] = _config(config) if config is not None else _preset(str(size), seqlen or 512)
    if warmup_bsz or warmup_seq:
        from ckptgrow.train.growing_batches import GrowingBatches

        given["growing"] = GrowingBatches(warmup_bsz, warmup_seq)
    with needs("train", "train"):
        from ckptgrow.train.training_run import is_main_process
        from ckptgrow.train.training_run import train as run_training
    screen = Screen(as_json)
    try:
        with screen.steps("step") as show:
            done = run_training(
                given, lambda step: show(step.step, step.total, _in_words(step), step.is_logged), screen.say
            )
    except CkptgrowError:
        if is_main_process():
            raise
        raise typer.Exit(EXIT_WRONG) from None  # all processes stop for the same reason: one of them says it
    if not is_main_process():
        raise typer.Exit
    if resume is not None:
        screen.note(f"went on from {resume}")
    _say(screen, done)
    if done.interrupted_by is not None:
        raise typer.Exit(128 + done.interrupted_by)


def _in_words(step: Progress) -> str:
    from ckptgrow.train.step_progress import validated_in_words

    parts = [
        f"loss {step.loss:.4f}" if step.loss is not None else "",
        validated_in_words("val", step.val_loss, step.val_step, step.step),
        f"lr {step.lr:.3g}",
        f"{step.tokens_per_second:,.0f} tok/s" if step.tokens_per_second is not None else "",
    ]
    return ", ".join(filter(None, parts))


def _say(screen: Screen, done: Trained) -> None:
    from ckptgrow.train.step_progress import validated_in_words

    loss = f"loss {done.loss:.4f}" if done.loss is not None else ""
    val_loss = validated_in_words("val_loss", done.val_loss, done.val_step, done.global_step)
    losses = ", ".join(filter(None, (loss, val_loss)))
    if done.interrupted_by is not None:
        screen.warn(f"interrupted and saved; go on with --resume {done.checkpoint}")
    screen.say(
        f"{done.checkpoint}: step {done.global_step:,}, {done.tokens_seen:,} tokens, last learning rate "
        f"{done.last_lr:.4g} (peak {done.lr:.4g})" + (f"; {losses}" if losses else "")
    )
    if done.slope_reached is not None:
        screen.say(f"ended by its slope at step {done.slope_reached:,}: grow it now")
    if done.loss_reached is not None:
        screen.say(f"ended by its validation loss at step {done.loss_reached:,}")
    screen.result(
        {
            "checkpoint": str(done.checkpoint),
            "global_step": done.global_step,
            "tokens_seen": done.tokens_seen,
            "loss": done.loss,
            "val_loss": done.val_loss,
            "val_step": done.val_step,
            "lr": done.lr,
            "last_lr": done.last_lr,
            "slope_reached": done.slope_reached,
            "loss_reached": done.loss_reached,
        }
    )


def _rise(value: str) -> tuple[float, int]:
    peak, comma, steps = value.partition(",")
    try:
        found = float(peak), int(steps if comma else "")
    except ValueError as error:
        raise RequestError(f"--rewarm-new {value}: expected a factor and a number of steps, as 1.3,250") from error
    check_rise(*found)
    return found


def _config(path: Path) -> dict[str, Any]:
    config = config_in_file(path)
    if "model_type" not in config:
        raise ConfigError(f"{path}: has no model_type, expected a transformers config.json")
    return dict(config)


def _check_length(seqlen: int | None, model: Path | None) -> None:
    """Raises RequestError for sequences that a model cannot read whose config is a file of JSON."""
    from ckptgrow.train.settings import check_length

    file = model / "config.json" if model is not None and model.is_dir() else model
    if seqlen is not None and file is not None and file.suffix == ".json" and file.is_file():
        check_length(seqlen, config_in_file(file))


def _preset(size: str, seqlen: int) -> dict[str, Any]:
    from ckptgrow.state.original_config import original_config

    with at("--size"):
        return original_config({"size": size, "seqlen": seqlen})
