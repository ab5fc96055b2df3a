"""Tests of the comparison: the verdict, groups, overfitting, the evaluation split and common labels."""

from dataclasses import replace

import numpy as np
import pytest

from moodreel.emotions import EIGHT, FIVE, SEVEN
from moodreel.errors import DataInvalid, MoodreelError
from moodreel.models.model_card import ModelCard
from moodreel.training.comparison import cost
from moodreel.training.comparison.split import evaluation_split, trained_on
from moodreel.training.comparison.verdict import loser, verdict, winner
from moodreel.training.data.label_mapping import common_labels, describe_mapping, mapping_matrix
from moodreel.training.data.splits import Split
from moodreel.training.evaluation.significance import MIN_UNITS
from tests.support.tabular_models import CONFIG, LABELS, TabularModel, make_dataset, run_comparison


@pytest.fixture(autouse=True)
def few_repetitions(monkeypatch):
    """Time few repetitions: no test here depends on the latency."""
    monkeypatch.setattr(cost, "REPETITIONS", 3)
    monkeypatch.setattr(cost, "WARM_UP", 1)
    monkeypatch.setattr(cost, "count_flops", lambda model: 0)


# Verdict


def test_identical_models_have_no_winner(tmp_path):
    comparison = run_comparison([TabularModel(tmp_path, "one"), TabularModel(tmp_path, "other")], make_dataset())
    assert winner(comparison) is None
    assert loser(comparison) is None
    answer, detail = verdict(comparison)
    assert answer.startswith("No winner")
    assert "one and other perform the same" in detail
    [pair] = comparison.pairs
    assert pair.mcnemar.p == 1
    for difference in pair.differences.values():
        assert (difference.value, difference.interval.low, difference.interval.high, difference.p) == (0, 0, 0, 1)


def test_models_that_differ_by_chance_rarely_have_a_winner(tmp_path):
    """A 95 % interval allows it one time in twenty."""
    winners = []
    for seed in range(0, 24, 2):
        models = [TabularModel(tmp_path, "one", seed=seed), TabularModel(tmp_path, "other", seed=seed + 1)]
        comparison = run_comparison(models, make_dataset())
        winners.append(winner(comparison))
        assert ("cannot be told apart" in verdict(comparison)[1]) == (winners[-1] is None)
    assert winners.count(None) >= 10


def test_labels_with_few_examples_are_named(tmp_path):
    models = [TabularModel(tmp_path, "bad", share=0.3, seed=1), TabularModel(tmp_path, "good")]
    data = make_dataset(60)
    few = replace(data, examples=tuple(e for row, e in enumerate(data.examples) if e.label != LABELS[0] or row < 9))
    expected = f"Few examples of {LABELS[0]} (3): each of them moves balanced accuracy"
    assert verdict(run_comparison(models, few))[-1].startswith(expected)
    assert "Few" not in verdict(run_comparison(models, few, replace(CONFIG, decision_metric="accuracy")))[-1]
    assert "Few" not in verdict(run_comparison(models, data))[-1]


def test_the_better_of_two_models_wins_by_the_difference_that_the_verdict_states(tmp_path):
    comparison = run_comparison(
        [TabularModel(tmp_path, "bad", share=0.3, seed=1), TabularModel(tmp_path, "good")], make_dataset()
    )
    assert (winner(comparison), loser(comparison)) == ("good", "bad")
    answer, detail = verdict(comparison)
    assert answer == "good is better than the other in balanced accuracy."
    difference = comparison.pairs[0].differences["balanced_accuracy"]
    assert difference.interval.low <= difference.value <= difference.interval.high < 0
    assert f"by {-100 * difference.value:.1f} points" in detail


def test_of_three_models_one_can_be_worse_than_both_others_without_a_winner(tmp_path):
    models = [TabularModel(tmp_path, "a"), TabularModel(tmp_path, "b"), TabularModel(tmp_path, "c", share=0.2, seed=3)]
    comparison = run_comparison(models, make_dataset())
    assert (winner(comparison), loser(comparison)) == (None, "c")
    assert verdict(comparison)[0] == "No winner, but c is worse than each of the others in balanced accuracy."
    assert len(comparison.pairs) == 3


