"""Every setting: its name, type, default and a sentence. Defaults live here and nowhere else.
`auto` is settled in `training.auto_config`; None means off."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Auto = Literal["auto"]
NOTHING = {"null", "none", "~", ""}


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a number is needed, not yes or no")
    return value


def _optional(value: Any) -> Any:
    return None if isinstance(value, str) and value.lower() in NOTHING else value


def _seconds(value: Any) -> Any:
    """Read 90, 90s, 10m, 1.5h or 1h30m as seconds."""
    if not isinstance(value, str):
        return value
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "": 1.0}
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([hms]?)", value.lower())
    if not parts or "".join(number + unit for number, unit in parts) != value.lower().replace(" ", ""):
        raise ValueError("a time is needed, e.g. 90s, 10m or 1h30m")
    return sum(float(number) * units[unit] for number, unit in parts)


def _kernel(value: Any) -> Any:
    """Read the name that charrnn's kernel had in files of earlier versions."""
    return "custom" if value == "own" else value


def setting(default: Any, *, takes: str, description: str) -> Any:
    """Declare a setting: its default, what it takes in words, and a sentence on what it does."""
    return Field(default, description=description, json_schema_extra={"takes": takes})


Positive = Annotated[int, BeforeValidator(_number), Field(ge=1, le=10**12)]
Share = Annotated[float, BeforeValidator(_number), Field(ge=0.0, lt=1.0)]
Amount = Annotated[float, BeforeValidator(_number), Field(ge=0.0, allow_inf_nan=False)]
Rate = Annotated[float, BeforeValidator(_number), Field(gt=0.0, allow_inf_nan=False)]


