"""Every setting: its name, type, default and description. Defaults live here and nowhere else.
`auto` is resolved in `training.auto_config`; None means off or unlimited."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BeforeValidator, Field

from charrnn.config.conflicts import Conflict
from charrnn.config.limits import LARGEST, MAX_LAYERS, MAX_ORDER, MAX_RATE, MAX_TIME_SKIP, ONLY_SETTINGS, boundary
from charrnn.config.section import Section, setting
from charrnn.config.values import (
    Amount,
    Auto,
    Glob,
    Name,
    Positive,
    Rate,
    Seconds,
    Separator,
    Share,
    SplitShare,
    TimeSkip,
    kernel_name,
    listed,
    number,
    optional,
)

Value = TypeVar("Value")


def resolved(value: Value | Auto | None) -> Value:
    """Return a setting's value where it must be neither `auto` nor unset any more."""
    if value is None or value == "auto":
        raise ValueError("the configuration is not resolved")
    return value


class DataConfig(Section):
    """The texts and how to split them."""

    texts: list[Name] = setting(
        [],
        allowed="a list of files",
        description="The texts to train on: files, folders, or '-' for standard input; named on the command line.",
    )
    encoding: Name = setting(
        "utf-8", allowed="the name of an encoding", description="Encoding of the texts, e.g. gb18030."
    )
    encoding_errors: Literal["strict", "replace", "skip"] = setting(
        "strict",
        allowed="strict, replace or skip",
        description="What becomes of bytes that are not in the encoding: strict stops there, replace puts U+FFFD in "
        "their place, skip leaves them out.",
    )
    glob: Annotated[list[Glob], Field(min_length=1), BeforeValidator(listed)] = setting(
        ["*.txt"],
        allowed="a pattern such as *.py, or a list of them",
        description="Which files of a folder are read, in any case and also compressed; hidden ones are not.",
    )
    max_expansion: Positive = setting(
        1_000,
        allowed="a positive integer",
        description="A compressed file may expand to this many times its size; more is no text, and has no end.",
    )
    split: tuple[SplitShare, SplitShare, SplitShare] = setting(
        (0.9, 0.05, 0.05),
        allowed="three shares that add up to 1, e.g. [0.9,0.05,0.05]",
        description="Shares of the training, validation and test splits; they add up to 1.",
    )
    documents: Literal["none", "line", "blank-line", "file", "separator"] = setting(
        "none",
        allowed="none, line, blank-line, file or separator",
        description="Documents are assigned to the splits at random and shuffled every epoch; none cuts in order.",
    )
    separator: Annotated[Separator | None, BeforeValidator(optional)] = setting(
        None,
        allowed='the exact text that ends each document, e.g. "\\n%\\n" with its quotes',
        description="The text that ends each document where data.documents=separator.",
    )
    min_count: Positive = setting(
        1,
        allowed="a positive integer",
        description="Leave characters that occur less often in the training split out of the vocabulary, "
        "except those in the vocabulary of the --init-from model.",
    )

    def conflicts(self) -> Iterator[Conflict]:
        train, validation, _ = self.split
        if abs(sum(self.split) - 1.0) > 1e-6 or train <= 0.0 or validation <= 0.0:
            rule = "data.split must add up to 1, with training and validation shares, e.g. [0.9,0.05,0.05]"
            yield Conflict(rule, ("data.split",))
        if self.documents == "separator" and self.separator is None:
            rule = """data.documents=separator needs data.separator, e.g. -s 'data.separator="\\n%\\n"'"""
            yield Conflict(rule, ("data.documents",))
        if self.documents != "separator" and self.separator is not None:
            yield Conflict("data.separator needs data.documents=separator", ("data.separator",), ("data.documents",))

    @property
    def boundary(self) -> str:
        """The text that ends each document."""
        return boundary(self.documents, self.separator)