def test_the_decision_metric_can_be_chosen(tmp_path):
    """One model always predicts the most frequent label: high accuracy, low balanced accuracy."""
    data = make_dataset(200, labels=("calm", "glad"))
    examples = tuple(replace(e, label="calm") if row < 180 else e for row, e in enumerate(data.examples))
    data = replace(data, examples=examples)

    class AlwaysCalm(TabularModel):
        def predict(self, examples, media, context):
            predictions = super().predict(examples, media, context)
            predictions.probabilities[:] = (0.9, 0.1)
            return predictions

    models = [
        AlwaysCalm(tmp_path, "calm", labels=("calm", "glad")),
        TabularModel(tmp_path, "fair", share=0.8, labels=("calm", "glad")),
    ]
    assert winner(run_comparison(models, data, replace(CONFIG, decision_metric="accuracy"))) == "calm"
    assert winner(run_comparison(models, data)) == "fair"


def test_there_is_no_winner_with_too_few_persons(tmp_path):
    models = [TabularModel(tmp_path, "bad", share=0.2, seed=1), TabularModel(tmp_path, "good", share=0.95)]
    few, enough = (run_comparison(models, make_dataset(people=count)) for count in (MIN_UNITS - 1, MIN_UNITS))
    assert winner(few) is None
    assert f"{MIN_UNITS - 1} persons are too few" in verdict(few)[0]
    assert winner(enough) == "good"
    assert enough.by_person


def test_a_single_model_is_evaluated_without_pairs(tmp_path):
    comparison = run_comparison([TabularModel(tmp_path)], make_dataset())
    assert not comparison.pairs
    assert "nothing to compare" in verdict(comparison)[0]


# Errors and groups


def test_an_example_without_a_face_counts_as_wrong(tmp_path):
    comparison = run_comparison([TabularModel(tmp_path, "half blind", share=1, lost=0.5)], make_dataset())
    metrics = comparison.results[0].metrics
    assert metrics.accuracy == metrics.found < 0.7
    assert metrics.ece is not None


def test_groups_and_persons_are_sorted_worst_first(tmp_path):
    data = make_dataset(people=8, groups=("young", "old"))

    class BadOnOld(TabularModel):
        def predict(self, examples, media, context):
            predictions = super().predict(examples, media, context)
            old = np.array([example.group == "old" for example in examples])
            worse = np.roll(predictions.probabilities, 1, axis=1)
            return replace(predictions, probabilities=np.where(old[:, None], worse, predictions.probabilities))

    result = run_comparison([BadOnOld(tmp_path, share=0.9)], data).results[0]
    assert [group.name for group in result.groups] == ["old", "young"]
    assert result.groups[0].accuracy < 0.2 < 0.8 < result.groups[1].accuracy
    assert all(person.interval.low < person.interval.high for person in result.people if 0 < person.accuracy < 1)
    people = [person.accuracy for person in result.people]
    assert len(people) == 8
    assert people == sorted(people)
    assert sum(group.examples for group in result.groups) == len(data.examples)


def test_persons_with_few_examples_are_left_out_and_a_group_of_one_file_has_no_interval(tmp_path):
    assert run_comparison([TabularModel(tmp_path)], make_dataset(48, people=12)).results[0].people == ()
    given = {"one": np.arange(240) < 1, "many": np.arange(240) >= 1}
    groups = {
        group.name: group.interval
        for group in run_comparison([TabularModel(tmp_path)], make_dataset(), groups=given).results[0].groups
    }
    assert groups["one"] is None
    assert groups["many"] is not None


def test_groups_may_be_given_and_overlap(tmp_path):
    given = {"glasses": np.arange(240) < 60, "all": np.ones(240, bool), "nobody": np.zeros(240, bool)}
    result = run_comparison([TabularModel(tmp_path)], make_dataset(), groups=given).results[0]
    assert {group.name: group.examples for group in result.groups} == {"glasses": 60, "all": 240}


# Overfitting


def dataset_with_split(count=240, train=160, **options):
    own = Split(np.arange(train), np.arange(train, count), leaks=False, reason="The set's own split.")
    return make_dataset(count, own=own, **options)


class Memorizer(TabularModel):
    """Predicts the first 160 images, the training part, perfectly."""

    def predict(self, examples, media, context):
        predictions = super().predict(examples, media, context)
        for row, example in enumerate(examples):
            if example.media[0, 0] < 160:
                predictions.probabilities[row] = 0.01
                predictions.probabilities[row, self.info.labels.index(example.label)] = 0.98
        return predictions


