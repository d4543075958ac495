"""A synthetic archive becomes a store in which every window is right, labelled from its own visit, or counted."""

import csv
import gzip
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from anyecg_ray import cluster, model, segments, storage
from anyecg_ray.align import Align
from anyecg_ray.config import InputError
from anyecg_ray.manifest import Manifest, manifest, open_manifest, read_rows
from anyecg_ray.predict import Shard, Source, windows_of
from anyecg_ray.prepare import Prepare, prepare
from anyecg_ray.preprocess import recipe
from anyecg_ray.segments import PARTS, SegmentsCard
from anyecg_ray.synthetic import write_archive
from anyecg_ray.train import Train, train
from anyecg_ray.train_loop import Learning

pytestmark = pytest.mark.usefixtures("on_ray")

RECIPE = recipe("ecgfounder-finetune", ("II",))
KEYS = ["potassium_high", "calcium_low"]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepare")
    write_archive(str(folder / "archive"), encounters=60, seed=3, minutes=1, workers=1)
    manifest(Manifest(archive=str(folder / "archive"), dataset="mc-med", out=str(folder / "manifest.parquet")))
    return folder


def settings(folder: Path, out: Path | str = "segments", **more: object) -> Prepare:
    told = {"manifest": str(folder / "manifest.parquet"), "out": str(folder / out), "indicators": KEYS}
    return Prepare.model_validate(told | more)


@pytest.fixture(scope="module")
def card(archive: Path) -> SegmentsCard:
    return prepare(settings(archive))


def rows(folder: Path, split: str, out: str = "segments") -> pa.Table:
    return pa.Table.from_batches(list(segments.batches(str(folder / out), split)))


def everything(folder: Path, out: str = "segments") -> pa.Table:
    tables = [rows(folder, split, out) for split in segments.PARTS if segments.parts(str(folder / out), split)]
    return pa.concat_tables(tables)


def test_the_card_counts_what_is_in_the_files(archive: Path, card: SegmentsCard) -> None:
    assert segments.read_card(str(archive / "segments")) == card
    assert [i.key for i in card.indicators] == KEYS
    for split in segments.PARTS:
        table = rows(archive, split)
        assert card.windows[split] == len(table) > 0
        assert card.patients[split] == len(set(table["patient_id"].to_pylist()))
        y = segments.labels(table, KEYS)
        for i, key in enumerate(KEYS):
            told = card.counts[split][key]
            assert (told["positive"], told["negative"]) == ((y[:, i] == 1).sum(), (y[:, i] == 0).sum())


def test_no_patient_is_in_two_splits_and_no_window_there_twice(archive: Path, card: SegmentsCard) -> None:
    patients = [set(rows(archive, split)["patient_id"].to_pylist()) for split in segments.PARTS]
    assert sum(map(len, patients)) == len(set.union(*patients))
    ids = everything(archive)["segment_id"].to_pylist()
    assert len(ids) == len(set(ids))


def test_windows_are_those_of_the_back_fill(archive: Path, card: SegmentsCard) -> None:
    source = Source(str(archive / "manifest.parquet"), str(archive / "archive"), RECIPE)
    table = everything(archive)
    there = {segment: i for i, segment in enumerate(table["segment_id"].to_pylist())}
    x, compared = segments.windows(table, 1), 0
    for piece in windows_of(source, Shard(0, 0, 10), 0):
        for span in piece.to_pylist():
            starts = [s for s, u in zip(span["window_start"], span["usable"], strict=True) if u]
            for start, window in zip(starts, np.frombuffer(span["x"], np.float32).reshape(-1, 1, 5000), strict=True):
                if (i := there.get(f"{span['span_id']}@{start:g}")) is not None:
                    np.testing.assert_allclose(x[i], window, atol=np.abs(window).max() / 65000)
                    compared += 1
    assert compared > 20