class Section(BaseModel):
    """A group of settings; unknown names are refused."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        coerce_numbers_to_str=True,
        validate_default=True,
        protected_namespaces=(),
    )


class DataConfig(Section):
    """What to read and how to part it."""

    texts: list[str] = setting(
        [],
        takes="a list of files",
        description="The texts to learn: files, folders, or '-'; the command line names them.",
    )
    encoding: str = setting("utf-8", takes="an encoding's name", description="The texts' encoding, e.g. gb18030.")
    split: tuple[Amount, Amount, Amount] = setting(
        (0.9, 0.05, 0.05),
        takes="three shares that add up to 1, e.g. [0.9,0.05,0.05]",
        description="Shares of training, validation and test part; they add up to 1.",
    )
    documents: Literal["none", "line", "blank-line", "file"] = setting(
        "none",
        takes="none, line, blank-line or file",
        description="What a document is: dealt to the parts at random and shuffled every epoch; "
        "none splits the text in one piece, in order.",
    )
    min_count: Positive = setting(
        1,
        takes="a whole number from 1",
        description="Characters seen less often in the training part are left out of the vocabulary, "
        "except those that the model of --init-from knows.",
    )

    @model_validator(mode="after")
    def _shares(self) -> DataConfig:
        train, validation, _ = self.split
        if abs(sum(self.split) - 1.0) > 1e-6 or train <= 0.0 or validation <= 0.0:
            raise ValueError("data.split must add up to 1, with a training and a validation part, e.g. [0.9,0.05,0.05]")
        return self


class ModelConfig(Section):
    """The network, or what stands in its place: an n-gram model, a hidden Markov model."""

    # what a model without a recurrent stack takes; all else is refused
    OWN: ClassVar[dict[str, str]] = {"ngram": "order", "hmm": "hidden_size"}

    cell: Literal["lstm", "gru", "rnn", "ngram", "hmm"] = setting(
        "lstm",
        takes="lstm, gru, rnn, ngram or hmm",
        description="The recurrent cell; or ngram, which counts and takes `order` alone; or hmm, a hidden Markov model "
        "of `hidden_size` states, which takes that alone.",
    )
    activation: Literal["tanh", "relu", "leaky_relu"] = setting(
        "tanh", takes="tanh, relu or leaky_relu", description="The rnn cell's nonlinearity."
    )
    hidden_size: Positive | Auto = setting(
        "auto", takes="a whole number from 1, or auto", description="Units of a layer."
    )
    order: Annotated[Positive, Field(le=10)] | Auto = setting(
        "auto",
        takes="a whole number from 1 to 10, or auto",
        description="For ngram: the characters of a gram, the foretold one with them; auto tries them on validation.",
    )
    num_layers: Positive | Auto = setting(
        "auto", takes="a whole number from 1, or auto", description="Recurrent layers, one on the other."
    )
    embedding_size: Positive | Auto = setting(
        "auto", takes="a whole number from 1, or auto", description="Numbers that stand for one character."
    )
    bidirectional: bool = setting(
        False,
        takes="true or false",
        description="Learn to read backwards as well, and what stands between both sides; sizes are those of one half.",
    )
    dropout: Share | Auto = setting(
        "auto",
        takes="a number from 0 up to but not 1, or auto",
        description="Share of values dropped in training, between the layers and before the head.",
    )
    residual: bool = setting(
        False,
        takes="true or false",
        description="Add each layer's input to its output, where the sizes agree; a tied embedding is not added.",
    )
    layer_norm: bool = setting(False, takes="true or false", description="Normalise each layer's output.")
    leak: Annotated[
        Annotated[float, BeforeValidator(_number), Field(gt=0.0, le=1.0)] | None, BeforeValidator(_optional)
    ] = setting(
        None,
        takes="a number above 0 and at most 1, or null",
        description="Leaky units: h = (1-leak) h_before + leak h_new; null is off.",
    )
    time_skip: Annotated[Annotated[int, BeforeValidator(_number), Field(ge=2)] | None, BeforeValidator(_optional)] = (
        setting(
            None,
            takes="a whole number from 2, or null",
            description="Feed the hidden state of so many steps ago to every gate as well; null is off.",
        )
    )
    tie_weights: bool | Auto = setting(
        "auto",
        takes="true, false or auto",
        description="Let the head share the embedding's weights; auto does above 2,000 distinct characters, "
        "unless the embedding is below 128.",
    )
    init: Literal["orthogonal", "identity", "xavier", "torch"] = setting(
        "orthogonal",
        takes="orthogonal, identity, xavier or torch",
        description="How recurrent weights start; identity with relu is the IRNN.",
    )

    @property
    def counted(self) -> bool:
        """Say whether the model is made by counting, not by gradients."""
        return self.cell == "ngram"

    @property
    def kind(self) -> str:
        """Say in a few words what the model is."""
        if self.cell == "ngram":
            return f"ngram of order {self.order}"
        if self.cell == "hmm":
            return f"hmm of {self.hidden_size} states"
        return f"{self.num_layers} x {self.hidden_size} {self.cell}"

    @property
    def tied(self) -> bool:
        """Say whether the head shares the embedding's weights."""
        return self.tie_weights is True

    @property
    def foreign(self) -> list[str]:
        """Name the settings that this kind of model does not take; all of them have their defaults."""
        if self.cell not in self.OWN:
            return ["order"]
        return [name for name in type(self).model_fields if name not in ("cell", self.OWN[self.cell])]

    @property
    def unsettled(self) -> list[str]:
        """Name what is still `auto` and means something to this model."""
        return [name for name, value in self.model_dump(exclude=set(self.foreign)).items() if value == "auto"]

    @model_validator(mode="after")
    def _options_are_for_their_cells(self) -> ModelConfig:
        fields = type(self).model_fields
        chosen = {name: getattr(self, name) for name in self.foreign}
        # off is off, even where auto is the default
        others = [
            f"model.{name}" for name, value in chosen.items() if value is not False and value != fields[name].default
        ]
        if others and self.cell not in self.OWN:
            raise ValueError("model.order is for model.cell=ngram; leave it out, or set ngram")
        if others:
            raise ValueError(
                f"model.cell={self.cell} has no recurrent stack and takes model.{self.OWN[self.cell]} alone;"
                f" leave out {', '.join(others)}"
            )
        return self

    @model_validator(mode="after")
    def _activation_is_for_rnn(self) -> ModelConfig:
        if self.cell != "rnn" and self.activation != "tanh":
            raise ValueError(
                f"model.activation is for model.cell=rnn; {self.cell} has its own. Leave it out, or set rnn"
            )
        return self


