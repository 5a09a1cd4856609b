"""Sweep files: which trials they come down to, and that what is wrong is told with its line."""

import json
import re
from pathlib import Path

import pytest
import yaml

from intermoe.errors import UserError
from pipelines import settings
from pipelines.settings import flatten, parse_overrides
from pipelines.sweep.file import load

ROOT = Path(__file__).resolve().parents[3]
ABLATIONS, SMOKE, TABLE1 = (ROOT / "sweeps" / f"{name}.yaml" for name in ("ablations", "smoke", "table1"))


def test_the_ablations_hold_every_row_of_the_papers_tables_once():
    for profile in ("duet", "paper"):
        found = load(ABLATIONS, {"profile": profile})
        rows = [row for trial in found.trials for row in trial.rows]
        wanted = [(number, row) for number, table in found.config.tables.items() for row in table.rows]
        assert sorted(rows) == sorted(wanted)
        assert {number: len(table.rows) for number, table in found.config.tables.items()} == {
            "2": 6,
            "3": 3,
            "4": 4,
            "5": 3,
        }
        assert len(found.trials) == 12
        assert len({trial.key for trial in found.trials}) == 12


@pytest.mark.parametrize("file", [ABLATIONS, TABLE1], ids=lambda file: file.stem)
def test_the_papers_numbers_are_those_of_the_paper(file):
    """Each mean and interval of the file stands in the same row of the paper's text."""
    paper = ROOT.parent / "shared" / "paper.md"
    if not paper.is_file():
        pytest.skip("needs ../shared/paper.md")
    # Years of methods are left out, and some numbers of Table 1 are given with fewer digits than the others.
    lines = [re.sub(r" \(20\d\da?\)", "", line) for line in paper.read_text().splitlines()]
    rows = [[cell for cell in line.split("\t") if cell] for line in lines]
    for table in load(file).config.tables.values():
        for name, numbers in table.rows.items():
            stored = [tuple(number) for number in numbers.values()]
            assert any(name in row and read(row[-len(stored) :]) == stored for row in rows), (name, stored)


def read(cells: list[str]) -> list[tuple[float, ...]]:
    """Mean and half width of cells such as ``0.512 \\pm .004``; nothing of others."""
    return [tuple(map(float, cell.split(" \\pm "))) for cell in cells if re.fullmatch(r"[\d.]+ \\pm [\d.]+", cell)]


def test_table_1_has_a_point_for_each_network_of_ours_and_is_that_of_the_profiles_data():
    networks = {"Ours": "intermoe", "InterGen": "intergen", "TIMotion": "timotion"}
    for profile, table in (("duet", "1"), ("paper", "1"), ("interx", "1-interx")):
        found = load(TABLE1, {"profile": profile})
        assert {row: trial.settings.network for trial in found.trials for row in trial.rows} == {
            (table, row): network for row, network in networks.items()
        }
        assert list(found.config.tables_used) == [table]
        assert [trial.seed for trial in found.trials] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    _, intergen, timotion = (trial.settings for trial in load(TABLE1, {"profile": "paper"}).trials[:3])
    for name, values in (("intergen", intergen), ("timotion", timotion)):
        preset = settings.load(name)
        for section in ("network", "denoiser", "moe", "diffusion", "timotion"):
            assert getattr(values, section) == getattr(preset, section), (name, section)
        assert values.train.denoiser == preset.train.denoiser


def test_what_a_profile_says_of_its_points_and_tables_is_checked(tmp_path):
    def change(**changes) -> Path:
        return write(tmp_path, lambda values: values["profiles"]["tiny"].update(changes))

    file = change(points={"c-exp-2": {"moe": {"alpha": 0.75}}}, tables=["5"])
    alphas = {trial.points: trial.settings.moe.alpha for trial in load(file).trials}
    assert alphas[("c-exp-2",)] == 0.75
    assert set(alphas.values()) == {0.5, 0.75}
    assert {table for trial in load(file).trials for table, _ in trial.rows} == {"5"}
    asked = load(file, {"moe.alpha": 0.25})
    assert {trial.settings.moe.alpha for trial in asked.trials} == {0.25}, "the command line is stronger"
    for changes, message in (
        ({"points": {"half": {}}}, "unknown point 'half' (allowed: full, dense, c-exp-1, c-exp-2)"),
        ({"tables": ["9"]}, "unknown table '9' (allowed: 2, 5)"),
        (
            {"points": {"c-exp-2": {"moe.c_exp": 3}}},
            "the point sets moe.c_exp itself (allowed: in one of the two places)",
        ),
        (
            {"points": {"c-exp-2": {"moe": {"c_exp": 3, "alpha": 0.1}}}},
            "the point sets moe.c_exp itself (allowed: in one of the two places)",
        ),
        ({"points": {"c-exp-2": {"moe.alpha": 7}}}, "duet: moe.alpha = 7 (allowed: less than or equal to 1)"),
    ):
        with pytest.raises(UserError) as caught:
            load(change(**changes))
        assert re.sub(r"^.*sweep.yaml:\d+: ", "", str(caught.value)) == message


