"""Prompt files: what they replace, what they may not say, and the released ones, read and not run."""

from __future__ import annotations

import contextlib
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from srtui import recipe
from srtui.cli import app
from srtui.errors import UserError
from srtui.evaluation.contestants import Contestant
from srtui.evaluation.writing import AnswerSettings, answer_key
from srtui.llama import Generation, WrittenSegment
from srtui.prompts import REVERSE_REQUEST, read_prompts, template, template_version
from srtui.prompts.released import released_prompts, to_toml
from srtui.recipe import Recipe
from srtui.reflection import Criteria, ReflectionPrompt, load_criteria
from srtui.sample import Pair
from srtui.store import Store
from srtui.workspace import Workspace
from tests.conftest import ROOT
from tests.sql import sql_rows, sql_value
from tests.tui.scripted_store import Script

MINE = """
name = "mine"
[templates.vicuna]
with_input = "Q: {instruction} ({input}) A: "
without_input = "Q: {instruction} A: "
[templates.short]
with_input = "{instruction} {input}\\n"
without_input = "{instruction}\\n"
[reverse]
instruction = "Guess what {response} answers"
target = "{instruction}{input}"
[teacher.instruction.without_input]
system = "Judge the instruction, and be sure that it is a better one than before."
user = "I: {instruction} A: {response}"
[teacher.response.without_input]
system = "Judge the answer."
user = "I: {instruction} A: {response}\\nWrite [Better Answer] your better answer [End]"
[teacher.response.with_input]
system = "Judge the answer to the input."
user = "I: {instruction} N: {input} A: {response}"
[sampling]
temperature = 0.0
repeat_penalty = 1.0
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(MINE, encoding="utf-8")
    return path


def write_recipe(folder: Path, words: str = "") -> Path:
    path = folder / "r.toml"
    path.write_text(f'dataset = "d"\nprompts = "mine.toml"\n{words}', encoding="utf-8")
    return path


def test_a_file_takes_the_place_of_what_it_has(mine: Path) -> None:
    prompts = read_prompts(mine)
    vicuna = template("vicuna", prompts=prompts)
    assert vicuna.forward("Say", "") == "Q: Say A:"
    assert vicuna.forward("Say", "{it}") == "Q: Say ({it}) A:"  # braces of data are text
    assert vicuna.answer_prefix == " "
    assert vicuna.reverse("y") == "Q: Guess what y answers A:"  # the template without input
    assert vicuna.reverse_target("i", "n") == "in"
    assert template("short", prompts=prompts).forward("a", "b") == "a b\n"
    # What the file leaves out stays as it was, with the file's reverse prompt.
    assert template("alpaca", prompts=prompts).forward("a", "") == template("alpaca").forward("a", "")
    assert template("alpaca", prompts=prompts).reverse("y") != template("alpaca").reverse("y")
    assert REVERSE_REQUEST in template("alpaca").reverse("y")


def test_the_same_name_with_other_words_is_another_version(mine: Path) -> None:
    prompts = read_prompts(mine)
    assert template_version("vicuna", prompts) != template_version("vicuna")
    assert template_version("alpaca", prompts) != template_version("alpaca")  # another reverse prompt
    assert template_version("vicuna") == template("vicuna").version
    with pytest.raises(UserError, match="'short' is not one of alpaca, vicuna, wizardlm, chat"):
        template("short")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("{instruction} A: ", "{instructions} A: ", ["templates.vicuna", "{instructions}"]),
        ("({input}) A: ", "A: ", ["templates.vicuna", "with_input lacks {input}"]),
        ("({input}) A: ", "({input}) A:", ["templates.vicuna", "same number of spaces"]),
        ("({input}) A: ", "({input!r:>9}) A: ", ["templates.vicuna", "{input} alone"]),
        ("what {response}", "what", ["reverse", "must hold {response}"]),
        ("templates.short", "templates.chat", ["chat", "another name"]),
        (
            "temperature = 0.0",
            "heat = 0.0",
            ["sampling.heat is not a key; it can be min_p, repeat_penalty, temperature, top_k, top_p."],
        ),
        (
            "[sampling]",
            "[samplings]",
            ["samplings is not a key; it can be name, reverse, sampling, teacher, templates."],
        ),
        (  # what is missing because of the slip is not what is named
            "without_input =",
            "without_imput =",
            ["templates.vicuna.without_imput is not a key; it can be with_input, without_input."],
        ),
        (
            "teacher.response.",
            "teacher.response.with_",
            ["teacher.response.with_without_input is not a key; it can be with_input, without_input."],
        ),
        ("templates.short", "templates.Short", ["templates.Short cannot be a name here"]),
        ("temperature = 0.0", "temperature = ", ["not valid TOML"]),
        ("A: {response}\\nWrite", "A: {\\nWrite", ["teacher.response", "braces"]),
    ],
)
def test_a_mistake_is_one_sentence(mine: Path, old: str, new: str, words: list[str]) -> None:
    assert old in MINE
    mine.write_text(MINE.replace(old, new), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_prompts(mine)
    assert str(caught.value).startswith(str(mine))
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_an_unknown_key_of_criteria_and_of_a_judges_prompt(tmp_path: Path) -> None:
    from srtui.evaluation.judge_model import load_judge_prompt

    path = tmp_path / "c.toml"
    path.write_text("versoin = '1'", encoding="utf-8")
    for read in (lambda: load_criteria(str(path), "response"), lambda: load_judge_prompt(str(path), 1)):
        with pytest.raises(
            UserError, match=r"c\.toml: versoin is not a key; (it can be .*|did you mean )version"
        ):
            read()


@pytest.mark.parametrize(("words", "key"), [("temperature = 9.0", "temperature"), ("top_k = 1.5", "top_k")])
def test_sampling_out_of_range_names_its_file(mine: Path, tmp_path: Path, words: str, key: str) -> None:
    mine.write_text(MINE.replace("temperature = 0.0", words), encoding="utf-8")
    with pytest.raises(UserError, match=rf"mine\.toml: sampling\.{key} = "):
        recipe.load(write_recipe(tmp_path))


def test_a_recipe_names_a_file(mine: Path, tmp_path: Path) -> None:
    path = write_recipe(tmp_path, "[prompt]\ntemplate = 'short'\n[sampler]\nrepeat_penalty = 1.3")
    loaded = recipe.load(path)
    assert loaded.prompts == read_prompts(mine)
    # The file's sampling is the default, the recipe's own words count.
    assert (loaded.sampler.temperature, loaded.sampler.repeat_penalty, loaded.sampler.top_p) == (
        0.0,
        1.3,
        0.95,
    )
    again = Recipe.model_validate(json.loads(loaded.model_dump_json()))
    assert again == loaded  # a run's snapshot holds the words, so the file may change or go
    assert again.fingerprint == loaded.fingerprint
    mine.write_text(MINE.replace("Q: {instruction} A: ", "Question: {instruction} A: "), encoding="utf-8")
    assert recipe.load(path).fingerprint != loaded.fingerprint
    plain = ["prompts=", "prompt.template=alpaca"]
    assert recipe.load(path, plain).prompts is None
    with pytest.raises(UserError, match="'shorter' is not one of alpaca, vicuna, wizardlm, short, chat"):
        recipe.load(path, ["prompt.template=shorter"])
    with pytest.raises(UserError, match=r"nowhere\.toml does not exist"):
        recipe.load(path, ["prompts=nowhere.toml"])


def test_a_recipe_without_prompts_is_the_run_that_it_was() -> None:
    assert recipe.load(ROOT / "recipes" / "quickstart.toml").prompts is None
    plain = Recipe(name="a", dataset="d")
    assert "prompts" not in plain.model_dump(mode="json", exclude_defaults=True)


def test_the_teachers_words(mine: Path, tmp_path: Path) -> None:
    prompts = read_prompts(mine)
    assert prompts.teacher.response is not None
    response = Criteria.of_prompts(prompts.name, "response", prompts.teacher.response)
    assert response.system_text(Pair("i", "n", "r")) == "Judge the answer to the input."
    assert response.user_text(Pair("i", "{n}", "r")) == "I: i N: {n} A: r"
    assert response.system_text(Pair("i", "", "r")) == "Judge the answer."
    assert response.user_text(Pair("i", "", "r")).startswith("I: i A: r\n")
    assert "Write [Better Answer] your better answer [End]" in response.own_wording().lines
    assert response.shows_input
    asked = ReflectionPrompt(response, recipe.load(write_recipe(tmp_path))).request(0, Pair("i", "n", "r"), 1)
    assert [m.content for m in asked.messages] == ["Judge the answer to the input.", "I: i N: n A: r"]
    assert asked.sampler.temperature == 0


def test_an_instruction_rewritten_without_its_input_loses_it(mine: Path, tmp_path: Path) -> None:
    prompts = read_prompts(mine)
    assert prompts.teacher.instruction is not None
    unseen = Criteria.of_prompts(prompts.name, "instruction", prompts.teacher.instruction)
    assert not unseen.shows_input
    before = Pair("Sum up the text.", "A long text.", "It is long.")
    settings = recipe.load(write_recipe(tmp_path, '[reflection]\nmode = "free"'))
    text = "Weak.\n[New Instruction] Describe rain in ten words. [End]\n[New Answer] Rain falls. [End]"
    said = Generation(0, 0, 0, (WrittenSegment(text, "end", 9),), text, "", "", 9, 9, 0.1)
    rewrite = ReflectionPrompt(unseen, settings).read(said, before)
    assert rewrite.pair == Pair("Describe rain in ten words.", "", "Rain falls.")
    shown = load_criteria("instruction", "instruction")
    assert ReflectionPrompt(shown, settings).read(said, before).pair == Pair(
        "Describe rain in ten words.", "A long text.", "Rain falls."
    )


def test_shipped_criteria_are_the_version_that_they_were() -> None:
    """What a teacher has written under them is found again."""
    assert load_criteria("instruction", "instruction").prompt_version == "instruction-1-ffa20bbd"
    assert load_criteria("response", "response").prompt_version == "response-1-8da4008d"


def test_scores_and_answers_under_other_words_are_not_used_again(mine: Path, tmp_path: Path) -> None:
    prompts = read_prompts(mine)
    with Store(tmp_path / "s.sqlite") as store:
        words = ("student", "id", "nf4", "vicuna", "default", 64)
        own_wording, theirs = (template_version("vicuna", p) for p in (None, prompts))
        # A setting from before versions were kept is a third one.
        assert len({store.scores.setting(*words, v) for v in (own_wording, theirs, "")}) == 3
        assert store.scores.setting(*words, own_wording) == store.scores.setting(*words, own_wording)
        kept = [r[0] for r in sql_rows(store, "SELECT template_version FROM scoring_setting ORDER BY id")]
        assert kept == [own_wording, theirs, ""]
    one = Contestant("x", "student", Path("m"), "sha", template="vicuna", quantization="nf4")
    other = Contestant(
        "x", "student", Path("m"), "sha", template="vicuna", quantization="nf4", prompts=prompts
    )
    assert answer_key(one, AnswerSettings(), (("q", ""),)) != answer_key(
        other, AnswerSettings(), (("q", ""),)
    )
    assert one.identity != other.identity
    json.dumps(other.identity)


def test_a_run_that_began_under_other_words_is_refused_before_anything_is_loaded(
    workspace: Workspace,
) -> None:
    """The teacher's stages come first; here no model is there to load."""
    from srtui.pipeline import Engine

    with Store(workspace.store_path) as store:
        script = Script(workspace, store).begin([Pair(f"i{n}", "", f"One. Two {n}.") for n in range(4)])
        quiet: Any = type("Quiet", (), {"progress": lambda *_: None, "event": lambda *_: None})()

        def refused() -> str:
            with pytest.raises(UserError) as error:
                Engine(workspace, store, store.runs.get(script.run_id), quiet).work()
            return str(error.value)

        assert "other words" not in refused()  # nothing is chosen yet
        script.reflect("instruction")
        script.choose("instruction")
        assert re.search(r"other words of the 'alpaca' template.*--set name=", refused())
        version = template_version("alpaca")
        store.conn.execute("UPDATE scoring_setting SET template_version = ?", (version,))
        assert "other words" not in refused()