def test_every_window_of_the_archive_is_in_the_store_or_counted(archive: Path, card: SegmentsCard) -> None:
    source = Source(str(archive / "manifest.parquet"), str(archive / "archive"), RECIPE)
    found, spans = 0, 0
    for group, n in enumerate(open_manifest(source.manifest).row_groups):
        for piece in windows_of(source, Shard(group, 0, n), 0):
            found += sum(map(len, piece["usable"].to_pylist()))
            spans += sum(s != "ok" for s in piece["status"].to_pylist())
    left = sum(n for reason, n in card.drops.items() if reason.startswith("window: "))
    assert sum(card.windows.values()) + left == found
    assert sum(n for reason, n in card.drops.items() if reason.startswith("span: ")) == spans
    drops = pq.read_table(archive / "segments" / "drops.parquet")
    assert dict(zip(drops["reason"].to_pylist(), drops["n"].to_pylist(), strict=True)) == card.drops


def test_labels_are_those_of_the_nearest_potassium_of_the_visit(archive: Path, card: SegmentsCard) -> None:
    """Recomputed from labs.csv by hand, wherever the laboratory's flag tells."""
    flags: dict[str, list[tuple[datetime, str]]] = {}
    for lab in csv.DictReader((archive / "archive" / "labs.csv").read_text().splitlines()):
        if "POTASSIUM" in lab["Component_name"]:
            when = datetime.fromisoformat(lab["Order_time"]).replace(tzinfo=None)
            flags.setdefault(lab["CSN"], []).append((when, lab["Component_abnormal"]))
    high = {"Normal": 0, "Abnormal Low": 0, "Critical Low": 0, "Abnormal High": 1, "Critical High": 1}
    seen: Counter[float] = Counter()
    for row in everything(archive).drop_columns(["samples"]).to_pylist():
        middle = row["time"].replace(tzinfo=None) + timedelta(seconds=5)
        near = sorted((abs(when - middle), flag) for when, flag in flags.get(row["encounter_id"], []))
        if near and near[0][0] <= timedelta(hours=4) and near[0][1] in high:
            assert row["label:potassium_high"] == high[near[0][1]]
            seen[row["label:potassium_high"]] += 1
        if not near or near[0][0] > timedelta(hours=4):
            assert row["label:potassium_high"] is None
    assert min(seen[0], seen[1]) > 10


def test_windows_say_what_visits_csv_tells_of_their_visit(archive: Path, card: SegmentsCard) -> None:
    told = {v["CSN"]: v for v in csv.DictReader((archive / "archive" / "visits.csv").read_text().splitlines())}
    for row in everything(archive).drop_columns(["samples"]).to_pylist():
        visit = told[row["encounter_id"]]
        assert (row["race"], row["ethnicity"]) == (visit["Race"], visit["Ethnicity"])
        assert (row["acuity"], row["disposition"]) == (visit["Triage_acuity"], visit["ED_dispo"])


def test_ray_data_streams_the_same_windows_and_labels(archive: Path, card: SegmentsCard) -> None:
    uri = str(archive / "segments")
    columns = ["segment_id", "scale", "samples", *map(segments.label, KEYS)]
    found = []
    for batch in segments.dataset(uri, "train", columns).iter_batches(batch_size=100, batch_format="pyarrow"):
        assert set(batch.column_names) == set(columns)
        ids = batch["segment_id"].to_pylist()
        found += list(zip(ids, segments.windows(batch, 1), segments.labels(batch, KEYS), strict=True))
    table = rows(archive, "train")
    order = np.argsort(table["segment_id"].to_pylist())
    found.sort(key=lambda row: row[0])
    np.testing.assert_array_equal(np.stack([x for _, x, _ in found]), segments.windows(table, 1)[order])
    np.testing.assert_array_equal(np.stack([y for _, _, y in found]), segments.labels(table, KEYS)[order])
    shuffled = segments.dataset(uri, "train", ["segment_id"], shuffle=0)
    for _ in range(2):
        assert sorted(row["segment_id"] for row in shuffled.iter_rows()) == [segment for segment, _, _ in found]
    with pytest.raises(InputError, match="no windows in split test"):
        segments.dataset(str(archive / "nowhere"), "test")