def test_a_mistake_of_a_point_is_on_its_own_line_whatever_a_profile_says_of_it(tmp_path):
    file = write(tmp_path, lambda values: values["profiles"]["tiny"].update(points={"c-exp-2": {"moe.alpha": 0.75}}))
    lines = file.read_text().splitlines()
    at = next(number for number, line in enumerate(lines) if line.strip() == "moe.c_exp: 2")
    for wrong, message in (
        ("moe.c_exp: -2", "moe.c_exp = -2 (allowed: greater than 0)"),
        ("seed: 3", "point 'c-exp-2' sets seed (allowed: seeds, in the profile)"),
        ("evaluation.pool: 3", "point 'c-exp-2' changes evaluation (allowed: in the profile, for all points)"),
    ):
        file.write_text("\n".join([*lines[:at], lines[at].replace("moe.c_exp: 2", wrong), *lines[at + 1 :]]))
        with pytest.raises(UserError) as caught:
            load(file)
        assert str(caught.value).startswith(f"{file}:{at + 1}: ")
        assert message in str(caught.value)


def test_the_paper_profile_is_the_papers_configuration():
    found = load(ABLATIONS, {"profile": "paper"})
    full = found.trials[0].settings
    assert (full.name, full.moe.experts, full.moe.c_exp, full.moe.sigma) == ("interhuman", 8, 1.0, 1e-4)
    assert full.train.denoiser.batch_size == 64
    assert full.evaluation.replications == 20


def test_points_that_come_down_to_the_same_are_one_trial_for_all_their_rows():
    found = load(SMOKE)
    names = {trial.points: trial.rows for trial in found.trials}
    assert names[("full", "c-exp-1")] == (("2", "Ours Full"), ("5", "1"))
    assert len(found.trials) == 3


def test_seeds_multiply_and_overrides_reach_every_point():
    values = yaml.safe_load(SMOKE.read_text())
    assert values["profiles"]["tiny"]["seeds"] == [0]
    found = load(SMOKE, {"moe.sigma": 0.003, "train.denoiser.epochs": 2})
    assert all(trial.settings.moe.sigma == 0.003 for trial in found.trials)
    assert {trial.key for trial in found.trials}.isdisjoint(trial.key for trial in load(SMOKE).trials)


def write(tmp_path: Path, change=lambda values: None) -> Path:
    values = yaml.safe_load(SMOKE.read_text())
    change(values)
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(values, sort_keys=False))
    return file


def test_a_table_has_notes_on_rows_that_it_has(tmp_path):
    table, *_ = yaml.safe_load(SMOKE.read_text())["tables"]
    rows = list(load(SMOKE).config.tables[table].rows)

    def noted(*notes: dict) -> Path:
        return write(tmp_path, lambda values: values["tables"][table].update(notes=list(notes)))

    found = load(noted({"text": "Copied."}, {"text": "One seed.", "rows": rows[:1]})).config.tables[table]
    assert found.model_dump(mode="json")["notes"] == [
        {"text": "Copied.", "rows": []},
        {"text": "One seed.", "rows": rows[:1]},
    ]
    with pytest.raises(UserError) as caught:
        load(noted({"text": "One seed.", "rows": ["Oars"]}))
    file = tmp_path / "sweep.yaml"
    line = file.read_text().splitlines().index("    - text: One seed.") + 2
    assert str(caught.value) == (f"{file}:{line}: table {table} has no row 'Oars' (allowed: {', '.join(rows)})")
    with pytest.raises(UserError, match="text = ''"):
        load(noted({"text": ""}))


def test_the_papers_numbers_with_known_faults_have_notes():
    noted = {
        number: [row for note in table.notes for row in note.rows]
        for number, table in load(ABLATIONS).config.tables.items()
    }
    assert noted == {"2": [], "3": ["Expert Choice"], "4": ["None (InterGen)"], "5": []}


