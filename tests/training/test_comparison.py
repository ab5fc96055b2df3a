"""Who is better, and what it was measured on."""

from dataclasses import replace

import numpy as np
import pytest

from moodreel.emotions import EIGHT, FIVE, SEVEN
from moodreel.errors import DataInvalid, MoodreelError
from moodreel.models.model_card import ModelCard
from moodreel.training.comparison.split import evaluation_split, trained_on
from moodreel.training.comparison.verdict import loser, verdict, winner
from moodreel.training.data.splits import Split
from moodreel.training.evaluation.label_mapping import common_labels, describe_mapping, mapping_matrix
from moodreel.training.evaluation.significance import MIN_UNITS
from tests.support.tabular_models import CONFIG, LABELS, TabularModel, make_dataset, run_comparison

# Who is better


def test_of_two_identical_models_none_wins(tmp_path):
    comparison = run_comparison([TabularModel(tmp_path, "one"), TabularModel(tmp_path, "other")], make_dataset())
    assert winner(comparison) is None
    assert loser(comparison) is None
    head, told = verdict(comparison)
    assert head.startswith("No winner")
    assert "one and other do the same" in told
    [pair] = comparison.pairs
    assert pair.mcnemar.p == 1
    for difference in pair.differences.values():
        assert (difference.value, difference.interval.low, difference.interval.high, difference.p) == (0, 0, 0, 1)


def test_models_that_differ_by_luck_alone_are_seldom_told_apart(tmp_path):
    """One time in twenty is what an interval of 95 % allows."""
    winners = []
    for seed in range(0, 24, 2):
        models = [TabularModel(tmp_path, "one", seed=seed), TabularModel(tmp_path, "other", seed=seed + 1)]
        comparison = run_comparison(models, make_dataset())
        winners.append(winner(comparison))
        assert ("cannot be told apart" in verdict(comparison)[1]) == (winners[-1] is None)
    assert winners.count(None) >= 10


def test_a_broken_model_is_named_and_the_other_wins_by_what_it_says(tmp_path):
    comparison = run_comparison(
        [TabularModel(tmp_path, "broken", share=0.3, seed=1), TabularModel(tmp_path, "sound")], make_dataset()
    )
    assert (winner(comparison), loser(comparison)) == ("sound", "broken")
    head, told = verdict(comparison)
    assert head == "sound is better than the other in balanced accuracy."
    difference = comparison.pairs[0].differences["balanced_accuracy"]
    assert difference.interval.low <= difference.value <= difference.interval.high < 0
    assert f"by {-100 * difference.value:.1f} points" in told


def test_of_three_the_broken_one_is_worse_than_both_and_none_of_the_others_wins(tmp_path):
    models = [TabularModel(tmp_path, "a"), TabularModel(tmp_path, "b"), TabularModel(tmp_path, "c", share=0.2, seed=3)]
    comparison = run_comparison(models, make_dataset())
    assert (winner(comparison), loser(comparison)) == (None, "c")
    assert verdict(comparison)[0] == "No winner, but c is worse than each of the others in balanced accuracy."
    assert len(comparison.pairs) == 3


def test_the_figure_that_decides_can_be_chosen(tmp_path):
    """Right in all that is calm, which is nearly everything, and in nothing else: accurate, and unbalanced."""
    data = make_dataset(200, labels=("calm", "glad"))
    examples = tuple(replace(e, label="calm") if row < 180 else e for row, e in enumerate(data.examples))
    data = replace(data, examples=examples)

    class Calm(TabularModel):
        def predict(self, examples, media, means):
            answers = super().predict(examples, media, means)
            answers.probabilities[:] = (0.9, 0.1)
            return answers

    models = [
        Calm(tmp_path, "calm", labels=("calm", "glad")),
        TabularModel(tmp_path, "fair", share=0.8, labels=("calm", "glad")),
    ]
    assert winner(run_comparison(models, data, replace(CONFIG, decision_metric="accuracy"))) == "calm"
    assert winner(run_comparison(models, data)) == "fair"


