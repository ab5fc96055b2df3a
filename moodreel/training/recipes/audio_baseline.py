"""Cross-validate the audio baseline, a logistic regression on acoustic features, without writing a model."""

from collections.abc import Callable
from dataclasses import dataclass

from moodreel.training.baselines.audio_logreg import cross_validate_baseline, extract_features, summarize
from moodreel.training.experiment.options import Options, option
from moodreel.training.experiment.recipe import Recipe, RunRequest


@dataclass(frozen=True)
class AudioBaselineOptions(Options):
    """Options of the audio baseline besides the shared ones."""

    folds: int = option(5, "folds of the cross-validation by person", "[2, inf)")


class AudioBaselineRecipe(Recipe):
    """Cross-validates the audio baseline, and reports the metrics."""

    options = AudioBaselineOptions
    uses = frozenset({"seed"})
    writes_model = False
    bare_data = "ravdess-audio"

    def prepare(self, request: RunRequest[AudioBaselineOptions]) -> Callable[[], str]:
        """Check the data and the options."""
        data = request.open_dataset()

        def run() -> str:
            folds = cross_validate_baseline(
                data, extract_features(data), request.options.folds, seed=request.config.seed
            )
            return f"{data.name}: {len(data.examples)} recordings. {data.license}.\n{summarize(folds)}"

        return run
