"""What decides what comes out of training a network on crops, for each of the architectures."""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class AppearanceRecipe:
    """Everything that decides what comes out, besides the data.

    ferplus, fer2013, muxspace: share of each head in the answer; with tau (see `ExpressionNet`) they change the
        answer, not what is learnt.
    held_out: share of FER+'s training pictures that only the temperatures are fitted on.
    faces, others: crops of FER+ and of muxspace in a batch.
    rarity: pictures come (1 / their label's number) ** rarity times as often.
    mix: share of the batches in which crops are blended by pairs (mixup, Zhang et al. 2018); none while polishing.
    smoothing: share of every target that is spread over all labels.
    teacher: a model trained before, by folder or by name in the store, that says what to learn of muxspace's faces,
        and beside the labels of FER+'s; without one the averaged network does, for muxspace's, after a fifth of the
        steps.
    taught: weight of what is said of muxspace's faces. distilled: share of the teacher's word in FER+'s targets.
    average: how much of the averaged weights stays at each step.
    rate: rises over the first `warm` steps, falls to zero over the last `cooling` of them.
    steps, clean: how long to train, and the share of crops that are no more than misaligned.
    polish_steps, polish_rate, polish_clean: the same while polishing.
    """

    architecture: ClassVar[str] = "face-expression"
    what: ClassVar[str] = "A residual network with squeeze-and-excitation (He et al. 2016, Hu et al. 2018)"
    """For its card."""
    network: ClassVar[tuple[str, ...]] = ("dropout",)
    """Fields that are arguments of the network."""

    seed: int = 0
    ferplus: float = 0.8
    fer2013: float = 0.2
    muxspace: float = 0.0
    tau: float = 0.15
    held_out: float = 0.08
    dropout: float = 0.3
    steps: int = 6800
    clean: float = 0.3
    polish_steps: int = 1200
    polish_rate: float = 8e-4
    polish_clean: float = 0.75
    faces: int = 176
    others: int = 64
    rarity: float = 0.4
    mix: float = 0.3
    smoothing: float = 0.05
    teacher: str = ""
    taught: float = 0.5
    distilled: float = 0.5
    rate: float = 3e-3
    warm: int = 500
    cooling: float = 0.35
    decay: float = 0.05
    average: float = 0.999

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of the network, but for classes and temperatures."""
        shares = [self.ferplus, self.fer2013, self.muxspace]
        return {name: asdict(self)[name] for name in self.network} | {"shares": shares, "tau": self.tau}


@dataclass(frozen=True)
class ResEmoteNetRecipe(AppearanceRecipe):
    """width: of all layers, in those of the published network. blank: see `ResEmoteNet`."""

    architecture: ClassVar[str] = "resemotenet"
    what: ClassVar[str] = "ResEmoteNet (Roy et al. 2024), {width:g} times as wide as published, a head a convention,"
    network: ClassVar[tuple[str, ...]] = ("width", "blank", "dropout")

    width: float = 0.25
    blank: float = 0.05
    dropout: float = 0.2
    steps: int = 2600
    polish_steps: int = 300
    polish_rate: float = 6e-4
    faces: int = 128
    others: int = 40
    mix: float = 0.1
    smoothing: float = 0.0
    teacher: str = "face-expression"
    warm: int = 200
    cooling: float = 0.6
    average: float = 0.998

    def arguments(self) -> dict[str, Any]:
        # Pictures to learn from are crops already.
        return {"portrait": False} | super().arguments()


@dataclass(frozen=True)
class ViTRecipe(AppearanceRecipe):
    """patch, width, heads, layers: see `ViTNet`."""

    architecture: ClassVar[str] = "vit"
    what: ClassVar[str] = "A vision transformer (Dosovitskiy et al. 2021) of {layers} layers behind three convolutions"
    network: ClassVar[tuple[str, ...]] = ("patch", "width", "heads", "layers", "dropout")

    patch: int = 1
    width: int = 192
    heads: int = 4
    layers: int = 5
    dropout: float = 0.0
    steps: int = 2000
    polish_steps: int = 200
    polish_rate: float = 4e-4
    faces: int = 128
    others: int = 40
    mix: float = 0.1
    smoothing: float = 0.0
    teacher: str = "face-expression"
    rate: float = 1.2e-3
    warm: int = 250
    cooling: float = 0.6
    average: float = 0.998


@dataclass(frozen=True)
class TextRecipe:
    """Everything that decides what a network for texts becomes, besides the data and the pretrained weights.

    layers: of the pretrained network that are kept.
    held_out: share of the training texts that only calibration and thresholds are fitted on.
    rate: of the topmost layer; each one below has `layer_decay` times that of the one above. head_rate: of the head.
    warm: share of the steps over which the rates rise; over the rest they fall to zero.
    finer: weight of the 28 labels beside the seven classes.
    longest: word pieces of a text that are learnt from. average: how much of the averaged weights stays at each step.
    brief: whether to compute in bfloat16, which some processors do twice as fast.
    weights: how they are stored, one of `moodreel.models.quantization.PRECISIONS`.
    """

    seed: int = 0
    layers: int = 6
    held_out: float = 0.1
    epochs: int = 4
    batch: int = 64
    rate: float = 1.2e-4
    head_rate: float = 1e-3
    layer_decay: float = 0.9
    decay: float = 0.01
    warm: float = 0.06
    dropout: float = 0.1
    finer: float = 0.5
    longest: int = 96
    average: float = 0.998
    brief: bool = True
    weights: str = "float16"