def test_the_same_command_again_leaves_the_store_as_it_is(
    archive: Path, card: SegmentsCard, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p: p.stat().st_mtime_ns for p in (archive / "segments").rglob("*") if p.is_file()}
    assert prepare(settings(archive)) == card
    assert "nothing to do" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in (archive / "segments").rglob("*") if p.is_file()} == before


def test_other_settings_do_not_go_into_a_store_that_stands(archive: Path, card: SegmentsCard) -> None:
    with pytest.raises(InputError, match="made otherwise; give another --out"):
        prepare(settings(archive, split="hash"))


def test_what_a_crashed_run_with_another_split_left_does_not_get_in(archive: Path, card: SegmentsCard) -> None:
    """A part of a split that this run has no windows for would put its patients into two splits."""
    prepare(settings(archive, "crashed", split="hash"))
    (archive / "crashed" / "card.json").unlink()
    stray = archive / "crashed" / "split=test" / "part-000099-000000.parquet"
    pq.write_table(rows(archive, "train").slice(0, 3), stray)
    again = prepare(settings(archive, "crashed"))
    assert again.windows == card.windows
    assert everything(archive, "crashed").sort_by("segment_id") == everything(archive).sort_by("segment_id")


def test_a_run_that_was_cut_off_goes_on(
    archive: Path, card: SegmentsCard, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("anyecg_ray.prepare_inputs.SHARD_WINDOWS", 32)
    whole = prepare(settings(archive, "in shards"))
    with monkeypatch.context() as crashing:
        crashing.setattr("anyecg_ray.prepare.Progress.reach", _crash)
        with pytest.raises(MemoryError):
            prepare(settings(archive, "cut off"))
    work = next((archive / "cut off" / "unfinished").iterdir())
    shards = sorted(work.iterdir())
    shards.pop().unlink()  # as if it had not been done yet
    before = {p: p.stat().st_mtime_ns for s in shards for p in (archive / "cut off").glob(f"split=*/part-{s.name}")}
    assert before
    capsys.readouterr()
    assert prepare(settings(archive, "cut off")).model_dump(exclude={"settings"}) == whole.model_dump(
        exclude={"settings"}
    )
    assert f"{len(shards)} of " in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert everything(archive, "cut off").sort_by("segment_id") == everything(archive).sort_by("segment_id")
    assert not (archive / "cut off" / "unfinished").exists()


def _crash(*_: object) -> None:
    raise MemoryError("the driver dies")


NAMED = """
from anyecg_ray import manifest, prepare_inputs, unfinished
settings = prepare_inputs.Prepare.model_validate({settings!r})
plan = prepare_inputs.Inputs(settings, manifest.open_manifest(settings.manifest))
{change}
print(unfinished.work(plan.source, plan.indicators, plan.clock, plan.draws, plan.parts, plan.people, plan.shards))
"""


@pytest.mark.slow
def test_a_cut_off_run_s_name_is_of_all_that_decides_it(archive: Path) -> None:
    """The same in every process, whatever the order of its sets; another for one other result."""

    def name(seed: str, change: str = "") -> str:
        code = NAMED.format(settings=settings(archive).model_dump(), change=change)
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        return subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)

    assert name("1") == name("2")
    assert name("1", "plan.draws.value[0] += 1") != name("1")


def test_a_planted_patient_in_two_splits_is_refused_before_anything_is_written(archive: Path, tmp_path: Path) -> None:
    planted = tmp_path / "archive"
    planted.mkdir()
    for file in (archive / "archive").iterdir():
        (planted / file.name).symlink_to(file)
    visits = list(csv.DictReader((planted / "visits.csv").read_text().splitlines()))
    train = (planted / "split_random_train.csv").read_text().split()[0]
    test = (planted / "split_random_test.csv").read_text().split()[0]
    (planted / "visits.csv").unlink()
    mrn = next(v["MRN"] for v in visits if v["CSN"] == train)
    with (planted / "visits.csv").open("w") as file:
        writer = csv.DictWriter(file, list(visits[0]))
        writer.writeheader()
        writer.writerows([v | {"MRN": mrn} if v["CSN"] == test else v for v in visits])
    with pytest.raises(InputError, match=r"1 patients are in .* a patient must be in one") as error:
        prepare(settings(archive, tmp_path / "out", archive=str(planted)))
    assert mrn not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_indicators_are_found_by_the_rule_and_the_stricter_rule_finds_fewer(archive: Path) -> None:
    loose = prepare(settings(archive, "loose", indicators=[], min_count=1))
    for indicator in loose.indicators:
        for split in segments.PARTS:
            assert min(loose.counts[split][indicator.key].values()) > 0, (split, indicator.key)
    with pytest.raises(InputError, match="no indicator has 50 encounters"):
        prepare(settings(archive, "strict", indicators=[], min_count=50))


