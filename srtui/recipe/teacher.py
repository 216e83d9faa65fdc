"""The keys of a recipe's sections ``teacher``, ``sampling`` and ``reflection``: who rewrites, how, and how often."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from srtui.errors import UserError
from srtui.recipe.section import MOST, Auto, Count, Section, Share, described
from srtui.recipe.server_address import parse_address


class TeacherSettings(Section):
    """The GGUF model that criticises and rewrites, and how llama.cpp runs it.

    `slots`, `batch_tokens`, `gpu_layers`, `threads` and `drafting` are speed and memory alone: a run that is
    resumed with others is the same run.
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

    drafting: Auto | bool = described(
        False,
        "Whether the next tokens are guessed from where the last ones stood before, and checked in the same step; auto "
        "measures when the teacher is opened whether that pays, and guesses where it does.",
        change='"auto" for few slots, or a teacher on a GPU, where a rewrite copies much. What is written is what '
        "would be written without.",
        source="srtui's own",
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
