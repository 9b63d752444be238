"""Opening, segmenting and comparing, without a browser: what is written, what is refused, who may fetch what."""

import asyncio
import io
import json
import stat
import zipfile

import nibabel as nib
import numpy as np
import pytest
from dicom_factory import write_series
from PIL import Image

from coronary.phantom import PhantomConfig, make_phantom, write_phantom
from coronary.viewer import routes
from coronary.viewer.jobs import Cancelled, Job
from coronary.viewer.models import Choice, Models
from coronary.viewer.results import compare_with, encoded_labels, load_result, result_folder, segment
from coronary.viewer.routes import COOKIE, VisitorCookie, case_routes, fine_scan
from coronary.viewer.scans import encoded_of, name_of, open_path, open_upload
from coronary.viewer.settings import ViewerSettings
from coronary.viewer.store import Store, new_token
from shared.errors import InputError
from shared.io.volume import read_volume

LIMITS = ViewerSettings()


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    config = PhantomConfig(shape=(150, 150, 110), spacing_mm=(0.8, 0.8, 0.9), difficulty=0.2)
    return write_phantom(make_phantom(config, 4242), tmp_path_factory.mktemp("phantom"), 1)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made = Store(ViewerSettings(folder=tmp_path_factory.mktemp("store")))
    yield made
    made.close()


@pytest.fixture(scope="module")
def token():
    return new_token()


@pytest.fixture(scope="module")
def case(world, token, phantom):
    with phantom[0].open("rb") as file:
        return open_upload(world.visitor(token), file, "Somebody.nii.gz", LIMITS)


@pytest.fixture(scope="module")
def predictor():
    return Models("cpu").load(Choice(None, "shipped"))


@pytest.fixture(scope="module")
def result(case, predictor):
    segment(case, predictor, Job("key", "owner", lambda job: None))
    return result_folder(case, predictor.session.sha256)


def fetch(world, monkeypatch, path, token=None):
    """GET a path of the viewer's own routes; gives status, headers, body."""
    from starlette.applications import Starlette

    monkeypatch.setattr(routes, "store", lambda: world)
    app = VisitorCookie(Starlette(routes=case_routes()))
    path, _, query = path.partition("?")
    cookie = [(b"cookie", f"{COOKIE}={token}".encode())] if token else []
    scope = {
        "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": query.encode(),
        "headers": cookie, "scheme": "http", "http_version": "1.1", "server": ("x", 80), "client": ("x", 1),
        "root_path": "",
    }  # fmt: skip
    sent, asked = [], [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive():
        if not asked:
            await asyncio.Event().wait()  # the browser stays connected
        return asked.pop()

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent[1:])


def test_an_upload_lies_private_under_a_name_that_says_nothing(case):
    assert stat.S_IMODE(case.scan.stat().st_mode) == 0o600
    assert "Somebody" not in str(case.scan)
    assert name_of(case) == "Somebody"
    assert not list(case.folder.parent.glob("arriving*"))


def test_what_the_browser_gets_is_the_scan(case, phantom):
    volume = read_volume(phantom[0])
    array, affine = fine_scan(case)
    assert (array == volume.array).all()
    assert affine == pytest.approx(volume.affine)


def test_the_same_upload_is_the_same_case(case, world, token, phantom):
    before = (case.folder / "fine.f16").stat().st_mtime_ns
    with phantom[0].open("rb") as file:
        again = open_upload(world.visitor(token), file, "Other name.nii.gz", LIMITS)
    assert again.id == case.id
    assert (case.folder / "fine.f16").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("scan.nii.gz", b"this is no scan", "scan.nii.gz: "),
        ("scan.zip", b"PK nothing", "scan.zip: is no zip archive"),
        ("scan.nrrd", b"NRRD0004\n", "scan.nrrd: "),
        ("notes.txt", b"", "notes.txt: is of a kind that is not read"),
    ],
)
def test_a_wrong_file_is_refused_by_the_name_its_owner_gave_it(world, name, content, problem):
    visitor = world.visitor(new_token())
    with pytest.raises(InputError) as caught:
        open_upload(visitor, io.BytesIO(content), name, LIMITS)
    assert str(caught.value).startswith(problem)
    assert str(world.root) not in str(caught.value)
    assert not list(visitor.folder.iterdir())  # nothing of it stays