class ModelConfig(Section):
    """The model: a recurrent network, an n-gram model or a hidden Markov model."""

    # the only settings of a model without recurrent layers
    ONLY_SETTINGS: ClassVar[dict[str, tuple[str, ...]]] = ONLY_SETTINGS

    cell: Literal["lstm", "gru", "rnn", "ngram", "hmm"] = setting(
        "lstm",
        allowed="lstm, gru, rnn, ngram or hmm",
        description="The recurrent cell; or ngram, a model of counts, whose only setting is `order`; or hmm, a hidden "
        "Markov model of `hidden_size` states, whose only other setting is `mixture`.",
    )
    activation: Literal["tanh", "relu", "leaky_relu"] = setting(
        "tanh", allowed="tanh, relu or leaky_relu", description="Nonlinearity of the rnn cell."
    )
    hidden_size: Positive | Auto = setting(
        "auto", allowed="a positive integer, or auto", description="Hidden units per layer."
    )
    order: Annotated[Positive, Field(le=MAX_ORDER)] | Auto = setting(
        "auto",
        allowed="an integer from 1 to 10, or auto",
        description="For ngram: characters per n-gram, including the predicted one; auto chooses by validation loss.",
    )
    num_layers: Annotated[Positive, Field(le=MAX_LAYERS)] | Auto = setting(
        "auto", allowed="a positive integer, or auto", description="Stacked recurrent layers."
    )
    embedding_size: Positive | Auto = setting(
        "auto", allowed="a positive integer, or auto", description="Dimensions of a character's embedding."
    )
    bidirectional: bool = setting(
        False,
        allowed="true or false",
        description="Train a backward network as well, and a head that predicts a character from both sides; "
        "sizes are those of one direction.",
    )
    dropout: Share | Auto = setting(
        "auto",
        allowed="a number from 0 to below 1, or auto",
        description="Probability of dropping a value in training, between layers and before the head.",
    )
    residual: bool = setting(
        False,
        allowed="true or false",
        description="Add each layer's input to its output where the sizes agree, except a tied embedding.",
    )
    layer_norm: bool = setting(False, allowed="true or false", description="Apply layer normalisation to each output.")
    leak: Annotated[
        Annotated[float, BeforeValidator(number), Field(gt=0.0, le=1.0)] | None, BeforeValidator(optional)
    ] = setting(
        None,
        allowed="a number above 0 and at most 1, or null",
        description="Leaky units: h = (1 - leak) h_previous + leak h_new; null is off.",
    )
    time_skip: Annotated[TimeSkip | None, BeforeValidator(optional)] = setting(
        None,
        allowed=f"an integer from 2 to {MAX_TIME_SKIP:,}, or null",
        description="Feed the hidden state from this many steps ago to every gate as well; null is off.",
    )
    tie_weights: bool | Auto = setting(
        "auto",
        allowed="true, false or auto",
        description="Share the embedding's weights with the head; auto does so above 2,000 distinct characters, "
        "unless embedding_size is below 128.",
    )
    init: Literal["orthogonal", "identity", "xavier", "torch"] = setting(
        "orthogonal",
        allowed="orthogonal, identity, xavier or torch",
        description="Initialisation of the recurrent weights; identity with relu is the IRNN.",
    )
    mixture: Literal["auto", "none", "ngram"] = setting(
        "auto",
        allowed="auto, none or ngram",
        description="Mix the network with an n-gram model of the training split, by weights chosen on the validation "
        "split: ngram always, none never, auto where that predicts the validation split better.",
    )

    @property
    def counted(self) -> bool:
        """Whether the model is fitted by counting, not by gradients."""
        return self.cell == "ngram"

    @property
    def kind(self) -> str:
        """A short description of the model."""
        if self.cell == "ngram":
            return f"ngram of order {self.order}"
        if self.cell == "hmm":
            return f"hmm of {self.hidden_size} state{'' if self.hidden_size == 1 else 's'}"
        return f"{self.num_layers} x {self.hidden_size} {self.cell}"

    @property
    def tied(self) -> bool:
        """Whether the head shares the embedding's weights."""
        return self.tie_weights is True

    @property
    def inapplicable(self) -> list[str]:
        """The names of the settings that do not apply to this kind of model; all have their defaults."""
        if self.cell not in self.ONLY_SETTINGS:
            return ["order"]
        return [name for name in type(self).model_fields if name not in ("cell", *self.ONLY_SETTINGS[self.cell])]

    @property
    def unresolved(self) -> list[str]:
        """The names of the settings that apply to this network and are still `auto`; `mixture` may stay so."""
        values = self.model_dump(exclude={*self.inapplicable, "mixture"})
        return [name for name, value in values.items() if value == "auto"]

    def conflicts(self) -> Iterator[Conflict]:
        given = ("model.cell",)
        fields = type(self).model_fields
        values = {name: getattr(self, name) for name in self.inapplicable}
        # false is off, even where auto is the default
        others = tuple(
            f"model.{name}" for name, value in values.items() if value is not False and value != fields[name].default
        )
        if others and self.cell in self.ONLY_SETTINGS:
            only = [f"model.{name}" for name in self.ONLY_SETTINGS[self.cell]]
            are = f"settings are {' and '.join(only)}" if len(only) > 1 else f"setting is {only[0]}"
            rule = f"model.cell={self.cell} has no recurrent layers; its only {are}"
            yield Conflict(f"{rule}. Leave out {', '.join(others)}", others, given)
            return
        if others:
            yield Conflict("model.order is for model.cell=ngram; leave it out, or set ngram", others, given)
        if self.cell != "rnn" and self.activation != "tanh":
            rule = f"model.activation is for model.cell=rnn; {self.cell} has its own. Leave it out, or set rnn"
            yield Conflict(rule, ("model.activation",), given)