def test_under_a_chat_template_too(workspace: Workspace) -> None:
    """One that opens a <think> block has a version that its tokenizer tells; no weights are here to load."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    from srtui.pipeline.context import Context

    folder = workspace.models / "thinker"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<e>": 0}, "<e>")), eos_token="<e>"
    )
    tokenizer.chat_template = (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
    )
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors").write_bytes(b"\x02" + bytes(7) + b"{}")
    now = template("chat", tokenizer).version
    assert now != template_version("chat")
    with Store(workspace.store_path) as store:
        script = Script(workspace, store).begin([Pair(f"i{n}", "", f"One. Two {n}.") for n in range(4)])
        script.reflect("instruction")
        script.choose("instruction")
        settings = json.loads(sql_value(store, "SELECT recipe FROM run WHERE id = ?", (script.run_id,)))
        settings["prompt"]["template"], settings["student"]["model"] = "chat", "thinker"
        store.conn.execute("UPDATE run SET recipe = ?", (json.dumps(settings),))
        for version, is_refused in ((now, False), (template_version("chat"), True)):
            store.conn.execute("UPDATE scoring_setting SET template_version = ?", (version,))
            context = Context(workspace, store, store.runs.get(script.run_id), None)  # type: ignore[arg-type]
            with pytest.raises(UserError, match="other words") if is_refused else contextlib.nullcontext():
                context.refuse_other_words()


# -- the released scripts -----------------------------------------------------------------------

ANALYSIS = """
raise SystemExit("it was run")
PROMPT_DICT_ALPACA = {
    "prompt_input": ("Do. " "### {instruction} ### {input} ###"),
    "prompt_no_input": ("Do. ### {instruction} ###"),
}
PROMPT_DICT_WIZARDLM = {"prompt_input": "{instruction} {input} W", "prompt_no_input": ("{instruction} W")}
PROMPT_DICT_VICUNA = {"prompt_input": "{instruction}/{input} V:", "prompt_no_input": "{instruction} V:"}
def main():
    instruct_i_reverse = 'What does\\n'+ output_i +'\\nanswer?'
    temp_dict_reverse = {'instruction':instruct_i_reverse}
    whole_text_reverse = promt_to_use_reverse + instruct_i_ori + input_i
    instruct_i_reverse = promt_to_use_reverse