class TrainConfig(Section):
    """How to learn."""

    batch_size: Positive | Auto = setting(
        "auto",
        takes="a whole number from 1, or auto",
        description="Lanes: places of the text read at the same time.",
    )
    sequence_length: Positive = setting(
        128,
        takes="a whole number from 1",
        description="Characters a step, and how far gradients reach back (truncated BPTT).",
    )
    epochs: Annotated[Positive | Auto | None, BeforeValidator(_optional)] = setting(
        "auto",
        takes="a whole number from 1, auto or null",
        description="Passes over the training part; auto fits the time, and what the text bears before a "
        "network knows it by heart; null leaves it to steps or time.",
    )
    steps: Annotated[Positive | None, BeforeValidator(_optional)] = setting(
        None, takes="a whole number from 1, or null", description="Optimizer steps in all, instead of epochs."
    )
    time: Annotated[
        Annotated[float, BeforeValidator(_number), Field(gt=0.0, allow_inf_nan=False)] | None,
        BeforeValidator(_seconds),
        BeforeValidator(_optional),
    ] = setting(
        None,
        takes="a time such as 90s, 10m or 1h30m, or null",
        description="Wall-clock budget, e.g. 10m; the schedule anneals to it, or to auto epochs where these take less.",
    )
    learning_rate: Rate | Auto = setting("auto", takes="a number above 0, or auto", description="The peak rate.")
    optimizer: Literal["adamw", "rmsprop", "sgd"] = setting(
        "adamw", takes="adamw, rmsprop or sgd", description="The optimizer; sgd has momentum 0.9."
    )
    schedule: Literal["cosine", "constant", "linear"] = setting(
        "cosine",
        takes="cosine, constant or linear",
        description="How the rate falls from its peak to a hundredth of it.",
    )
    warmup_steps: Annotated[int, BeforeValidator(_number), Field(ge=0)] = setting(
        100,
        takes="a whole number from 0",
        description="Steps in which the rate climbs to its peak; never more than a tenth of all steps.",
    )
    weight_decay: Amount | Auto = setting(
        "auto",
        takes="a number from 0, or auto",
        description="L2 as decoupled weight decay: a step takes the rate times this off every matrix but an "
        "embedding that is not tied; auto goes by epochs, the steps of one, rate and optimizer.",
    )
    distillation: Share | Auto = setting(
        "auto",
        takes="a number from 0 to below 1, or auto",
        description="With --init-from: the share of what is learnt that is not the text but what the model that it "
        "starts from expects there; auto is 0.3, less or 0 where that model foretells the text much worse than an "
        "n-gram model of it, 0 for more than 2 million characters; 0 is off.",
    )
    l1: Amount = setting(
        0.0,
        takes="a number from 0",
        description="Weight of the summed absolute weights in the loss, on matrices only.",
    )
    clip_norm: Annotated[Rate | None, BeforeValidator(_optional)] = setting(
        1.0,
        takes="a number above 0, or null",
        description="Scale the gradient down to this norm; null is off.",
    )
    clip_value: Annotated[Rate | None, BeforeValidator(_optional)] = setting(
        None, takes="a number above 0, or null", description="Cut each gradient to this size; null is off."
    )
    precision: Literal["auto", "fp32", "bf16"] = setting(
        "auto",
        takes="auto, fp32 or bf16",
        description="Number format of the products; auto tries what the device has and takes the faster.",
    )
    kernel: Annotated[Literal["auto", "torch", "custom"], BeforeValidator(_kernel)] = setting(
        "auto",
        takes="auto, torch or custom",
        description="Which kernel runs the layers through time: torch's, where there is one, or charrnn's custom one; "
        "auto tries both on a CPU.",
    )
    eval_every: Positive | Auto = setting(
        "auto", takes="a whole number from 1, or auto", description="Steps between evaluations."
    )
    patience: Annotated[Positive | Auto | None, BeforeValidator(_optional)] = setting(
        "auto",
        takes="a whole number from 1, auto or null",
        description="Stop after so many evaluations without a better one; null never stops.",
    )
    seed: Annotated[
        Annotated[int, BeforeValidator(_number), Field(ge=0, lt=2**63)] | None, BeforeValidator(_optional)
    ] = setting(
        None,
        takes="a whole number from 0, or null",
        description="Seed of all that is random; drawn and printed if null.",
    )

    @model_validator(mode="after")
    def _one_length(self) -> TrainConfig:
        if isinstance(self.epochs, int) and self.steps is not None:
            raise ValueError("train.epochs and train.steps are both set; set one of them")
        if self.epochs is None and self.steps is None and self.time is None:
            raise ValueError("train.epochs is null, and so are train.steps and train.time; set one of them")
        return self


class Config(Section):
    """All settings of a run."""

    SECTIONS: ClassVar[dict[str, type[Section]]] = {
        "data": DataConfig,
        "model": ModelConfig,
        "train": TrainConfig,
    }

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _counting_takes_no_training(self) -> Config:
        fields = type(self.train).model_fields.items()
        changed = [f"train.{name}" for name, field in fields if getattr(self.train, name) != field.default]
        others = [name for name in changed if name != "train.seed"]
        if self.model.counted and others:
            raise ValueError(
                f"model.cell={self.model.cell} counts the text once and takes no setting of training but the seed;"
                f" leave out {', '.join(others)}"
            )
        return self

    def with_values(self, **sections: Mapping[str, Any]) -> Config:
        """Give a copy with some settings replaced and all checked anew, e.g. with_values(train={"epochs": 3})."""
        values = self.model_dump()
        for section, changes in sections.items():
            values[section].update(changes)
        return Config.model_validate(values)
