"""The keys of a recipe: type, default, what each does, its unit, where its default is from.

``docs/recipes.md`` and ``srtui recipes`` are made from what stands here. A new key's default may never
change afterwards: defaults are left out of a run's fingerprint and of the keys of stored work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from srtui.errors import UserError
from srtui.hashing import key, scheme_1
from srtui.measures import MEASURES, STORED
from srtui.prompts import PromptSet, template_names
from srtui.recipe.address import parse_address
from srtui.recipe.gates import GateSettings
from srtui.recipe.section import MOST, Auto, Count, Quantization, Section, Seed, Share, described
from srtui.recipe.training import TrainingSettings
from srtui.recipe.weights import MeasureWeights


class TeacherSettings(Section):
    """The GGUF model that criticises and rewrites, and how llama.cpp runs it.

    `slots`, `batch_tokens`, `gpu_layers` and `threads` are speed and memory alone: a run that is resumed with
    others is the same run.
    """

    model: str = described(
        "smollm2-135m",
        "The GGUF that rewrites: a name in models/, or a path.",
        change="Always, but for the demo: take the largest model that fits, since its texts are what is learned.",
        source="the demo's; the paper's teacher was ChatGPT",
    )
    endpoint: str | None = described(
        None,
        "A server that runs the teacher already: its address on this machine, as in http://127.0.0.1:8000/v1 or "
        "unix:/run/model.sock. `model` is then the name that the server gives it, `slots` how many requests are on "
        "their way at a time.",
        change="Where vLLM, SGLang, llama-server, LM Studio or Ollama has the model loaded. Its weights cannot be "
        "hashed: such a run is marked.",
    )
    allow_remote: bool = described(
        False,
        "Whether `endpoint` may be another machine.",
        change="To let the texts of the data go to another machine, which reads them.",
    )
    chat_template: str | None = described(
        None,
        "The chat template of the `endpoint`'s model: a model in models/ that has it, or a .jinja file.",
        change="Where the server does not report it (llama-server does), and `model` is none of models/.",
    )
    adapter: str | None = described(
        None,
        "A LoRA adapter in GGUF form, applied to the teacher: a path.",
        change="To write with a tuned student without merging it (`srtui export-model --to gguf-adapter`).",
    )
    from_run: str | None = described(
        None,
        "The run whose tuned student this teacher is: the round before.",
        change="Not by hand: `srtui run --teacher-from RUN` writes it, and the summary sets the rounds side by side.",
    )
    context: Auto | Count = described(
        "auto",
        "The most tokens that one sequence may have, prompt and answer together; auto is what the model was "
        "trained with.",
        change="Lower it where memory is short; samples whose prompt is too long for it are left as they are, with "
        "a reason.",
        unit="tokens",
        source="the model's own header",
    )
    slots: Auto | Count = described(
        "auto",
        "How many sequences are written at once; auto is what `srtui models tune` found best here, else 16 "
        "on a CPU and 32 on a GPU.",
        change="Lower it where memory is short. On a CPU, texts do not depend on it.",
        unit="sequences",
        source="measured on this machine",
    )
    batch_tokens: Auto | Count = described(
        "auto",
        "How many tokens llama.cpp evaluates in one step; auto is 512.",
        change="Higher reads long prompts faster on a GPU, and takes more memory for its buffers.",
        unit="tokens",
        source="llama.cpp's default for a physical batch (n_ubatch)",
    )
    gpu_layers: Auto | Annotated[int, Field(ge=-1, le=MOST)] = described(
        "auto",
        "How many of the teacher's layers lie on the GPU; -1 is all, 0 none, auto as many as fit with their cache.",
        change="Set it where something else needs the GPU's memory too.",
        unit="layers",
        source="srtui's plan of memory",
    )
    threads: Auto | Annotated[int, Field(ge=1, le=4096)] = described(
        "auto",
        "CPU threads of llama.cpp; auto is as many CPUs as this process may use.",
        change="Lower it to leave CPUs to others.",
        unit="threads",
        source="srtui's own; more threads than CPUs wait for each other",
    )
    flash_attention: Auto | bool = described(
        "auto",
        "Whether llama.cpp uses its fused attention; auto lets llama.cpp decide.",
        change="Set it to compare, or where a device's implementation is at fault. It changes texts in the last digit "
        "of their probabilities, and so is part of their key.",
        source="llama.cpp's default",
    )
    kv_type: Literal["f32", "f16", "q8_0", "q4_0"] = described(
        "f16",
        "The number format of the KV cache: how the keys and values of a sequence are kept.",
        change='"q8_0" halves the cache, so that twice the slots fit, for a small loss of precision.',
        source="llama.cpp's default",
    )

    @model_validator(mode="after")
    def _endpoint_is_an_address(self) -> Self:
        if self.endpoint is not None:
            try:
                parse_address(self.endpoint, allow_remote=self.allow_remote)
            except UserError as error:
                raise ValueError(str(error)) from error
            if self.adapter is not None:
                raise ValueError(
                    "teacher.adapter cannot be put on a server's model; start the server with it"
                )
        return self


class SamplingSettings(Section):
    """How the teacher's next token is drawn. A prompts file's `[sampling]` takes the place of these defaults.

    A try that does not parse is repeated with another seed, and at temperature 0 at 0.7.
    """

    temperature: Annotated[float, Field(ge=0, le=5)] = described(
        0.7,
        "How freely the teacher writes; 0 always takes the likeliest token.",
        change="0 for the released scripts' way; higher with several `reflection.candidates`, which have to differ.",
        source="srtui's own; the released scripts use 0",
    )
    top_p: Share = described(
        0.95,
        "Only the likeliest tokens that together have this probability are drawn from; 1 is all.",
        unit="share of probability",
        source="llama.cpp's default; the released scripts use 1",
    )
    top_k: Annotated[int, Field(ge=0, le=MOST)] = described(
        40,
        "Only this many of the likeliest tokens are drawn from; 0 is all.",
        unit="tokens",
        source="llama.cpp's default",
    )
    min_p: Share = described(
        0.05,
        "Tokens less likely than this share of the likeliest one are not drawn; 0 is off.",
        unit="share of the likeliest token's probability",
        source="llama.cpp's default",
    )
    repeat_penalty: Annotated[float, Field(ge=0.5, le=3)] = described(
        1.1,
        "Makes tokens that were just written less likely; 1 is off.",
        change="1 for large teachers, which rarely repeat themselves; higher where rewrites end in loops.",
        source="srtui's own, for small teachers; the recipes named for the paper use 1",
    )


class ReflectionSettings(Section):
    """What is asked of the teacher, and how long it may write.

    The limits hold at the first try; a retry may write more of an instruction or answer (twice, three times, up
    to four), since one that is cut off is not used.
    """

    source: Literal["teacher", "store"] = described(
        "teacher",
        'Where rewrites come from; "store" asks no teacher and uses what is stored.',
        change='"store" to let another student choose among rewrites that exist, or among imported ones.',
    )
    mode: Literal["guided", "free"] = described(
        "guided",
        'How a rewrite is asked for: "free" is one generation that is parsed, "guided" puts the markers into the '
        "text for the teacher.",
        change='"free" for the paper\'s way, with a teacher that keeps a format; "guided" where few replies parse.',
        source="srtui's own; the paper's is free",
    )
    instruction_criteria: str = described(
        "instruction",
        "What instructions are criticised by: a name in `srtui/reflection/criteria/`, or the path of a TOML file.",
        change="Copy the shipped file and edit it, for a domain of your own.",
        source="the paper, section 3: complexity, detail, knowledge, ambiguity, reasoning",
    )
    response_criteria: str = described(
        "response",
        "What responses are criticised by: a name in `srtui/reflection/criteria/`, or the path of a TOML file.",
        change="As for instructions.",
        source="the paper, section 3: helpfulness, relevance, accuracy, level of detail",
    )
    max_attempts: Annotated[int, Field(ge=1, le=20)] = described(
        3,
        "How often the teacher is asked about one sample until a reply parses; then the original stays.",
        change="Higher for a small teacher; the summary says how many came after retries, and why others failed.",
        unit="tries",
        source="srtui's own; the released scripts try twice",
    )
    candidates: Annotated[int, Field(ge=1, le=64)] = described(
        1,
        "How many rewrites of each text the teacher makes; the student chooses among all of them.",
        change="More gives the student more to choose from, at that many times the teacher's time.",
        unit="rewrites a text",
        source="the paper",
    )
    critique_tokens: Count = described(
        256,
        "The longest critique. It may end anywhere.",
        change="Higher for a teacher that criticises at length.",
        unit="tokens",
        source="srtui's own; the released scripts limit the whole reply, to 2,048",
    )
    instruction_tokens: Count = described(
        256,
        "The longest new instruction, at the first try.",
        change="Higher where the dataset's instructions are long.",
        unit="tokens",
        source="srtui's own",
    )
    answer_tokens: Count = described(
        768,
        "The longest new answer, at the first try.",
        change="Higher where the dataset's answers are long, and with it `prompt.max_length`.",
        unit="tokens",
        source="srtui's own",
    )
    thinking_tokens: Count = described(
        1024,
        'How long a reasoning teacher may think before its reply, in mode "free"; in mode "guided" it is not made to '
        "think.",
        change="Higher where thoughts are cut off; thoughts are stored and are no part of a rewrite.",
        unit="tokens",
        source="srtui's own",
    )


class StudentSettings(Section):
    """The model that chooses and is then trained."""

    model: str = described(
        "smollm2-135m",
        "The student: a folder of safetensors in models/, or a path; with quantization gguf, a GGUF file.",
        change="Always, but for the demo: it is the model that you want tuned.",
        source="the demo's; the paper's is Llama 2 7B and 13B",
    )
    quantization: Quantization = described(
        "nf4",
        "How its weights are held while it scores and trains; gguf is run by llama.cpp as its file is, and can only "
        "choose.",
        change='"bf16" where memory allows, for the unrounded weights. Scores of two quantizations are never compared.',
        source="QLoRA (Dettmers et al. 2023, arXiv 2305.14314): NF4 with double quantization",
    )


class PromptSettings(Section):
    """What the student reads around an instruction, in scoring and in training alike."""

    template: str = described(
        "alpaca",
        "The prompt template: alpaca, vicuna, wizardlm, chat (the student's own), or one of a prompts file.",
        change='"chat" for a student that was tuned for chat: a template that it has never seen raises every IFD. '
        "`srtui scores RUN --templates` compares them.",
        source="Alpaca (Taori et al. 2023); the released scripts score under vicuna by default",
    )
    max_length: Annotated[int, Field(ge=16, le=MOST)] = described(
        2048,
        "The longest text that is scored and trained on, prompt and target; what exceeds it is cut and marked.",
        change="Lower it where memory is short; higher where the summary says that many were cut.",
        unit="tokens",
        source="the paper",
    )


class ScoringSettings(Section):
    """How IFD and r-IFD are measured.

    A proxy is a smaller student that decides what is clear. Where it is not, the student itself is asked.
    """

    protocol: Literal["default", "paper"] = described(
        "default",
        "Which tokens are scored: srtui's way, or the released scripts' to the letter.",
        change='"paper" to reproduce their scores; docs/method.md lists the four differences and their reasons.',
        source="docs/method.md, Tokens",
    )
    batch_tokens: Auto | Count = described(
        "auto",
        "How many tokens go through the student in one pass; auto is what its memory takes.",
        change="Lower it where scoring runs out of memory. Scores depend on it by rounding alone.",
        unit="tokens",
        source="srtui's plan of memory",
    )
    template_warning: Literal["warn", "stop"] = described(
        "warn",
        "What happens where more than a third of up to 48 originals have IFD at or above 1: a warning, or the end of "
        "the run.",
        change='"stop" for a run that nobody watches: such a template is one that the student does not know.',
        source="srtui's own",
    )
    proxy: str = described(
        "",
        "A smaller student that scores first, as `student.model` names one; empty is none.",
        change="To save time with a large student. It has to read the same language and tasks.",
        source="the idea is Superfiltering's (Li et al. 2024, arXiv 2402.00530); the paper has none",
    )
    proxy_quantization: Quantization = described(
        "nf4", "How the proxy's weights are held, as `student.quantization`.", source="as the student's"
    )
    proxy_margin: Annotated[float, Field(gt=0)] = described(
        0.1,
        "How far two scores, or a score and 1, must lie apart for the proxy to decide; nearer ones are the student's.",
        change="Higher trusts the proxy less. The run says how many decisions the proxy alone would have changed.",
        unit="difference of natural logarithms",
        source="srtui's own",
    )


SIDES = ("original", "reflected")
"""What stands for a measure where one side always wins."""
# The names follow from the table of measures, which a type checker cannot read.
if TYPE_CHECKING:
    By = str
else:
    By = Literal[(*MEASURES, *SIDES)]


class SelectionSettings(Section):
    """Which variant is chosen, and which of the chosen are trained on.

    The defaults are the paper's method, the other values its ablations (tables 4 and 9; `srtui ablate`).
    """

    instruction_by: By = described(
        "ifd",
        "What chooses between an instruction and its rewrite: the higher IFD, by default.",
        change='For ablations: "original" keeps it, "reflected" takes every rewrite, "random" draws.',
        source="the paper, section 3",
    )
    response_by: By = described(
        "rifd",
        "What chooses between a response and its rewrite: the lower r-IFD, by default.",
        change="For ablations, as above.",
        source="the paper, section 3",
    )
    policy: Literal["paper", "keep", "all"] = described(
        "paper",
        "Which samples are kept: those whose response was rewritten and taken, with both scores below 1 (paper); the "
        "same without asking for a rewrite (keep); or all.",
        change='"keep" where the teacher writes little that is taken, so that originals stay.',
        source="the paper, section 3, and the released scripts' filter",
    )
    length_control: bool = described(
        False,
        "Takes length out of whatever measure chooses: compared are its residuals from a straight line in the logarithm "
        "of a response's characters, fitted on the dataset's own originals.",
        change="true where `srtui choose calibrate` finds that a measure is no better than length. Random choices stay.",
        source="srtui's own; docs/method.md, What a measure is worth",
    )
    weights: MeasureWeights | None = described(
        None,
        'The weights of choices by "combined": a JSON file, relative to the recipe, that `srtui choose calibrate --fit` '
        "wrote with this student.",
        change='Needed by `instruction_by` or `response_by` = "combined".',
        source="srtui's own; docs/method.md, More measures",
    )
    rater: str = described(
        "",
        'The GGUF of choices by "teacher-score", as `teacher.model` names one; empty is the teacher itself.',
        change="For a rater that is better than the teacher; `srtui choose calibrate --rater` says what one is worth.",
        source="srtui's own; absolute scores as Deita's (arXiv 2312.15685) and AlpaGasus' (arXiv 2307.08701)",
    )
    encoder: str = described(
        "",
        "The sentence encoder of choices by coherence: its name in models/, or its folder.",
        change='Needed by `instruction_by` or `response_by` = "coherence", with the extra srtui[coherence].',
        source="the paper's ablations, tables 4 and 9",
    )
    top_percent: Annotated[float, Field(gt=0, le=100)] = described(
        100.0,
        "Trains on this share of what is kept, the best of it by `top_by`.",
        change="To train on the best few only, as the paper's low-data runs do.",
        unit="per cent of what is kept",
        source="the paper's low-data setting",
    )
    top_count: Count | None = described(
        None,
        "Trains on this many of what is kept, the best by `top_by`; counts before `top_percent`.",
        change="To compare runs on equal numbers of samples.",
        unit="samples",
    )
    top_by: Literal["ifd", "both", "length", "random", "facility"] = described(
        "ifd",
        "What `top_percent` and `top_count` rank by: IFD, IFD and r-IFD together, the response's length, at random; or "
        "facility, those that together lie nearest to all that is kept by the student's own embeddings.",
        change='"length" and "random" are baselines that many methods fail to beat; "facility" for a subset without '
        "repeats, of up to 50,000 texts, where those of high IFD count more.",
        source="the paper",
    )
    group: Annotated[str, Field(pattern=r'^$|^field:[^"]{1,80}$|^clusters:[1-9][0-9]{0,3}$')] = described(
        "",
        'Groups that `top_percent` and `top_count` take the same share of each: "field:NAME" by a field of the dataset\'s '
        'rows, "clusters:12" by so many clusters of the student\'s own embeddings; empty is one group.',
        change="Where ranking takes one kind of task, such as code, and hardly any of another.",
        source="srtui's own; the paper ranks all samples together",
    )


class Recipe(Section):
    """One run, described. A loaded recipe has the contents of its prompts file, and so has a run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")] = described(
        ...,
        "The run's name: letters, digits, dots, dashes and underscores; the file's name where it is left out.",
    )
    description: str = described("", "What the run is for, in your words; shown, and changes nothing.")
    dataset: str = described(
        ...,
        "What is rewritten: a file beside the recipe or in the workspace, or the name of an imported dataset.",
        change="Always; it has no default.",
    )
    turns: Literal["last", "each", "first"] = described(
        "last",
        "What is taken of conversations where `dataset` is a file of them: the last exchange with all that came before "
        "it, each exchange with what came before it, or the first alone.",
        change='"each" to improve every answer of a conversation; "first" for what srtui took before it knew histories.',
        source="srtui's own; docs/method.md, Conversations",
    )
    seed: Seed = described(
        0,
        "What all random numbers of the run are drawn from: sampling, held-out samples, the order of training.",
        change="To see how much of a result is chance.",
        source="srtui's own",
    )
    limit: Count | None = described(
        None, "Only the first so many samples of the dataset.", change="For a trial run.", unit="samples"
    )
    pilot: Count | None = described(
        None,
        "Only so many samples, drawn from every kind and length of the dataset in proportion, and no training.",
        change="Not by hand: `srtui pilot RECIPE` sets it, and says what the whole run would take and come to.",
        unit="samples",
    )
    prompts: PromptSet | None = described(
        None,
        "A prompts file, relative to the recipe: its templates, reverse prompt and teacher prompts take the place of "
        "srtui's own.",
        change="For the authors' released prompts (`srtui prompts from-released`), or your own (`srtui prompts new`).",
        source="docs/method.md, Prompts files",
    )
    teacher: TeacherSettings = TeacherSettings()
    sampler: SamplingSettings = SamplingSettings()
    reflection: ReflectionSettings = ReflectionSettings()
    student: StudentSettings = StudentSettings()
    prompt: PromptSettings = PromptSettings()
    scoring: ScoringSettings = ScoringSettings()
    gates: GateSettings = GateSettings()
    selection: SelectionSettings = SelectionSettings()
    training: TrainingSettings = TrainingSettings()

    @model_validator(mode="after")
    def _a_gguf_is_not_trained(self) -> Self:
        if self.student.quantization == "gguf" and self.training.enabled:
            raise ValueError(
                'student.quantization = "gguf" can choose and not be trained; set training.enabled = false'
            )
        return self

    @model_validator(mode="after")
    def _a_gguf_has_no_embeddings(self) -> Self:
        wanted = self.selection
        for needs, word in (
            (wanted.top_by == "facility", f'top_by = "{wanted.top_by}"'),
            (wanted.group.startswith("clusters:"), f'group = "{wanted.group}"'),
        ):
            if needs and self.student.quantization == "gguf":
                raise ValueError(f"selection.{word} needs a student of safetensors, not a GGUF")
        return self

    @model_validator(mode="after")
    def _the_template_is_there(self) -> Self:
        names = template_names(self.prompts)
        if self.prompt.template not in names:
            raise ValueError(f"prompt.template = {self.prompt.template!r} is not one of {', '.join(names)}")
        return self

    @model_validator(mode="after")
    def _choices_can_be_made(self) -> Self:
        by = {self.selection.instruction_by, self.selection.response_by}
        for measure in (MEASURES[name] for name in by if name in MEASURES):
            if measure.source == "encoder" and not self.selection.encoder:
                raise ValueError(
                    f"a choice by {measure.label} needs selection.encoder, the name or folder of a sentence encoder"
                )
            if measure.source == "combination" and self.selection.weights is None:
                raise ValueError(
                    f"a choice by {measure.label} needs selection.weights, a file that srtui choose calibrate --fit wrote"
                )
        if self.scoring.proxy and self.selection.length_control:
            raise ValueError(
                'scoring.proxy can stand in for plain scores only; set it to "", or selection.length_control to false'
            )
        if self.scoring.proxy and not by <= set(STORED):
            scores = " and ".join(MEASURES[name].label for name in STORED)
            raise ValueError(f'scoring.proxy can stand in for {scores} only; set it to ""')
        if self.training.method != "sft" and (self.selection.top_percent < 100 or self.selection.top_count):
            raise ValueError(
                f'selection.top_percent and top_count rank samples, and training.method = "{self.training.method}" learns '
                "from pairs; training.min_margin takes the clear ones"
            )
        return self

    @property
    def fingerprint(self) -> str:
        """Changes when anything changes that a run's decisions or weights depend on.

        Defaults are left out, so that a key that a later version adds changes no earlier run's.
        """
        return "2" + key("recipe", recipe=self._deciding()).hex()[2:14]

    @property
    def first_fingerprint(self) -> str:
        """The fingerprint that a run of this recipe has where it was stored before keys had a scheme."""
        return scheme_1(repr(sorted(self._deciding().items()))).hex()[:12]

    def _deciding(self) -> dict[str, Any]:
        """What is not as it is by default, and not for speed or safety alone."""
        settings = self.model_dump(mode="json", exclude={"description"}, exclude_defaults=True)
        for speed_only in ("slots", "batch_tokens", "gpu_layers", "threads"):
            settings.get("teacher", {}).pop(speed_only, None)
        settings.get("scoring", {}).pop("batch_tokens", None)
        for safety_only in ("checkpoint_steps", "checkpoints_kept"):
            settings.get("training", {}).pop(safety_only, None)
        return {name: value for name, value in settings.items() if value != {}}
