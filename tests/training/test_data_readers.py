"""Test the readers of data sets: examples come out as the files say, and errors name all that is wrong."""

import json

import cv2
import numpy as np
import pytest

from moodreel.emotions import EIGHT, FIVE, SEVEN
from moodreel.errors import DataInvalid
from moodreel.training.data.afew_va import LABEL_COORDINATES, k_means, name_clusters, read_afew_va
from moodreel.training.data.examples import content_ids
from moodreel.training.data.image_folder import read_folders
from moodreel.training.data.images import ImageSequence
from moodreel.training.data.ravdess import RavdessName, parse_name, read_ravdess
from moodreel.training.data.registry import open_dataset
from tests.support import ravdess

# RAVDESS


def test_a_ravdess_name_is_parsed():
    assert parse_name("03-01-06-01-02-01-12.wav") == RavdessName("audio", "speech", "fearful", 12)
    song = parse_name("01-02-02-02-01-02-23.mp4")
    assert (song.modality, song.channel, song.emotion, song.sex) == ("audio-video", "song", "calm", "male")


WRONG = {
    "03-01-06-01-02-01.wav": "seven numbers",
    "03-01-06-01-02-01-12-01.wav": "seven numbers",
    "3-1-6-1-2-1-12.wav": "seven numbers",
    "03-01-06-01-02-01-xx.wav": "seven numbers",
    "03-01-06-01-02-01-\u0661\u0662.wav": "seven numbers",
    "04-01-06-01-02-01-12.wav": "modality is 04",
    "03-03-06-01-02-01-12.wav": "channel is 03",
    "03-01-09-01-02-01-12.wav": "emotion is 09",
    "03-01-00-01-02-01-12.wav": "emotion is 00",
    "03-01-06-03-02-01-12.wav": "intensity is 03",
    "03-01-06-01-03-01-12.wav": "statement is 03",
    "03-01-06-01-02-03-12.wav": "repetition is 03",
    "03-01-06-01-02-01-25.wav": "actor is 25",
    "03-01-01-02-02-01-12.wav": "strong intensity",
    "03-01-06-01-02-01-12.mp4": "modality is audio",
    "01-01-06-01-02-01-12.wav": "modality is audio-video",
}


@pytest.mark.parametrize(("name", "reason"), WRONG.items())
def test_a_name_that_is_none_of_ravdess_is_refused_with_the_reason(name, reason):
    with pytest.raises(ValueError, match=reason):
        parse_name(name)


def test_all_wrong_names_are_in_one_error(tmp_path):
    ravdess.write_recordings(tmp_path, range(1, 2), ("sad",))
    for name in WRONG:
        (tmp_path / "Actor_01" / name).write_bytes(b"")
    (tmp_path / "Actor_01" / "03-01-04-01-01-01-02.flac").write_bytes(b"")
    with pytest.raises(DataInvalid) as raised:
        read_ravdess(tmp_path, "audio")
    message = str(raised.value)
    assert message.startswith(f"{len(WRONG) + 1} files")
    assert all(f"Actor_01/{name}: " in message for name in WRONG)
    assert "Actor_01/03-01-04-01-01-01-02.flac: its actor is 02, but its folder's is 01" in message


def test_recordings_have_their_emotion_actor_sex_and_take(tmp_path, caplog):
    caplog.set_level("INFO")
    ravdess.write_recordings(tmp_path, range(1, 3), ("neutral", "surprised"))
    clip = tmp_path / "Actor_02" / f"{ravdess.file_stem('surprised', 2, modality=1)}.mp4"
    ravdess.write_clip(clip, "surprised", 2)
    (tmp_path / "README.txt").write_text("CC BY-NC-SA 4.0")
    (tmp_path / "Actor_02" / "._03-01-08-01-01-01-02.flac").write_bytes(b"")
    recordings, clips = read_ravdess(tmp_path, "audio"), read_ravdess(tmp_path, "audio-video")
    assert [(example.label, example.person, example.group) for example in recordings] == [
        (label, f"actor {actor:02}", sex)
        for actor, sex in ((1, "male"), (2, "female"))
        for label in ("neutral", "neutral", "surprised", "surprised")
    ]
    assert [example.media for example in clips] == [clip]
    assert clips[0].clip in {example.clip for example in recordings}, "one take in two modalities"
    assert ".txt: 1" in caplog.text
    assert "speech, audio-video: 1" in caplog.text


def test_a_recording_that_is_there_twice_is_listed_once(tmp_path, caplog):
    """Copies of the set that people share hold all of it again in another folder, or in another format."""
    caplog.set_level("INFO")
    ravdess.write_recordings(tmp_path, range(1, 3), ("sad",))
    once = read_ravdess(tmp_path, "audio")
    copy = tmp_path / "audio_speech_actors_01-24" / "Audio_Speech_Actors_01-24"
    ravdess.write_recordings(copy, range(1, 3), ("sad",))
    ravdess.write_audio(tmp_path / "wav" / f"{once[0].media.stem}.wav", "sad", 1)
    caplog.clear()
    twice = read_ravdess(tmp_path, "audio")
    assert sorted((each.clip, each.person) for each in twice) == sorted((each.clip, each.person) for each in once)
    assert f"second copies of a recording: {len(once) + 1}" in caplog.text