def test_a_path_on_the_server_is_opened_where_it_lies(world, phantom):
    visitor = world.visitor(new_token())
    case = open_path(visitor, f" {phantom[0]} ", LIMITS)
    assert case.scan == phantom[0]
    assert not list(case.folder.glob("scan*"))
    with pytest.raises(InputError, match="does not exist"):
        open_path(visitor, "no/such/scan.nii.gz", LIMITS)


def test_scans_beyond_the_limit_are_deleted(world, phantom):
    visitor, limits = world.visitor(new_token()), ViewerSettings(max_scans=2)
    ids = []
    for n in range(3):
        array = np.full((8, 8, 8), n, np.int16)
        file = io.BytesIO(nib.Nifti1Image(array, np.eye(4)).to_bytes())
        ids.append(open_upload(visitor, file, f"{n}.nii", limits).id)
    assert {path.name for path in visitor.folder.iterdir()} == set(ids[1:])


def test_a_segmentation_leaves_everything_to_look_at_and_take_along(case, result, phantom):
    told = load_result(result)
    assert {path.name for path in result.iterdir()} >= set(routes.DOWNLOADS) - {"mask.seg.dcm"}
    assert told["device"] == "cpu"
    assert told["seconds"] > told["network_seconds"] > 0
    labels = encoded_labels(told)
    assert {1, 2} <= set(labels.present)
    mask, scan = nib.load(result / "mask.nii.gz"), nib.load(phantom[0])
    assert mask.shape == scan.shape
    assert (mask.affine == scan.affine).all()
    report = json.loads((result / "report.json").read_text())
    assert report["verb"] == "view"
    assert report["inputs"][0]["sha256"] == case.info["sha256"]
    assert "Somebody" not in json.dumps(report)


def test_a_cancelled_segmentation_leaves_nothing(world, phantom, predictor):
    case = open_path(world.visitor(new_token()), str(phantom[0]), LIMITS)
    job = Job("key", "owner", lambda own: None)
    job.cancel()
    with pytest.raises(Cancelled):
        segment(case, predictor, job)
    assert load_result(result_folder(case, predictor.session.sha256)) is None
    assert not [path for path in case.folder.iterdir() if path.is_dir()]


def test_progress_rises_to_the_end(world, phantom, predictor):
    case, shares = open_path(world.visitor(new_token()), str(phantom[0]), LIMITS), []

    class Watched(Job):
        def advance(self, share, doing=""):
            super().advance(share, doing)
            shares.append(self.share)

    segment(case, predictor, Watched("key", "owner", lambda own: None))
    assert shares == sorted(shares)
    assert len(set(shares)) > 5
    assert shares[-1] == 1.0


def test_comparison_with_the_truth(case, result, phantom):
    told = compare_with(case, result, phantom[1], "truth.nii.gz", "0" * 64)
    assert told["scores"]["dice"] > 0.5
    assert set(encoded_labels(told).present) == {1, 2, 3}
    itself = compare_with(case, result, result / "mask.nii.gz", "itself", "1" * 64)
    assert itself["scores"]["dice"] == 1
    assert encoded_labels(itself).present == (1,)


def test_a_label_on_another_grid_is_refused(case, result, phantom, tmp_path):
    label = nib.load(phantom[1])
    array = np.asarray(label.dataobj)
    nib.save(nib.Nifti1Image(array[:-1], label.affine), tmp_path / "short.nii.gz")
    with pytest.raises(InputError, match=r"mine\.nii\.gz: has 149 x 150 x 110 voxels, the scan 150 x 150 x 110"):
        compare_with(case, result, tmp_path / "short.nii.gz", "mine.nii.gz", "2" * 64)
    moved = label.affine.copy()
    moved[2, 3] += 30
    nib.save(nib.Nifti1Image(array, moved), tmp_path / "moved.nii.gz")
    with pytest.raises(InputError, match=r"30\.0 mm away"):
        compare_with(case, result, tmp_path / "moved.nii.gz", "mine.nii.gz", "3" * 64)
    nib.save(nib.Nifti1Image(array.astype(np.int16) * 9, label.affine), tmp_path / "nine.nii.gz")
    with pytest.raises(InputError, match=r"mine\.nii\.gz: its values are 0, 9"):
        compare_with(case, result, tmp_path / "nine.nii.gz", "mine.nii.gz", "4" * 64)


