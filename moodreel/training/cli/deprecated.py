"""Old verbs and options, accepted for one release with a notice that names the new one."""

import sys
from collections.abc import Sequence

from moodreel.errors import DataInvalid
from moodreel.training.experiment.preset import load_preset, preset_names

VERBS = {"movements": ("train", "movements"), "baseline": ("train", "audio-logreg")}
OPTIONS = {
    "--rate": "--lr",
    "--trunk-rate": "--backbone-lr-scale",
    "--decay": "--weight-decay",
    "--clip": "--max-grad-norm",
    "--average": "--ema-decay",
    "--smoothing": "--label-smoothing",
    "--mixup": "--mixup-alpha",
    "--mixed": "--mixup-prob",
    "--rarity": "--class-balance-power",
    "--clean": "--clean-prob",
    "--kept": "--val-fraction",
    "--held-out": "--val-fraction",
    "--by": "--split-by",
    "--judged": "--eval-every",
    "--frozen": "--freeze-epochs",
    "--small": "--small-face-epochs",
    "--video": "--drop-video",
    "--audio": "--drop-audio",
    "--brief": "--bf16",
    "--warm": "--warmup",
    "--cooling": "--decay-fraction",
    "--restart": "--restart-epochs",
    "--batch": "--batch-size",
    "--accumulate": "--grad-accumulation",
    "--heard": "--audio-checkpoint",
    "--argument": "--model-arg",
    "--polish-steps": "--finetune-steps",
    "--polish-rate": "--finetune-lr",
    "--polish-clean": "--finetune-clean-prob",
    "--others": "--muxspace-batch-size",
    "--taught": "--pseudo-label-weight",
    "--distilled": "--distill-weight",
    "--ferplus": "--ferplus-weight",
    "--fer2013": "--fer2013-weight",
    "--muxspace": "--muxspace-weight",
    "--faces-epochs": "--epochs",
    "--faces-batch": "--batch-size",
    "--faces-rate": "--lr",
    "--time-steps": "--sequence-steps",
    "--time-batch": "--sequence-batch-size",
    "--time-rate": "--sequence-lr",
    "--head-rate": "--head-lr",
    "--layer-decay": "--layer-lr-decay",
    "--finer": "--fine-label-weight",
    "--beside": "--compare-with",
    "--gpu": "--device",
}
"""Options of `train`."""
TASK_OPTIONS = {
    "classification": {"--held-out": "--test-fraction"},
    "multi-head": {"--faces": "--batch-size", "--mix": "--mixup-prob"},
    "compact-emotimesh": {"--mix": "--mixup-max"},
    "two-stream": {"--longest": "--max-frames"},
    "multi-label-text": {"--longest": "--max-tokens"},
}
"""Options of `train` that were called alike and are not."""
MODEL_ARGUMENTS = ("width", "embedding", "hidden", "dropout", "blank", "patch", "heads", "layers")
"""Arguments of networks that were options."""
DEVICES = {"0": "cpu", "1": "cuda"}
BARE_DATA = {"multi-label-text": "goemotions", "audio-baseline": "ravdess-audio"}
"""What `--data PATH` without a name stands for; FER+ elsewhere."""


def modernize(arguments: Sequence[str]) -> list[str]:
    """Replace deprecated verbs and options by the present ones, with a notice on stderr for each."""
    words = list(arguments)
    if not words:
        return words
    if words[0] in VERBS:
        new = VERBS[words[0]]
        _notice(words[0], " ".join(new))
        words[:1] = new
    elif words[0] == "fit" and len(words) > 1:
        preset = f"{words[1]}-classifier" if f"{words[1]}-classifier" in preset_names() else words[1]
        _notice(f"fit {words[1]}", f"train {preset}")
        words[:2] = ["train", preset]
    if words[0] != "train" or len(words) < 2:
        return words
    try:
        task = load_preset(words[1]).task
    except DataInvalid:
        return words  # argparse lists the presets
    return words[:2] + _modernize_options(words[2:], task)


def _modernize_options(words: list[str], task: str) -> list[str]:
    renamed = OPTIONS | TASK_OPTIONS.get(task, {})
    if task == "classification":
        renamed.pop("--muxspace", None)
    found: list[str] = []
    option = ""
    for word in words:
        name, equals, value = word.partition("=")
        if not word.startswith("--"):
            found.append(_modern_value(option, word, task))
            option = ""
            continue
        if name == "--muxspace-data":
            _notice(name, "--data muxspace:PATH")
            found.append("--data")
            option = "muxspace"
        elif name[2:] in MODEL_ARGUMENTS:
            _notice(name, f"--model-arg {name[2:]}=VALUE")
            found.append("--model-arg")
            option = name[2:]
        elif name in renamed and not (name == "--faces" and task == "classification"):
            _notice(name, renamed[name])
            found.append(renamed[name])
            option = renamed[name]
        else:
            found.append(name)
            option = name
        if equals:
            found[-1] += f"={_modern_value(option, value, task)}"
            option = ""
    return found


def _modern_value(option: str, value: str, task: str) -> str:
    if option == "muxspace":
        return f"muxspace:{value}"
    if option in MODEL_ARGUMENTS:
        return f"{option}={value}"
    if option == "--device":
        return DEVICES.get(value, value)
    if option == "--data" and ":" not in value:
        name = BARE_DATA.get(task, "ferplus")
        _notice("--data PATH", f"--data {name}:PATH")
        return f"{name}:{value}"
    return value


def _notice(old: str, new: str) -> None:
    print(f"moodreel.training: {old} is deprecated and will be removed; use {new}.", file=sys.stderr)