def test_a_folder_without_such_recordings_says_what_it_has_instead(tmp_path):
    ravdess.write_recordings(tmp_path, range(1, 2), ("sad",))
    with pytest.raises(DataInvalid, match=r"Actor_01.* speech, audio: 2"):
        read_ravdess(tmp_path, "video")


# AFEW-VA


def write_clip(folder, clip, values, actor="Some Actor"):
    """A clip of AFEW-VA: plain gray frames with valence and arousal, -10 to 10."""
    own = folder / clip
    own.mkdir(parents=True)
    frames = {}
    for index, (valence, arousal) in enumerate(values):
        frames[f"{index:05}"] = {"valence": valence, "arousal": arousal, "landmarks": [[1.0, 2.0]] * 68}
        cv2.imwrite(str(own / f"{index:05}.png"), np.full((8, 8, 3), int(clip), np.uint8))
    (own / f"{clip}.json").write_text(json.dumps({"video_id": clip, "actor": actor, "frames": frames}))


@pytest.fixture
def afew_va(tmp_path):
    """Write five clips, one around the coordinates of each label; two of them are of one actor."""
    rng = np.random.default_rng(0)
    for number, label in enumerate(FIVE, start=1):
        around = (np.array(LABEL_COORDINATES[label]) * 10 + rng.normal(0, 0.4, (6, 2))).round(1).clip(-10, 10)
        write_clip(tmp_path / "part 1", f"{number:03}", around.tolist(), "" if number == 5 else f"actor {number // 2}")
    return tmp_path


def test_frames_are_labeled_by_clusters_of_valence_and_arousal(afew_va):
    assert [example.label for example in read_afew_va(afew_va)] == [label for label in FIVE for _ in range(6)]


def test_frames_have_their_actor_where_it_is_known_and_their_clip(afew_va):
    people = {example.clip: example.person for example in read_afew_va(afew_va)}
    assert people == {
        "clip 001": "actor 0", "clip 002": "actor 1", "clip 003": "actor 1", "clip 004": "actor 2", "clip 005": None
    }  # fmt: skip


def test_a_correction_is_of_a_clip_or_of_a_frame_in_it(afew_va):
    corrections = afew_va / "corrections.csv"
    corrections.write_text("file,label\n001/00002.png,sad\n001,happy\n")
    labels = [example.label for example in read_afew_va(afew_va)]
    assert labels[:6] == ["Happy", "Happy", "Sad", "Happy", "Happy", "Happy"]
    assert labels[6:12] == ["Happy"] * 6, "the next clip stays as it was"


def test_corrections_of_what_is_not_there_are_listed(afew_va):
    corrections = afew_va / "corrections.csv"
    corrections.write_text("file,label\n009,happy\n001,bored\n001,sad\n")
    with pytest.raises(DataInvalid, match=r"009, happy\n  001, bored$"):
        read_afew_va(afew_va)
    corrections.write_text("frame,emotion\n001,sad\n")
    with pytest.raises(DataInvalid, match="names file, label"):
        read_afew_va(afew_va)


def test_all_broken_clips_are_in_one_error(afew_va):
    (afew_va / "part 1" / "001" / "00003.png").unlink()
    (afew_va / "part 1" / "002" / "002.json").write_text("{")
    (afew_va / "part 1" / "003" / "003.json").write_text('{"frames": {"00000": {"valence": 11, "arousal": 0}}}')
    (afew_va / "part 1" / "004" / "004.json").write_text('{"frames": {"../001/00000": {"valence": 1, "arousal": 0}}}')
    with pytest.raises(DataInvalid) as raised:
        read_afew_va(afew_va)
    message = str(raised.value)
    for part in (
        "4 clips",
        "001.json: frame 00003 has no picture file",
        "002.json: it holds no frames",
        "003.json: frame 00000 has a value that is not from -10 to 10",
        "004.json: frame ../001/00000 has no picture",
    ):
        assert part in message
    with pytest.raises(DataInvalid, match="holds no clips"):
        read_afew_va(afew_va / "part 1" / "005" / "nothing")


def test_clusters_repeat_and_get_the_labels_with_the_least_total_distance():
    points = np.random.default_rng(1).uniform(-1, 1, (200, 2))
    first, again = k_means(points, 5), k_means(points, 5)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    for row, index in enumerate(first[1]):
        assert np.linalg.norm(first[0] - points[row], axis=1).argmin() == index
    assert sorted(name_clusters(first[0])) == sorted(FIVE)
    assert name_clusters(np.array([LABEL_COORDINATES[label] for label in reversed(FIVE)])) == list(reversed(FIVE))
    with pytest.raises(DataInvalid, match="1 different values"):
        k_means(np.zeros((50, 2)), 5)