def test_the_gap_is_training_accuracy_minus_held_out_accuracy(tmp_path):
    models = [
        Memorizer(tmp_path, "memorizer", share=0.5, data="Made (1999)"),
        TabularModel(tmp_path, "fresh", share=1, data="made"),
        TabularModel(tmp_path, "unrelated", data="elsewhere"),
    ]
    data = dataset_with_split()
    memorizer, fresh, unrelated = run_comparison(models, data).results
    assert (memorizer.gap.train_accuracy, memorizer.gap.examples) == (1, 40)
    assert memorizer.gap.value == pytest.approx(1 - memorizer.metrics.accuracy)
    assert 0 < memorizer.gap.interval.low <= memorizer.gap.value <= memorizer.gap.interval.high
    assert (fresh.gap.value, fresh.gap.interval.low, fresh.gap.interval.high) == (0, 0, 0)
    assert unrelated.gap is None
    assert "--gap" in unrelated.gap_reason
    assert run_comparison(models, data, replace(CONFIG, always_gap=True)).results[2].gap is not None
    assert run_comparison(models, make_dataset()).results[0].gap is None


def test_the_gap_is_measured_on_examples_with_a_majority_label_only(tmp_path):
    settled = np.arange(240) >= 150
    data = replace(dataset_with_split(), has_majority=settled)
    [result] = run_comparison([Memorizer(tmp_path, "memorizer", data="made")], data).results
    assert result.gap.examples == 10


SHIPPED_DATA = (
    "FER+ (Barsoum et al., ICMI 2016; labels MIT) on FER2013 images (Goodfellow et al., 2013; rights unstated), train "
    "split without copies of test and validation images; webfaces (5,848 color faces from the web in seven classes; "
    "rights unstated); muxspace (repository Apache-2.0, image rights unclear), four fifths of its people"
)


@pytest.mark.parametrize(
    ("stated", "name", "expected"),
    [
        ("FER+ (Barsoum et al.) on FER2013", "FER+", True),
        ("ferplus, train", "FER+", True),
        ("RAVDESS (Livingstone & Russo 2018)", "RAVDESS, audio", True),
        ("synthetic pairing of RAVDESS, audio with faces of FER+ (CC BY-NC-SA 4.0)", "RAVDESS, video", True),
        ("synthetic pairing of RAVDESS, audio with faces of FER+ (CC BY-NC-SA 4.0)", "FER+", True),
        ("RAVDESS, audio (CC BY-NC-SA 4.0)", "synthetic pairing of RAVDESS, audio with faces of FER+", True),
        (SHIPPED_DATA, "FER+", True),
        (SHIPPED_DATA, "fer2013", True),
        (SHIPPED_DATA, "webfaces", True),
        (SHIPPED_DATA, "muxspace", True),
        (SHIPPED_DATA, "test", False),
        (SHIPPED_DATA, "valid", False),
        (SHIPPED_DATA, "images", False),
        (SHIPPED_DATA, "faces", False),
        ("AffectNet", "FER+", False),
        ("", "FER+", False),
        ("anything", "", False),
    ],
)
def test_a_card_names_its_training_data(stated, name, expected):
    assert trained_on(ModelCard(name="m", architecture="a", labels=("x",), data=stated), name) is expected


# Evaluation split


def test_a_published_held_out_part_is_used():
    split = evaluation_split(dataset_with_split(people=0), [])
    assert (len(split.train), len(split.held_out), split.leaks) == (160, 80, False)
    assert split.reason == "The set's own split."


def test_a_published_split_with_a_person_or_a_copy_on_both_sides_leaks():
    for data in (dataset_with_split(people=7), dataset_with_split()):
        if not data.examples[0].person:
            copy = replace(data.examples[200], media=data.examples[0].media.copy())
            data = replace(data, examples=(*data.examples[:200], copy, *data.examples[201:]))
        split = evaluation_split(data, [])
        assert split.leaks
        assert split.reason.startswith("LEAKS: ")