class TrainConfig(Section):
    """How to train."""

    batch_size: Positive | Auto = setting(
        "auto",
        allowed="a positive integer, or auto",
        description="Sequences per batch: places of the text read in parallel.",
    )
    sequence_length: Positive = setting(
        128,
        allowed="a positive integer",
        description="Characters per sequence and step: how far gradients reach back (truncated BPTT).",
    )
    epochs: Annotated[Positive | Auto | None, BeforeValidator(optional)] = setting(
        "auto",
        allowed="a positive integer, auto or null",
        description="Passes over the training split; auto fits them to the time, and stops before the model would "
        "overfit; null leaves the length to steps or time.",
    )
    steps: Annotated[Positive | None, BeforeValidator(optional)] = setting(
        None, allowed="a positive integer, or null", description="Total optimizer steps, instead of epochs."
    )
    time: Seconds = setting(
        None,
        allowed="a time such as 90s, 10m or 1h30m, or null",
        description="Wall-clock budget, e.g. 10m; the learning rate anneals to its end, or to that of auto epochs "
        "if these take less time.",
    )
    learning_rate: Rate | Auto = setting(
        "auto", allowed=f"a number above 0, at most {MAX_RATE:,.0f}, or auto", description="Peak learning rate."
    )
    optimizer: Literal["adamw", "rmsprop", "sgd"] = setting(
        "adamw", allowed="adamw, rmsprop or sgd", description="The optimizer; sgd uses momentum 0.9."
    )
    schedule: Literal["cosine", "constant", "linear"] = setting(
        "cosine",
        allowed="cosine, constant or linear",
        description="How the learning rate falls from its peak to 1% of it.",
    )
    warmup_steps: Annotated[int, BeforeValidator(number), Field(ge=0, le=LARGEST)] = setting(
        100,
        allowed="a non-negative integer",
        description="Steps of linear warm-up to the peak learning rate; at most a tenth of all steps.",
    )
    weight_decay: Amount | Auto = setting(
        "auto",
        allowed=f"a number from 0 to {MAX_RATE:,.0f}, or auto",
        description="Decoupled weight decay (L2): each step shrinks every matrix but an untied embedding "
        "by the learning rate times this; auto depends on epochs, steps per epoch, learning rate and optimizer.",
    )
    init_from: Annotated[Name | None, BeforeValidator(optional)] = setting(
        None,
        allowed="a model as -m takes it, or null",
        description="The model to start from, as --init-from names it, which overrides this; null starts from random "
        "weights. A run's config.yaml has the path of the model file, and a digest that tells if it has changed.",
    )
    distillation: Share | Auto = setting(
        "auto",
        allowed="a number from 0 to below 1, or auto",
        description="With --init-from: share of the loss that is distillation from the initial model; auto "
        "is 0.3, less or 0 if that model predicts the text much worse than an n-gram model does, and 0 above "
        "2 million characters; 0 is off.",
    )
    l1: Amount = setting(
        0.0,
        allowed=f"a number from 0 to {MAX_RATE:,.0f}",
        description="Factor of the L1 norm of all weight matrices in the loss.",
    )
    clip_norm: Annotated[Rate | None, BeforeValidator(optional)] = setting(
        1.0,
        allowed=f"a number above 0, at most {MAX_RATE:,.0f}, or null",
        description="Clip the gradient's global norm to this; null is off.",
    )
    clip_value: Annotated[Rate | None, BeforeValidator(optional)] = setting(
        None,
        allowed=f"a number above 0, at most {MAX_RATE:,.0f}, or null",
        description="Clip each gradient element to this size; null is off.",
    )
    precision: Literal["auto", "fp32", "bf16"] = setting(
        "auto",
        allowed="auto, fp32 or bf16",
        description="Number format of matrix products; auto benchmarks those of the device and uses the faster.",
    )
    kernel: Annotated[Literal["auto", "torch", "custom"], BeforeValidator(kernel_name)] = setting(
        "auto",
        allowed="auto, torch or custom",
        description="The kernel that runs the recurrent layers: torch's, where there is one, or charrnn's custom one; "
        "auto benchmarks both on a CPU.",
    )
    eval_every: Positive | Auto = setting(
        "auto", allowed="a positive integer, or auto", description="Steps between evaluations."
    )
    patience: Annotated[Positive | Auto | None, BeforeValidator(optional)] = setting(
        "auto",
        allowed="a positive integer, auto or null",
        description="Stop after this many evaluations without improvement; null never stops early.",
    )
    seed: Annotated[
        Annotated[int, BeforeValidator(number), Field(ge=0, lt=2**63)] | None, BeforeValidator(optional)
    ] = setting(
        None,
        allowed="a non-negative integer, or null",
        description="Random seed; null draws one and prints it.",
    )

    @property
    def step_characters(self) -> int:
        """Return the characters of one optimizer step."""
        return resolved(self.batch_size) * self.sequence_length

    def conflicts(self) -> Iterator[Conflict]:
        if isinstance(self.epochs, int) and self.steps is not None:
            both = ("train.epochs", "train.steps")
            yield Conflict("train.epochs and train.steps are both set; set one of them", both)
        if self.epochs is None and self.steps is None and self.time is None:
            none = "train.epochs is null, and so are train.steps and train.time; set one of them"
            yield Conflict(none, ("train.epochs",), ("train.steps", "train.time"))


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

    def conflicts(self) -> Iterator[Conflict]:
        fields = type(self.train).model_fields.items()
        changed = [f"train.{name}" for name, field in fields if getattr(self.train, name) != field.default]
        others = tuple(name for name in changed if name != "train.seed")
        if self.model.counted and others:
            rule = f"model.cell={self.model.cell} counts the text once; its only train setting is the seed."
            yield Conflict(f"{rule} Leave out {', '.join(others)}", others, ("model.cell",))

    def with_values(self, **sections: Mapping[str, Any]) -> Config:
        """Return a validated copy with some settings replaced, e.g. with_values(train={"epochs": 3})."""
        values = self.model_dump()
        for section, changes in sections.items():
            values[section].update(changes)
        return Config.model_validate(values)