def test_an_indicator_without_results_is_named(archive: Path) -> None:
    with pytest.raises(InputError, match="no result of unobtainium_high"):
        prepare(settings(archive, "none", indicators=["unobtainium_high"]))


def test_narrow_limits_leave_windows_out_and_count_them(archive: Path, card: SegmentsCard) -> None:
    narrow = prepare(settings(archive, "narrow", align=Align(before=5, after=5)))
    reason = "window: no result near it"
    assert sum(narrow.windows.values()) < sum(card.windows.values())
    lost = sum(card.windows.values()) - sum(narrow.windows.values())
    assert narrow.drops[reason] - card.drops.get(reason, 0) == lost


def test_a_folder_of_one_s_own_with_labels_of_one_s_own(archive: Path, tmp_path: Path) -> None:
    """The same records as a plain WFDB archive: patient from the path, no encounters, no split."""
    records = archive / "archive" / "waveforms"
    out = str(tmp_path / "manifest.parquet")
    manifest(Manifest.model_validate({"archive": str(records), "dataset": "wfdb", "out": out, "wfdb": WFDB}))
    table = read_rows(out, 0)
    people = {p: t for p, t in zip(table["patient_id"].to_pylist(), table["start_time"].to_pylist(), strict=True) if t}
    with (tmp_path / "labels.csv").open("w") as file:
        file.write("patient,time,name,value,unit\n")
        for i, (patient, time) in enumerate(people.items()):
            file.write(f"{patient},{time.isoformat()},potassium,{'6.2' if i % 2 else '4.1'},mmol/L\n")
    with (tmp_path / "people.csv").open("w") as file:
        file.write("patient,age,sex\n" + "".join(f"{p},60,F\n" for p in people))
    made = prepare(
        Prepare(
            manifest=out,
            out=str(tmp_path / "out"),
            labels=str(tmp_path / "labels.csv"),
            people=str(tmp_path / "people.csv"),
            indicators=["potassium_high"],
        )
    )
    assert made.settings["split"] == "hash"
    assert made.windows["train"] > 0
    assert made.counts["train"]["potassium_high"]["positive"] > 0
    assert made.counts["train"]["potassium_high"]["negative"] > 0


WFDB = {"patient": r"(\d+)/II/"}