def test_a_random_split_leaks_and_one_by_person_does_not():
    data = make_dataset(people=12)
    asked, plain = evaluation_split(data, [], share=0.25, by="random"), evaluation_split(data, [], share=0.25)
    assert (asked.leaks, plain.leaks) == (True, False)
    assert asked.reason.startswith("LEAKS")
    assert len(plain.train) + len(plain.held_out) == len(data.examples)


def test_without_a_held_out_part_everything_is_used_and_leaks_where_a_card_names_the_data():
    data = make_dataset()
    cards = [
        ModelCard(name=name, architecture="a", labels=LABELS, data=text) for name, text in (("m", "made"), ("n", ""))
    ]
    split = evaluation_split(data, cards)
    assert len(split.held_out) == len(data.examples)
    assert split.leaks
    assert "trained on it: m. --test-fraction 0.2 evaluates only" in split.reason
    assert not evaluation_split(data, cards[1:]).leaks


@pytest.mark.parametrize("how", [{"share": 0.2}, {"by": "person"}, {"share": 0.2, "by": "random"}])
def test_a_new_split_of_data_that_a_card_names_says_so(how):
    card = ModelCard(name="m", architecture="a", labels=LABELS, data="made")
    data = make_dataset(people=12)
    plain, named = evaluation_split(data, [], **how), evaluation_split(data, [card], **how)
    assert "According to their cards, these models were trained on made: m." in named.reason
    assert (named.reason.startswith(plain.reason), named.leaks) == (True, plain.leaks)
    assert "their cards" not in evaluation_split(data, [replace(card, data="")], **how).reason


def test_a_share_of_zero_is_not_the_default_share():
    with pytest.raises(DataInvalid, match="A share of 0 to hold out"):
        evaluation_split(make_dataset(), [], share=0)


# Labels


def test_models_with_the_same_labels_keep_them():
    assert common_labels({"a": LABELS, "b": LABELS[::-1]}, LABELS[:2]) == LABELS


@pytest.mark.parametrize(
    ("models", "data", "common"),
    [
        ([SEVEN, SEVEN], SEVEN, SEVEN),
        ([EIGHT, SEVEN], SEVEN, SEVEN),
        ([EIGHT], SEVEN, SEVEN),
        ([SEVEN], EIGHT, SEVEN),
        ([SEVEN, FIVE], SEVEN, FIVE),
        ([EIGHT, FIVE], EIGHT, FIVE),
        ([EIGHT, EIGHT], EIGHT, EIGHT),
        ([SEVEN], ("Happiness", "joy", "angry"), SEVEN),
        ([SEVEN], ("Anger", "Happy", "Shock"), FIVE),
    ],
)
def test_different_labels_are_mapped_to_the_coarsest_common_set(models, data, common):
    assert common_labels({str(number): labels for number, labels in enumerate(models)}, data) == common
    for labels in (*models, data):
        np.testing.assert_array_equal(mapping_matrix(labels, common).sum(axis=1), 1)


def test_probabilities_of_merged_labels_are_summed(tmp_path):
    class Cross(TabularModel):
        """Always predicts its first label."""

        def predict(self, examples, media, context):
            return super().predict([replace(e, label=self.info.labels[0]) for e in examples], media, context)

    eight = ("angry", *(label for label in EIGHT if label != "angry"))
    models = [Cross(tmp_path, "eight", labels=eight, share=1), Cross(tmp_path, "five", labels=FIVE, share=1)]
    comparison = run_comparison(models, make_dataset(labels=("angry", "disgust")))
    assert comparison.labels == FIVE
    assert [result.metrics.accuracy for result in comparison.results] == [1, 1]
    assert "eight was evaluated in 5 labels" in comparison.notes[0]
    assert "disgust as Anger" in describe_mapping("eight", EIGHT, FIVE)
    assert describe_mapping("seven", SEVEN, SEVEN) is None


def test_labels_that_cannot_be_mapped_are_named():
    with pytest.raises(DataInvalid, match="the model b has pensive"):
        common_labels({"a": SEVEN, "b": ("happy", "pensive")}, SEVEN)
    with pytest.raises(DataInvalid, match="the data has contempt"):
        common_labels({"a": SEVEN}, (*SEVEN, "contempt"))


def test_a_model_that_cannot_read_the_data_is_refused(tmp_path):
    with pytest.raises(MoodreelError, match="reads images, but the set holds audio"):
        run_comparison([TabularModel(tmp_path)], replace(make_dataset(), media="audio"))