def test_nested_settings_are_keys_and_leave_the_rest_of_the_section(tmp_path):
    nested = write(tmp_path, lambda values: values["points"][3].update(set={"moe": {"experts": 4, "c_exp": 2}}))
    assert [trial.key for trial in load(nested).trials] == [trial.key for trial in load(SMOKE).trials]


def test_what_all_points_share_cannot_be_a_points_own(tmp_path):
    for key, value, part in (
        ("data.max_frames", 30, "data.max_frames"),
        ("train.evaluator.epochs", 1, "train.evaluator"),
        ("evaluator.embedding", 4, "evaluator"),
        ("evaluation.pool", 3, "evaluation"),
    ):
        with pytest.raises(UserError, match=rf"point 'c-exp-2' changes {part} \("):
            load(write(tmp_path, lambda values, s={key: value}: values["points"][3]["set"].update(s)))


def test_another_seed_of_what_is_shared_is_another_trial():
    assert {t.key for t in load(SMOKE, {"seed": 3}).trials}.isdisjoint(t.key for t in load(SMOKE).trials)


def test_two_seeds_are_two_trials(tmp_path):
    file = write(tmp_path, lambda values: values["profiles"]["tiny"].update(seeds=[0, 7]))
    found = load(file)
    assert [(trial.name, trial.settings.seed) for trial in found.trials] == [
        ("full-seed0", 0),
        ("dense-seed0", 0),
        ("c-exp-2-seed0", 0),
        ("full-seed7", 7),
        ("dense-seed7", 7),
        ("c-exp-2-seed7", 7),
    ]


def test_a_grid_is_every_combination(tmp_path):
    def change(values: dict) -> None:
        values["points"] = []
        values["grid"] = {"moe.experts": [2, 4], "moe.c_exp": [0.5, 1, 2]}

    found = load(write(tmp_path, change))
    assert [(t.settings.moe.experts, t.settings.moe.c_exp) for t in found.trials] == [
        (2, 0.5),
        (2, 1),
        (2, 2),
        (4, 0.5),
        (4, 1),
        (4, 2),
    ]
    assert found.trials[0].name == "experts-2_c_exp-0.5-seed0"


def test_a_grid_of_words_has_names_too(tmp_path):
    file = write(tmp_path, lambda values: values.update(points=[], grid={"moe.bias_init": [-0.5, "calibrated"]}))
    assert [trial.points for trial in load(file).trials] == [("bias_init--0.5",), ("bias_init-calibrated",)]
    odd = write(tmp_path, lambda values: values.update(points=[], grid={"moe.router": ["Motion & text"]}))
    with pytest.raises(UserError, match=r"sweep\.yaml:\d+: duet: moe\.router = 'Motion & text'"):
        load(odd)


@pytest.mark.parametrize("value", ["four", 2.5, "2026-01-01"])
def test_a_value_of_the_wrong_type_is_told_with_its_key(tmp_path, value):
    for change in (
        lambda values: values.update(grid={"moe.experts": [2, value]}),
        lambda values: values["points"][3]["set"].update({"moe.experts": value}),
    ):
        with pytest.raises(UserError, match=r"sweep\.yaml:\d+: duet: moe\.experts = .*\(allowed: "):
            load(write(tmp_path, change))


def test_a_name_of_the_grid_may_not_be_a_points_too(tmp_path):
    def change(values: dict) -> None:
        values["points"][3] |= {"name": "experts-2"}
        values["grid"] = {"moe.experts": [2]}

    file = write(tmp_path, change)
    line = file.read_text().splitlines().index("grid:") + 1
    with pytest.raises(UserError, match=rf"sweep\.yaml:{line}: the name 'experts-2' is given twice"):
        load(file)


def test_recordings_that_are_not_said_or_encoded_otherwise_are_refused(tmp_path):
    def data(values: dict, **words: object) -> None:
        values["profiles"]["tiny"]["data"] = words

    with pytest.raises(UserError, match=r"the folder of the recordings is not given \(allowed: root: DIR\)"):
        load(write(tmp_path, lambda values: data(values, format="interhuman")))
    with pytest.raises(UserError, match=r"sweep\.yaml:\d+: encoder = 'clip' \(allowed: 'minilm'"):
        load(write(tmp_path, lambda values: data(values, format="duet", encoder="clip")))
    with pytest.raises(UserError, match=r"seeds\.1 = -1"):
        load(write(tmp_path, lambda values: values["profiles"]["tiny"].update(seeds=[0, -1])))