def test_a_dicom_zip_gives_dicom_seg(world, predictor, tmp_path):
    volume = make_phantom(PhantomConfig(shape=(120, 120, 90), spacing_mm=(1.0, 1.0, 1.1), difficulty=0.2), 7).volume
    files = write_series(tmp_path / "series", np.round(volume.array), volume.affine)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path in files:
            archive.write(path, path.name)
    packed.seek(0)
    case = open_upload(world.visitor(new_token()), packed, "series.zip", LIMITS)
    assert case.info["format"] == "dicom"
    segment(case, predictor, Job("key", "owner", lambda own: None))
    assert (result_folder(case, predictor.session.sha256) / "mask.seg.dcm").is_file()


def test_files_are_fetched_by_their_visitor_alone(world, monkeypatch, case, token, result):
    names = [
        "fine.f16",
        "first.f16",
        f"{result.name}/labels.u8",
        f"{result.name}/surface-1.mz3",
        f"{result.name}/tree.json",
    ]
    for name in names:
        path = f"/skiagram/scan/{case.id}/{name}"
        status, headers, body = fetch(world, monkeypatch, path, token)
        assert status == 200
        assert body == (case.folder / name).read_bytes()
        assert headers["cache-control"] == "no-store"
        assert fetch(world, monkeypatch, path, new_token())[0] == 404
        assert fetch(world, monkeypatch, path)[0] == 404
    assert len(fetch(world, monkeypatch, f"/skiagram/scan/{case.id}/fine.f16", token)[2]) == 2 * np.prod(
        encoded_of(case).fine
    )


@pytest.mark.parametrize(
    "name", ["case.json", "scan.nii.gz", "../x/fine.f16", "result-0/tree.json", "fine.f16/../case.json"]
)
def test_nothing_but_what_is_shown_is_served(world, monkeypatch, case, token, name):
    assert fetch(world, monkeypatch, f"/skiagram/scan/{case.id}/{name}", token)[0] == 404


def test_downloads_bear_the_scan_s_name(world, monkeypatch, case, token, result):
    path = f"/skiagram/scan/{case.id}/download/{result.name}"
    status, headers, body = fetch(world, monkeypatch, f"{path}/mask.nii.gz", token)
    assert status == 200
    assert 'filename="Somebody.mask.nii.gz"' in headers["content-disposition"]
    assert body == (result / "mask.nii.gz").read_bytes()
    for name in ("result.json", "..%2fcase.json", "mask.seg.dcm"):
        assert fetch(world, monkeypatch, f"{path}/{name}", token)[0] == 404
    assert fetch(world, monkeypatch, f"{path}/mask.nii.gz", new_token())[0] == 404


def test_a_branch_laid_out_straight(world, monkeypatch, case, token, result):
    branch = json.loads((result / "tree.json").read_text())["branches"][0]
    path = f"/skiagram/scan/{case.id}/straight/{result.name}"
    status, headers, body = fetch(world, monkeypatch, f"{path}/{branch['id']}.png?angle=40&low=0&high=500", token)
    assert (status, headers["content-type"]) == (200, "image/png")
    image = np.asarray(Image.open(io.BytesIO(body)))
    assert image.shape[0] == pytest.approx(branch["length_mm"] / 0.25, abs=3)
    middle, edge = image[:, image.shape[1] // 2], image[:, 0]
    assert np.median(middle) > np.median(edge) + 40  # lumen is bright
    assert fetch(world, monkeypatch, f"{path}/99.png", token)[0] == 404
    assert fetch(world, monkeypatch, f"{path}/{branch['id']}.png?angle=nonsense", token)[0] == 404
    assert fetch(world, monkeypatch, f"{path}/{branch['id']}.png", new_token())[0] == 404


def test_a_newcomer_gets_a_cookie_that_no_script_reads(world, monkeypatch, token):
    _, headers, _ = fetch(world, monkeypatch, "/")
    cookie = headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}=")
    assert {"HttpOnly", "SameSite=Strict"} <= {part.strip() for part in cookie.split(";")}
    assert "set-cookie" not in fetch(world, monkeypatch, "/", token)[1]
    assert fetch(world, monkeypatch, "/")[1]["set-cookie"] != cookie