"""
ASKING = """
def gen_prompt_no_input(ins, outp):
    sys_prompt = "Be picky."
    prompt_template = "[I]\\n{ins}\\n[A]\\n{outp}\\n{criteria}\\n\\n"
    criteria = "One. \\n" + \\
               "Two [MARK] yours [End]\\n"
    prompt = prompt_template.format(ins=ins, outp=outp, criteria=criteria)
    return sys_prompt, prompt
if __name__ == "__main__":
    asyncio.run(dispatch_openai_requests(messages_list=m[i:j], model=args.api_model, temperature=0.0, top_p=1.0))
"""
WITH_INPUT = """
def gen_prompt_input(ins, inp, outp):
    sys_prompt = "Be precise."
    prompt_template = "{ins} {inp} {outp} {criteria}"
    criteria = "Three."
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "released"
    (root / "selection_code").mkdir(parents=True)
    (root / "reflection_code").mkdir()
    (root / "selection_code" / "data_analysis.py").write_text(ANALYSIS)
    asking = root / "reflection_code"
    (asking / "reflect_instruction.py").write_text(ASKING.replace("MARK", "New Instruction"))
    (asking / "reflect_response.py").write_text(ASKING.replace("MARK", "Better Answer") + WITH_INPUT)
    return root


def test_released_scripts_are_read_and_not_run(checkout: Path, tmp_path: Path) -> None:
    found = released_prompts([checkout])
    assert found.templates["alpaca"].render("a", "b") == "Do. ### a ### b ###"
    vicuna = template("vicuna", prompts=found)
    assert (vicuna.forward("a", "b"), vicuna.answer_prefix) == ("a/b V:", "")
    assert vicuna.reverse("y") == "What does\ny\nanswer? V:"
    assert vicuna.reverse_target("a", "b") == "ab"
    assert found.teacher.instruction is not None
    assert found.teacher.instruction.with_input is None
    assert found.teacher.instruction.without_input.user == (
        "[I]\n{instruction}\n[A]\n{response}\nOne. \nTwo [New Instruction] yours [End]\n\n\n"
    )
    assert found.teacher.response is not None
    assert found.teacher.response.with_input is not None
    assert found.teacher.response.with_input.user == "{instruction} {input} {response} Three."
    assert found.sampling == {
        "temperature": 0.0, "top_p": 1.0, "top_k": 0.0, "min_p": 0.0, "repeat_penalty": 1.0,
    }  # fmt: skip
    written = tmp_path / "p.toml"
    written.write_text(to_toml(found, "From scripts."), encoding="utf-8")
    assert read_prompts(written) == found