# Folders


def write_files(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def test_folders_map_to_labels_by_name_or_synonym(tmp_path, caplog):
    write_files(
        tmp_path, "Sadness/a.jpg", "calm/sub/b.PNG", "shock/c.webp", "bored/d.jpg", "calm/notes.txt", "calm/.e.jpg"
    )
    by_labels = {
        labels: [(e.label, e.media.name) for e in read_folders(tmp_path, "images", labels=labels)]
        for labels in (EIGHT, SEVEN, FIVE)
    }
    assert by_labels[EIGHT] == [("sad", "a.jpg"), ("calm", "b.PNG"), ("surprised", "c.webp")]
    assert by_labels[SEVEN] == [("sad", "a.jpg"), ("neutral", "b.PNG"), ("surprise", "c.webp")]
    assert by_labels[FIVE] == [("Sad", "a.jpg"), ("Neutral", "b.PNG"), ("Shock", "c.webp")]
    assert "bored: 1" in caplog.text
    assert "calm, .txt: 1" in caplog.text
    own = read_folders(tmp_path, "images")
    assert [example.label for example in own] == ["Sadness", "bored", "calm", "shock"]
    assert {example.person for example in own} == {None}


@pytest.mark.parametrize(("kind", "name"), [("clips", "a.mp4"), ("audio", "a.flac")])
def test_folders_of_clips_and_recordings_are_read_the_same_way(tmp_path, kind, name):
    write_files(tmp_path, f"happy/{name}", "happy/a.jpg", f"sad/{name}")
    assert [(e.label, e.media) for e in read_folders(tmp_path, kind)] == [
        (label, tmp_path / label / name) for label in ("happy", "sad")
    ]


def test_people_and_groups_come_from_people_csv(tmp_path):
    write_files(tmp_path, "happy/a.jpg", "happy/b.jpg", "sad/c.jpg")
    people = tmp_path / "people.csv"
    people.write_text("\ufefffile,person,group\nhappy/a.jpg,Ann,old\nsad\\c.jpg,Ann,\n")
    examples = read_folders(tmp_path, "images", people=people)
    assert [(e.person, e.group) for e in examples] == [("Ann", "old"), (None, None), ("Ann", None)]
    people.write_text("file,person\nhappy/z.jpg,Ann\n")
    with pytest.raises(DataInvalid, match=r"happy/z\.jpg"):
        read_folders(tmp_path, "images", people=people)


def test_folders_without_such_media_are_refused_and_their_content_named(tmp_path):
    write_files(tmp_path, "happy/a.mp4")
    with pytest.raises(DataInvalid, match=r"happy, \.mp4: 1"):
        read_folders(tmp_path, "images", labels=SEVEN)
    with pytest.raises(DataInvalid, match="is not a folder"):
        read_folders(tmp_path / "elsewhere", "images")


def write_webfaces(folder, images, labels, sources):
    files = [cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1] for image in images]
    offsets = np.cumsum([0, *map(len, files)])
    np.savez(folder / "train.npz", jpeg=np.concatenate(files), offsets=offsets, labels=labels, sources=sources)


def test_webfaces_stay_encoded_until_an_image_is_read(tmp_path):
    red = np.zeros((40, 60, 3), np.uint8)
    red[:, :, 2] = 200  # OpenCV has blue first
    write_webfaces(tmp_path, [red, red // 2, red], ["happy", "sad", "happy"], ["stock", "web", "stock"])
    data = open_dataset(f"webfaces:{tmp_path}")
    assert [example.label for example in data.examples] == ["happy", "sad", "happy"]
    assert data.groups["stock"].tolist() == [True, False, True] and {example.person for example in data.examples} == {
        None
    }
    image = ImageSequence(data.examples)[0]
    assert image.shape == (40, 60, 3) and abs(image[20, 30].astype(int) - (200, 0, 0)).max() < 12
    with pytest.raises(DataInvalid, match="have to be files"):
        _ = data.examples[0].file
    split = data.split()
    assert split.leaks
    assert len({example_id for example_id in content_ids(data.examples) if example_id}) == 1, "two are copies"


def test_webfaces_of_another_layout_are_refused(tmp_path):
    with pytest.raises(DataInvalid, match="needs the arrays jpeg, offsets, labels, sources"):
        open_dataset(f"webfaces:{tmp_path}")
    write_webfaces(tmp_path, [np.zeros((8, 8, 3), np.uint8)], ["bored"], ["web"])
    with pytest.raises(DataInvalid, match=r"labels other than .*: bored"):
        open_dataset(f"webfaces:{tmp_path}")


def test_deprecated_names_of_folders_open_with_a_warning(tmp_path, caplog):
    write_files(tmp_path, "happy/a.jpg", "sad/b.jpg")
    assert len(open_dataset(f"pictures:{tmp_path}").examples) == 2
    assert "pictures: is deprecated and will be removed; use images:" in caplog.text