def test_mimic_iv_ecg_with_the_laboratory_of_its_hospital(archive: Path, tmp_path: Path) -> None:
    """The same records in MIMIC-IV-ECG's tree, and labevents beside it: results by patient and time alone."""
    tree, hosp = tmp_path / "ecg", tmp_path / "mimiciv" / "hosp"
    hosp.mkdir(parents=True)
    listed = ["subject_id,study_id,file_name,ecg_time,path"]
    events = ["labevent_id,subject_id,itemid,charttime,storetime,value,valuenum,valueuom,flag"]
    for i, header in enumerate(sorted((archive / "archive" / "waveforms").rglob("*.hea"))[:40]):
        subject, study, time = 10000000 + i, 40000000 + i, datetime(2150, 1, 1) + timedelta(days=i)
        folder = f"files/p1000/p{subject}/s{study}"
        (tree / folder).mkdir(parents=True)
        for file in header.parent.glob(f"{header.stem}*"):
            content = file.read_bytes().replace(header.stem.encode(), str(study).encode())
            (tree / folder / file.name.replace(header.stem, str(study))).write_bytes(content)
        listed.append(f"{subject},{study},{study},{time},{folder}/{study}")
        value = 6.3 if i % 2 else 4.1
        events.append(f"{i},{subject},50971,{time + timedelta(minutes=30)},,{value},{value},mEq/L,")
    (tree / "record_list.csv").write_text("\n".join(listed) + "\n")
    (hosp / "labevents.csv.gz").write_bytes(gzip.compress("\n".join(events).encode()))
    (hosp / "d_labitems.csv").write_text("itemid,label,fluid,category\n50971,Potassium,Blood,Chemistry\n")
    (hosp / "patients.csv").write_text(
        "subject_id,gender,anchor_age,anchor_year\n" + "".join(f"{10000000 + i},F,60,2150\n" for i in range(40))
    )
    out = str(tmp_path / "manifest.parquet")
    manifest(Manifest(archive=str(tree), dataset="mimic-iv-ecg", out=out))
    made = prepare(Prepare(manifest=out, out=str(tmp_path / "out"), labels=str(hosp), indicators=["potassium_high"]))
    assert made.settings["clock"] == "chart"
    table = pa.concat_tables(
        pa.Table.from_batches(list(segments.batches(str(tmp_path / "out"), s))) for s in PARTS if made.windows[s]
    )
    high = {int(p) % 2 for p, y in zip(*(table[c].to_pylist() for c in ("patient_id", LABEL)), strict=True) if y == 1}
    normal = {int(p) % 2 for p, y in zip(*(table[c].to_pylist() for c in ("patient_id", LABEL)), strict=True) if y == 0}
    assert (high, normal) == ({1}, {0})
    assert set(table["sex"].to_pylist()) == {"F"}


LABEL = segments.label("potassium_high")


@pytest.mark.slow
def test_on_s3_from_archive_to_bundle(archive: Path, s3: str) -> None:
    """Manifest, segments, checkpoints and bundle in a bucket, and the same windows as on disk."""
    fs = storage.filesystem(s3)[0]
    fs.put(str(archive / "archive"), storage.filesystem(f"{s3}/archive")[1], recursive=True)
    uri = f"{s3}/manifest.parquet"
    manifest(Manifest(archive=f"{s3}/archive", dataset="mc-med", out=uri, workers=0))
    with cluster_of_its_own():
        made = prepare(Prepare(manifest=uri, out=f"{s3}/segments", indicators=KEYS))
        here = prepare(settings(archive, "segments-for-s3"))
        assert made.windows == here.windows
        assert made.counts == here.counts
        learning = Learning(epochs=2, batch=16)
        train(Train(segments=f"{s3}/segments", out=f"{s3}/bundle", preset="tiny", learning=learning))
    assert fs.glob(storage.filesystem(f"{s3}/bundle/training")[1] + "/**/state.pt")
    assert model.load(f"{s3}/bundle").card.training["segments_fingerprint"] == made.fingerprint


@contextmanager
def cluster_of_its_own() -> Iterator[None]:
    """Workers read the AWS_* environment when they start: the module's Ray began before there was a bucket."""
    ray.shutdown()
    with cluster.connected():
        yield
    ray.init(log_to_driver=False, include_dashboard=False)


def test_diagnoses_sex_and_age_of_ptb_xl(data: Path, tmp_path: Path) -> None:
    ptb = data / "ptbxl-500"
    out = str(tmp_path / "manifest.parquet")
    manifest(Manifest(archive=str(ptb), dataset="ptb-xl", out=out))
    made = prepare(Prepare(manifest=out, out=str(tmp_path / "out"), indicators=["dx_norm", "sex_male", "age_value"]))
    assert made.settings["split"] == "fold"
    assert [i.direction for i in made.indicators] == ["present", "present", "value"]
    told = rows(tmp_path, "train", "out")
    men = [s == "M" for s in told["sex"].to_pylist()]
    assert [bool(y) for y in told["label:sex_male"].to_pylist()] == men
    age = told["age"].to_numpy()
    told_age = told["label:age_value"].to_numpy(zero_copy_only=False)
    np.testing.assert_array_equal(told_age, np.where(age > 89, np.nan, age))  # "above 89" is no number to learn
    assert json.loads((tmp_path / "out" / "card.json").read_text())["dataset"] == "ptb-xl"
