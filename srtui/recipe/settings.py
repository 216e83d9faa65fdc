"""The keys of a recipe: type, default, what each does, its unit, where its default is from.

``docs/recipes.md`` and ``srtui recipes`` are made from what stands here. A new key's default may never
change afterwards: defaults are left out of a run's fingerprint and of the keys of stored work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from srtui.hashing import key, scheme_1
from srtui.measures import MEASURES, STORED
from srtui.prompts import PromptSet, template_names
from srtui.recipe.gates import GateSettings
from srtui.recipe.measure_weights import MeasureWeights
from srtui.recipe.section import MOST, Auto, Count, Quantization, Section, Seed, described
from srtui.recipe.teacher import ReflectionSettings, SamplingSettings, TeacherSettings
from srtui.recipe.training import TrainingSettings


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
        "The sentence encoder of choices by coherence and of `embedded_by`: its name in models/, or its folder.",
        change='Needed by `instruction_by` or `response_by` = "coherence", and `embedded_by` = "encoder", with the extra '
        "srtui[coherence].",
        source="the paper's ablations, tables 4 and 9",
    )
    embedded_by: Literal["student", "encoder"] = described(
        "student",
        'What makes the embeddings of `top_by` = "facility" and of clusters: the student\'s own hidden states, in the pass '
        "that scores IFD, or `encoder`.",
        change='"encoder" for a model that was made for it, or where the student is a GGUF.',
        source="the student's as in RDS+ (arXiv 2503.01807)",
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
        "repeats, where those of high IFD count more; above 50,000 texts within parts of them.",
        source="the paper",
    )
    group: Annotated[str, Field(pattern=r'^$|^field:[^"]{1,80}$|^clusters:[1-9][0-9]{0,3}$')] = described(
        "",
        'Groups that `top_percent` and `top_count` take the same share of each: "field:NAME" by a field of the dataset\'s '
        'rows, "clusters:12" by so many clusters of the student\'s own embeddings; empty is one group.',
        change="Where ranking takes one kind of task, such as code, and hardly any of another.",
        source="srtui's own; the paper ranks all samples together",
    )

    @property
    def embeds(self) -> bool:
        """Whether embeddings are needed to choose what is trained on."""
        return self.top_by == "facility" or self.group.startswith("clusters:")


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
        selection = self.selection
        for needs, word in (
            (selection.top_by == "facility", f'selection.top_by = "{selection.top_by}"'),
            (selection.group.startswith("clusters:"), f'selection.group = "{selection.group}"'),
            (self.gates.coherence, "gates.coherence = true"),
        ):
            if needs and self.student.quantization == "gguf" and selection.embedded_by == "student":
                raise ValueError(
                    f'{word} needs a student of safetensors, not a GGUF, or selection.embedded_by = "encoder"'
                )
            if needs and selection.embedded_by == "encoder" and not selection.encoder:
                raise ValueError(
                    f'{word} with selection.embedded_by = "encoder" needs selection.encoder, the name or folder of a '
                    "sentence encoder"
                )
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
        weights = self.selection.weights
        parts = set(weights.measures) if weights is not None and "combined" in by else set[str]()
        for measure in (MEASURES[name] for name in sorted(by | parts) if name in MEASURES):
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
        for speed_only in ("slots", "batch_tokens", "gpu_layers", "threads", "drafting"):
            settings.get("teacher", {}).pop(speed_only, None)
        settings.get("scoring", {}).pop("batch_tokens", None)
        for safety_only in ("checkpoint_steps", "checkpoints_kept"):
            settings.get("training", {}).pop(safety_only, None)
        return {name: value for name, value in settings.items() if value != {}}