def test_nobody_wins_by_a_handful_of_persons(tmp_path):
    models = [TabularModel(tmp_path, "bad", share=0.2, seed=1), TabularModel(tmp_path, "good", share=0.95)]
    few, enough = (run_comparison(models, make_dataset(people=count)) for count in (MIN_UNITS - 1, MIN_UNITS))
    assert winner(few) is None
    assert f"{MIN_UNITS - 1} persons are too few" in verdict(few)[0]
    assert winner(enough) == "good"
    assert enough.by_person


def test_one_model_alone_is_measured_and_compared_with_none(tmp_path):
    comparison = run_comparison([TabularModel(tmp_path)], make_dataset())
    assert not comparison.pairs
    assert "nothing to compare" in verdict(comparison)[0]


# What is wrong, and in whom


def test_what_nothing_was_found_in_is_wrong(tmp_path):
    comparison = run_comparison([TabularModel(tmp_path, "blind", share=1, lost=0.5)], make_dataset())
    figures = comparison.results[0].metrics
    assert figures.accuracy == figures.found < 0.7
    assert figures.ece is not None


def test_groups_and_persons_come_worst_first(tmp_path):
    data = make_dataset(people=8, groups=("young", "old"))

    class Partial(TabularModel):
        def predict(self, examples, media, means):
            answers = super().predict(examples, media, means)
            old = np.array([example.group == "old" for example in examples])
            worse = np.roll(answers.probabilities, 1, axis=1)
            return replace(answers, probabilities=np.where(old[:, None], worse, answers.probabilities))

    result = run_comparison([Partial(tmp_path, share=0.9)], data).results[0]
    assert [group.name for group in result.groups] == ["old", "young"]
    assert result.groups[0].accuracy < 0.2 < 0.8 < result.groups[1].accuracy
    assert all(person.interval.low < person.interval.high for person in result.people if 0 < person.accuracy < 1)
    people = [person.accuracy for person in result.people]
    assert len(people) == 8
    assert people == sorted(people)
    assert sum(group.examples for group in result.groups) == len(data.examples)


def test_of_persons_with_few_examples_nothing_is_said_and_of_one_file_no_interval(tmp_path):
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


# Over-fitting


def parted(count=240, learnt=160, **options):
    own = Split(np.arange(learnt), np.arange(learnt, count), leaks=False, reason="The set's own split.")
    return make_dataset(count, own=own, **options)


class Parrot(TabularModel):
    """Knows the first 160 pictures by heart."""

    def predict(self, examples, media, means):
        answers = super().predict(examples, media, means)
        for row, example in enumerate(examples):
            if example.media[0, 0] < 160:
                answers.probabilities[row] = 0.01
                answers.probabilities[row, self.info.labels.index(example.label)] = 0.98
        return answers


def test_the_gap_is_what_was_learnt_by_heart(tmp_path):
    models = [
        Parrot(tmp_path, "parrot", share=0.5, data="the Made set (1999)"),
        TabularModel(tmp_path, "fresh", share=1, data="made"),
        TabularModel(tmp_path, "stranger", data="elsewhere"),
    ]
    data = parted()
    parrot, fresh, stranger = run_comparison(models, data).results
    assert (parrot.gap.train_accuracy, parrot.gap.examples) == (1, 40)
    assert parrot.gap.value == pytest.approx(1 - parrot.metrics.accuracy)
    assert 0 < parrot.gap.interval.low <= parrot.gap.value <= parrot.gap.interval.high
    assert (fresh.gap.value, fresh.gap.interval.low, fresh.gap.interval.high) == (0, 0, 0)
    assert stranger.gap is None
    assert "--gap" in stranger.gap_reason
    assert run_comparison(models, data, replace(CONFIG, always_gap=True)).results[2].gap is not None
    assert run_comparison(models, make_dataset()).results[0].gap is None


def test_only_what_a_majority_settled_is_looked_at_for_over_fitting(tmp_path):
    settled = np.arange(240) >= 150
    data = replace(parted(), has_majority=settled)
    [result] = run_comparison([Parrot(tmp_path, "parrot", data="made")], data).results
    assert result.gap.examples == 10