def test_what_is_not_there_is_named(checkout: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"reverse.*teacher\.instruction"):
        released_prompts([checkout / "reflection_code" / "reflect_response.py"])
    with pytest.raises(UserError, match="no checkout"):
        released_prompts([tmp_path])
    with pytest.raises(UserError, match="no such folder"):
        released_prompts([tmp_path / "x.txt"])
    broken = checkout / "selection_code" / "data_analysis.py"
    broken.write_text("def (")
    with pytest.raises(UserError, match=r"data_analysis\.py cannot be read as a released script"):
        released_prompts([checkout])


def test_the_commands(checkout: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    out = tmp_path / "released.toml"
    done = run(app, ["prompts", "from-released", str(checkout), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert read_prompts(out) == released_prompts([checkout])
    again = run(app, ["prompts", "from-released", str(checkout), "--out", str(out)])
    assert isinstance(again.exception, UserError)
    own = tmp_path / "own.toml"
    assert run(app, ["prompts", "new", "--out", str(own)]).exit_code == 0
    # srtui's own, named in a recipe, score as without it.
    assert template_version("vicuna", read_prompts(own)) == template_version("vicuna")
    assert tomllib.loads(own.read_text())["name"] == "srtui"


def test_the_released_strings_as_json() -> None:
    path = ROOT.parent / "shared" / "data" / "released_prompts.json"
    if not path.exists():
        pytest.skip("the released strings are not at hand")
    found, given = released_prompts([path]), json.loads(path.read_text(encoding="utf-8"))
    for name, layout in given["templates"].items():
        words = template(name, prompts=found)
        assert words.forward("a", "b") == layout["prompt_input"].format(instruction="a", input="b")
        request = given["reverse_request"].format(response="y")
        assert words.reverse("y") == layout["prompt_no_input"].format(instruction=request)
        assert words.answer_prefix == ""
    assert found.sampling["temperature"] == 0.0
    asked = given["reflect_response"]["gen_prompt_input"]
    assert found.teacher.response is not None
    ours = Criteria.of_prompts("released", "response", found.teacher.response)
    assert ours.system_text(Pair("i", "n", "o")) == asked["sys_prompt"]
    wanted = asked["prompt_template"].format(ins="i", inp="n", outp="o", criteria=asked["criteria"])
    assert ours.user_text(Pair("i", " n", "o\n")) == wanted