def test_changing_one_point_changes_one_key(tmp_path):
    before = {trial.name: trial.key for trial in load(SMOKE).trials}
    after = {
        trial.name: trial.key
        for trial in load(write(tmp_path, lambda values: values["points"][3]["set"].update({"moe.c_exp": 3}))).trials
    }
    assert [name for name in before if before[name] != after[name]] == ["c-exp-2-seed0"]
    # How it is evaluated, and by how many workers it is trained, does not change what is learned.
    for key, value in (("workers.count", 2), ("evaluation.replications", 3), ("evaluator.embedding", 16)):
        moved = write(tmp_path, lambda values, s={key: value}: values["profiles"]["tiny"]["set"].update(s))
        assert [trial.key for trial in load(moved).trials] == list(before.values())


TEXT = SMOKE.read_text()
LAST = "    set: {moe.experts: 4, moe.c_exp: 2}"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (LAST, "    set: {moe.expert: 4}", "duet: unknown key 'moe.expert' (allowed: "),
        (LAST, "    set: {moe.experts: 4, moe.expert: 4}", "duet: unknown key 'moe.expert' (allowed: "),
        (LAST, "    set: {moe.experts: 4, moe.c_exp: 9}", "duet: moe: c_exp = 9.0 is more than experts = 4"),
        (LAST, "    set: {moe: {experts: 4}, moe.experts: 2}", "key 'moe.experts' is given twice"),
        (LAST, "    set: {data.max_frames: 30}", "point 'c-exp-2' changes data.max_frames (allowed: in the profile"),
        (LAST, "    set: {evaluator.embedding: 4}", "point 'c-exp-2' changes evaluator (allowed: in the profile"),
        (LAST, "    set: {seed: 3}", "point 'c-exp-2' sets seed (allowed: seeds, in the profile)"),
        (LAST, "    set: {name: mine}", "point 'c-exp-2' sets name (allowed: in the profile, for all points)"),
        (LAST, "    set: &a {moe: *a}", "a value holds itself"),
        ("      moe.hidden: 16", "      moe.hidden: -1", "duet: moe.hidden = -1 (allowed: "),
        # The same last name stands in other sections, before and after.
        ("      train.vae.epochs: 0.1", "      train.vae.epochs: -1", "duet: train.vae.epochs = -1"),
        (
            "      train.evaluator.batch_size: 8",
            "      train.evaluator.batch_size: 0",
            "duet: train.evaluator.batch_size = 0",
        ),
        (
            "      workers.count: 1",
            "      workers.count: 3",
            "duet: train.vae.batch_size = 16 is not divided by workers",
        ),
        ('    rows: {"5": "2"}', '    rows: {"7": "2"}', "unknown table '7' (allowed: 2, 5)"),
        ('    rows: {"5": "2"}', '    rows: {"5": "3"}', "table 5 has no row '3' (allowed: 1, 2)"),
        ('    rows: {"5": "2"}', '    rows: {"5": "1"}', "row '1' of table 5 has another point, 'full'"),
        ("  - name: dense", "  - name: full", "the name 'full' is given twice"),
        ("  - name: dense", "  - name: Dense!", "points.1.name = 'Dense!' (allowed: "),
        ("profile: tiny", "profile: huge", "unknown profile 'huge' (allowed: tiny)"),
        ("    concurrent: 2", "    concurent: 2", "unknown key 'profiles.tiny.concurent' (allowed: config, data, set"),
        (
            "    concurrent: 2",
            "    concurrent: 0",
            "profiles.tiny.concurrent = 0 (allowed: greater than or equal to 1)",
        ),
        (
            "    concurrent: 2",
            "    asha: {grace_steps: 4, reduction: 1}",
            "profiles.tiny.asha.reduction = 1 (allowed: greater than or equal to 2)",
        ),
        (
            "    data: {format: duet, count: 48}",
            "    data: {format: duet, cuont: 48}",
            (
                "unknown key 'profiles.tiny.data.cuont' (allowed: format, root, count, seed, layout, mapping, scale, "
                "fps, body_model, follow_links, encoder, text_folder, word_vectors; did you mean "
                "'profiles.tiny.data.count'?)"
            ),
        ),
        ("    data: {format: duet, count: 48}", "    data: {format: duet, count: 0}", "profiles.tiny.data.count = 0"),
        ("tables:", "tablez:", "unknown key 'tablez' (allowed: "),
        (
            '      "1": {r_precision_top1: [0.512, 0.004], fid: [4.677, 0.069]}',
            '      "0.8": {r_precision_top1: [0.512, 0.004], fid: [4.677]}',
            "key 'tables.5.rows.0.8.fid.1' is missing",
        ),
        (
            '      "2": {r_precision_top1',
            "      2: {r_precision_top1",
            "tables.5.rows.2.[key] = 2 (allowed: a valid string)",
        ),
        ("fid: [4.878, 0.073]}", "fids: [4.878, 0.073]}", "unknown measure 'fids' (allowed: r_precision_top1, "),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path, old, new, message):
    assert TEXT.count(old) == 1
    file = tmp_path / "bad.yaml"
    file.write_text(TEXT.replace(old, new))
    line = TEXT[: TEXT.index(old)].count("\n") + 1
    with pytest.raises(UserError) as caught:
        load(file)
    assert str(caught.value).startswith(f"{file}:{line}: {message}")


