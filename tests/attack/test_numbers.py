"""Numbers that are too large, not finite, not there, or of another script."""

from __future__ import annotations

import pytest

from tests.attack.ground import Attack, Ground

RUN = "run recipes/quickstart.toml"
HUGE = "99999999999999999999999"

ATTACKS = [
    Attack("show: no such sample", "show 100000", says="no sample 100000; name one from 1 to"),
    Attack("show: beyond SQLite's integers", f"show {HUGE}", says="no sample 99999"),
    Attack("show: just beyond them", f"show {2**63}", says="no sample"),
    Attack("show: the largest integer", f"show {2**63 - 1}", says="no sample"),
    Attack("show: below them", "show -- -99999999999999999999999", says="no sample"),
    Attack("show: negative", "show -- -1", says="no sample"),
    Attack("show: zero", "show 0", says="no sample"),
    Attack("show: not a number", "show ²", says="valid integer"),
    Attack("show: Arabic digits", "show ٣", says="valid integer"),
    Attack("show: five thousand digits", "show " + "9" * 5000),
    Attack("status: superscript two", "status ²", says="no run"),
    Attack("status: Arabic digits", "status ٣٣٣", says="no run"),
    Attack("status: circled one", "status ①", says="no run"),
    Attack("status: beyond SQLite's integers", f"status {HUGE}", says="no run"),
    Attack("status: five thousand digits", "status " + "9" * 5000, says="no run"),
    Attack("status: negative", "status -- -1", says="no run"),
    Attack("scores: beyond SQLite's integers", f"scores {HUGE}", says="no run"),
    Attack("scores: a superscript", "scores ²", says="no run"),
    Attack("export: beyond SQLite's integers", f"export {HUGE} --out x.json", says="no run"),
    Attack("report: beyond SQLite's integers", f"report {HUGE} --out x.html", says="no run"),
    Attack("resume: beyond SQLite's integers", f"resume {HUGE}", says="no run"),
    Attack("export-model: beyond SQLite's integers", f"export-model {HUGE} --to gguf", says="no run"),
    Attack("chat: beyond SQLite's integers", f"chat {HUGE} --say x", says="no run"),
    Attack("eval show: beyond SQLite's integers", f"eval show {HUGE}", says="no evaluation"),
    Attack("eval show: negative", "eval show -- -5", says="no evaluation"),
    Attack("eval list: a run beyond them", f"eval list --run {HUGE}", says="no run"),
    Attack("report: as many examples as fit no integer", f"report quickstart --examples {HUGE} --out x.html"),
    Attack("report: a seed beyond integers", f"report quickstart --seed {HUGE} --out x.html"),
    Attack(
        "report: a negative seed",
        "report quickstart --seed -3 --out x.html",
        code=(0, 2),
        leaves=("ws/x.html",),
    ),
    Attack("export: more than all", "export quickstart --out x.json --top-k-percent 101"),
    Attack("export: nan percent", "export quickstart --out x.json --top-k-percent nan", says="less than"),
    Attack("export: inf percent", "export quickstart --out x.json --top-k-percent inf"),
    Attack("export: negative percent", "export quickstart --out x.json --top-k-percent -1"),
    Attack(
        "export: none of them", "export quickstart --out x.json --top-k-percent 0", says="nothing to export"
    ),
    Attack(
        "scores: as many templates' samples as fit no integer",
        f"scores quickstart --templates --sample {HUGE}",
    ),
    Attack("models tune: slots of another script", "models tune smollm2-135m --slots ²", says="--slots"),
    Attack("models tune: too many slots", f"models tune smollm2-135m --slots {HUGE}", says="--slots"),
    Attack(
        "models tune: five thousand digits", "models tune smollm2-135m --slots " + "9" * 5000, says="--slots"
    ),
    Attack("models tune: nothing between commas", "models tune smollm2-135m --slots 1,,2", says="--slots"),
    *(
        Attack(f"{command}: --limit of {limit}", f"{command} --limit {limit}")
        for command in (RUN, "ablate recipes/quickstart.toml")
        for limit in ("0", "-1", HUGE, "nan", "1.5")
    ),
    *(
        Attack(f"a recipe's key: {key} = {value}", f"{RUN} --set '{key}={value}'", says=key.split(".")[-1])
        for key, value in [
            ("limit", "99999999999999999999"),
            ("limit", "0"),
            ("limit", "-1"),
            ("limit", "1.5"),
            ("limit", "nan"),
            ("limit", str(2**63)),
            ("seed", str(2**31)),
            ("seed", "-1"),
            ("seed", HUGE),
            ("training.seed", str(2**31)),
            ("training.epochs", "inf"),
            ("training.epochs", "nan"),
            ("training.epochs", "-inf"),
            ("training.epochs", "1e308"),
            ("training.epochs", "0"),
            ("training.learning_rate", "inf"),
            ("training.learning_rate", "nan"),
            ("training.max_grad_norm", "inf"),
            ("training.weight_decay", "inf"),
            ("training.neftune_alpha", "inf"),
            ("training.neftune_alpha", "nan"),
            ("training.lora_rank", "100000000"),
            ("training.lora_rank", HUGE),
            ("training.lora_alpha", HUGE),
            ("training.batch_size", HUGE),
            ("training.steps", HUGE),
            ("training.checkpoint_steps", HUGE),
            ("training.checkpoints_kept", HUGE),
            ("training.evaluation_steps", HUGE),
            ("training.early_stopping", HUGE),
            ("scoring.proxy_margin", "inf"),
            ("scoring.proxy_margin", "nan"),
            ("scoring.batch_tokens", HUGE),
            ("sampler.temperature", "nan"),
            ("sampler.temperature", "inf"),
            ("sampler.top_p", "nan"),
            ("sampler.top_k", HUGE),
            ("sampler.repeat_penalty", "inf"),
            ("selection.top_percent", "nan"),
            ("selection.top_percent", "inf"),
            ("selection.top_count", HUGE),
            ("reflection.max_attempts", HUGE),
            ("reflection.candidates", HUGE),
            ("reflection.answer_tokens", HUGE),
            ("prompt.max_length", HUGE),
            ("teacher.context", HUGE),
            ("teacher.slots", HUGE),
            ("teacher.gpu_layers", HUGE),
            ("teacher.threads", HUGE),
        ]
    ),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_numbers(attack: Attack, ground: Ground) -> None:
    attack.hold(ground)