@pytest.mark.parametrize(
    ("stated", "name", "learnt"),
    [
        ("FER+ (Barsoum et al.) on FER2013", "FER+", True),
        ("ferplus, train", "FER+", True),
        ("RAVDESS (Livingstone & Russo 2018)", "RAVDESS, audio", True),
        ("AffectNet", "FER+", False),
        ("", "FER+", False),
        ("anything", "", False),
    ],
)
def test_a_card_says_what_was_learnt_from(stated, name, learnt):
    assert trained_on(ModelCard(name="m", architecture="a", labels=("x",), data=stated), name) is learnt


# What is held out


def test_a_set_with_a_part_of_its_own_is_measured_on_that():
    sides = evaluation_split(parted(people=0), [])
    assert (len(sides.train), len(sides.held_out), sides.leaks) == (160, 80, False)
    assert sides.description == "The set's own split."


def test_a_split_that_has_a_person_or_a_copy_on_both_sides_leaks_whatever_it_says():
    for data in (parted(people=7), parted()):
        if not data.examples[0].person:
            copy = replace(data.examples[200], media=data.examples[0].media.copy())
            data = replace(data, examples=(*data.examples[:200], copy, *data.examples[201:]))
        sides = evaluation_split(data, [])
        assert sides.leaks
        assert sides.description.startswith("LEAKS: ")


def test_a_random_split_leaks_and_one_by_person_does_not():
    data = make_dataset(people=12)
    asked, plain = evaluation_split(data, [], share=0.25, by="random"), evaluation_split(data, [], share=0.25)
    assert (asked.leaks, plain.leaks) == (True, False)
    assert asked.description.startswith("LEAKS")
    assert len(plain.train) + len(plain.held_out) == len(data.examples)


def test_a_set_without_a_part_of_its_own_is_measured_whole_and_leaks_where_a_card_names_it():
    data = make_dataset()
    cards = [
        ModelCard(name=name, architecture="a", labels=LABELS, data=text) for name, text in (("m", "made"), ("n", ""))
    ]
    sides = evaluation_split(data, cards)
    assert len(sides.held_out) == len(data.examples)
    assert sides.leaks
    assert "trained on it: m." in sides.description
    assert not evaluation_split(data, cards[1:]).leaks


# Labels


def test_models_of_one_set_of_labels_keep_them_whatever_they_are():
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
def test_different_labels_meet_in_the_coarsest_that_they_share(models, data, common):
    assert common_labels({str(number): labels for number, labels in enumerate(models)}, data) == common
    for labels in (*models, data):
        np.testing.assert_array_equal(mapping_matrix(labels, common).sum(axis=1), 1)


def test_probabilities_add_up_when_labels_meet(tmp_path):
    class Cross(TabularModel):
        """Takes everything for its first label."""

        def predict(self, examples, media, means):
            return super().predict([replace(e, label=self.info.labels[0]) for e in examples], media, means)

    eight = ("angry", *(label for label in EIGHT if label != "angry"))
    models = [Cross(tmp_path, "eight", labels=eight, share=1), Cross(tmp_path, "five", labels=FIVE, share=1)]
    comparison = run_comparison(models, make_dataset(labels=("angry", "disgust")))
    assert comparison.labels == FIVE
    assert [result.metrics.accuracy for result in comparison.results] == [1, 1]
    assert "eight was evaluated in 5 labels" in comparison.notes[0]
    assert "disgust as Anger" in describe_mapping("eight", EIGHT, FIVE)
    assert describe_mapping("seven", SEVEN, SEVEN) is None


def test_labels_that_fit_nothing_are_named():
    with pytest.raises(DataInvalid, match="the model b has pensive"):
        common_labels({"a": SEVEN, "b": ("happy", "pensive")}, SEVEN)
    with pytest.raises(DataInvalid, match="the data has contempt"):
        common_labels({"a": SEVEN}, (*SEVEN, "contempt"))


def test_a_model_is_not_asked_about_what_it_cannot_read(tmp_path):
    with pytest.raises(MoodreelError, match="reads pictures, but the set holds recordings"):
        run_comparison([TabularModel(tmp_path)], replace(make_dataset(), media="audio"))