def test_a_key_that_is_given_twice_is_told_with_the_line_of_the_second(tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text("name: a\nprofile: b\nprofiles: {}\nname: c\n")
    with pytest.raises(UserError, match=r"bad\.yaml:4: not valid YAML: key 'name' is given twice"):
        load(file)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("profile=huge", "on the command line: unknown profile 'huge' (allowed: tiny)"),
        ("moe.expert=3", "on the command line: duet: unknown key 'moe.expert'"),
        ("moe.experts", "'moe.experts' is not an override (allowed: key=value, such as moe.experts=4)"),
    ],
)
def test_what_is_wrong_on_the_command_line_is_not_blamed_on_the_file(word, message):
    with pytest.raises(UserError) as caught:
        load(SMOKE, parse_overrides([word]))
    assert str(caught.value).startswith(message)


def test_a_grid_with_keys_that_are_none_is_refused_by_the_key(tmp_path):
    for key in ("moe._experts", "moe.", "", "seed"):
        file = write(tmp_path, lambda values, key=key: values.update(points=[], grid={key: [4]}))
        with pytest.raises(UserError, match=r"sweep\.yaml:\d+: .*(unknown key|sets seed)"):
            load(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "holds no keys"), ("- 1", "holds no keys"), ("a: [", "not valid YAML"), (None, "no such file")],
)
def test_what_is_no_sweep_is_refused(tmp_path, text, message):
    file = tmp_path / "bad.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=message):
        load(file)


def test_a_sweep_without_points_is_refused(tmp_path):
    with pytest.raises(UserError, match="names no point"):
        load(write(tmp_path, lambda values: values.update(points=[])))


def test_files_name_no_machine():
    for file in (ABLATIONS, SMOKE):
        assert "/" not in json.dumps(yaml.safe_load(file.read_text())).replace("w/o", "").replace("w/ CS-VAE", "")


def test_more_trials_than_anybody_trains_are_refused_before_they_are_resolved(tmp_path):
    values = [number / 1000 for number in range(100)]
    file = write(tmp_path, lambda sweep: sweep.update(grid={"moe.sigma": values, "moe.alpha": values, "seed": [0]}))
    line = file.read_text().splitlines().index("grid:") + 1
    with pytest.raises(UserError) as caught:
        load(file)
    allowed = "up to 1000: points, each with each seed"
    assert str(caught.value) == f"{file}:{line}: {load_count(file)} trials (allowed: {allowed})"


def load_count(file):
    sweep = yaml.safe_load(file.read_text())
    seeds = sweep["profiles"][sweep["profile"]].get("seeds", [0])
    return (len(sweep["points"]) + 10_000) * len(seeds)


def test_the_improvements_leave_out_each_setting_that_the_paper_does_not_have():
    """With all of them left out, the settings of duet are the paper's, but for sizes and schedules."""
    plan = load(ROOT / "sweeps/improvements.yaml")
    values = {
        trial.points[0]: flatten(trial.settings.model_dump(mode="json")) for trial in plan.trials if not trial.seed
    }
    whole, nothing, costs = (values.pop(name) for name in ("all", "none", "end-effector-loss"))
    assert {key: costs[key] for key in whole if costs[key] != whole[key]} == {"train.vae.loss.end_effector": 2.0}
    left_out = {key for key in whole if whole[key] != nothing[key]}
    assert sorted(key for point in values.values() for key in whole if point[key] != whole[key]) == sorted(left_out)
    paper = flatten(settings.load("interhuman").model_dump(mode="json"))
    assert {key for key in left_out if nothing[key] != paper[key]} == set()
    assert {trial.seed for trial in plan.trials} == {0, 1, 2}
